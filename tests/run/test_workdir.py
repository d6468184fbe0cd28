"""A workdir accepts only harmless changes to its run, and damaged files are reported."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.errors import UserError
from t2i_tpu.run import workdir
from tests import tiny
from tests.launch.launcher import ROOT


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
    changes = {f"train__{name}": 17 for name in (*names, "evaluate_every", "keep_best")}
    changes["train__best_metric"] = "kid"
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
        dict(train__evaluate_images=17),
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


def test_moved_data_set_can_be_used(run, squares):
    folder, config, manifest = run
    config.data.source = f"shards:{squares}/moved"
    workdir.check(str(folder), config, manifest)


def test_start_that_was_killed_is_resumed(run, squares):
    folder, config, manifest = run
    (folder / "config.json").unlink()
    for name in ("lock.json", "logs/events.out.tfevents.1", "text_tower/x", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    workdir.check(str(folder), config, manifest)


@pytest.mark.parametrize(
    "content",
    [
        {"notes.txt": "mine"},
        {"manifest.json": '{"mine": true}'},
        {"manifest.json": "{}", "train-0000-00000.tfrecord": ""},
        {"model.tmp": "mine"},
        {"checkpoints/step-3.index": ""},
        {"Ünï [1].txt": ""},
    ],
    ids=lambda content: list(content)[-1],
)
def test_folder_with_other_files_is_rejected(tmp_path, squares, content):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="holds files that are not a run") as error:
        workdir.check(str(tmp_path), tiny.make_config(squares), read_manifest(str(squares)))
    assert next(iter(content)).partition("/")[0] in str(error.value)


def test_data_set_is_rejected_as_workdir(tmp_path, squares):
    """This includes the data set of the run, because its files would be mixed with the run's."""
    shutil.copytree(squares, tmp_path / "data")
    with pytest.raises(UserError, match="holds files that are not a run"):
        workdir.check(
            str(tmp_path / "data"), tiny.make_config(squares), read_manifest(str(squares))
        )


@pytest.mark.parametrize("name", ["file", "file/run", "dangling", "dangling/run", "loop/run"])
def test_file_or_broken_link_is_rejected_as_workdir(tmp_path, squares, name):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="cannot be a folder"):
        workdir.check(str(tmp_path / name), tiny.make_config(squares), read_manifest(str(squares)))


def test_linked_workdir_can_be_used(run, tmp_path):
    folder, config, manifest = run
    (tmp_path / "link").symlink_to(folder)
    workdir.check(str(tmp_path / "link"), config, manifest)


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


def test_a_folder_that_may_not_be_read_is_not_called_empty(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "run").chmod(0)
    # Root may read everything, unless it gives up the capabilities for that.
    drop = (
        "setpriv --bounding-set=-dac_override,-dac_read_search".split() if not os.getuid() else []
    )
    code = f"from t2i_tpu.run import workdir; workdir.read({str(tmp_path / 'run')!r})"
    result = subprocess.run(
        [*drop, sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    (tmp_path / "run").chmod(0o700)
    assert "run' cannot be read; get permission to read it" in result.stderr
