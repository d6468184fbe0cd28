"""What a user can get wrong: one line that names it, exit code 1, and nothing written anywhere."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import tiny
from tests.launch.launcher import ROOT


@pytest.fixture
def refused(tmp_path, config_file, run, listing):
    """`refused(flags)`: the line that launch/train.py answers a new workdir with."""

    def refused(*flags, config=config_file, workdir=None):
        workdir = workdir or tmp_path / "workdir"
        before = listing(workdir), workdir.exists()
        result = run("train.py", [f"--config={config}", f"--workdir={workdir}", *flags])
        assert result.stdout == ""
        assert (listing(workdir), workdir.exists()) == before
        return result.error

    return refused


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.train.total_stpes=3", ["config.train.total_stpes", "'train.total_steps'"]),
        ("--config.train.total_steps=abc", ["--config.train.total_steps=abc"]),
        ("--config.train.total_steps=0", ["config.train.total_steps is 0", "at least 1"]),
        ("--config.recipe=modren", ["config.recipe", "'modern'"]),
        ("--config.model.widths=(8,-1)", ["config.model.widths", "positive"]),
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
def test_flags(refused, squares, flag, words):
    error = refused(*tiny.flags(squares), flag)
    assert error.startswith("train.py: error: ")
    for word in words:
        assert word in error


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
def test_config_files(refused, squares, tmp_path, body, words):
    path = tmp_path / "wrong.py"
    lines = "from t2i_tpu.config import Config\n\n\ndef get_config():\n    config = Config()\n"
    path.write_text(lines + body)
    error = refused(config=path)
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--config.train.total_steps=3", "--workdir=x"],
            ["--config.train.total_steps", "FILE.py"],
        ),
        (["--config.seed", "3"], ["--config.seed", "--config=FILE.py"]),
        (["--workdir=x"], ["error: --config must be given"]),
        (["--config="], ["--config: there is no file ''"]),
        (["--config"], ["--config: there is no file ''"]),
        ([], ["error: --config and --workdir must be given"]),
    ],
)
def test_without_a_config(run, flags, words):
    error = run("train.py", flags).error
    for word in words:
        assert word in error


@pytest.mark.parametrize("damage", ["empty", "truncated", "missing", "manifest"])
def test_damaged_data(refused, squares, tmp_path, damage):
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
    error = refused(*tiny.flags(data))
    assert str(shard) in error and "again" in error


def test_a_damaged_record_and_its_mending(tmp_path, squares, config_file, run):
    """It has the right size, so only reading it tells; nothing is in the way of going on."""
    data = tmp_path / "data"
    shutil.copytree(squares, data)
    shard = data / "train-0001-00001.tfrecord"
    content = shard.read_bytes()
    middle = len(content) // 2
    shard.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'workdir'}"]
    flags += tiny.flags(data, train__total_steps=4)
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


def test_a_workdir_of_another_run(refused, squares, trained, tmp_path):
    """`trained` was trained for 12 steps, on these shards."""
    workdir = trained("embedding")
    same = dict(train__total_steps=12, train__learning_rate=1e-2, train__decay="constant")
    error = refused(*tiny.flags(squares, **same | dict(seed=7)), workdir=workdir)
    assert "config.seed: 0 != 7" in error and "--workdir" in error

    # Same config, same path, other content: another record in one shard.
    other = tmp_path / "squares"
    tiny.write(other, count=31)
    kept = tmp_path / "kept"
    squares.rename(kept)
    try:
        shutil.copytree(other, squares)
        error = refused(*tiny.flags(squares, **same), workdir=workdir)
    finally:
        shutil.rmtree(squares)
        kept.rename(squares)
    assert "other data" in error and "--workdir" in error


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("sample.py", ["--prompt=" + "red square " * 60], ["tokens", "shorten"]),
        ("sample.py", ["--prompt=x", "--sampler=euler"], ["euler", "dpmpp_2m"]),
        ("sample.py", ["--prompt=x", "--steps=1"], ["steps is 1", "at least 2"]),
        ("sample.py", ["--prompt=x", "--num_images=0"], ["num_images"]),
        ("sample.py", ["--prompt=x", "--seed=-1"], ["seed"]),
        ("sample.py", ["--label=red"], ["--prompt"]),
        ("sample.py", [], ["nothing to draw", "--prompt"]),
        ("interpolate.py", ["--from_prompt=x"], ["--to_prompt"]),
        ("interpolate.py", ["--mode=noise", "--from_prompt=x"], ["--to_seed"]),
        ("interpolate.py", ["--from_prompt=x", "--to_prompt=y", "--output=x.jpg"], [".gif"]),
        ("interpolate.py", ["--from_prompt=x", "--to_prompt=y", "--frames=1"], ["frames"]),
    ],
)
def test_sampling(tmp_path, trained, run, listing, script, flags, words):
    workdir = trained("embedding")
    before = listing(workdir)
    output = (
        [] if any(flag.startswith("--output") for flag in flags) else [f"--output={tmp_path}/x"]
    )
    error = run(script, [f"--workdir={workdir}", *output, *flags]).error
    for word in words:
        assert word in error
    assert listing(workdir) == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("conditioning", "field", "value", "words"),
    [
        ("embedding", "weights_sha256", "0" * 64, "other weights here"),
        ("embedding", "weights_sha256", "", None),  # of embeddings that came with the data
        ("embedding", "normalized", False, "unnormalized"),
        ("tokens", "tokenizer_sha256", "0" * 64, "other tokens here"),
        ("tokens", "tokenizer_sha256", "", None),  # of a data set that did not record it
    ],
)
def test_another_encoder_than_the_data_sets(
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


def test_an_output_that_cannot_be_written(tmp_path, trained, run):
    (tmp_path / "file").write_text("x")
    flags = [f"--workdir={trained('embedding')}", "--prompt=x", "--num_images=1"]
    error = run("sample.py", [*flags, f"--output={tmp_path / 'file' / 'folder'}"]).error
    assert f"cannot write {tmp_path / 'file' / 'folder'}" in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("label", ["purple", "4", "-1", ""])
def test_unknown_labels(tmp_path, trained, run, label):
    flags = [f"--workdir={trained('label')}", f"--label={label}", f"--output={tmp_path / 'x'}"]
    error = run("sample.py", flags).error
    assert f"--label={label}" in error and "red, green, blue, yellow" in error


def test_a_workdir_without_a_run(tmp_path, trained, run):
    absent = run("sample.py", [f"--workdir={tmp_path / 'absent'}", "--prompt=x"]).error
    assert "config.json is missing" in absent and not (tmp_path / "absent").exists()
    untrained = tmp_path / "untrained"
    shutil.copytree(trained("embedding"), untrained)
    shutil.rmtree(untrained / "checkpoints")
    assert "no checkpoint" in run("sample.py", [f"--workdir={untrained}", "--prompt=x"]).error


def test_one_line_from_a_fresh_process_and_a_trace_when_asked(tmp_path, config_file):
    """Nothing that TensorFlow says when it is imported comes before the line."""
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'workdir'}"]
    flags += ["--config.data.source=shards:/no/such/folder"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = []
    for more in ([], ["--verbosity=1"]):
        command = [sys.executable, "launch/train.py", *flags, *more]
        found.append(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True))
        assert found[-1].returncode == 1 and not found[-1].stdout
    quiet, verbose = (one.stderr.decode().splitlines() for one in found)
    assert len(quiet) == 1 and quiet[0].startswith("train.py: error: no data set at")
    assert "Traceback (most recent call last):" in verbose
    assert verbose[-1].startswith("t2i_tpu.errors.UserError: no data set at")


def test_a_trace_of_a_wrong_flag_when_asked(tmp_path, config_file, run):
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'workdir'}", "--nosuch=1"]
    assert "Traceback" not in run("train.py", flags).error
    verbose = run("train.py", [*flags, "--verbosity=1"])
    assert verbose.code == 1 and "Traceback (most recent call last):" in verbose.stderr
