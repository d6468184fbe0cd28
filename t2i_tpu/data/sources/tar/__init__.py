"""Reads tar files in the format of webdataset."""
