"""The base class of layers that are made of other layers."""

from keras import layers


class Container(layers.Layer):
    """A layer whose sublayers create their own variables when they are first called.

    Without this `build`, Keras would trace `call` symbolically to create the variables, once more
    at every level of nesting. This would take most of a program's start-up time.
    """

    def build(self, *_):
        self.built = True
