"""Builds the data set and the CLIP that ship with the package; see `__main__.py`.

This is a tool for maintainers. It is not installed with t2i_tpu.
"""
