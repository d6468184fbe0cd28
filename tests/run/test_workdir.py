"""A workdir accepts only harmless changes to its run, and damaged files are reported."""

import dataclasses
import json

import pytest

from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.errors import UserError
from t2i_tpu.run import workdir
from tests import tiny


@pytest.fixture
def run(tmp_path, squares):
    """The workdir, the config and the data set's manifest of a run."""
    config, manifest = tiny.make_config(squares), read_manifest(str(squares))
    folder = tmp_path / "deep" / "run"
    workdir.write(str(folder), config, manifest, str(folder))
    return folder, config, manifest


def test_read_returns_what_was_written(run):
    folder, config, manifest = run
    assert workdir.read(str(folder)) == (config, manifest)
    assert {path.name for path in folder.iterdir()} == {"config.json", "manifest.json"}


def test_intervals_may_change(run, squares):
    folder, _, manifest = run
    names = "steps_per_loop", "log_every", "preview_every", "checkpoint_every", "keep_checkpoints"
    changes = {f"train__{name}": 17 for name in names}
    workdir.check(str(folder), tiny.make_config(squares, **changes), manifest)


@pytest.mark.parametrize(
    "changes",
    [
        dict(seed=3),
        dict(train__total_steps=21),
        dict(train__global_batch_size=16),
        dict(model__widths=(24,)),
        dict(diffusion__cond_dropout_rate=0.2),
        dict(train__ema_stds=()),
    ],
)
def test_another_config_is_rejected(run, squares, changes):
    folder, _, manifest = run
    ((name, value),) = changes.items()
    with pytest.raises(UserError) as error:
        workdir.check(str(folder), tiny.make_config(squares, **changes), manifest)
    field = name.replace("__", ".")
    assert f"config.{field}: " in str(error.value) and f"!= {value!r}" in str(error.value)


def test_other_data_is_rejected(run):
    folder, config, manifest = run
    (first, *rest), *streams = manifest.splits["train"]
    changed = dataclasses.replace(first, sha256="0" * 64)  # same size, other content
    splits = manifest.splits | {"train": ((changed, *rest), *streams)}
    with pytest.raises(UserError, match="other data"):
        workdir.check(str(folder), config, dataclasses.replace(manifest, splits=splits))


def test_empty_or_missing_workdir_can_be_used(tmp_path, squares):
    config, manifest = tiny.make_config(squares), read_manifest(str(squares))
    for folder in (tmp_path, tmp_path / "absent"):
        workdir.check(str(folder), config, manifest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "list", "missing", "unknown"])
def test_damaged_file_is_named(run, name, damage):
    folder, _, _ = run
    path = folder / name
    text = path.read_text()
    if damage == "missing":
        path.unlink()
    elif damage == "unknown":
        path.write_text(json.dumps(json.loads(text) | {"nosuch": 1}))
    else:
        path.write_text({"cut": text[: len(text) // 2], "empty": "", "list": "[]"}[damage])
    with pytest.raises(UserError) as error:
        workdir.read(str(folder))
    assert name in str(error.value) and str(folder) in str(error.value)
    assert "\n" not in str(error.value)
