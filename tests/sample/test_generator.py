"""Tests the generator with a tiny model: batches, replicas, guidance, known pixels, and a guide."""

import numpy as np
import pytest

from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.sample.generator import Generator
from t2i_tpu.sample.request import Request
from tests import tiny

COUNT = 12
EMBEDDINGS = np.random.default_rng(0).normal(size=(COUNT, 128)).astype(np.float32)
SEEDS = np.arange(COUNT)


@pytest.fixture(scope="module")
def make_generator(squares):
    """A function that returns a generator with an untrained model whose last layer is not zero."""

    def make(devices=("CPU:0",), size=8, seed=0, guide_seed=None, **settings):
        config = tiny.make_config(squares, seed=3)
        manifest = open_dataset(str(squares), "embedding", 16).manifest
        engine = tiny.make_engine(list(devices))
        spec = get_conditioning("embedding").make_spec(manifest)

        def build(seed):
            denoiser = build_denoiser(config, manifest.channels, spec, "float32")
            for index, weight in enumerate(denoiser.trainable_variables):
                noise = np.random.default_rng([seed, index]).normal(size=weight.shape)
                engine.assign(weight, np.float32(weight.numpy() + 0.1 * noise))
            return denoiser, {weight.path: weight for weight in denoiser.variables}

        with engine.scope():
            model = build(seed)
            guide = None if guide_seed is None else build(guide_seed)
        for name, value in ({"guidance_interval": (0.0, 1.0)} | settings).items():
            setattr(config.sample, name, value)
        return Generator(engine, *model, config.sample, False, size, guide)

    return make


@pytest.fixture(scope="module")
def generator(make_generator):
    return make_generator()


def make_request(generator, rows=slice(None), scale=2.0, **changes):
    encoded = generator.encode({"embedding": EMBEDDINGS[rows]})
    seeds = SEEDS[rows]
    arguments = {"prompts": [encoded], "scales": np.full((len(seeds), 1), scale, np.float32)}
    return Request(**arguments | {"seeds": seeds} | changes)


def assert_close(images, expected):
    """Compare images up to the rounding of a float32 before it becomes a uint8."""
    assert images.shape == expected.shape and images.dtype == np.uint8
    assert np.abs(images.astype(int) - expected).max() <= 1


def count_rows(generator, monkeypatch):
    """Record how many rows the network gets in each call, whenever a program is traced."""
    rows, denoise = [], generator._denoise

    def record(x, level, encoded):
        rows.append(x.shape[0])
        return denoise(x, level, encoded)

    monkeypatch.setattr(generator, "_denoise", record)
    return rows


@pytest.fixture(scope="module")
def expected(generator):
    images, _ = generator.run(make_request(generator))
    assert len({image.tobytes() for image in images}) == COUNT
    return images


@pytest.mark.parametrize("size", [1, 7, 64])
def test_images_do_not_depend_on_the_batch_size(make_generator, expected, size):
    other = make_generator(size=size)
    assert_close(other.run(make_request(other))[0], expected)


def test_images_do_not_depend_on_the_number_of_replicas(make_generator, expected):
    other = make_generator(["CPU:0", "CPU:1"], size=2)
    assert other.batch_size == 4
    assert_close(other.run(make_request(other))[0], expected)


def test_an_image_does_not_depend_on_the_others(generator, expected):
    for rows in ([6, 3, 0, 5, 1], [0], [11]):
        assert_close(generator.run(make_request(generator, rows))[0], expected[rows])
    changed = generator.run(
        make_request(generator, prompts=[generator.encode({"embedding": EMBEDDINGS + 1})])
    )[0]
    assert np.any(changed != expected)


def test_draw_uses_the_scale_of_the_settings(generator, expected):
    assert_close(generator.draw({"embedding": EMBEDDINGS}, SEEDS), expected)


def test_a_changed_scale_seed_or_prompt_does_not_compile_again(make_generator, monkeypatch):
    generator = make_generator()
    generator.run(make_request(generator))
    rows = count_rows(generator, monkeypatch)
    generator.run(make_request(generator, [0, 4], scale=7.0, seeds=np.array([9, 2**32 - 1])))
    generator.sample.levels, generator.sample.sampler = "uniform", "unipc"
    generator.run(make_request(generator, [1]))
    assert not rows
    generator.sample.steps += 1
    generator.run(make_request(generator, [1]))
    assert rows


def test_scale_1_is_conditional_and_scale_0_unconditional(make_generator, monkeypatch):
    """Neither computes more than one estimate per image."""
    generator = make_generator(["CPU:0"])
    generator._engine.compiles_per_batch_size = lambda jit_compile: True  # shapes are known
    rows = count_rows(generator, monkeypatch)
    images = {scale: generator.run(make_request(generator, scale=scale))[0] for scale in (0, 1, 2)}
    null = generator.encode({"embedding": np.zeros_like(EMBEDDINGS)})
    assert rows.count(8) and rows.count(16) and set(rows) == {8, 16}
    near = {
        scale: generator.run(make_request(generator, scale=scale + 1e-6))[0] for scale in (0, 1)
    }
    for scale in (0, 1):
        assert_close(images[scale], near[scale])
    assert_close(images[0], generator.run(make_request(generator, scale=1, prompts=[null]))[0])
    assert np.any(images[0] != images[1]) and np.any(images[1] != images[2])


