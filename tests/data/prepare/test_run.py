"""Tests of preparations that are interrupted or that fail."""

import contextlib
import pathlib
import shutil

import numpy as np
import pytest

from t2i_tpu.data.prepare import encode, plan, pool, unit
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.sources import make_source
from t2i_tpu.errors import UserError
from t2i_tpu.text import EMBEDDED_CLIP, EmbeddedEncoder, make_encoder
from tests.data.prepare.source_files import write_folder


@pytest.mark.parametrize(("at_once", "count"), [(False, 40), (True, 39)])
def test_unit_processed_twice_keeps_captions_with_embeddings(
    emoji, read_shards, tmp_path, at_once, count
):
    """Two workers process each unit, and the second worker cannot read one of the images.

    The first result is kept, unless both workers finish at once and neither sees the other's result.
    """
    images, missing = emoji[:40], 3
    settings = Settings(write_folder(tmp_path / "input", images), heldout_share=0, num_streams=4)

    def process_twice(work, processed):
        with pool.process_units(work, settings, processed) as indices:
            yield from indices
        # All captions have been encoded. Now the second worker processes the same units.
        key = images[missing][0]
        (tmp_path / "input" / key[:2] / f"{key}.png").unlink()
        for name, unit_ in plan.read_units(work):
            if at_once:
                pathlib.Path(unit.make_unit_path(work, name) + ".json").unlink()
            unit.process_unit(work, name, unit_, make_source(settings), settings)

    @contextlib.contextmanager
    def process_units(work, settings, processed):
        yield process_twice(work, processed)

    output = str(tmp_path / "data")
    manifest = prepare(settings, output, process_units)
    assert manifest.num_examples("train") == count
    examples = read_shards(output, "train")
    captions = [example["caption"].decode() for example in examples]
    kept = images[:missing] + images[missing + 1 :] if at_once else images
    assert sorted(captions) == sorted(caption for *_, caption in kept)
    expected = make_encoder("embedded").encode(captions)
    actual = np.stack([example["embedding"] for example in examples])
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_encoder_that_changed_is_rejected(emoji, tmp_path, monkeypatch):
    """The encoder's weights change between two runs of a preparation."""
    source, output = write_folder(tmp_path / "input", emoji[:8]), str(tmp_path / "data")
    settings = Settings(source, heldout_share=0, num_streams=4)

    @contextlib.contextmanager
    def stop(*_):
        raise UserError("stopped")
        yield

    with pytest.raises(UserError, match="stopped"):
        prepare(settings, output, stop)
    with monkeypatch.context() as patch:
        other = shutil.copytree(EMBEDDED_CLIP, tmp_path / "clip")
        weights = other / "open_clip_model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        patch.setattr(encode, "make_encoder", lambda _: EmbeddedEncoder(str(other)))
        with pytest.raises(
            UserError, match="'embedded' has different weights or a different tokenizer"
        ):
            prepare(settings, output)
    assert prepare(settings, output).num_examples("train") == 8


def test_text_tower_that_cannot_be_exported_can_be_left_out(
    emoji, prepare_from, tmp_path, monkeypatch
):
    """Real text towers that cannot be exported are tested in tests/text/test_export.py."""
    source, output = write_folder(tmp_path / "input", emoji[:8]), tmp_path / "data"

    def fail(*_):
        raise UserError("cannot be exported; leave out --export_text_tower")

    monkeypatch.setattr(EmbeddedEncoder, "export", fail)
    with pytest.raises(UserError, match="leave out --export_text_tower"):
        prepare_from(source, output, encoder="embedded", export_text_tower=True)
    manifest, _ = prepare_from(source, output, encoder="embedded")
    assert manifest.num_examples("train") == 8 and manifest.text_tower is None
    assert not (pathlib.Path(output) / "text_tower").exists()


def test_second_preparation_of_the_same_output_is_rejected(emoji, tmp_path):
    source, output = write_folder(tmp_path / "input", emoji[:8]), tmp_path / "data"
    settings = Settings(source, encoder="none", heldout_share=0, num_streams=4)

    @contextlib.contextmanager
    def start_another(*_):
        with pytest.raises(UserError, match="is being written by process"):
            prepare(settings, str(output))
        raise UserError("stopped")
        yield

    with pytest.raises(UserError, match="stopped"):
        prepare(settings, str(output), start_another)
    assert prepare(settings, str(output)).num_examples("train") == 8
    assert {path.name for path in output.iterdir()} == {
        *("manifest.json", "rejected.csv"),
        *(f"train-{index:04d}-00000.tfrecord" for index in range(4)),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is not empty (notes.tmp, preparing)"),
        ("notes.tmp", "is a file"),
        ("notes.tmp/data", "is a file"),
        ("dangling", "is a link to 'nothing', which does not exist"),
    ],
)
def test_output_that_holds_something_else_is_left_as_it_is(emoji, tmp_path, name, words):
    source, folder = write_folder(tmp_path / "input", emoji[:8]), tmp_path / "mine"
    (folder / "preparing").mkdir(parents=True)
    for path in ("notes.tmp", "preparing/mine.txt"):
        (folder / path).write_text("mine")
    (folder / "dangling").symlink_to("nothing")
    if not name:
        (folder / "dangling").unlink()
    before = sorted(folder.rglob("*"))
    settings = Settings(source, encoder="none", heldout_share=0, num_streams=4)
    with pytest.raises(UserError) as error:
        prepare(settings, str(folder / name))
    assert words in str(error.value) and str(error.value).startswith("--output=")
    assert sorted(folder.rglob("*")) == before


def test_hidden_files_do_not_occupy_an_output(emoji, tmp_path):
    """macOS and Jupyter put them into every folder."""
    source, output = write_folder(tmp_path / "input", emoji[:8]), tmp_path / "[v2] a\\b"
    (output / ".ipynb_checkpoints").mkdir(parents=True)
    (output / ".DS_Store").write_text("mine")
    settings = Settings(source, encoder="none", heldout_share=0, num_streams=4)
    assert prepare(settings, str(output)).num_examples("train") == 8
    assert (output / ".DS_Store").read_text() == "mine"


def test_lack_of_memory_ends_a_preparation_that_can_be_resumed(emoji, tmp_path):
    source, output = write_folder(tmp_path / "input", emoji[:8]), tmp_path / "data"
    settings = Settings(source, encoder="none", heldout_share=0, num_streams=4)

    @contextlib.contextmanager
    def fill_memory(work, settings, processed):
        yield (np.empty(2**60, np.uint8) for _ in range(1))

    with pytest.raises(UserError, match="not enough memory; use fewer --workers"):
        prepare(settings, str(output), fill_memory)
    assert prepare(settings, str(output)).num_examples("train") == 8
