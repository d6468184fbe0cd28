"""Evaluates models: distances to real images, agreement with prompts, memorization and more."""
