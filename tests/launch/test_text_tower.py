"""A run keeps a copy of the data set's text tower, and can be sampled without the data set."""

import dataclasses
import json
import posixpath
import shutil

import numpy as np
import pytest

from t2i_tpu.data import text_tower
from t2i_tpu.data.manifest import MANIFEST_NAME, TEXT_TOWER, read_manifest
from t2i_tpu.data.prepare.plan import WORK_NAME
from t2i_tpu.errors import UserError
from t2i_tpu.text import make_encoder
from tests import tiny
from tests.data.prepare.source_files import write_webdataset

# An encoder that does not exist. Only the text tower can then encode prompts.
UNKNOWN = "ViT-of-nobody/tag"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of squares whose encoder does not exist, with its text tower."""
    folder = tmp_path_factory.mktemp("data")
    manifest = tiny.write_squares(folder)
    manifest = dataclasses.replace(
        manifest,
        embedding=dataclasses.replace(manifest.embedding, encoder=UNKNOWN),
        tokens=dataclasses.replace(manifest.tokens, encoder=UNKNOWN),
        text_tower=text_tower.export(make_encoder("embedded"), str(folder)),
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return folder


@pytest.fixture(scope="module")
def workdir(data, config_file, run, tmp_path_factory):
    """The workdir of a run whose data set was deleted."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(data, folder / "data")
    small = dict(train__total_steps=2, train__ema_stds="()")
    flags = [f"--config={config_file}", f"--workdir={folder / 'run'}"]
    result = run("train.py", flags + tiny.make_flags(folder / "data", **small))
    assert result.code == 0, result.stderr
    shutil.rmtree(folder / "data")
    return folder / "run"


def sample(run, workdir, output):
    flags = [f"--workdir={workdir}", "--prompt=red square", "--num_images=1", f"--output={output}"]
    return run("sample.py", flags)


def test_run_is_sampled_without_its_data_set(workdir, run, tmp_path):
    result = sample(run, workdir, tmp_path / "red.png")
    assert result.code == 0, result.stderr
    assert (tmp_path / "red.png").exists()


def encode(folder):
    """Return an embedding and tokens of a prompt, each from the encoder of its contract."""
    manifest = read_manifest(folder, check_shards=False)
    encoder = text_tower.open_encoder(manifest.embedding, manifest, folder)
    tokenizer = text_tower.open_encoder(manifest.tokens, manifest, folder)
    return encoder.encode(["a red heart"]), tokenizer.tokenize(["a red heart"])


def test_tower_on_disk_and_on_gs_equals_the_encoder(workdir, gcs, bucket):
    original = make_encoder("embedded")
    on_disk = encode(str(workdir))
    on_gs = gcs.call(encode, gcs.put_folder(workdir, f"{bucket}/run"))
    for embeddings, tokens in (on_disk, on_gs):
        np.testing.assert_array_equal(embeddings, original.encode(["a red heart"]))
        assert tokens == original.tokenize(["a red heart"])


@pytest.mark.parametrize(
    "name", ["text_tower.onnx", "tokenizer.json", "open_clip_model.safetensors"]
)
@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_damaged_tower_is_rejected(workdir, run, tmp_path, name, damage):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    path = copy / TEXT_TOWER / name
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":
        path.write_bytes(content[:999] + bytes([content[999] ^ 1]) + content[1000:])
    error = sample(run, copy, tmp_path / "x").error
    assert str(path) in error and ("missing" in error) == (damage == "missing")
    assert not (tmp_path / "x").exists()


def get_encode_error(folder):
    """Return the error of `encode` on a text tower that cannot be used."""
    with pytest.raises(UserError) as error:
        encode(folder)
    return str(error.value)


def test_damaged_tower_on_gs_is_rejected(workdir, gcs, bucket):
    address = gcs.put_folder(workdir, f"{bucket}/run")
    path = f"{address}/{TEXT_TOWER}/tokenizer.json"
    gcs.put(path, b"{}")
    assert f"{path} is not the text tower" in gcs.call(get_encode_error, address)
    gcs.delete(path)
    error = gcs.call(get_encode_error, address)
    assert path in error and "is missing" in error


def test_error_names_the_tower_that_may_not_be_read(data, gcs, bucket, tmp_path):
    """It does not name the workdir into which the text tower is copied."""
    address = gcs.put_folder(data, f"{bucket}/data")
    with gcs.deny(bucket.removeprefix("gs://"), "storage.objects.get"):
        error = gcs.call(get_copy_error, read_manifest(str(data)), address, str(tmp_path))
    assert f"{address}/{TEXT_TOWER}" in error and "storage.objects.get" in error


def get_copy_error(manifest, source, workdir):
    with pytest.raises(UserError) as error:
        text_tower.copy(manifest, source, workdir)
    return str(error.value)


def test_training_rejects_a_tower_with_other_weights(data, config_file, run, tmp_path):
    """The file has the right size, so only its hash shows the difference."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    path = copy / TEXT_TOWER / "open_clip_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}", *tiny.make_flags(copy)]
    error = run("train.py", flags)
    assert error.code == 1 and str(path) in error.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "config.json").exists()
    audit = run("audit_data.py", [copy])
    assert (
        audit.code == 1
        and "open_clip_model.safetensors does not match the manifest" in audit.stdout
    )


def test_manifest_with_a_path_outside_the_folder_is_rejected(data, run, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["text_tower"][0]["file"] = "text_tower/../../secret"
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert "manifest.json" in run("audit_data.py", [copy]).error


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    triples = [(f"{i}", image, f"caption {i}") for i, image in enumerate(images)]
    return write_webdataset(tmp_path_factory.mktemp("tars"), triples, 8)


def make_flags(tars, output, encoder="embedded"):
    return [
        f"--source={tars}", f"--output={output}", f"--encoder={encoder}", "--export_text_tower",
        "--image_size=16", "--num_streams=4", "--heldout_share=0", "--workers=1",
    ]  # fmt: skip


def test_preparation_exports_the_tower(tars, run, start, tmp_path):
    """The preparation is killed after the export and run again."""
    output = tmp_path / "data"
    first = start("prepare_data.py", make_flags(tars, output))
    first.wait_for((output / WORK_NAME / "text_tower.json").exists)
    first.process.kill()
    first.process.join()
    result = run("prepare_data.py", make_flags(tars, output))
    assert result.code == 0, result.stderr
    manifest = read_manifest(str(output))
    encoder = text_tower.open_encoder(manifest.embedding, manifest, str(output))
    original = make_encoder("embedded")
    np.testing.assert_array_equal(encoder.encode(["a red heart"]), original.encode(["a red heart"]))
    assert encoder.weights_sha256 == original.weights_sha256
    names = {path.name for path in (output / TEXT_TOWER).iterdir()}
    assert names == {posixpath.basename(stored.file) for stored in manifest.text_tower}
    assert run("audit_data.py", [output]).code == 0
    (output / TEXT_TOWER / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in run("audit_data.py", [output]).stdout


def test_tower_without_encoder_is_an_error(tars, run, tmp_path):
    error = run("prepare_data.py", make_flags(tars, tmp_path / "data", "none")).error
    assert "--export_text_tower needs an encoder, but --encoder=none has no text tower" in error
    assert not (tmp_path / "data").exists()
