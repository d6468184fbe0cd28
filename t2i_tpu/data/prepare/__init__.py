"""Preparation: captioned images from any source become a data set of verified shards.

The source lists units of work. Workers process them: they reject items, turn the others into square
images and write a file per unit. One process encodes the captions, removes duplicates, deals the
examples to streams of shards and writes the manifest.
"""
