"""launch/prepare_data.py writes the same files with any workers, and after kills at any moment."""

import os
import pathlib
import random
import shutil
import time

import numpy as np
import pytest

from t2i_tpu.data.prepare.plan import WORK_NAME
from tests.data.prepare.source_files import (
    write_folder,
    write_npy,
    write_parquet,
    write_webdataset,
)
from tests.gcs.harness import Faults

COUNT, PER_TAR = 300, 20


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The --source of 15 tars with 20 images each, some of which are equal."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 40, 40, 3)).astype(np.uint8)
    images[::10] = images[0]
    triples = [(f"{i:05d}", image, f"caption {i}") for i, image in enumerate(images)]
    return write_webdataset(tmp_path_factory.mktemp("tars"), triples, PER_TAR)


def make_flags(source, output, workers=1):
    return [
        f"--source={source}", f"--output={output}", f"--workers={workers}", "--image_size=32",
        "--num_streams=4", "--shard_size=20", "--drop_same_images", "--heldout_share=0.1",
    ]  # fmt: skip


def read_files(folder):
    """Return {relative path: content} of the files in a folder."""
    folder = pathlib.Path(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def drop_manifest(files):
    """Return the files without the manifest, which contains the source's path."""
    return {name: content for name, content in files.items() if name != "manifest.json"}


@pytest.fixture(scope="module")
def uninterrupted(source, run, tmp_path_factory):
    """The files, the seconds and the stdout of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("uninterrupted") / "data"
    start = time.monotonic()
    result = run("prepare_data.py", make_flags(source, output))
    assert result.code == 0, result.stderr
    return read_files(output), time.monotonic() - start, result.stdout


def test_outcomes_are_printed_and_listed(uninterrupted):
    files, _, stdout = uninterrupted
    counts = {line.split()[1]: int(line.split()[0]) for line in stdout.splitlines()[:-1]}
    assert counts["duplicate_image"] == 29  # of 30 equal ones
    assert counts["train"] + counts["heldout"] == COUNT - 29
    assert files["rejected.csv"].count(b"duplicate_image") == 29
    assert "Data set written to " in stdout
    assert {path.rsplit(".")[-1] for path in files} == {"tfrecord", "json", "csv"}


def test_number_of_workers_does_not_change_the_files(source, run, uninterrupted, tmp_path):
    output = tmp_path / "data"
    result = run("prepare_data.py", make_flags(source, output, workers=3))
    assert result.code == 0, result.stderr
    assert read_files(output) == uninterrupted[0]


def kill_and_resume(prepare, read, files, seconds, root, kills, seed):
    """Kill and resume preparations at random moments, then let the last one finish.

    Args:
      prepare: a function that starts a preparation into an output folder.
      read: a function that returns the files in an output folder.
      files: the files of an uninterrupted run, which every finished run must equal.
      seconds: duration of an uninterrupted run.
      root: folder of the outputs.
      kills: number of kills.
      seed: seed for the moments of the kills.
    """
    random_state, num_killed, num_complete = random.Random(seed), 0, 0
    while num_killed < kills:
        output = f"{root}/{num_complete}/data"
        run = prepare(output)
        run.process.join(random_state.uniform(0, 0.8 * seconds))
        if run.process.is_alive():
            run.process.kill()
            run.process.join()
            num_killed += 1
        else:
            assert read(output) == files
            num_complete += 1
    output = f"{root}/{num_complete}/data"
    result = prepare(output).wait(900)
    assert result.code == 0, result.stderr
    assert read(output) == files
    print(f"{kills} kills, {num_complete + 1} complete data sets", flush=True)


def kill_and_resume_on_disk(source, start, uninterrupted, root, kills, seed, workers):
    files, seconds, _ = uninterrupted

    def prepare(output):
        return start("prepare_data.py", make_flags(source, output, workers))

    kill_and_resume(prepare, read_files, files, seconds, root, kills, seed)


def test_resume_after_kills_at_random_moments(source, start, uninterrupted, tmp_path):
    kill_and_resume_on_disk(source, start, uninterrupted, tmp_path, 3, 0, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_resume_after_fifty_kills(source, start, uninterrupted, tmp_path, workers):
    for seed in range(5):
        kill_and_resume_on_disk(
            source, start, uninterrupted, tmp_path / str(seed), 5, seed, workers
        )


@pytest.mark.parametrize(
    ("data_sets", "kills", "rate"), [(1, 1, 0.0), pytest.param(10, 5, 0.1, marks=pytest.mark.slow)]
)
def test_resume_on_gs_gives_the_same_files(
    gcs, bucket, source, start, uninterrupted, data_sets, kills, rate
):
    """The output is on gs://, and a share of the requests fails."""

    def prepare(output):
        return start("prepare_data.py", make_flags(source, output), (), gcs.inside)

    def read(output):
        files = gcs.files(output)
        return {name: content for name, content in files.items() if "." in name}

    with gcs.inject_faults(Faults(rate, seed=2)):
        begin = time.monotonic()
        kill_and_resume(prepare, read, uninterrupted[0], 0, f"{bucket}/first", 0, 0)
        seconds = time.monotonic() - begin
        for seed in range(data_sets):
            root = f"{bucket}/{seed}"
            kill_and_resume(prepare, read, uninterrupted[0], seconds, root, kills, seed)
        report = gcs.report()
    num_failed, num_requests = sum(report["faults"].values()), len(report["requests"])
    assert abs(num_failed / num_requests - rate) < 0.02


@pytest.mark.parametrize("write", [write_folder, write_webdataset, write_parquet, write_npy])
def test_source_on_gs_gives_the_same_shards(gcs, bucket, run, tmp_path, write):
    images = np.random.default_rng(0).integers(0, 256, (60, 40, 40, 3)).astype(np.uint8)
    triples = [(f"{i:05d}", image, f"caption {i}") for i, image in enumerate(images)]
    on_disk = write(tmp_path / "source", triples)
    address = gcs.put_folder(tmp_path / "source", f"{bucket}/source")
    on_gs = on_disk.replace(str(tmp_path / "source"), address)

    def prepare_shards(source, name, inside):
        output = tmp_path / name / "data"
        result = run("prepare_data.py", make_flags(source, output), inside=inside)
        assert result.code == 0, result.stderr
        files = read_files(output)
        return {name: content for name, content in files.items() if name.endswith(".tfrecord")}

    shards = prepare_shards(on_disk, "from_disk", None)
    assert len(shards) == 8
    assert prepare_shards(on_gs, "from_gs", gcs.inside) == shards


def test_files_that_a_killed_rename_left_are_removed(source, run, start, uninterrupted, tmp_path):
    """On gs:// a rename is a copy and a deletion. A kill between the two leaves both names."""
    output = tmp_path / "data"
    first = start("prepare_data.py", make_flags(source, output))
    first.wait_for(lambda: list_processed(output))
    first.process.kill()
    first.process.join()
    # The first file is left by an unfinished preparation, the second by a complete one.
    for name in ("train-0003-00009.tfrecord.t2i_tpu-partial", "manifest.json.t2i_tpu-partial"):
        (output / name).write_bytes(b"a file, or a part of one")
        result = run("prepare_data.py", make_flags(source, output))
        assert result.code == 0, result.stderr
        assert read_files(output) == uninterrupted[0]


def test_denied_bucket_is_named(gcs, bucket, source, run):
    output = f"{bucket}/data"
    with gcs.deny(bucket.removeprefix("gs://"), "storage.objects.create"):
        result = run("prepare_data.py", make_flags(source, output), inside=gcs.inside)
    assert "storage.objects.create" in result.error and bucket in result.error


def test_complete_data_set_is_left_as_it_is(source, run, uninterrupted, tmp_path):
    output = tmp_path / "data"
    for _ in range(2):
        result = run("prepare_data.py", make_flags(source, output))
        assert result.code == 0, result.stderr
        assert result.stdout.endswith(f"--config.data.source=shards:{output}\n")
    assert read_files(output) == uninterrupted[0]


def make_beam_flags(source, output, *options):
    arguments = [flag for flag in make_flags(source, output) if not flag.startswith("--workers")]
    return [*arguments, "--runner=beam", "--", *options]


@pytest.mark.beam
@pytest.mark.parametrize(
    "options", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]]
)
def test_beam_writes_the_same_bytes(source, run, uninterrupted, tmp_path, options):
    output = tmp_path / "data"
    result = run("prepare_data.py", make_beam_flags(source, output, *options))
    assert result.code == 0, result.stderr
    assert read_files(output) == uninterrupted[0]


