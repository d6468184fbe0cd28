"""Atomic writes, checks of access, and one-line errors for files on disk and on gs://."""
