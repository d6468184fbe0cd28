"""Tests the check of write access with real full, read-only and restricted file systems."""

import os
import resource
import shutil
import subprocess
import sys

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.storage import access
from tests.launch.launcher import ROOT

CHECK = "import sys; from t2i_tpu.storage import access; access.check_writable(sys.argv[1])"


def test_check_leaves_no_files(tmp_path):
    before = os.stat(tmp_path).st_mtime_ns
    access.check_writable(str(tmp_path))
    assert os.stat(tmp_path).st_mtime_ns > before  # a file was written
    access.check_writable(str(tmp_path / "not" / "yet" / "there"))
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file/run cannot be written: .*Not a directory"):
        access.check_writable(str(tmp_path / "file" / "run"))


def test_limit_on_file_sizes_is_explained(tmp_path):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    result = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "File too large; raise the limit on file sizes" in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.allowed_skip  # a container may forbid mounting
@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("head -c 1M /dev/zero >disk/fill", "No space left on device; free some"),
        ("mount -o remount,ro disk", "Read-only file system; use another folder"),
    ],
)
def test_full_and_read_only_disks_are_explained(tmp_path, prepare, words):
    unshare = ["unshare", "--mount", "--map-root-user"]
    (tmp_path / "disk").mkdir()
    check = '"$0" -c "$1" disk/run; ls -a disk'
    mount = "mount -t tmpfs -o size=64k none disk"
    if subprocess.run([*unshare, "sh", "-c", mount], cwd=tmp_path, stderr=-1).returncode:
        pytest.skip("mounting is not permitted here")
    result = subprocess.run(
        [*unshare, "sh", "-c", f"{mount}; {prepare}; {check}", sys.executable, CHECK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert f"disk/run cannot be written: {words}" in result.stderr, result.stderr
    assert ".probe" not in result.stdout


def test_used_and_free_bytes_are_measured(tmp_path):
    (tmp_path / "one").write_bytes(b"x" * 1000)
    (tmp_path / "folder").mkdir()
    assert access.used_bytes(str(tmp_path)) == 1000
    assert access.used_bytes(str(tmp_path / "absent")) == 0
    assert access.used_bytes("gs://bucket/run") == 0
    assert access.free_bytes("gs://bucket/run") is None
    free = shutil.disk_usage(tmp_path).free
    assert abs(access.free_bytes(str(tmp_path / "absent" / "too")) - free) < 1 << 30
