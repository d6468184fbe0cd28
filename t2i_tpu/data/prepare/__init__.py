"""Captioned images anywhere -> verified shards.

source -> units of work -> [workers: items -> images, filters -> a file of the unit] -> embeddings
-> [one process: duplicates, streams -> shards, manifest]
"""
