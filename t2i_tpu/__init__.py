"""Train, sample and interpolate CLIP-conditioned diffusion models with tf.distribute."""

__version__ = "0.1.0"
