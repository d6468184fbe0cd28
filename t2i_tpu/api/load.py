"""Loads a trained model."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2i_tpu import framework
from t2i_tpu.errors import UserError
from t2i_tpu.storage import paths

if TYPE_CHECKING:
    from t2i_tpu.api.model import Model


def load(
    workdir: str | os.PathLike,
    *,
    step: int | None = None,
    average: str | float | None = None,
    guide_workdir: str | os.PathLike | None = None,
    guide_step: int | None = None,
    guide_average: str | float | None = None,
    engine: str = "auto",
    strategy: str = "auto",
    per_replica_batch_size: int = 8,
    **settings: Any,
) -> "Model":
    """Load a trained model.

    Args:
      workdir: the folder of a run: a local path, which may start with ~, or gs://bucket/path.
      step: the step of the checkpoint. The default is the newest one.
      average: the relative width of the average of the weights that is loaded, or "none" for the trained
        weights. The default is the first entry of config.train.ema_stds, if there is one. docs/runs.md
        says which other widths can be given.
      guide_workdir, guide_step, guide_average: a weaker model for autoguidance (Karras et al., 2024), such
        as an earlier checkpoint or a wider average. guide_workdir defaults to workdir. Without it, the
        others default to step and average; with it, to the newest checkpoint and the first average.
      engine: "tensorflow", "jax", or "auto" for the engine that suits the hardware.
      strategy: the hardware; see --strategy for the choices.
      per_replica_batch_size: maximum number of images that each device draws at once.
      **settings: new defaults for the settings of config.sample, such as steps or guidance_scale.

    Returns:
      The model, which draws and edits images.

    Raises:
      UserError: there is no run or no such checkpoint, or a value is not allowed.
    """
    framework.start(engine, strategy)
    from t2i_tpu.api.model import Model
    from t2i_tpu.api.requests import check_count
    from t2i_tpu.sample.trained import load_trained
    from t2i_tpu.storage.failures import translate_file_errors

    check_count("per_replica_batch_size", per_replica_batch_size)
    for name, value in (("step", step), ("guide_step", guide_step)):
        if value is not None:
            check_count(name, value)
    guide = None
    if any(value is not None for value in (guide_workdir, guide_step, guide_average)):
        guide = (
            _parse_path(guide_workdir or workdir),
            step if guide_step is None and guide_workdir is None else guide_step,
            _to_text(average if guide_average is None and guide_workdir is None else guide_average),
        )
    with translate_file_errors():
        trained = load_trained(
            _parse_path(workdir),
            strategy,
            step,
            _to_text(average),
            per_replica_batch_size,
            guide,
            **settings,
        )
    return Model(trained)


def _parse_path(path: str | os.PathLike) -> str:
    return paths.parse_path(os.fspath(path), "", is_output=False)


def _to_text(average: str | float | None) -> str | None:
    """Return the name of an average as on the command line, such as "0.05"."""
    return average if average is None or isinstance(average, str) else f"{average:g}"


def load_again(
    records: Sequence[dict], workdir: str | os.PathLike | None = None, **options: Any
) -> "Model":
    """Load the model that drew images.

    Args:
      records: the records of the images; see `t2i_tpu.read_records`.
      workdir: where the run is now, if it was moved.
      **options: engine and strategy; see `load`.

    Raises:
      UserError: the records do not name one model, or it cannot be loaded.
    """
    names = ("workdir", "step", "average", "guide")
    models = [{name: record.get(name) for name in names} for record in records]
    first = models[0]
    if None in (first["workdir"], first["step"], first["average"]):
        raise UserError("the metadata of the image does not say which model drew it")
    if any(model != first for model in models):
        raise UserError("several models drew the images; draw those of each model again separately")
    guide = {}
    if first["guide"]:
        place, step, average = first["guide"]
        moved = workdir if place == first["workdir"] else None
        guide = {"guide_workdir": moved or place, "guide_step": step, "guide_average": average}
    return load(
        workdir or first["workdir"],
        step=first["step"],
        average=first["average"],
        **guide,
        **options,
    )
