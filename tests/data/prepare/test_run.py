"""What a preparation comes to when not all goes as planned."""

import contextlib
import pathlib
import shutil

import numpy as np
import pytest

from t2i_tpu.data.prepare import encode, plan, pool, unit
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.errors import UserError
from t2i_tpu.text import EMBEDDED_CLIP, EmbeddedEncoder, make_encoder
from tests.data.prepare.conftest import write_folder


@pytest.mark.parametrize(("at_once", "count"), [(False, 40), (True, 39)])
def test_a_unit_done_twice_keeps_its_captions(emoji, read_shards, tmp_path, at_once, count):
    """As by two of Beam's workers, the later of whom cannot get an image: the first one's stays,
    unless neither saw the other's."""
    images, lost = emoji[:40], 3
    settings = Settings(write_folder(tmp_path / "input", images), heldout_share=0, num_streams=4)

    @contextlib.contextmanager
    def do_units(work, settings, finished):
        def done():
            with pool.do_units(work, settings, finished) as indices:
                yield from indices
            # All is encoded now; here comes the other worker.
            key = images[lost][0]
            (tmp_path / "input" / key[:2] / f"{key}.png").unlink()
            for index, one in plan.units(work):
                if at_once:
                    pathlib.Path(unit.unit_path(work, index) + ".json").unlink()
                unit.do_unit(work, index, one, settings.make_source(), settings)

        yield done()

    output = str(tmp_path / "data")
    manifest = prepare(settings, output, do_units)
    assert manifest.num_examples("train") == count
    examples = read_shards(output, "train")
    captions = [example["caption"].decode() for example in examples]
    kept = images[:lost] + images[lost + at_once :]
    assert sorted(captions) == sorted(text for *_, text in kept)
    wanted = make_encoder("embedded").encode(captions)
    found = np.stack([example["embedding"] for example in examples])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_encoder_that_changed_on_the_way(emoji, tmp_path, monkeypatch):
    """As a checkpoint file does that is trained on while a preparation lies half done."""
    source, output = write_folder(tmp_path / "input", emoji[:8]), str(tmp_path / "data")
    settings = Settings(source, heldout_share=0, num_streams=4)

    @contextlib.contextmanager
    def stopped(*_):
        raise UserError("stopped")
        yield

    with pytest.raises(UserError, match="stopped"):
        prepare(settings, output, stopped)
    with monkeypatch.context() as changed:
        other = shutil.copytree(EMBEDDED_CLIP, tmp_path / "clip")
        weights = other / "open_clip_model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        changed.setattr(encode, "make_encoder", lambda _: EmbeddedEncoder(str(other)))
        with pytest.raises(UserError, match="'embedded' has other weights or makes other tokens"):
            prepare(settings, output)
    assert prepare(settings, output).num_examples("train") == 8


def test_a_tower_that_cannot_be_exported_may_be_left_out(emoji, prepared, tmp_path, monkeypatch):
    """That real towers are refused is tested with open_clip, in tests/text/test_export.py."""
    source, output = write_folder(tmp_path / "input", emoji[:8]), tmp_path / "data"

    def refuse(*_):
        raise UserError("cannot be exported; leave out --export_text_tower")

    monkeypatch.setattr(EmbeddedEncoder, "export", refuse)
    with pytest.raises(UserError, match="leave out --export_text_tower"):
        prepared(source, output, encoder="embedded", export_text_tower=True)
    manifest, _ = prepared(source, output, encoder="embedded")
    assert manifest.num_examples("train") == 8 and manifest.text_tower is None
    assert not (pathlib.Path(output) / "text_tower").exists()
