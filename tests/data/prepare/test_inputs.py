"""Tests that a changed input is read again, or noticed if the data set is already complete."""

import contextlib
import os
import pathlib
import re
import shutil

import pytest

from t2i_tpu.data.prepare import plan, pool
from t2i_tpu.data.prepare.inputs import InputReader
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.sources import make_source
from t2i_tpu.errors import UserError
from tests.data.prepare.source_files import encode_png, write_folder, write_npy, write_webdataset
from tests.data.prepare.test_sources import list_pairs

OPTIONS = dict(encoder="none", heldout_share=0.2, image_size=16, shard_size=4)


@contextlib.contextmanager
def process_and_stop(work, settings, processed):
    """Process all units as `pool.process_units` does, and then stop the preparation."""
    with pool.process_units(work, settings, processed) as names:
        list(names)
    raise UserError("stopped")
    yield


def process_and_count(counts):
    """Return a runner that appends to `counts` how many units it has processed."""

    @contextlib.contextmanager
    def process_units(work, settings, processed):
        with pool.process_units(work, settings, processed) as names:
            names = list(names)
            counts.append(len(names))
            yield iter(names)

    return process_units


def read_data(folder):
    """Return the files of a data set without its manifest, which has the time of the input."""
    paths = pathlib.Path(folder).iterdir()
    return {path.name: path.read_bytes() for path in paths if path.name != "manifest.json"}


def change_caption_file(folder):
    """Change a caption without changing the size of its file."""
    path = next(folder.rglob("*.txt"))
    path.write_text(path.read_text()[::-1])


def add_image(folder):
    path = next(folder.rglob("*.png"))
    shutil.copy(path, path.with_name("zz.png"))
    path.with_name("zz.txt").write_text("a new one")


def add_missing_caption(folder):
    """Add the caption of an image that had none."""
    (folder / "alone.txt").write_text("no longer alone")


def remove_image(folder):
    next(folder.rglob("*.png")).unlink()


def change_table(folder):
    path = folder / "captions.csv"
    path.write_text(path.read_text().replace(" ", "_"))


def change_image_of_table(folder):
    paths = sorted(folder.rglob("*.png"))
    paths[0].write_bytes(paths[1].read_bytes())


def change_pixels(folder):
    path = folder / "imgs.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))


def write_table(folder, images):
    return write_folder(folder, images, "captions.csv")


CHANGES = [
    (write_folder, change_caption_file),
    (write_folder, add_image),
    (write_folder, add_missing_caption),
    (write_folder, remove_image),
    (write_table, change_table),
    (write_table, change_image_of_table),
    (write_npy, change_table),
    (write_npy, change_pixels),
]


@pytest.mark.parametrize(
    ("write", "change"), CHANGES, ids=lambda function: function.__name__.removeprefix("write_")
)
def test_changed_input_is_read_again(emoji, tmp_path, write, change):
    """The input changes after all of it was processed, and again after the data set is complete."""
    folder = tmp_path / "in"
    source = write(folder, emoji[:20])
    if write is write_folder:
        (folder / "alone.png").write_bytes(encode_png(emoji[20][1]))
    settings = Settings(source, **OPTIONS)
    output = str(tmp_path / "data [v2]")
    with pytest.raises(UserError, match="stopped"):
        prepare(settings, output, process_and_stop)
    change(folder)
    prepare(settings, output)
    prepare(settings, str(tmp_path / "fresh"))
    assert read_data(output) == read_data(tmp_path / "fresh")

    # The complete data set is left as it is.
    before = read_data(output)
    remove_image(folder) if write is write_folder else remove_row(folder)
    with pytest.raises(
        UserError, match=r"has changed since .* prepare it again, delete .*data \[v2"
    ):
        prepare(settings, output)
    assert read_data(output) == before


def remove_row(folder):
    """Remove the last row of a table and, if there is an array, the same row of the array."""
    import numpy as np

    path = folder / "captions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    if (folder / "imgs.npy").exists():
        np.save(folder / "imgs.npy", np.load(folder / "imgs.npy")[:-1])


def test_only_changed_tars_are_processed_again(emoji, read_shards, tmp_path):
    source = write_webdataset(tmp_path / "in", emoji[:40], per_shard=10)
    settings, output = Settings(source, **OPTIONS), str(tmp_path / "data")
    with pytest.raises(UserError, match="stopped"):
        prepare(settings, output, process_and_stop)
    write_webdataset(tmp_path / "other", emoji[40:80], per_shard=10)
    shutil.copy(tmp_path / "other" / "0001.tar", tmp_path / "in" / "0001.tar")
    shutil.copy(tmp_path / "other" / "0002.tar", tmp_path / "in" / "0000a.tar")
    counts = []
    manifest = prepare(settings, output, process_and_count(counts))
    assert counts == [2]
    images = emoji[:10] + emoji[60:70] + emoji[50:60] + emoji[20:40]
    keys = {key for split in manifest.splits for key in list_keys(read_shards(output, split))}
    assert {key.rpartition("/")[2] for key in keys} == {key for key, *_ in images}


