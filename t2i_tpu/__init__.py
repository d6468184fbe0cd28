"""Text-to-image diffusion models: training and sampling with Keras and tf.distribute."""

__version__ = "0.1.0"
