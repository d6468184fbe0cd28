"""The evaluations of a run measure what they should, on any devices."""

import dataclasses
import itertools
import types

import numpy as np
import pytest

from t2i_tpu.data.conditions import get_conditioning, stack_conditions
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.denoising import DenoisingLoss
from t2i_tpu.evaluate.monitor import LEVELS, Monitor
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.run import evaluations
from t2i_tpu.sample.generator import Generator
from tests import tiny
from tests.evaluate.colors import ColorExtractor

COUNT = 24  # at least 20 captions are needed to find the right one


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A data set with more held-out examples than that of other tests."""
    folder = tmp_path_factory.mktemp("squares")
    tiny.write_squares(folder, heldout=32)
    return folder


def make_config(folder, **changes):
    changes = dict(evaluate_every=10, checkpoint_every=10, evaluate_images=COUNT) | changes
    return tiny.make_config(folder, **{f"train__{name}": value for name, value in changes.items()})


def make_monitor(folder, kind="embedding", extractor=None, **changes):
    dataset = open_dataset(str(folder), kind, 16)
    return Monitor(make_config(folder, **changes), dataset, extractor or ColorExtractor())


def make_model(folder, devices):
    """Return the generator and the loss of an untrained model whose last layer is not zero."""
    config, dataset = make_config(folder), open_dataset(str(folder), "embedding", 16)
    engine, spec = (
        tiny.make_engine(devices),
        get_conditioning("embedding").make_spec(dataset.manifest),
    )
    with engine.scope():
        denoiser = build_denoiser(config, dataset.manifest.channels, spec, "float32")
    for index, weight in enumerate(denoiser.variables):
        noise = np.random.default_rng(index).normal(size=weight.shape)
        engine.assign(weight, np.float32(weight.numpy() + 0.1 * noise))
    weights = {weight.path: weight for weight in denoiser.variables}
    generator = Generator(engine, denoiser, weights, config.sample, False)
    return generator, DenoisingLoss(engine, denoiser, weights, False, 16)


@pytest.fixture(scope="module")
def model(squares):
    """A model on one device."""
    return make_model(squares, ["CPU:0"])


@pytest.fixture(scope="module")
def evaluation(model, squares):
    return make_monitor(squares).measure(*model)


def read_examples(folder, split, count=COUNT):
    return open_dataset(str(folder), "embedding", 16).examples(split, count)


def stack_images(examples):
    return np.stack([example["image"] for example in examples])


def compute_kid_slowly(real, drawn):
    def kernel(first, second):
        return (np.dot(np.float64(first), np.float64(second)) / len(first) + 1) ** 3

    def average_pairs(points):
        return np.mean([kernel(*pair) for pair in itertools.permutations(points, 2)])

    # Images of the same condition are not compared.
    rows = itertools.permutations(range(len(real)), 2)
    across = np.mean([kernel(real[i], drawn[j]) for i, j in rows])
    return average_pairs(real) + average_pairs(drawn) - 2 * across


def test_figures_follow_from_their_definitions(model, squares, evaluation):
    (generator, loss), figures = model, evaluation["figures"]
    assert evaluation["split"] == "heldout" and evaluation["num_images"] == COUNT
    assert figures.keys() == evaluations.FIGURES.keys()
    examples, extractor = read_examples(squares, "heldout"), ColorExtractor()
    drawn = generator.draw(stack_conditions(examples), np.arange(COUNT))
    real, features = extractor.extract(stack_images(examples)), extractor.extract(drawn)
    assert figures["kid"] == pytest.approx(compute_kid_slowly(real, features), rel=1e-6)
    for split in ("train", "heldout"):
        examples = read_examples(squares, split)
        errors = loss.measure(stack_images(examples), stack_conditions(examples), LEVELS)
        assert figures[f"{split}_loss"] == pytest.approx(errors.mean(), rel=1e-5)
        by_level = evaluation["loss_by_noise_level"]
        np.testing.assert_allclose(by_level[split], errors.mean(axis=0), rtol=1e-5)
    assert by_level["noise_level"] == list(LEVELS)


def test_evaluations_repeat_exactly(model, squares, evaluation):
    assert make_monitor(squares).measure(*model) == evaluation


def test_two_devices_agree_with_one(squares, evaluation):
    model = make_model(squares, ["CPU:0", "CPU:1"])
    figures = make_monitor(squares).measure(*model)["figures"]
    for name, value in evaluation["figures"].items():
        assert figures[name] == pytest.approx(value, rel=1e-3), name


def make_generator(images):
    """A generator that draws the given images."""
    return types.SimpleNamespace(draw=lambda conditions, seeds: images)


def test_figures_tell_good_images_from_bad_ones(squares):
    """The good images are real ones of the right colors, the bad ones are noise."""
    monitor, others = make_monitor(squares, kind="label"), read_examples(squares, "train", 28)
    loss = types.SimpleNamespace(measure=lambda images, *_: np.ones((len(images), len(LEVELS))))
    good = stack_images([others[index] for index in range(COUNT)])
    figures = monitor.measure(make_generator(good), loss)["figures"]
    assert abs(figures["kid"]) < 3 * figures["kid_standard_error"]
    assert figures["condition_accuracy"] == 1
    # The colors of all examples are moved to the next one.
    wrong = stack_images([others[index + 1] for index in range(COUNT)])
    figures = monitor.measure(make_generator(wrong), loss)["figures"]
    assert abs(figures["kid"]) < 3 * figures["kid_standard_error"]
    assert figures["condition_accuracy"] == 0
    noise = np.random.default_rng(0).integers(0, 256, good.shape).astype(np.uint8)
    figures = monitor.measure(make_generator(noise), loss)["figures"]
    assert figures["kid"] > 10 * figures["kid_standard_error"]


def test_accuracy_finds_the_right_captions(squares):
    captions = [example["caption"] for example in read_examples(squares, "heldout")]
    texts = ColorExtractor().encode_texts(captions)
    measure = make_monitor(squares).measure_accuracy
    assert measure(3 * texts) == 1 and measure(np.roll(texts, 1, axis=0)) == 0
    half = np.concatenate([texts[:12], np.roll(texts, 1, axis=0)[12:]])
    assert measure(half) == 0.5


def test_images_that_cannot_be_measured_are_an_error(model, squares):
    plain = np.full((COUNT, 16, 16, 3), 200, np.uint8)
    with pytest.raises(UserError, match="only one color"):
        make_monitor(squares).measure(make_generator(plain), model[1])


def test_training_examples_replace_missing_heldout_ones(squares, tmp_path):
    tiny.write_squares(tmp_path, heldout=8)
    monitor = make_monitor(tmp_path)
    assert monitor.split == "train" and len(monitor.real) == COUNT
    assert [len(examples) for examples in monitor.splits.values()] == [8, COUNT]
    assert make_monitor(squares).split == "heldout"


def test_accuracy_is_measured_only_if_it_can_be(squares):
    extractor = ColorExtractor()
    extractor.class_names, extractor.reads_text = ("red", "green"), False
    assert not make_monitor(squares, "label", extractor).measure_accuracy
    assert not make_monitor(squares, "embedding", extractor).measure_accuracy
    assert not make_monitor(squares, evaluate_images=19).measure_accuracy
    extractor.class_names = None
    assert make_monitor(squares, "label", extractor).measure_accuracy


def test_best_metric_that_cannot_be_measured_is_rejected(squares):
    dataset = open_dataset(str(squares), "embedding", 16)
    splits = {"train": dataset.manifest.splits["train"]}
    manifest = dataclasses.replace(dataset.manifest, splits=splits)
    dataset, extractor = dataclasses.replace(dataset, manifest=manifest), ColorExtractor()
    extractor.reads_text = False
    for metric in ("condition_accuracy", "heldout_loss"):
        with pytest.raises(UserError, match=f"config.train.best_metric is '{metric}', but "):
            Monitor(make_config(squares, best_metric=metric), dataset, extractor)
    assert Monitor(make_config(squares, best_metric="kid"), dataset, extractor).split == "train"


def test_too_few_images_are_rejected(squares):
    with pytest.raises(
        UserError, match="KID needs at least 10 images; raise config.train.evaluate"
    ):
        make_monitor(squares, evaluate_images=9)
