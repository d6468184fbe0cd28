"""launch/copy_data.py, killed in the middle and started again."""

import time

import pytest

pytest.importorskip("google.cloud.storage", reason="the extra gcs is not installed")

from t2i_tpu.data.manifest import MANIFEST_NAME
from tests.gcs.harness import Faults


def contents(folder):
    """By name, without files under way."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("way", ["up", "down"])
def test_killed_and_again(gcs, bucket, squares, tmp_path, start, run, way):
    """At any moment what has its name is whole, and the manifest comes last."""
    expected, address, back = contents(squares), f"{bucket}/data", tmp_path / "back"
    if way == "up":
        source, target, there = squares, address, lambda: gcs.files(address)
    else:
        source, target, there = gcs.put_folder(squares, address), back, lambda: contents(back)
    flags = [f"--source={source}", f"--output={target}", "--workers=2"]
    with gcs.faults(Faults(0.3, ["slow"])):  # so that there is a middle to be killed in
        first = start("copy_data.py", flags, inside=gcs.inside)
        while first.process.is_alive() and len(there()) < 5:
            time.sleep(0.02)
        first.process.kill()
        first.wait()
        begun = there()
        assert 5 <= len(begun) < len(expected) and MANIFEST_NAME not in begun
        assert begun.items() <= expected.items()
    second = run("copy_data.py", flags, inside=gcs.inside)
    assert second.code == 0 and f"{len(expected)} files of" in second.stdout, second.stderr
    assert int(second.stdout.split(", ")[-1].split()[0]) >= len(begun)
    assert there() == expected


def test_refusals(bucket, gcs, squares, run):
    """One line, as of every script."""
    flags = [f"--source={squares}", "--output=gs://no-such-bucket/x"]
    assert "there is no bucket gs://no-such" in run("copy_data.py", flags, inside=gcs.inside).error
    with gcs.denied(bucket.removeprefix("gs://"), "storage.objects.create"):
        flags = [f"--source={squares}", f"--output={bucket}/x"]
        error = run("copy_data.py", flags, inside=gcs.inside).error
    assert f"{bucket} refuses storage.objects.create to" in error
