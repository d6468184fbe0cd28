"""config.model.conditioning=sequence: prepared, trained, stopped, resumed and drawn from."""

import json
import shutil

import numpy as np
import pytest

from t2i_tpu.data.reader import open_dataset
from t2i_tpu.sample import trained as trained_lib
from t2i_tpu.text import make_encoder
from tests import tiny
from tests.data.prepare.conftest import write_webdataset

PROMPTS = ["red square", "a much longer prompt: a blue square", "green square"]


@pytest.fixture(scope="module")
def training(squares, config_file):
    """The flags of a run but for its --workdir."""
    small = dict(
        model__conditioning="sequence",
        train__total_steps=12,
        train__steps_per_loop=6,
        train__log_every=6,
        train__learning_rate=1e-2,
        train__decay="constant",
        train__ema_stds="()",
    )
    return [f"--config={config_file}", *tiny.flags(squares, **small)]


@pytest.fixture(scope="module")
def workdir(training, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence") / "run"
    result = run("train.py", [*training, f"--workdir={folder}"])
    assert result.code == 0, result.stderr
    return folder


@pytest.mark.slow
def test_stopped_and_resumed_is_undisturbed_bit_for_bit(training, workdir, start, tmp_path):
    flags = [*training, f"--workdir={tmp_path / 'run'}"]
    first = start("train.py", flags)
    first.wait_for_line("starting at")
    first.process.terminate()
    assert first.wait().code == 75
    second = start("train.py", flags).wait()
    assert second.code == 0 and "resuming at step 6 of 12" in second.stderr, second.stderr
    expected, found = (tiny.checkpoint_values(one) for one in (workdir, tmp_path / "run"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def model(workdir):
    return trained_lib.load_trained(str(workdir), "cpu", guidance_scale=3.0)


def test_a_prompts_condition_is_what_its_caption_was_trained_with(model, squares):
    for example in open_dataset(str(squares), "sequence", 16).examples("train", 3):
        (condition,) = model.conditions([example["caption"]], [])
        np.testing.assert_allclose(condition, example["condition"], atol=2e-3)
        present = condition[128:].reshape(32, 128).any(axis=1).sum()
        (tokens,) = make_encoder("embedded").tokenize([example["caption"]])
        assert present == len(tokens)


def test_an_image_does_not_depend_on_the_others(model):
    conditions = model.conditions(PROMPTS, [])
    noise = np.repeat(model.generator.noise([4]), 3, axis=0)
    together = model.generator.images(conditions, noise)
    assert len({image.tobytes() for image in together}) == 3
    alone = model.generator.images(model.conditions(PROMPTS[1:2], []), noise[:1])
    assert np.abs(alone[0].astype(int) - together[1]).max() <= 1


def test_the_states_matter_beside_the_embedding(model):
    """Those of another prompt, the embedding kept, make another image."""
    one, other = model.conditions(PROMPTS[:2], [])
    mixed = np.concatenate([one[:128], other[128:]])
    noise = np.repeat(model.generator.noise([4]), 2, axis=0)
    images = model.generator.images(np.stack([one, mixed]), noise)
    assert (images[0] != images[1]).any()


def test_there_is_no_way_between_sequences(workdir, run, tmp_path):
    flags = [f"--workdir={workdir}", "--from_prompt=x", "--to_prompt=y"]
    error = run("interpolate.py", [*flags, f"--output={tmp_path}/x.png"]).error
    assert "only a model of conditioning=embedding can walk between prompts" in error


@pytest.mark.parametrize(("field", "value"), [("weights_sha256", "0" * 64), ("context_length", 16)])
def test_another_encoder_than_the_data_sets(workdir, run, tmp_path, field, value):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["sequence"][field] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    flags = [f"--workdir={copy}", "--prompt=x", f"--output={tmp_path / 'x'}"]
    assert "'embedded' gives other states here" in run("sample.py", flags).error


def test_the_baseline_has_no_place_for_it(run, config_file, squares, tmp_path):
    flags = tiny.flags(squares, recipe="baseline", model__conditioning="sequence")
    flags += ["--config.model.widths=(16,16)", "--config.model.attention_levels=(False,True)"]
    error = run("train.py", [f"--config={config_file}", f"--workdir={tmp_path / 'x'}", *flags])
    assert "config.model.conditioning is 'sequence'" in error.error


def test_preparation_stores_the_states_of_each_caption(run, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    captions = [f"a {'red ' * (1 + 3 * i)}heart" for i in range(20)]  # the last ones are too long
    triples = [(f"{i}", image, captions[i]) for i, image in enumerate(images)]
    source, output = write_webdataset(tmp_path / "tars", triples, 8), tmp_path / "data"
    flags = ["--image_size=16", "--num_streams=2", "--heldout_share=0", "--workers=1"]
    flags += [f"--source={source}", f"--output={output}"]
    assert (
        "--sequence needs an encoder"
        in run("prepare_data.py", [*flags, "--sequence", "--encoder=none"]).error
    )
    result = run("prepare_data.py", [*flags, "--sequence"])
    assert result.code == 0, result.stderr
    encoder, dataset = make_encoder("embedded"), open_dataset(str(output), "sequence", 16)
    found = {one["caption"]: one["condition"] for one in dataset.examples("train", 20)}
    assert found.keys() == set(captions)
    for caption, condition in found.items():
        embeddings, (states,) = encoder.encode_sequences([caption], truncate=True)
        np.testing.assert_allclose(condition[:128], embeddings[0], atol=1e-5)
        kept = condition[128:].reshape(32, 128)
        np.testing.assert_allclose(kept[: len(states)], states, atol=4e-3)
        assert not kept[len(states) :].any()
    assert run("audit_data.py", [output]).code == 0
