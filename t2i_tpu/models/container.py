"""The layer that holds layers."""

from keras import layers


class Container(layers.Layer):
    """A layer with no variables but its sublayers', which make theirs when they are first called.

    Without a `build` of its own Keras traces `call` symbolically to find them, at every level of
    the nesting anew: most of a program's start.
    """

    def build(self, *_):
        self.built = True
