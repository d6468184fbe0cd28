"""The records of drawn images: everything needed to draw them again."""

import dataclasses
from collections.abc import Sequence

from t2i_tpu.api.prompts import IMAGE, Drawing, describe_prompt
from t2i_tpu.api.requests import Parsed
from t2i_tpu.config import SampleConfig
from t2i_tpu.errors import UserError
from t2i_tpu.sample import records as records_lib
from t2i_tpu.sample.trained import TrainedModel

# The tasks whose images can be drawn again from their records alone.
SAMPLE, INTERPOLATE = "sample", "interpolate"


def make_records(
    task: str, drawings: Sequence[Parsed], settings: SampleConfig, model: TrainedModel, **more
) -> list[dict]:
    """Return a record for each drawing.

    Args:
      task: the name of the method that draws them.
      drawings: the images that are drawn.
      settings: the `sample` group of a resolved config.
      model: the model that draws.
      **more: further fields.
    """
    common = {"task": task, **describe_model(model), **more}
    values = {
        name: list(value) if isinstance(value, tuple) else value  # as in JSON
        for name, value in dataclasses.asdict(settings).items()
    }
    records = []
    for drawing in drawings:
        record = {"prompt": describe_prompt(drawing.parts), "seed": drawing.seed}
        if drawing.negative:
            record["negative_prompt"] = describe_prompt([drawing.negative])
        sample = values | {"guidance_scale": drawing.guidance_scale}
        records.append({**common, **record, "sample": sample})
    return records


def describe_model(model: TrainedModel) -> dict:
    """Return the fields of a record that identify the model."""
    fields = {
        "workdir": model.workdir,
        "step": model.step,
        "average": model.average,
        "weights": model.checksum,
    }
    if model.guide:
        fields["guide"] = list(model.guide)
    return fields


def get_group(record: dict) -> tuple[str, str]:
    """Return a key that is equal for records whose images can be drawn again together."""
    names = ("sample", "negative_prompt", "key_points", "frames", "method")
    common = {name: record.get(name) for name in names}
    if record.get("task") == SAMPLE:
        common = {"sample": get_settings(record)}
    return str(record.get("task")), records_lib.dump(common)


def get_settings(record: dict) -> dict:
    """Return the settings of a record without the guidance scale, which can differ between images."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.get("sample", {}).items()
        if name != "guidance_scale"
    }


def check_record(record: dict, model: TrainedModel) -> dict:
    """Return a record after checking that a model can draw its image again.

    Raises:
      UserError: the image needs more than its record, or another model drew it.
    """
    task = record.get("task")
    prompts = [record.get(name) for name in ("prompt", "negative_prompt", "key_points")]
    if task not in (SAMPLE, INTERPOLATE) or IMAGE in records_lib.dump(prompts):
        raise UserError(
            "the image was made from another image or from given noise, so it cannot be drawn again from its "
            "metadata alone; repeat the command that made it"
        )
    loaded = describe_model(model)
    for name in ("step", "average", "guide"):
        drawn, now = record.get(name), loaded.get(name)
        if name == "guide":  # its workdir may have been moved
            drawn, now = drawn and drawn[1:], now and now[1:]
        if drawn != now:
            raise UserError(
                f"the image was drawn with {name}={drawn}, but the model was loaded with {name}={now}; "
                f"load it with {name}={drawn}"
            )
    if record.get("weights") != loaded["weights"]:
        raise UserError(
            "the image was drawn with other weights: since then, the run was trained again from its start, or "
            "its average was reconstructed from other checkpoints; load the run that drew the image"
        )
    return record


def restore_drawing(record: dict) -> Drawing:
    """Return the drawing that a record of `Model.sample` describes."""
    scale, negative = record["sample"]["guidance_scale"], record.get("negative_prompt", "")
    return Drawing(record["prompt"], record["seed"], negative, scale)


def restore_interpolation(record: dict) -> tuple[list, dict]:
    """Return the positional and the keyword arguments of `Model.interpolate` that a record describes."""
    prompts, seeds = zip(*record["key_points"], strict=True)
    return list(prompts), {
        "seed": list(seeds),
        "frames": record["frames"],
        "method": record["method"],
        "negative_prompt": record.get("negative_prompt", ""),
        "guidance_scale": record["sample"]["guidance_scale"],
        **get_settings(record),
    }
