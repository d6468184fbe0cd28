"""A data set, a config and a run that are small enough for tests to train in seconds."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data import writer
from t2i_tpu.data.reader import Dataset, open_dataset
from t2i_tpu.data.records import Record
from t2i_tpu.engines.engine import Engine
from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.retention import Retention
from t2i_tpu.step.state import State, iter_variables
from t2i_tpu.text import make_encoder
from t2i_tpu.training.trainer import build_trainer

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 60, 220),
    "yellow": (230, 210, 30),
}

# Content of a --config file.
CONFIG_FILE = "from t2i_tpu.config import Config\n\n\ndef get_config():\n    return Config()\n"


def write_squares(
    folder, count=32, size=16, num_streams=4, shard_size=3, heldout=8
) -> manifest_lib.Manifest:
    """Write a data set of squares in four colors and return its manifest.

    Every example has a caption; the caption's embedding, tokens and token states; and its color as
    the label.

    Args:
      folder: the folder to write to.
      count: number of training examples.
      size: height and width of the images.
      num_streams: number of streams of each split.
      shard_size: number of examples in a shard.
      heldout: number of held-out examples.
    """
    encoder = make_encoder("embedded")
    rng = np.random.default_rng(0)
    return writer.write_dataset(
        str(folder),
        {
            "train": _make_records("train", count, size, encoder, rng),
            "heldout": _make_records("heldout", heldout, size, encoder, rng),
        },
        name="squares",
        num_streams=num_streams,
        shard_size=shard_size,
        embedding=manifest_lib.EmbeddingContract(
            "embedded", encoder.weights_sha256, encoder.dim, True
        ),
        tokens=manifest_lib.TokenContract(
            "embedded", encoder.vocab_size, encoder.context_length, encoder.tokenizer_sha256
        ),
        sequence=manifest_lib.SequenceContract(
            "embedded", encoder.weights_sha256, encoder.sequence_width, encoder.context_length
        ),
        label_names=list(COLORS),
    )


def _make_records(split, count, size, encoder, rng) -> Iterator[Record]:
    names = list(COLORS)
    captions = [f"{names[index % 4]} square {split} {index}" for index in range(count)]
    tokens = encoder.tokenize(captions)
    embeddings, sequences = encoder.encode_sequences(captions)
    for index in range(count):
        # Draw a colored square at a random place on white.
        image = np.full((size, size, 3), 255, np.uint8)
        x, y = rng.integers(0, size // 2, 2)
        image[y : y + size // 2, x : x + size // 2] = COLORS[names[index % 4]]
        yield Record(
            f"{split}{index}",
            image,
            captions[index],
            index % 4,
            embeddings[index],
            tokens[index],
            sequences[index],
        )


def make_settings(folder, **changes) -> dict[str, object]:
    """Return the values of the tiny config by dotted name.

    Args:
      folder: the folder of the data set.
      **changes: values that replace those of the tiny config, as in train__total_steps=3.
    """
    values = {
        "data.source": f"shards:{folder}",
        "data.image_size": 16,
        "model.widths": (16,),
        "model.attention_levels": (True,),
        "model.block_depth": 1,
        "model.embedding_dim": 32,
        "train.global_batch_size": 8,
        "train.total_steps": 20,
        "train.steps_per_loop": 5,
        "train.log_every": 5,
        "train.preview_every": 1000,
        "train.checkpoint_every": 1000,
        "train.warmup_steps": 4,
        "train.dtype_policy": "float32",
        "sample.steps": 4,
        "preview.num_train": 2,
        "preview.num_heldout": 1,
    }
    return values | {name.replace("__", "."): value for name, value in changes.items()}


def make_config(folder, **changes) -> Config:
    """Return the resolved tiny config. The arguments are those of `make_settings`."""
    config = Config()
    for name, value in make_settings(folder, **changes).items():
        *group, field = name.split(".")
        setattr(getattr(config, group[0]) if group else config, field, value)
    return config_lib.resolve(config)


def make_flags(folder, **changes) -> list[str]:
    """Return flags that turn `CONFIG_FILE` into the tiny config; see `make_settings`."""
    return [f"--config.{name}={value}" for name, value in make_settings(folder, **changes).items()]


class Run:
    """A run that trains in this process, on the given logical devices.

    Attributes:
      engine: the engine, on these devices by default.
      dataset: the data set of the config.
      trainer: built from the config.
      state: the trainer's state.
      iterator: the batches that the next steps train on.
    """

    def __init__(
        self,
        config: Config,
        devices=("CPU:0",),
        policy="float32",
        jit_compile=False,
        engine: Engine | None = None,
    ):
        self.config, self.engine = config, engine or make_engine(devices)
        folder = config.data.source.removeprefix("shards:")
        self.dataset: Dataset = open_dataset(
            folder, config.model.conditioning, config.data.image_size
        )
        self.trainer = build_trainer(
            config, self.engine, self.dataset.manifest, policy, jit_compile
        )
        self.state = self.trainer.state
        self.iterator = self.batches(0)

    def batches(self, start):
        """Return an iterator over the batches from step `start` on."""
        return self.trainer.make_iterator(self.dataset, start)

    def steps(self, count):
        """Train for `count` steps and return the summed metrics."""
        metrics, _ = self.trainer.loop.run(self.iterator, count)
        return metrics

    def assign(self, variable: keras.Variable, value):
        """Set a variable on all devices."""
        self.engine.assign(variable, np.broadcast_to(value, variable.shape))

    def read_copies(self, variable: keras.Variable) -> list[np.ndarray]:
        """Return each device's copy of a variable."""
        if keras.backend.backend() == "jax":
            return [np.asarray(shard.data) for shard in variable.value.addressable_shards]
        copies = self.engine.strategy.experimental_local_results(variable.value)
        return [copy.numpy() for copy in copies]

    def make_checkpointer(self, workdir, keep=3) -> Checkpointer:
        """Return a checkpointer of the run's state."""
        return Checkpointer(self.engine, str(workdir), self.state.get_saved(), Retention(keep))

    def save(self, workdir):
        """Save a checkpoint, and wait until it is written."""
        checkpointer = self.make_checkpointer(workdir)
        checkpointer.save()
        checkpointer.finish()

    def values(self) -> dict[str, np.ndarray]:
        """Return the values of all variables of the run, by their names in a checkpoint."""
        return read_state(self.state)


