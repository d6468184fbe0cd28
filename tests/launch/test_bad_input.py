"""User errors: each gives one line that names the mistake and exit code 1, and writes nothing."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import tiny
from tests.assertions import assert_mentions
from tests.launch.launcher import ROOT


@pytest.fixture
def get_error(tmp_path, config_file, run, snapshot):
    """`get_error(flags)` runs launch/train.py with wrong flags and returns its error message.

    It checks that the workdir, a new one by default, does not change.
    """

    def run_train(*flags, config=config_file, workdir=None):
        workdir = workdir or tmp_path / "workdir"
        before = snapshot(workdir), workdir.exists()
        result = run("train.py", [f"--config={config}", f"--workdir={workdir}", *flags])
        assert result.stdout == ""
        assert (snapshot(workdir), workdir.exists()) == before
        return result.error

    return run_train


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.train.total_stpes=3", ["config.train.total_stpes", "'train.total_steps'"]),
        ("--config.train.total_steps=abc", ["--config.train.total_steps=abc"]),
        ("--config.train.total_steps=0", ["config.train.total_steps is 0", "at least 1"]),
        ("--config.recipe=modren", ["config.recipe", "'modern'"]),
        ("--config.model.widths=(8,-1)", ["config.model.widths", "each entry must be at least 1"]),
        ("--config.sample.sampler=dpmpp", ["config.sample.sampler", "'dpmpp_2m'"]),
        ("--strategy=quantum", ["--strategy=quantum", "multiworker"]),
        ("--stategy=cpu", ["stategy", "strategy"]),
        ("stray", ["'stray'", "--name=value"]),
        ("--config=nosuch.py", ["nosuch.py"]),
        ("--config.data.source=shards:/no/such/folder", ["/no/such/folder", "manifest.json"]),
        ("--config.data.source=/no/such/folder", ["shards:/no/such/folder"]),
        ("--config.data.source=idx:/no/such/folder", ["/no/such/folder"]),
        ("--config.data.source=embedded:emojis", ["emojis", "emoji"]),
        ("--config.train.global_batch_size=6", ["global_batch_size is 6", "4 streams"]),
        ("--config.data.image_size=12", ["config.data.image_size is 12", "16"]),
        ("--config.preview.captions=('no such caption',)", ["no such caption"]),
        ("--strategy=tpu", ["--strategy=tpu"]),
        ("--strategy=gpu", ["--strategy=gpu", "no GPU"]),
        ("--strategy=multiworker", ["TF_CONFIG"]),
    ],
)
def test_wrong_training_flag_is_named(get_error, squares, flag, words):
    error = get_error(*tiny.make_flags(squares), flag)
    assert error.startswith("train.py: error: ")
    assert_mentions(error, words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    config.train.learning_rat = 1\n    return config\n", ["learning_rate"]),
        ("    config.trian = 1\n    return config\n", ["trian", "'train'"]),
        ("    config.train.total_steps = 'many'\n    return config\n", ["total_steps", "int"]),
        ("    return config.nosuch\n", ["--config", "nosuch"]),
        ("    return undefined\n", ["--config", "'undefined'"]),
        ("    return int('x')\n", ["--config", "invalid literal"]),
        ("    return {'train': 1}\n", ["get_config()", "t2i_tpu.config.Config"]),
        ("    pass\n", ["get_config()", "t2i_tpu.config.Config"]),
        ("    return ((\n", ["--config", "wrong.py"]),
    ],
)
def test_wrong_config_file_is_explained(get_error, squares, tmp_path, body, words):
    path = tmp_path / "wrong.py"
    lines = "from t2i_tpu.config import Config\n\n\ndef get_config():\n    config = Config()\n"
    path.write_text(lines + body)
    error = get_error(config=path)
    assert_mentions(error, words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--config.train.total_steps=3", "--workdir=x"],
            ["--config.train.total_steps", "FILE.py"],
        ),
        (["--config.seed", "3"], ["--config.seed", "--config=FILE.py"]),
        (["--workdir=x"], ["error: --config must be given"]),
        (["--config="], ["--config='' is empty"]),
        (["--config"], ["--config='' is empty"]),
        ([], ["error: --config and --workdir must be given"]),
    ],
)
def test_missing_config_file_is_named(run, flags, words):
    assert_mentions(run("train.py", flags).error, words)


@pytest.mark.parametrize("damage", ["empty", "truncated", "missing", "manifest"])
def test_damaged_data_are_named(get_error, squares, tmp_path, damage):
    data = tmp_path / "data"
    shutil.copytree(squares, data)
    shard = data / "train-0002-00001.tfrecord"
    if damage == "missing":
        shard.unlink()
    elif damage == "manifest":
        shard = data / "manifest.json"
        shard.write_text(shard.read_text()[:-40])
    else:
        shard.write_bytes(shard.read_bytes()[: 100 if damage == "truncated" else 0])
    error = get_error(*tiny.make_flags(data))
    assert str(shard) in error and "again" in error


def test_damaged_record_ends_the_run_until_skipped_or_restored(tmp_path, squares, config_file, run):
    # The file has the right size, so the damage is found only when the record is read.
    data = tmp_path / "data"
    shutil.copytree(squares, data)
    shard = data / "train-0001-00001.tfrecord"
    content = shard.read_bytes()
    middle = len(content) // 2
    shard.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'workdir'}"]
    flags += tiny.make_flags(data, train__total_steps=4)
    result = run("train.py", flags)
    assert result.code == 1 and "Traceback" not in result.stderr
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"train.py: error: shard {shard} is damaged at record 1 of 3;")
    skipping = run("train.py", [*flags, "--config.data.on_damage=skip"])
    assert skipping.code == 0
    assert f"{shard}: skipped 1 damaged record(s): 1" in skipping.stderr
    shutil.rmtree(tmp_path / "workdir")
    shard.write_bytes(content)
    assert run("train.py", flags).code == 0


def test_workdir_of_another_config_or_data_set_is_rejected(get_error, squares, trained, tmp_path):
    # This model was trained for 12 steps on these shards.
    workdir = trained("embedding")
    flags = dict(train__total_steps=12, train__learning_rate=1e-2, train__decay="constant")
    error = get_error(*tiny.make_flags(squares, **flags | dict(seed=7)), workdir=workdir)
    assert "config.seed: 0 != 7" in error and "--workdir" in error

    # Put another data set at the same path, with one record fewer.
    other = tmp_path / "squares"
    tiny.write_squares(other, count=31)
    backup = tmp_path / "backup"
    squares.rename(backup)
    try:
        shutil.copytree(other, squares)
        error = get_error(*tiny.make_flags(squares, **flags), workdir=workdir)
    finally:
        shutil.rmtree(squares)
        backup.rename(squares)
    assert "other data" in error and "--workdir" in error


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("sample.py", ["--prompt=" + "red square " * 60], ["122 tokens", "90 too many", "shorten"]),
        ("sample.py", ["--prompt=x", "--sampler=eular"], ["eular", "dpmpp_2m"]),
        ("sample.py", ["--prompt=x", "--steps=1"], ["steps is 1", "at least 2"]),
        ("sample.py", ["--prompt=x", "--num_images=0"], ["num_images"]),
        ("sample.py", ["--prompt=x", "--seed=-1"], ["seed"]),
        ("sample.py", ["--label=red"], ["--prompt"]),
        ("sample.py", [], ["nothing to draw", "--prompt"]),
        ("sample.py", ["--prompt="], ["--prompt=: it is empty"]),
        ("sample.py", ["--compose=cat"], ["--compose=cat: 'cat' has no weight", "a hat:0.5"]),
        ("sample.py", ["--compose=a cat:1 hat"], ["'hat' has no weight"]),
        ("sample.py", ["--compose=cat:0"], ["the weight of 'cat' must be above 0"]),
        ("sample.py", ["--prompt=x", "--format=jpg"], ["--format=jpg", "x.png is one picture"]),
        ("sample.py", ["--prompt=x", "--guidance_interval=0.8,0.2"], ["lower one first"]),
        (
            "sample.py",
            ["--prompt=x", "--guidance_interval=low"],
            ["--guidance_interval=low", "0.2,0.8"],
        ),
        ("sample.py", ["--prompt=x", "--guidance_interval=0,2"], ["at most 1"]),
        ("sample.py", ["--prompt=x", "--step=5"], ["5", "12"]),
        ("sample.py", ["--prompt=x", "--average=0.3"], ["average=0.3", "0.1"]),
        ("sample.py", ["--prompt=x", "--like=x.png"], ["--like=x.png", "--prompt", "leave out"]),
        ("sample.py", ["--prompts_file=absent.txt"], ["absent.txt", "No such file"]),
        ("sample.py", ["--image_prompt=absent.png"], ["absent.png", "No such file"]),
        (
            "sample.py",
            ["--prompt=x", "--guide_step=2", "--negative_prompt=y"],
            ["--guide_step and --negative_prompt"],
        ),
        ("interpolate.py", ["--prompt=x"], ["--prompt", "--seed"]),
        ("interpolate.py", ["--prompt=x", "--prompt= "], ["--prompt= : it is empty"]),
        ("interpolate.py", ["--prompt=x", "--prompt=y", "--output=x.tif"], ["x.tif", ".gif"]),
        ("interpolate.py", ["--prompt=x", "--prompt=y", "--frames=1"], ["frames"]),
        ("edit.py", ["--prompt=x"], ["--image must be given"]),
        ("edit.py", ["--image=absent.png"], ["--mode=edit needs --prompt"]),
        ("edit.py", ["--image=absent.png", "--prompt=x"], ["absent.png", "No such file"]),
        ("edit.py", ["--image=x.png", "--prompt=x", "--scale=0.5"], ["--scale", "outpaint"]),
        (
            "edit.py",
            ["--image=x.png", "--prompt=x", "--strength=0"],
            ["--strength=0.0", "at least 0.01"],
        ),
        ("edit.py", ["--image=x.png", "--prompt=x", "--label=x"], ["give one of them"]),
        (
            "edit.py",
            ["--image=x.png", "--mode=invert", "--prompt=x", "--seed=1"],
            ["--seed", "vary"],
        ),
    ],
)
def test_wrong_sampling_flag_is_named(tmp_path, trained, run, snapshot, script, flags, words):
    workdir = trained("embedding")
    before = snapshot(workdir)
    # A later --output replaces the first one.
    flags = [f"--workdir={workdir}", f"--output={tmp_path}/x.png", *flags]
    error = run(script, flags).error
    assert_mentions(error, words)
    assert snapshot(workdir) == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("conditioning", "field", "value", "words"),
    [
        ("embedding", "weights_sha256", "0" * 64, "different weights now"),
        # Embeddings that came with the data have no hash.
        ("embedding", "weights_sha256", "", None),
        ("embedding", "normalized", False, "unnormalized"),
        ("tokens", "tokenizer_sha256", "0" * 64, "different tokens from"),
        # Old data sets did not record the tokenizer's hash.
        ("tokens", "tokenizer_sha256", "", None),
    ],
)
def test_encoder_that_differs_from_the_data_set_is_rejected(
    tmp_path, trained, run, conditioning, field, value, words
):
    workdir = tmp_path / "workdir"
    shutil.copytree(trained(conditioning), workdir)
    path = workdir / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[conditioning][field] = value
    path.write_text(json.dumps(manifest))
    flags = [f"--workdir={workdir}", "--prompt=x", "--num_images=1", f"--output={tmp_path / 'x'}"]
    result = run("sample.py", flags)
    assert words in result.error if words else result.code == 0


def test_output_that_cannot_be_written_is_named(tmp_path, trained, run):
    (tmp_path / "file").write_text("x")
    flags = [f"--workdir={trained('embedding')}", "--prompt=x", "--num_images=1"]
    error = run("sample.py", [*flags, f"--output={tmp_path / 'file' / 'folder'}"]).error
    assert f"--output={tmp_path / 'file' / 'folder'} cannot be a folder" in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("label", ["purple", "4", "-1"])
def test_unknown_label_is_rejected(tmp_path, trained, run, label):
    flags = [f"--workdir={trained('label')}", f"--label={label}", f"--output={tmp_path / 'x'}"]
    error = run("sample.py", flags).error
    assert f"the class {label!r}" in error and "red, green, blue, yellow" in error


def test_workdir_without_a_run_or_checkpoint_is_rejected(tmp_path, trained, run):
    absent = run("sample.py", [f"--workdir={tmp_path / 'absent'}", "--prompt=x"]).error
    assert "config.json is missing" in absent and not (tmp_path / "absent").exists()
    workdir = tmp_path / "workdir"
    shutil.copytree(trained("embedding"), workdir)
    shutil.rmtree(workdir / "checkpoints")
    assert "no checkpoint" in run("sample.py", [f"--workdir={workdir}", "--prompt=x"]).error


def test_verbosity_adds_a_traceback_to_the_one_line(tmp_path, config_file):
    # Start fresh processes, to check that the import of TensorFlow prints nothing either.
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'workdir'}"]
    flags += ["--config.data.source=shards:/no/such/folder"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    outputs = []
    for verbosity in ([], ["--verbosity=1"]):
        command = [sys.executable, "launch/train.py", *flags, *verbosity]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 1 and not result.stdout
        outputs.append(result.stderr.splitlines())
    quiet, verbose = outputs
    assert len(quiet) == 1 and quiet[0].startswith("train.py: error: no data set at")
    assert "Traceback (most recent call last):" in verbose
    assert verbose[-1].startswith("t2i_tpu.errors.UserError: no data set at")


def test_verbosity_adds_a_traceback_for_a_wrong_flag(tmp_path, config_file, run):
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'workdir'}", "--nosuch=1"]
    assert "Traceback" not in run("train.py", flags).error
    verbose = run("train.py", [*flags, "--verbosity=1"])
    assert verbose.code == 1 and "Traceback (most recent call last):" in verbose.stderr
