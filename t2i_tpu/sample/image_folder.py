"""Writes each drawn image to its own file, and finds the images that an earlier run has drawn.

Memory use does not depend on the number of images. A command that was interrupted draws only the missing
images when it is run again:

  with ImageFolder("drawn") as folder:
      complete = folder.find_complete(wanted)  # wanted yields (name, record)
      for name, record in wanted:
          if name not in complete:
              folder.write(name, draw(record), record)
"""

import collections
import concurrent.futures
import io
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from t2i_tpu.errors import UserError, shorten
from t2i_tpu.sample import picture_files
from t2i_tpu.sample import records as records_lib
from t2i_tpu.sample.pictures import to_picture
from t2i_tpu.storage import files, outputs

_THREADS = 8  # number of files that are read or written at the same time, because gs:// is slow
_MAX_PENDING = 64  # maximum number of images that wait to be written


def name_file(prompt_index: int, seed: int, ending: str = ".png") -> str:
    """Return the file name of an image, such as "003_seed7.png"."""
    return f"{prompt_index:03d}_seed{seed}{ending}"


def name_files(records: Sequence[dict]) -> list[str]:
    """Return the file names of images in a folder, such as "003_seed7.png" or "000_frame2.png".

    The first number counts the prompts.
    """
    names, counts, index, previous = [], collections.Counter(), -1, None
    for record in records:
        prompt = records_lib.describe_prompt(record)
        if prompt != previous:
            index, previous = index + 1, prompt
        stem = name_file(index, record.get("seed", 0), "")
        if "frame" in record:
            stem = f"{index:03d}_frame{record['frame']}"
        names.append(f"{stem}_{counts[stem]}.png" if counts[stem] else f"{stem}.png")
        counts[stem] += 1
    return names


class ImageFolder:
    """A folder with a file for each image. Leaving its context waits until all files are written.

    Attributes:
      path: the folder, local or gs://, in normal form. The first write creates it.
      before: the text before the path in the user's command, such as "--output=", for messages.
    """

    def __init__(self, path: str, before: str = ""):
        self.path, self.before = path, before
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        self._pending: collections.deque[concurrent.futures.Future] = collections.deque()

    def __enter__(self) -> "ImageFolder":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._pool.shutdown()

    def find_complete(self, wanted: Iterable[tuple[str, dict]]) -> set[str]:
        """Return the names of the wanted files that exist, are complete and have an equal record.

        The names of damaged files of an earlier run are left out, and `write` replaces these files.

        Args:
          wanted: the name and the record of each file that will be written.

        Raises:
          UserError: the path cannot be a folder, t2i_tpu did not write one of the files, or an image
            was drawn with other settings.
        """
        outputs.check_folder(self.path, self.before)
        present = set(files.list_names(self.path))
        existing, complete = (item for item in wanted if item[0] in present), set()
        while chunk := list(itertools.islice(existing, _MAX_PENDING)):
            states = self._pool.map(lambda item: self._is_complete(*item), chunk)
            complete.update(name for (name, _), state in zip(chunk, states, strict=True) if state)
        return complete

    def write(self, name: str, image: np.ndarray, record: dict) -> None:
        """Start to write an image. Returns before it is written unless many images are waiting.

        Args:
          name: the name of the file, with an ending in picture_files.PICTURES.
          image: uint8 [H, W, 1 or 3].
          record: everything needed to draw the image again.

        Raises:
          UserError: an earlier image could not be written.
        """
        while len(self._pending) >= _MAX_PENDING:
            self._pending.popleft().result()
        path, picture = f"{self.path}/{name}", to_picture(image)
        self._pending.append(self._pool.submit(picture_files.save_picture, picture, path, [record]))

    def flush(self) -> None:
        """Wait until all images are written. Raises UserError if one could not be written."""
        while self._pending:
            self._pending.popleft().result()

    def _is_complete(self, name: str, record: dict) -> bool:
        """Return whether a file holds the image of a record; False if it is damaged."""
        path = f"{self.path}/{name}"
        content = picture_files.read_bytes(path)
        if not outputs.is_marked(content):
            outputs.check_file(path, self.before)
        try:
            Image.open(io.BytesIO(content)).load()
            text = records_lib.find_in_picture(content)
        except Exception:  # a damaged file can make a decoder raise any error
            return False
        if text:
            stored = records_lib.unpack(text, path)
            difference = describe_difference(stored[0] if stored else {}, record)
        else:
            difference = "does not say how it was drawn"
        if difference:
            raise UserError(
                f"{self.before}{path} {difference}; use another folder, or remove the images there"
            )
        return True


def describe_difference(stored: dict, wanted: dict) -> str | None:
    """Describe how a stored record differs from a wanted one. Returns None if they are equal."""
    stored, wanted = _flatten(stored), _flatten(wanted)
    for name in [*wanted, *stored]:
        if stored.get(name) != wanted.get(name):
            was, is_wanted = (shorten(values.get(name, "none"), 40) for values in (stored, wanted))
            return f"was drawn with another {name} ({was}, not {is_wanted})"
    return None


def _flatten(record: dict, prefix: str = "") -> dict[str, str]:
    """Return the fields of a record as JSON, by names such as "sample.steps"."""
    fields = {}
    for name, value in record.items():
        if isinstance(value, dict) and value:
            fields |= _flatten(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = records_lib.dump(value)
    return fields
