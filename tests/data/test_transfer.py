"""Tests that copies to and from gs:// are complete, checked and resumable, and report errors."""

import shutil

import pytest

pytest.importorskip("google.cloud.storage", reason="the extra gcs is not installed")

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data import transfer
from t2i_tpu.errors import UserError
from tests import tiny
from tests.gcs.harness import Faults


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    tiny.write_squares(folder)
    (folder / "text_tower").mkdir()  # a data set may have files other than shards
    (folder / "text_tower" / "tower.onnx").write_bytes(b"onnx" * 1000)
    (folder / ".state").mkdir()
    # Neither of these is a part of the data set.
    for name in ("train-9999-00000.tfrecord.t2i_tpu-partial", ".state/x"):
        (folder / name).write_bytes(b"half")
    return folder


@pytest.fixture
def copy(gcs):
    """`copy(source, target)` calls `transfer.copy` in a process that can use gs://."""
    return lambda *arguments: gcs.call(transfer.copy, *map(str, arguments))


def read_contents(folder):
    """Return the files of a folder that should be copied, as {name: content}."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if path.is_file() and not name.endswith("-partial") and not name.startswith(".")
    }


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_copy_to_gs_and_back(gcs, bucket, squares, copy, tmp_path, rate):
    address = f"{bucket}/deep/data"
    with gcs.inject_faults(Faults(rate)):
        expected = read_contents(squares)
        copied = copy(squares, address)
        assert (copied.files, copied.present) == (len(expected), 0)
        assert copied.num_bytes == sum(map(len, expected.values()))
        assert gcs.files(address) == expected
        assert copy(squares, address).present == len(expected)
        copy(address, tmp_path / "back")
        assert read_contents(tmp_path / "back") == expected
        assert not list(tmp_path.rglob("*-partial"))
        assert copy(address, tmp_path / "back").present == len(expected)
        assert bool(gcs.report()["faults"]) == bool(rate)


def test_changed_file_is_copied_again(gcs, bucket, squares, copy):
    address = f"{bucket}/data"
    copy(squares, address)
    name = "train-0001-00001.tfrecord"
    content = (squares / name).read_bytes()
    gcs.put(f"{address}/{name}", content[:-1] + bytes([content[-1] ^ 1]))
    assert copy(squares, address).present == len(read_contents(squares)) - 1
    assert gcs.files(address)[name] == content


def test_damaged_shard_is_not_copied(gcs, bucket, squares, copy, tmp_path):
    """A flipped bit, which does not change the size, is found in an upload and in a download."""
    damaged, name = tmp_path / "damaged", "train-0001-00001.tfrecord"
    shutil.copytree(squares, damaged)
    content = (damaged / name).read_bytes()
    (damaged / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{damaged / name} does not match the manifest"):
        copy(damaged, f"{bucket}/up")
    assert not {name, manifest_lib.MANIFEST_NAME} & set(gcs.names(f"{bucket}/up"))
    gcs.put_folder(damaged, f"{bucket}/down")
    with pytest.raises(UserError, match="does not match the manifest"):
        copy(f"{bucket}/down", tmp_path / "back")
    assert not {name, manifest_lib.MANIFEST_NAME} & set(read_contents(tmp_path / "back"))


def test_errors_are_one_line(gcs, bucket, squares, copy, tmp_path):
    address, name = f"{bucket}/data", bucket.removeprefix("gs://")
    for pair in ((squares, tmp_path), ("gs://a/b", "gs://c/d")):
        with pytest.raises(UserError, match="must be on gs://"):
            copy(*pair)
    with pytest.raises(UserError, match="there is no bucket gs://no-such-bucket;"):
        copy(squares, "gs://no-such-bucket/data")
    with pytest.raises(UserError, match="no data set at"):
        copy(tmp_path, address)
    for denied in ("storage.objects.create", "storage.objects.list"):
        with gcs.deny(name, denied), pytest.raises(UserError) as error:
            copy(squares, address)
        assert f"{bucket} denies {denied} to" in str(error.value)
        assert "\n" not in str(error.value)
    nothing = {"GOOGLE_APPLICATION_CREDENTIALS": "", "CLOUDSDK_CONFIG": str(tmp_path)}
    with pytest.raises(UserError, match=f"{bucket} requires credentials"):
        gcs.call(transfer.copy, str(squares), address, environment=nothing)
    tiny.write_squares(tmp_path / "other", count=16)
    copy(tmp_path / "other", address)
    with pytest.raises(UserError, match="holds another data set"):
        copy(squares, address)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("notes.txt", "holds other files (notes.txt)"),
        ("text_tower/tower.onnx", "already has a different file text_tower/tower.onnx"),
    ],
)
def test_unrelated_files_are_not_replaced(gcs, bucket, squares, copy, tmp_path, name, words):
    folder, address = tmp_path / "target", f"{bucket}/target"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    gcs.put(f"{address}/{name}", b"mine")
    copy(squares, f"{bucket}/data")
    for pair in ((f"{bucket}/data", folder), (squares, address)):
        with pytest.raises(UserError) as error:
            copy(*pair)
        assert words in str(error.value)
    assert (folder / name).read_bytes() == gcs.files(address)[name] == b"mine"
