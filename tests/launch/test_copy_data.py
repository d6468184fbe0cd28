"""launch/copy_data.py continues a copy that was killed, and reports errors in one line."""

import time

import pytest

pytest.importorskip("google.cloud.storage", reason="the extra gcs is not installed")

from t2i_tpu.data.manifest import MANIFEST_NAME
from tests.gcs.harness import Faults


def read_contents(folder):
    """Return the complete files of a folder: {name: bytes}."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and path.suffix != ".t2i_tpu-partial"
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_killed_copy_is_continued(gcs, bucket, squares, tmp_path, start, run, direction):
    """A file that has its final name is complete at any moment, and the manifest comes last."""
    expected, address, folder = read_contents(squares), f"{bucket}/data", tmp_path / "copy"
    if direction == "upload":
        source, target = squares, address
    else:
        source, target = gcs.put_folder(squares, address), folder

    def read_target():
        return gcs.files(address) if direction == "upload" else read_contents(folder)

    flags = [f"--source={source}", f"--output={target}", "--workers=2"]
    # Slow the copy down, to kill it before it ends.
    with gcs.inject_faults(Faults(0.3, ["slow"])):
        first = start("copy_data.py", flags, inside=gcs.inside)
        while first.process.is_alive() and len(read_target()) < 5:
            time.sleep(0.02)
        first.process.kill()
        first.wait()
        copied = read_target()
        assert 5 <= len(copied) < len(expected) and MANIFEST_NAME not in copied
        assert copied.items() <= expected.items()
    second = run("copy_data.py", flags, inside=gcs.inside)
    assert second.code == 0 and f"{len(expected)} files (" in second.stdout, second.stderr
    assert int(second.stdout.split("; ")[-1].split()[0]) >= len(copied)
    assert read_target() == expected


def test_errors_are_one_line(bucket, gcs, squares, run):
    flags = [f"--source={squares}", "--output=gs://no-such-bucket/x"]
    assert "there is no bucket gs://no-such" in run("copy_data.py", flags, inside=gcs.inside).error
    with gcs.deny(bucket.removeprefix("gs://"), "storage.objects.create"):
        flags = [f"--source={squares}", f"--output={bucket}/x"]
        error = run("copy_data.py", flags, inside=gcs.inside).error
    assert f"{bucket} denies storage.objects.create to" in error
