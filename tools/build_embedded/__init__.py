"""What builds the embedded data set and its CLIP; `tools/build_embedded/__main__.py` runs it."""
