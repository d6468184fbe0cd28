"""Reads the runs to compare, and checks that they can be compared."""

import dataclasses
import posixpath
import re
from collections.abc import Sequence

from PIL import Image

from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.compare.logs import Scalar, read_scalars
from t2i_tpu.evaluate.compare.reports import Report, read_report
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.sample.picture_files import read_picture
from t2i_tpu.storage import files


@dataclasses.dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
      name: the shortest end of its workdir that no other run's workdir has.
      workdir: local or gs://.
      config: resolved.
      manifest: the manifest of its data set.
      scalars: the scalars that it logged for TensorBoard, by name.
      report: the report of launch/evaluate.py, or None if there is none.
    """

    name: str
    workdir: str
    config: Config
    manifest: Manifest
    scalars: dict[str, Scalar]
    report: Report | None

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max(scalar.steps[-1] for scalar in self.scalars.values() if scalar.steps)

    @property
    def seconds(self) -> float:
        """The time of training, without interruptions."""
        return max(scalar.seconds[-1] for scalar in self.scalars.values() if scalar.steps)


def read_runs(workdirs: Sequence[str]) -> list[Run]:
    """Read runs, and check that they were trained on the same data.

    Raises:
      UserError: there are fewer than two runs, one is given twice, a workdir holds no run or no logs,
        a file is damaged, or two runs were trained on different data sets.
    """
    if len(workdirs) < 2:
        raise UserError(f"only {workdirs[0]!r} is given; give two or more runs to compare")
    names = name_runs(workdirs)
    identities = [workdir_lib.read(workdir) for workdir in workdirs]
    for workdir, (_, manifest) in zip(workdirs, identities, strict=True):
        if manifest != identities[0][1]:
            raise UserError(
                f"{workdirs[0]!r} and {workdir!r} were trained on different data sets "
                f"({identities[0][1].name!r} and {manifest.name!r}), so neither their losses nor their "
                "figures can be compared; choose runs on the same data set"
            )
    return [
        Run(name, workdir, *identity, read_scalars(workdir), read_report(workdir))
        for name, workdir, identity in zip(names, workdirs, identities, strict=True)
    ]


def name_runs(workdirs: Sequence[str]) -> list[str]:
    """Return for each workdir the shortest end of its path that no other has.

    Raises:
      UserError: a workdir is given twice.
    """
    parts = [posixpath.normpath(workdir).split("/") for workdir in workdirs]
    for index, workdir in enumerate(workdirs):
        if parts[index] in parts[:index]:
            raise UserError(f"{workdir!r} is given twice; give each run once")
    names = []
    for own in parts:
        count = 1
        while sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        names.append("/".join(own[-count:]))
    return names


def read_newest_preview(workdir: str) -> tuple[int, Image.Image] | None:
    """Return the newest preview of a run and its step, or None if there is none.

    Raises:
      UserError: the picture cannot be read.
    """
    folder = posixpath.join(workdir, "previews")
    matches = [re.fullmatch(r"step_(\d+)\.png", name) for name in files.list_names(folder)]
    steps = {int(match[1]): match[0] for match in matches if match}
    if not steps:
        return None
    return max(steps), read_picture(posixpath.join(folder, steps[max(steps)]))
