"""Prepares captioned images from any source as a data set of verified shards.

The source lists units of work. For each unit, a worker reads the items, rejects some of them, turns
the images of the others into squares and writes a file of examples. One process encodes the captions,
removes duplicates, distributes the examples over streams of shards and writes the manifest.
"""
