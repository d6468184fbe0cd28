"""Tests listings of folders, and how many requests to gs:// they take."""

import os

import pytest

from t2i_tpu.storage import listing
from tests.gcs.harness import Faults

FILES = {"a": b"x", "b [1].txt": b"yy" * 500, "empty": b"", "in/c": b"zzz", "in/deep/d": b"."}


def list_sizes(folder, recursive=False):
    return {name: info.num_bytes for name, info in listing.list_files(folder, recursive).items()}


def list_with_tensorflow(folder, recursive):
    """List a folder as on a machine that does not have google-cloud-storage."""
    listing._list_with_google = lambda *_: None
    return listing.list_files(folder, recursive)


def get_expected(recursive):
    return {name: len(value) for name, value in FILES.items() if recursive or "/" not in name}


@pytest.mark.parametrize("recursive", [False, True])
def test_local_files_have_their_sizes(tmp_path, recursive):
    folder = tmp_path / "with [brackets]"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "broken").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    (folder / "link").symlink_to(folder / "a")
    expected = get_expected(recursive) | {"link": 1}
    assert list_sizes(str(folder), recursive) == expected
    assert list_sizes(f"{folder}/", recursive) == expected
    assert listing.list_files(str(tmp_path / "nowhere"), recursive) == {}


def test_rewritten_file_has_another_version(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    before = listing.list_files(str(tmp_path))
    assert before == listing.list_files(str(tmp_path))
    path.write_bytes(b"y")
    assert before["a"].version != listing.list_files(str(tmp_path))["a"].version


@pytest.mark.parametrize("recursive", [False, True])
def test_gs_lists_the_same_with_both_clients(gcs, bucket, recursive):
    for name, content in FILES.items():
        gcs.put(f"{bucket}/x/{name}", content)
    gcs.put(f"{bucket}/x/placeholder/", b"")
    gcs.put(f"{bucket}/xy", b"not in the folder")
    for address in (f"{bucket}/x", f"{bucket}/x/"):
        for list_files in (listing.list_files, list_with_tensorflow):
            found = gcs.call(list_files, address, recursive)
            sizes = {name: info.num_bytes for name, info in found.items()}
            assert sizes == get_expected(recursive)
    assert gcs.call(listing.list_files, f"{bucket}/nowhere", recursive) == {}
    assert gcs.call(list_with_tensorflow, f"{bucket}/nowhere", recursive) == {}


def test_gs_version_changes_with_the_file(gcs, bucket):
    gcs.put(f"{bucket}/a", b"x")
    before = gcs.call(listing.list_files, bucket)
    assert before == gcs.call(listing.list_files, bucket)
    gcs.put(f"{bucket}/a", b"y")
    after = gcs.call(listing.list_files, bucket)
    assert before["a"].version != after["a"].version and before["a"].crc32c != after["a"].crc32c


def test_listing_of_many_files_takes_one_page(gcs, bucket):
    for index in range(200):
        gcs.put(f"{bucket}/x/{index}", b"x")
    with gcs.inject_faults(Faults(0.0)):
        assert len(gcs.call(listing.list_files, f"{bucket}/x")) == 200
        requests = [line for line in gcs.report()["requests"] if "/b/" in line]
    # google-cloud-storage 3.17 also looks at the bucket once, in the background.
    assert len(requests) <= 2, requests


def find_with_tensorflow(folder, names):
    """Find files as on a machine that does not have google-cloud-storage."""
    listing._list_with_google = lambda *_: None
    return listing.find_files(folder, names)


def test_files_are_found_by_name(gcs, bucket, tmp_path):
    """The names may contain folders, and names that do not exist are missing from the result."""
    for name, content in FILES.items():
        gcs.put(f"{bucket}/x/{name}", content)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    names = ["b [1].txt", "in/deep/d", "none", "none/none", "a/x", "in/deep", "a\0"]
    found = [listing.find_files(str(tmp_path), names)]
    found += [
        gcs.call(find, f"{bucket}/x", names[:-1])
        for find in (listing.find_files, find_with_tensorflow)
    ]
    for infos in found:
        sizes = {name: info.num_bytes for name, info in infos.items()}
        assert sizes == {"b [1].txt": 1000, "in/deep/d": 1}


def test_folder_that_cannot_be_listed_is_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError

    (tmp_path / "a").write_bytes(b"xyz")
    monkeypatch.setattr(
        os, "scandir", refuse
    )  # the tests may run as root, who may list every folder
    assert listing.find_files(str(tmp_path), ["a", "b"])["a"].num_bytes == 3
