"""The records of drawn images: everything needed to draw them again."""

import dataclasses
from collections.abc import Sequence

from t2i_tpu.api.prompts import Drawing, describe_prompt
from t2i_tpu.api.requests import Parsed
from t2i_tpu.config import SampleConfig
from t2i_tpu.errors import UserError
from t2i_tpu.sample.trained import TrainedModel

# The task of records from which alone an image can be drawn again.
SAMPLE = "sample"


def make_records(
    task: str, drawings: Sequence[Parsed], settings: SampleConfig, model: TrainedModel, **more
) -> list[dict]:
    """Return a record for each drawing.

    Args:
      task: the name of the method that draws them.
      drawings: what is drawn.
      settings: the `sample` group of a resolved config.
      model: the model that draws.
      **more: further fields.
    """
    common = {"task": task, **describe_model(model), **more}
    records = []
    for drawing in drawings:
        record = {"prompt": describe_prompt(drawing.parts), "seed": drawing.seed}
        if drawing.negative:
            record["negative_prompt"] = describe_prompt([drawing.negative])
        values = dataclasses.asdict(settings) | {"guidance_scale": drawing.guidance_scale}
        records.append({**common, **record, "sample": values})
    return records


def describe_model(model: TrainedModel) -> dict:
    """Return the fields of a record that identify the model."""
    fields = {"workdir": model.workdir, "step": model.step, "average": model.average}
    if model.guide:
        fields["guide"] = list(model.guide)
    return fields


def get_settings(record: dict) -> dict:
    """Return the settings of a record, without the guidance scale, which each image may have its own of."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.get("sample", {}).items()
        if name != "guidance_scale"
    }


def restore_drawings(records: Sequence[dict], model: TrainedModel) -> tuple[list[Drawing], dict]:
    """Return the drawings and the settings of records that have the same settings.

    Raises:
      UserError: the images cannot be drawn again from the records alone, or another model drew them.
    """
    drawings = []
    for record in records:
        if record.get("task") != SAMPLE or "an image" in str(record["prompt"]):
            raise UserError(
                f"the image was made by {record.get('task')} from another image, so it cannot be drawn again from "
                "its metadata; repeat the command that made it"
            )
        for name, value in describe_model(model).items():
            if name != "workdir" and record.get(name) != value:
                raise UserError(
                    f"the image was drawn with {name}={record.get(name)}, but the model that is loaded has "
                    f"{name}={value}; load the model with {name}={record.get(name)}"
                )
        drawings.append(
            Drawing(
                record["prompt"],
                record["seed"],
                record.get("negative_prompt", ""),
                record["sample"]["guidance_scale"],
            )
        )
    return drawings, get_settings(records[0])
