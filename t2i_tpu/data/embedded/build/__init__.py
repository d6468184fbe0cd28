"""What builds the embedded data set and its CLIP; `launch/build_embedded.py` runs it."""
