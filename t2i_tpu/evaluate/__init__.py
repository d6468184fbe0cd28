"""Says how good a model is: distances to real images, agreement with prompts, memorisation and more."""
