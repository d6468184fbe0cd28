"""The data that ships with the package: a data set (emoji/) and its text encoder (clip/).

`python -m tools.build_embedded` builds both.
"""
