"""A model with conditioning=sequence: data preparation, training, resuming and sampling."""

import json
import shutil

import numpy as np
import pytest

from t2i_tpu.data.reader import open_dataset
from t2i_tpu.sample.trained import load_trained
from t2i_tpu.text import make_encoder
from tests import tiny
from tests.data.prepare.source_files import write_webdataset

PROMPTS = ["red square", "a much longer prompt: a blue square", "green square"]


@pytest.fixture(scope="module")
def training_flags(squares, config_file):
    """The flags of a training run, except --workdir."""
    changes = dict(
        model__conditioning="sequence",
        train__total_steps=12,
        train__steps_per_loop=6,
        train__log_every=6,
        train__learning_rate=1e-2,
        train__decay="constant",
        train__ema_stds="()",
    )
    return [f"--config={config_file}", *tiny.make_flags(squares, **changes)]


@pytest.fixture(scope="module")
def workdir(training_flags, run, tmp_path_factory):
    """The workdir of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("sequence") / "run"
    result = run("train.py", [*training_flags, f"--workdir={folder}"])
    assert result.code == 0, result.stderr
    return folder


@pytest.mark.slow
def test_stop_and_resume_is_bit_exact(training_flags, workdir, start, tmp_path):
    flags = [*training_flags, f"--workdir={tmp_path / 'run'}"]
    first = start("train.py", flags)
    first.wait_for_line("starting at")
    first.process.terminate()
    assert first.wait().code == 75
    second = start("train.py", flags).wait()
    assert second.code == 0 and "resuming at step 6 of 12" in second.stderr, second.stderr
    expected = tiny.read_checkpoint(workdir)
    actual = tiny.read_checkpoint(tmp_path / "run")
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.fixture(scope="module")
def model(workdir):
    return load_trained(str(workdir), "cpu", guidance_scale=3.0)


def test_prompt_gives_the_condition_of_its_training_example(model, squares):
    for example in open_dataset(str(squares), "sequence", 16).examples("train", 3):
        conditions = model.make_conditions([example["caption"]])
        assert conditions.keys() == example["condition"].keys() == {"embedding", "sequence"}
        for name, values in conditions.items():
            np.testing.assert_allclose(values[0], example["condition"][name], atol=2e-3)
        states = conditions["sequence"][0]
        (tokens,) = make_encoder("embedded").tokenize([example["caption"]])
        assert states.any(axis=1).sum() == len(tokens)


def test_image_does_not_depend_on_the_rest_of_the_batch(model):
    together = model.generator.draw(model.make_conditions(PROMPTS), np.full(3, 4))
    assert len({image.tobytes() for image in together}) == 3
    alone = model.generator.draw(model.make_conditions(PROMPTS[1:2]), np.array([4]))
    assert np.abs(alone[0].astype(int) - together[1]).max() <= 1


def test_token_states_change_the_image(model):
    conditions = model.make_conditions(PROMPTS[:2])
    mixed = {
        "embedding": np.stack([conditions["embedding"][0]] * 2),
        "sequence": conditions["sequence"],
    }
    images = model.generator.draw(mixed, np.full(2, 4))
    assert (images[0] != images[1]).any()


def test_prompts_are_interpolated(workdir, run, tmp_path):
    flags = [f"--workdir={workdir}", *(f"--prompt={prompt}" for prompt in PROMPTS[:2])]
    result = run("interpolate.py", [*flags, "--frames=3", f"--output={tmp_path}/x.png"])
    assert result.code == 0 and "drew 3 frames" in result.stdout, result.stderr


@pytest.mark.parametrize(("field", "value"), [("weights_sha256", "0" * 64), ("context_length", 16)])
def test_changed_encoder_is_rejected(workdir, run, tmp_path, field, value):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["sequence"][field] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    flags = [f"--workdir={copy}", "--prompt=x", f"--output={tmp_path / 'x'}"]
    assert "'embedded' produces different token states" in run("sample.py", flags).error


def test_baseline_blocks_reject_sequences(run, config_file, squares, tmp_path):
    flags = tiny.make_flags(squares, recipe="baseline", model__conditioning="sequence")
    flags += ["--config.model.widths=(16,16)", "--config.model.attention_levels=(False,True)"]
    result = run("train.py", [f"--config={config_file}", f"--workdir={tmp_path / 'x'}", *flags])
    # TensorFlow may print a line of its own first, because the model is built on the device.
    assert result.code == 1 and "Traceback" not in result.stderr
    assert "config.model.conditioning is 'sequence'" in result.stderr.splitlines()[-1]


def test_prepare_data_stores_the_states_of_each_caption(run, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    # The last captions are longer than the encoder's context.
    captions = [f"a {'red ' * (1 + 3 * i)}heart" for i in range(20)]
    triples = [(f"{i}", image, captions[i]) for i, image in enumerate(images)]
    source, output = write_webdataset(tmp_path / "tars", triples, 8), tmp_path / "data"
    flags = ["--image_size=16", "--num_streams=2", "--heldout_share=0", "--workers=1"]
    flags += [f"--source={source}", f"--output={output}", "--sequence"]
    error = run("prepare_data.py", [*flags, "--encoder=none"]).error
    assert "--sequence needs an encoder" in error
    result = run("prepare_data.py", flags)
    assert result.code == 0, result.stderr

    examples = open_dataset(str(output), "sequence", 16).examples("train", 20)
    conditions = {example["caption"]: example["condition"] for example in examples}
    assert conditions.keys() == set(captions)
    encoder = make_encoder("embedded")
    for caption, condition in conditions.items():
        embeddings, (states,) = encoder.encode_sequences([caption], truncate=True)
        np.testing.assert_allclose(condition["embedding"], embeddings[0], atol=1e-5)
        stored = condition["sequence"]
        np.testing.assert_allclose(stored[: len(states)], states, atol=4e-3)
        assert not stored[len(states) :].any()
    assert run("audit_data.py", [output]).code == 0
