"""Makes this process react to Ctrl-C and SIGTERM as interrupts.py describes, when it is imported."""

from t2i_tpu.process import fast_exit, interrupts  # noqa: F401

interrupts.install()