def write_run(workdir, config: Config, steps=(4, 8)) -> None:
    """Write a workdir like that of a trained run, with random weights.

    Args:
      workdir: the folder of the run.
      config: a resolved config.
      steps: the steps of its checkpoints.
    """
    run, rng = Run(config), np.random.default_rng(0)
    for step in steps:
        for group in (run.state.weights, *run.state.averages):
            for variable in group.values():
                noise = rng.normal(scale=0.1, size=variable.shape).astype("float32")
                run.assign(variable, variable.numpy() + noise)
        for counter in (run.state.step, run.state.updates):
            run.assign(counter, step)
        run.save(workdir)
    workdir_lib.write(str(workdir), config, run.dataset.manifest, run.dataset.folder)


def make_engine(devices=("CPU:0",)) -> Engine:
    """Return the engine of Keras' backend on some devices of this process."""
    if keras.backend.backend() == "jax":
        import jax

        from t2i_tpu.engines.jax.engine import JaxEngine

        by_name = {f"CPU:{device.id}": device for device in jax.devices("cpu")}
        return JaxEngine([by_name[name] for name in devices])
    reduction = tf.distribute.ReductionToOneDevice()
    return TensorFlowEngine(tf.distribute.MirroredStrategy(list(devices), reduction))


def read_state(state: State) -> dict[str, np.ndarray]:
    """Return the values of all variables of a state, by their names in a checkpoint."""
    return {
        name: np.asarray(variable.numpy()) for name, variable in iter_variables(state.get_saved())
    }


def read_checkpoint(workdir) -> dict[str, np.ndarray]:
    """Return the values of a workdir's newest checkpoint, by the names that `Run.values` uses.

    TensorFlow's own checkpoint reader reads them.
    """
    step = checkpoint_store.list_steps(str(workdir))[0]
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"step-{step}"))
    ending, values = "/.ATTRIBUTES/VARIABLE_VALUE", {}
    for name in reader.get_variable_to_shape_map():
        if name.endswith(ending):
            values[name.removesuffix(ending).replace(".S", "/")] = reader.get_tensor(name)
    return values
