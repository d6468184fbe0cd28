"""A text tower beside the shards: a run is prompted by its copy, wherever the data set has gone."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from t2i_tpu.data import text_tower
from t2i_tpu.data.manifest import MANIFEST_NAME, TEXT_TOWER, read_manifest
from t2i_tpu.errors import UserError
from t2i_tpu.text import make_encoder
from tests import tiny
from tests.data.prepare.source_files import write_webdataset

UNKNOWN = "ViT-of-nobody/tag"  # only the tower can stand for it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Squares whose contract names an encoder that cannot be had, with its tower beside them."""
    folder = tmp_path_factory.mktemp("data")
    manifest = tiny.write(folder)
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
    """Of a run whose data set is gone."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(data, folder / "data")
    small = dict(train__total_steps=2, train__ema_stds="()")
    flags = [f"--config={config_file}", f"--workdir={folder / 'run'}"]
    result = run("train.py", flags + tiny.flags(folder / "data", **small))
    assert result.code == 0, result.stderr
    shutil.rmtree(folder / "data")
    return folder / "run"


def sampled(run, workdir, output):
    flags = [f"--workdir={workdir}", "--prompt=red square", "--num_images=1", f"--output={output}"]
    return run("sample.py", flags)


def test_a_run_draws_without_its_data_set(workdir, run, tmp_path):
    result = sampled(run, workdir, tmp_path / "red.png")
    assert result.code == 0, result.stderr
    assert (tmp_path / "red.png").exists()


def encoded(folder):
    """Embeddings by the contract of the embeddings, tokens by that of the tokens."""
    manifest = read_manifest(folder, check_shards=False)
    contracts = manifest.embedding, manifest.tokens
    embeds, tokenizes = (text_tower.open_encoder(one, manifest, folder) for one in contracts)
    return embeds.encode(["a red heart"]), tokenizes.tokenize(["a red heart"])


def test_a_tower_on_disk_and_on_gs_is_the_encoder(workdir, gcs, bucket):
    ours = make_encoder("embedded")
    here = encoded(str(workdir))
    there = gcs.call(encoded, gcs.put_folder(workdir, f"{bucket}/run"))
    for embeddings, tokens in (here, there):
        np.testing.assert_array_equal(embeddings, ours.encode(["a red heart"]))
        assert tokens == ours.tokenize(["a red heart"])


@pytest.mark.parametrize(
    "name", ["text_tower.onnx", "tokenizer.json", "open_clip_model.safetensors"]
)
@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_a_damaged_tower_is_refused(workdir, run, tmp_path, name, damage):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    path = copy / TEXT_TOWER / name
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":
        path.write_bytes(content[:999] + bytes([content[999] ^ 1]) + content[1000:])
    error = sampled(run, copy, tmp_path / "x").error
    assert str(path) in error and ("missing" in error) == (damage == "missing")
    assert not (tmp_path / "x").exists()


def refused(folder):
    """What `encoded` says of a tower that cannot be used."""
    with pytest.raises(UserError) as refusal:
        encoded(folder)
    return str(refusal.value)


def test_a_tower_on_gs_that_cannot_be_used(workdir, gcs, bucket):
    address = gcs.put_folder(workdir, f"{bucket}/run")
    path = f"{address}/{TEXT_TOWER}/tokenizer.json"
    for damage, told in (
        (lambda: gcs.put(path, b"{}"), "is not the text tower"),
        (lambda: gcs.delete(path), "is missing"),
    ):
        damage()
        error = gcs.call(refused, address)
        assert path in error and told in error


def test_a_data_sets_tower_that_may_not_be_read(data, gcs, bucket, tmp_path):
    """Told of the file, not of the workdir that it is copied into."""
    address = gcs.put_folder(data, f"{bucket}/data")
    with gcs.denied(bucket.removeprefix("gs://"), "storage.objects.get"):
        error = gcs.call(not_copied, read_manifest(str(data)), address, str(tmp_path))
    assert f"{address}/{TEXT_TOWER}" in error and "storage.objects.get" in error


def not_copied(manifest, source, workdir):
    with pytest.raises(UserError) as refusal:
        text_tower.copy(manifest, source, workdir)
    return str(refusal.value)


def test_training_refuses_a_tower_of_other_weights(data, config_file, run, tmp_path):
    """Of the right size: only its hash tells."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    path = copy / TEXT_TOWER / "open_clip_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}", *tiny.flags(copy)]
    error = run("train.py", flags)
    assert error.code == 1 and str(path) in error.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "config.json").exists()
    audit = run("audit_data.py", [copy])
    assert audit.code == 1 and "open_clip_model.safetensors: is not the file" in audit.stdout


def test_a_manifest_names_no_file_elsewhere(data, run, tmp_path):
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


def prepared(tars, output, encoder="embedded"):
    return [
        f"--source={tars}", f"--output={output}", f"--encoder={encoder}", "--export_text_tower",
        "--image_size=16", "--num_streams=4", "--heldout_share=0", "--workers=1",
    ]  # fmt: skip


def test_preparation_puts_the_tower_beside_the_shards(tars, run, start, tmp_path):
    """Also where it is killed after it and goes on."""
    output = tmp_path / "data"
    first = start("prepare_data.py", prepared(tars, output))
    first.wait_for((output / "preparing" / "text_tower.json").exists)
    first.process.kill()
    first.process.join()
    result = run("prepare_data.py", prepared(tars, output))
    assert result.code == 0, result.stderr
    manifest = read_manifest(str(output))
    encoder = text_tower.open_encoder(manifest.embedding, manifest, str(output))
    ours = make_encoder("embedded")
    np.testing.assert_array_equal(encoder.encode(["a red heart"]), ours.encode(["a red heart"]))
    assert encoder.weights_sha256 == ours.weights_sha256
    assert {path.name for path in (output / TEXT_TOWER).iterdir()} == {
        one.file.removeprefix(f"{TEXT_TOWER}/") for one in manifest.text_tower
    }
    assert run("audit_data.py", [output]).code == 0
    (output / TEXT_TOWER / "tokenizer.json").unlink()
    assert "tokenizer.json: is missing" in run("audit_data.py", [output]).stdout


def test_no_encoder_no_tower(tars, run, tmp_path):
    error = run("prepare_data.py", prepared(tars, tmp_path / "data", "none")).error
    assert (
        "--export_text_tower needs an encoder; --encoder=none" in error
        and not (tmp_path / "data").exists()
    )
