"""Builds the data set and the CLIP that ship with the package; see `__main__.py`.

It is a tool for maintainers and is not installed with t2i_tpu.
"""
