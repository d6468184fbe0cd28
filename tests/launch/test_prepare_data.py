"""launch/prepare_data.py as users run it: its words, its workers, and kill -9 at random moments."""

import pathlib
import random
import shutil
import time

import numpy as np
import pytest

from tests.data.prepare.conftest import (
    write_folder,
    write_npy,
    write_parquet,
    write_webdataset,
)
from tests.gcs.harness import Faults

COUNT, PER_TAR = 300, 20


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """15 tars of 20 images, of which some come again."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 40, 40, 3)).astype(np.uint8)
    images[::10] = images[0]
    triples = [(f"{i:05d}", image, f"caption {i}") for i, image in enumerate(images)]
    return write_webdataset(tmp_path_factory.mktemp("tars"), triples, PER_TAR)


def flags(source, output, workers=1):
    return [
        f"--source={source}", f"--output={output}", f"--workers={workers}", "--image_size=32",
        "--num_streams=4", "--shard_size=20", "--drop_same_images", "--heldout_share=0.1",
    ]  # fmt: skip


def contents(folder):
    folder = pathlib.Path(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def undisturbed(source, run, tmp_path_factory):
    """(files, seconds, stdout) of one run."""
    output = tmp_path_factory.mktemp("undisturbed") / "data"
    start = time.monotonic()
    result = run("prepare_data.py", flags(source, output))
    assert result.code == 0, result.stderr
    return contents(output), time.monotonic() - start, result.stdout


def test_every_outcome_is_told(undisturbed):
    files, _, stdout = undisturbed
    counts = {line.split()[1]: int(line.split()[0]) for line in stdout.splitlines()[:-1]}
    assert counts["duplicate_image"] == 29  # of 30 equal ones
    assert counts["train"] + counts["heldout"] == COUNT - 29
    assert files["losses.csv"].count(b"duplicate_image") == 29
    assert "is whole: --config.data.source=shards:" in stdout
    assert set(path.rsplit(".")[-1] for path in files) == {"tfrecord", "json", "csv"}


def test_the_number_of_workers_changes_nothing(source, run, undisturbed, tmp_path):
    output = tmp_path / "data"
    result = run("prepare_data.py", flags(source, output, workers=3))
    assert result.code == 0, result.stderr
    assert contents(output) == undisturbed[0]


def killed_until_done(prepare, read, files, seconds, root, kills, seed):
    """Kills one run of `prepare(output)` after the other, `kills` times, then lets one finish; what
    `read(output)` finds in the end are the undisturbed run's `files`."""
    moments, done, whole = random.Random(seed), 0, 0
    while done < kills:
        run = prepare(f"{root}/{whole}/data")
        run.process.join(moments.uniform(0, 0.8 * seconds))
        if not run.process.is_alive():  # another round
            assert read(f"{root}/{whole}/data") == files
            whole += 1
            continue
        run.process.kill()
        run.process.join()
        done += 1
    result = prepare(f"{root}/{whole}/data").wait(900)
    assert result.code == 0, result.stderr
    assert read(f"{root}/{whole}/data") == files
    print(f"{kills} kills, {whole + 1} data sets whole", flush=True)


def kill_on_disk(source, start, undisturbed, root, kills, seed, workers):
    files, seconds, _ = undisturbed

    def prepare(output):
        return start("prepare_data.py", flags(source, output, workers))

    killed_until_done(prepare, contents, files, seconds, root, kills, seed)


