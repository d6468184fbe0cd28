"""Extractors, which turn images into features. They all have the interface of `Extractor`."""