def replace_content(path):
    """Replace a file by zeros without changing its size and time, so that reading it would be noticed."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def copy_tars(source, folder):
    """Copy the tars of a source, and return their paths."""
    shutil.copytree(source.removeprefix("webdataset:").removesuffix("/*.tar"), folder)
    return sorted(folder.iterdir())


def list_processed(output):
    return sorted((output / WORK_NAME).glob("unit-*.json"))


@pytest.mark.beam
def test_beam_resumes_after_a_kill_and_an_unreadable_input(
    source, run, start, uninterrupted, tmp_path
):
    """Processed units are not read again. An unreadable input is reported when all others are done."""
    tars = copy_tars(source, tmp_path / "tars")
    output = tmp_path / "data"
    arguments = make_beam_flags(f"webdataset:{tmp_path}/tars/*.tar", output)
    first = start("prepare_data.py", arguments)
    first.wait_for(lambda: list_processed(output))
    first.process.kill()
    first.process.join()
    assert 0 < len(list_processed(output)) < len(tars)
    unreadable = tmp_path / "tars" / "z.tar"
    unreadable.symlink_to("/proc/self/mem")
    result = run("prepare_data.py", arguments)  # it first reports that it takes over the lock
    assert result.code == 1 and "/z.tar" in result.stderr.splitlines()[-1], result.stderr
    assert len(list_processed(output)) == len(tars)

    # Resume with only the readable inputs.
    unreadable.unlink()
    for tar in tars:
        replace_content(tar)
    result = run("prepare_data.py", arguments)
    assert result.code == 0, result.stderr
    assert drop_manifest(read_files(output)) == drop_manifest(uninterrupted[0])


def test_changed_setting_is_rejected(source, run, start, tmp_path):
    output = tmp_path / "data"
    first = start("prepare_data.py", make_flags(source, output))
    first.wait_for(lambda: list_processed(output))
    first.process.kill()
    first.process.join()
    result = run("prepare_data.py", [*make_flags(source, output), "--image_size=16"])
    assert "unfinished preparation with a different image_size (32)" in result.error


def test_too_many_streams_are_rejected_with_a_number_that_works(
    source, run, uninterrupted, tmp_path
):
    """This is known only at the end. Other streams can then be made from the processed units."""
    tars = copy_tars(source, tmp_path / "tars")
    output = tmp_path / "data [v2]"  # a glob would take [v2] for a pattern
    arguments = make_flags(f"webdataset:{tmp_path}/tars/*.tar", output)
    result = run("prepare_data.py", [*arguments, "--num_streams=200", "--shard_size=1", "--seed=1"])
    assert "--num_streams=200 is more than the 31 heldout examples" in result.error
    assert "lower it to 31" in result.error
    assert list(output.glob("train-*.tfrecord"))
    for tar in tars:
        replace_content(tar)
    result = run("prepare_data.py", arguments)
    assert result.code == 0, result.stderr
    expected = drop_manifest(uninterrupted[0])
    assert drop_manifest(read_files(output)) == expected