def list_keys(examples):
    return [example["key"].decode() for example in examples]


def test_files_that_were_only_touched_do_not_make_a_data_set_incomplete(emoji, tmp_path, caplog):
    source = write_folder(tmp_path / "in", emoji[:20])
    settings, output = Settings(source, **OPTIONS), str(tmp_path / "data")
    manifest = prepare(settings, output)
    for path in (tmp_path / "in").rglob("*.*"):
        os.utime(path, ns=(1, 1))
    assert prepare(settings, output) == manifest
    assert "have other times than when" in caplog.text


def test_complete_data_set_does_not_need_its_source(emoji, tmp_path, caplog):
    source = write_folder(tmp_path / "in", emoji[:20])
    settings, output = Settings(source, **OPTIONS), str(tmp_path / "data")
    manifest = prepare(settings, output)
    shutil.rmtree(tmp_path / "in")
    assert prepare(settings, output) == manifest
    assert "cannot be compared" in caplog.text


def test_shards_of_other_settings_are_not_kept(emoji, read_shards, tmp_path):
    """A first try writes shards and fails, in a folder whose name a glob would take for a pattern."""
    images = emoji[:40]
    source, output = write_folder(tmp_path / "in", images), tmp_path / "out [v2]"
    options = dict(encoder="none", image_size=16, shard_size=4)
    with pytest.raises(UserError, match="--num_streams=4 is more than the 1 heldout"):
        prepare(Settings(source, num_streams=4, heldout_share=0.02, **options), str(output))
    first = {path.name for path in output.glob("*.tfrecord")}
    assert first
    (output / "train-notes.tfrecord").write_text("not ours")
    settings = Settings(source, num_streams=2, heldout_share=0.2, seed=3, **options)
    manifest = prepare(settings, str(output))
    assert (output / "train-notes.tfrecord").read_text() == "not ours"
    keys = [key for split in manifest.splits for key in list_keys(read_shards(str(output), split))]
    assert sorted(key.split("/")[1] for key in keys) == sorted(f"{key}.png" for key, *_ in images)
    listed = {stored.file for stored in manifest.files()}
    assert {path.name for path in output.glob("*-[0-9]*.tfrecord")} == listed


def test_empty_source_is_blamed(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="^--source=folder:.*/in "):
        prepare(Settings(f"folder:{tmp_path}/in", **OPTIONS), str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_units_are_named_by_their_content(emoji, tmp_path):
    source = write_webdataset(tmp_path / "in", emoji[:20], per_shard=10)
    settings = Settings(source, **OPTIONS)
    names = []
    for turn in range(2):
        output = str(tmp_path / str(turn))
        work = f"{output}/{plan.WORK_NAME}"
        names.append(plan.make_plan(settings, make_source(settings), work)[0])
    assert names[0] == names[1] and len(set(names[0])) == 2


@pytest.mark.parametrize("count", [1, 3, 20])
def test_defaults_work_with_few_images(emoji, prepare_from, tmp_path, count):
    source = write_folder(tmp_path / "in", emoji[:count])
    manifest, splits = prepare_from(source, heldout_share=0.01, num_streams=None)
    examples = [example for split in splits.values() for example in split]
    assert len(list_pairs(examples)) == count
    assert manifest.num_streams() == {1: 1, 3: 2, 20: 16}[count]
    assert manifest.preparation["num_streams"] is None


def list_unit_names(source):
    """Return the names of the units of tars on gs://."""
    reader = InputReader(make_source(Settings(source, **OPTIONS)), source)
    return [name for name, _ in reader.list_units()]


def test_denied_source_is_blamed(gcs, bucket):
    gcs.put(f"{bucket}/in/a.tar", b"some tar")
    for source in (f"webdataset:{bucket}/in/*.tar", f"folder:{bucket}/in"):
        denied = gcs.deny(bucket.removeprefix("gs://"), "storage.objects.list")
        with (
            denied,
            pytest.raises(UserError, match=f"^--source={re.escape(source)}: .*objects.list"),
        ):
            gcs.call(list_unit_names, source)


def test_inputs_on_gs_are_identified_by_their_checksums(gcs, bucket, tmp_path):
    for number in range(3):
        gcs.put(f"{bucket}/in/{number}.tar", b"some tar %d" % number)
    source = f"webdataset:{bucket}/in/*.tar"
    first = gcs.call(list_unit_names, source)
    gcs.put(f"{bucket}/in/1.tar", b"some tar 1")  # the same content, written again
    assert gcs.call(list_unit_names, source) == first
    gcs.put(f"{bucket}/in/1.tar", b"new! tar 1")
    second = gcs.call(list_unit_names, source)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
