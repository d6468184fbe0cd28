"""Reads folders of images."""
