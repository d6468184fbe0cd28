"""The layer that holds layers."""

from keras import layers


class Container(layers.Layer):
    """A layer whose only variables are its sublayers', which they create on their first call.

    Without this `build`, Keras would trace `call` symbolically to find them, again at every level
    of nesting, which is most of a program's start-up time.
    """

    def build(self, *_):
        self.built = True
