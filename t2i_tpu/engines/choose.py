"""Makes the engine for the backend that Keras uses."""

import keras

from t2i_tpu.engines.engine import Engine


def make_engine(strategy_name: str = "auto") -> Engine:
    """Return the engine of Keras' backend, TensorFlow or JAX, with the devices of a strategy.

    Args:
      strategy_name: one of `config.STRATEGIES`. "auto" is "multiworker" if TF_CONFIG is set, or else
        the first of "gpu", "tpu" and "cpu" that the engine can use on this machine.

    Raises:
      UserError: there is no such strategy, or this machine lacks the hardware for it.
    """
    if keras.backend.backend() == "jax":
        from t2i_tpu.engines.jax.devices import find_devices
        from t2i_tpu.engines.jax.engine import JaxEngine

        _hide_gpus_from_tensorflow()
        return JaxEngine(find_devices(strategy_name))
    from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
    from t2i_tpu.engines.tensorflow.strategy import make_strategy

    return TensorFlowEngine(make_strategy(strategy_name))


def _hide_gpus_from_tensorflow() -> None:
    """Keep TensorFlow, which only reads data and checkpoints here, from taking the GPUs' memory."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
