"""Prepares this process for Ctrl-C, SIGTERM and odd standard streams when it is imported."""

from t2i_tpu.process import fast_exit, interrupts, output  # noqa: F401

output.prepare()
interrupts.install()