def test_rows_can_have_different_scales(generator):
    scales = np.array([0, 1, 2, 5] * 3, np.float32)[:, None]
    images = generator.run(make_request(generator, scales=scales))[0]
    for scale in (0, 1, 2, 5):
        rows = np.flatnonzero(scales[:, 0] == scale)
        assert_close(images[rows], generator.run(make_request(generator, rows, scale=scale))[0])


def test_guidance_is_not_computed_outside_its_interval(make_generator, monkeypatch):
    generator = make_generator(steps=8, levels="uniform", guidance_interval=(0.4, 0.8))
    rows = count_rows(generator, monkeypatch)
    generator._engine.compiles_per_batch_size = lambda jit_compile: True
    images = generator.run(make_request(generator))[0]
    assert rows == [8, 16, 8]  # three loops: above, within and below the interval
    for interval, scale in (((0.0, 1.0), 2.0), ((0.0, 0.0), 1.0)):
        generator.sample.guidance_interval = interval
        assert np.any(generator.run(make_request(generator, scale=scale))[0] != images)
    # An interval that contains no level is the same as a scale of 1.
    empty = generator.run(make_request(generator))[0]
    assert_close(empty, generator.run(make_request(generator, scale=1.0))[0])


def test_a_negative_prompt_is_the_base_of_the_guidance(generator, expected):
    negative = generator.encode({"embedding": EMBEDDINGS[::-1].copy()})
    images = generator.run(make_request(generator, negative=negative))[0]
    assert np.any(images != expected)
    # With scale 0, only the negative prompt counts.
    zero = generator.run(make_request(generator, negative=negative, scale=0.0))[0]
    assert_close(zero, generator.run(make_request(generator, prompts=[negative], scale=1.0))[0])
    # A negative prompt that equals the prompt turns guidance off.
    same = make_request(generator)
    none = generator.run(make_request(generator, negative=same.prompts[0]))[0]
    assert_close(none, generator.run(make_request(generator, scale=1.0))[0])


def test_prompts_are_composed(generator, expected):
    encoded = generator.encode({"embedding": EMBEDDINGS})
    halves = np.full((COUNT, 2), 1.0, np.float32)
    twice = generator.run(make_request(generator, prompts=[encoded, encoded], scales=halves))[0]
    assert_close(twice, expected)
    other = {name: values[::-1] for name, values in encoded.items()}
    scales = np.array([[1.5, 0.5]], np.float32).repeat(COUNT, axis=0)
    composed = generator.run(make_request(generator, prompts=[encoded, other], scales=scales))[0]
    swapped = make_request(generator, prompts=[other, encoded], scales=scales[:, ::-1].copy())
    assert_close(generator.run(swapped)[0], composed)
    assert np.any(composed != expected)


def test_weaker_model_guides(make_generator, expected):
    itself, weaker = make_generator(guide_seed=0), make_generator(guide_seed=1)
    for generator in (itself, weaker):
        conditions = {"embedding": EMBEDDINGS}
        guide_prompt = generator.encode(conditions, for_guide=True)
        images = generator.run(make_request(generator, guide_prompt=guide_prompt, scale=2.0))[0]
        plain = generator.run(make_request(generator, guide_prompt=guide_prompt, scale=1.0))[0]
        if generator is itself:  # guidance by the model itself changes nothing
            assert_close(images, plain)
        else:
            assert np.any(images != plain)
    # A scale of 0 draws the guide's images.
    zero = weaker.run(make_request(weaker, guide_prompt=guide_prompt, scale=0.0))[0]
    alone = make_generator(seed=1)
    assert_close(zero, alone.run(make_request(alone, scale=1.0))[0])


@pytest.mark.parametrize("sampler", ["unipc", "dpmpp_2m_sde"])
def test_known_pixels_are_kept_exactly(generator, monkeypatch, sampler):
    monkeypatch.setattr(generator.sample, "sampler", sampler)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 16, 16, 3)).astype(np.uint8)
    is_known = rng.random((COUNT, 16, 16, 1)) < 0.5
    request = make_request(
        generator, known=pixels / np.float32(127.5) - 1, is_known=is_known.astype(np.float32)
    )
    images = generator.run(request)[0]
    is_known = np.broadcast_to(is_known, images.shape)
    np.testing.assert_array_equal(images[is_known], pixels[is_known])
    free = generator.run(make_request(generator))[0]
    assert np.mean(images[~is_known] != pixels[~is_known]) > 0.9
    assert np.any(images[~is_known] != free[~is_known])  # the known pixels affect the others