def test_killed_at_random_moments(source, start, undisturbed, tmp_path):
    kill_on_disk(source, start, undisturbed, tmp_path, 3, 0, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_fifty_kills(source, start, undisturbed, tmp_path, workers):
    for seed in range(5):
        kill_on_disk(source, start, undisturbed, tmp_path / str(seed), 5, seed, workers)


@pytest.mark.parametrize(
    ("data_sets", "kills", "rate"), [(1, 1, 0.0), pytest.param(10, 5, 0.1, marks=pytest.mark.slow)]
)
def test_on_gs_as_on_disk(gcs, bucket, source, start, undisturbed, data_sets, kills, rate):
    """Killed and resumed with the output on gs://, with a share of the requests failing."""

    def prepare(output):
        return start("prepare_data.py", flags(source, output), (), gcs.inside)

    def read(output):
        return {name: content for name, content in gcs.files(output).items() if "." in name}

    with gcs.faults(Faults(rate, seed=2)):
        begin = time.monotonic()
        killed_until_done(prepare, read, undisturbed[0], 0, f"{bucket}/first", 0, 0)
        seconds = time.monotonic() - begin
        for seed in range(data_sets):
            root = f"{bucket}/{seed}"
            killed_until_done(prepare, read, undisturbed[0], seconds, root, kills, seed)
        report = gcs.report()
    failed, asked = sum(report["faults"].values()), len(report["requests"])
    assert abs(failed / asked - rate) < 0.02


@pytest.mark.parametrize("write", [write_folder, write_webdataset, write_parquet, write_npy])
def test_a_source_on_gs(gcs, bucket, run, tmp_path, write):
    images = np.random.default_rng(0).integers(0, 256, (60, 40, 40, 3)).astype(np.uint8)
    triples = [(f"{i:05d}", image, f"caption {i}") for i, image in enumerate(images)]
    on_disk = write(tmp_path / "source", triples)
    address = gcs.put_folder(tmp_path / "source", f"{bucket}/source")
    shards = []
    for source, inside in ((on_disk, None), (on_disk, gcs.inside)):
        source = source.replace(str(tmp_path / "source"), address) if inside else source
        output = tmp_path / f"{len(shards)}" / "data"
        result = run("prepare_data.py", flags(source, output), inside=inside)
        assert result.code == 0, result.stderr
        shards.append({n: c for n, c in contents(output).items() if n.endswith(".tfrecord")})
    assert len(shards[0]) == 8 and shards[0] == shards[1]


def test_what_a_killed_rename_left_is_removed(source, run, start, undisturbed, tmp_path):
    """On gs:// it is a copy and a removal; killed between the two, a run leaves both names."""
    output = tmp_path / "data"
    first = start("prepare_data.py", flags(source, output))
    first.wait_for((output / "preparing" / "unit-000001.json").exists)
    first.process.kill()
    first.process.join()
    for name in ("train-0003-00009.tfrecord.tmp", "manifest.json.tmp"):  # under way; whole
        (output / name).write_bytes(b"a whole file, or a part of one")
        result = run("prepare_data.py", flags(source, output))
        assert result.code == 0, result.stderr
        assert contents(output) == undisturbed[0]


def test_a_bucket_that_refuses(gcs, bucket, source, run):
    output = f"{bucket}/data"
    with gcs.denied(bucket.removeprefix("gs://"), "storage.objects.create"):
        result = run("prepare_data.py", flags(source, output), inside=gcs.inside)
    assert "storage.objects.create" in result.error and bucket in result.error


def test_whole_already(source, run, undisturbed, tmp_path):
    output = tmp_path / "data"
    for _ in range(2):
        result = run("prepare_data.py", flags(source, output))
        assert result.code == 0 and result.stdout.replace(str(output), "X").endswith("shards:X\n")
    assert contents(output) == undisturbed[0]


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--source=flder:x", "did you mean 'folder'"),
        ("--crop=centre", "--crop=centre is none of center, none"),
        ("--heldout_share=1.5", "--heldout_share=1.5"),
        ("--channels=2", "--channels=2"),
        ("--near_duplicates=99", "--near_duplicates=99"),
        ("--encoder=clip", "unknown encoder 'clip'"),
        ("--min_words=x", "--min_words"),
    ],
)
def test_a_wrong_flag_is_one_line(source, run, tmp_path, flag, told):
    result = run("prepare_data.py", [*flags(source, tmp_path / "data"), flag])
    assert told in result.error and not (tmp_path / "data").exists()


def beam_flags(source, output, *options):
    return [one for one in flags(source, output) if "--workers" not in one] + [
        "--runner=beam", "--", *options
    ]  # fmt: skip


@pytest.mark.beam
@pytest.mark.parametrize(
    "options", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]]
)
def test_beam_writes_the_same_bytes(source, run, undisturbed, tmp_path, options):
    output = tmp_path / "data"
    result = run("prepare_data.py", beam_flags(source, output, *options))
    assert result.code == 0, result.stderr
    assert contents(output) == undisturbed[0]


@pytest.mark.beam
def test_beam_killed_robbed_and_resumed(source, run, start, undisturbed, tmp_path):
    """What is done is not read again; what is lost is told in a line, after all else is done."""
    shutil.copytree(source.removeprefix("webdataset:").removesuffix("/*.tar"), tmp_path / "tars")
    tars = sorted((tmp_path / "tars").iterdir())
    output = tmp_path / "data"
    arguments = beam_flags(f"webdataset:{tmp_path}/tars/*.tar", output)

    def done():
        found = (output / "preparing").glob("unit-*.json")
        return {int(path.stem.removeprefix("unit-")) for path in found}

    first = start("prepare_data.py", arguments)
    first.wait_for(done)
    first.process.kill()
    first.process.join()
    assert 0 < len(done()) < len(tars) - 1
    for index in done():
        tars[index].unlink()
    lost = tars[next(index for index in range(len(tars)) if index not in done())]
    content = lost.read_bytes()
    lost.unlink()
    assert f"{lost}; No such file" in run("prepare_data.py", arguments).error
    assert len(done()) == len(tars) - 1
    lost.write_bytes(content)
    result = run("prepare_data.py", arguments)
    assert result.code == 0, result.stderr
    wanted = {n: content for n, content in undisturbed[0].items() if n != "manifest.json"}
    assert {n: content for n, content in contents(output).items() if n in wanted} == wanted


def test_settings_that_change_half_way(source, run, start, tmp_path):
    output = tmp_path / "data"
    first = start("prepare_data.py", flags(source, output))
    first.wait_for((output / "preparing" / "unit-000001.json").exists)
    first.process.kill()
    first.process.join()
    result = run("prepare_data.py", [*flags(source, output), "--image_size=16"])
    assert "under way with another image_size (32)" in result.error


def test_too_few_for_the_streams(source, run, undisturbed, tmp_path):
    """Told after the work is done, so what is done must serve for other streams."""
    shutil.copytree(source.removeprefix("webdataset:").removesuffix("/*.tar"), tmp_path / "tars")
    output = tmp_path / "data"
    arguments = flags(f"webdataset:{tmp_path}/tars/*.tar", output)
    result = run("prepare_data.py", [*arguments, "--num_streams=200", "--shard_size=1", "--seed=1"])
    error = result.stderr.splitlines()[-1]
    assert result.code == 1 and "heldout examples are too few for 200 streams" in error
    assert "it goes on from here" in error
    assert (output / "train-0199-00000.tfrecord").exists()
    shutil.rmtree(tmp_path / "tars")
    result = run("prepare_data.py", arguments)
    assert result.code == 0, result.stderr
    wanted = {name: content for name, content in undisturbed[0].items() if name != "manifest.json"}
    assert {n: c for n, c in contents(output).items() if n != "manifest.json"} == wanted
