"""The cases of benchmarks/gpu.py, and the file that --pack writes and that the workers read.

The file holds arrays named "case/image", "case/label" and so on, and a JSON text. Nothing here needs
TensorFlow, Keras or torch.
"""

import dataclasses
import json
import os
import zipfile

import numpy as np

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.errors import UserError, get_first_line

ABOUT = "about"
FORMAT = 1
# Number of random images of a case without data.
NUM_SYNTHETIC = 512


@dataclasses.dataclass(frozen=True)
class Case:
    """A config and its data.

    Attributes:
      config: resolved.
      channels: number of channels of the images.
      fields: shape and dtype of each field of the condition, as in `ConditionSpec`.
      num_ids: number of classes, if the condition is a label.
      image: uint8 [N, H, W, C].
      condition: an array [N, ...] for each field.
    """

    config: Config
    channels: int
    fields: dict[str, tuple[tuple[int, ...], str]]
    num_ids: int
    image: np.ndarray
    condition: dict[str, np.ndarray]

    def make_batches(self, batch_size: int, start: int, count: int) -> dict[str, object]:
        """Return the batches of `count` steps from step `start` on, stacked along a first axis.

        Slot j of step t is example t * batch_size + j of a sequence in which each epoch has its own
        order.

        Returns:
          image uint8 [count, B, H, W, C], condition and slot int32 [count, B].
        """
        position = np.arange(start * batch_size, (start + count) * batch_size)
        epoch, offset = np.divmod(position, len(self.image))
        rows = np.empty_like(position)
        for number in np.unique(epoch):
            # NumPy guarantees the results of RandomState, and the references depend on them.
            order = np.random.RandomState([self.config.seed, number]).permutation(len(self.image))
            rows[epoch == number] = order[offset[epoch == number]]
        rows = rows.reshape(count, batch_size)
        slot = np.broadcast_to(np.arange(batch_size, dtype=np.int32), rows.shape)
        condition = {name: values[rows] for name, values in self.condition.items()}
        return {"image": self.image[rows], "condition": condition, "slot": slot.copy()}


class Pack:
    """The content of the file that --pack writes.

    Attributes:
      about: the JSON text's values: `cases`, by name, `settings`, and the `captions` of the picture.
    """

    def __init__(self, about: dict, arrays: dict[str, np.ndarray]):
        # Convert to JSON and back, as writing and reading do. Tuples become lists, for example.
        self.about, self._arrays = json.loads(json.dumps(about)), arrays

    def case(self, name: str) -> Case:
        """Return a case with its data, or with random data if the file has none."""
        entry = self.about["cases"][name]
        config = config_lib.resolve(config_lib.from_dict(entry["config"]))
        fields = {field: (tuple(shape), dtype) for field, (shape, dtype) in entry["fields"].items()}
        if source := entry["arrays"]:
            image = self._arrays[f"{source}/image"]
            condition = {field: self._arrays[f"{source}/{field}"] for field in fields}
        else:
            image, condition = _draw_data(config, entry["channels"], fields, entry["num_ids"])
        return Case(config, entry["channels"], fields, entry["num_ids"], image, condition)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays whose names start with "prefix/", by the rest of their names."""
        start = f"{prefix}/"
        return {
            name.removeprefix(start): array
            for name, array in self._arrays.items()
            if name.startswith(start)
        }


def read_pack(path: str) -> Pack:
    """Read the file that `write_pack` wrote. Raises UserError if this is not possible."""
    remedy = f"write it with benchmarks/gpu.py --pack={path}"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop(ABOUT)))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"--data={path}: {get_first_line(error)}; {remedy}") from error
    if about["format"] != FORMAT:
        raise UserError(f"--data={path} was written by another version; {remedy}")
    return Pack(about, arrays)


def write_pack(path: str, about: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write the file that `read_pack` reads. Raises UserError if this is not possible."""
    text, partial = json.dumps({"format": FORMAT, **about}), f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            np.savez_compressed(file, **{ABOUT: np.array(text)}, **arrays)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"--pack={path}: {error.strerror}") from error


def _draw_data(config, channels, fields, num_ids):
    """Return random images and conditions of the right shapes."""
    rng = np.random.default_rng(0)
    size = config.data.image_size
    image = rng.integers(0, 256, (NUM_SYNTHETIC, size, size, channels), np.uint8)
    condition = {}
    for name, (shape, dtype) in fields.items():
        if dtype == "int32":
            values = rng.integers(1, num_ids + 1, (NUM_SYNTHETIC, *shape))
        else:
            values = rng.standard_normal((NUM_SYNTHETIC, *shape))
            values /= np.linalg.norm(values, axis=-1, keepdims=True)
        condition[name] = values.astype(dtype)
    return image, condition
