"""The base class of layers that are made of other layers."""

from keras import layers


class Container(layers.Layer):
    """A layer whose sublayers create their own variables when they are first called.

    Without these two methods, Keras would trace `call` with the backend to create the variables and
    to infer the shapes of the outputs. This would take most of a program's start-up time.
    """

    def build(self, *_):
        self.built = True

    def compute_output_spec(self, *args, **kwargs):
        """Return the symbolic outputs for symbolic inputs. Keras infers them in plain Python."""
        return self.call(*args, **kwargs)
