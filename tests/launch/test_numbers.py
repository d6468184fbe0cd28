"""Errors about numbers that are out of range name the flag or field, before a model is loaded."""

import pytest

from tests import tiny
from tests.assertions import assert_mentions

# Values that no number of the package may take, unless the flag has no upper bound.
BEYOND = 10**30


def list_cases():
    """Yield (script, flags, words of the error)."""
    sampling = [
        ("--seed=4294967296", "--seed=4294967296: it must be an integer, at least 0"),
        ("--seed=18446744073709551616", "at most 4294967295"),
        ("--seed=4294967295 --num_images=2", "--seed=4294967295: with num_images=2, the last"),
        ("--num_images=two", "--num_images=two: it must be an integer, at least 1"),
        ("--num_images=1.5", "--num_images=1.5: it must be"),
        ("--num_images=5000000", "room for 4096 images, not for 5000000"),
        ("--guidance_scale=1e39", "--guidance_scale is 1e+39"),
        (
            "--guidance_scale=1e6",
            "--guidance_scale is 1000000.0; it must be at least 0 and at most",
        ),
        ("--guidance_scale=nan", "--guidance_scale is nan"),
        ("--guidance_scale=-inf", "--guidance_scale is -inf"),
        ("--guidance_scale=-1", "--guidance_scale is -1.0"),
        ("--guidance_scale=much", "--guidance_scale=much: it must be a number"),
        (f"--steps={BEYOND}", f"--steps is {BEYOND}"),
        ("--steps=1", "--steps is 1; it must be at least 2"),
        (
            "--sampler=dimm",
            "--sampler=dimm: it must be one of ddim, euler,",
        ),
        ("--strategy=gpus", "--strategy=gpus: it must be"),
        ("--output=x.bmp", "--output=x.bmp: the name must end in .png"),
        ("--output=x.GIF", "--output=x.GIF"),
        ("--output=folder/x.tiff", "--output=folder/x.tiff"),
    ]
    for line, words in sampling:
        yield "sample.py", ["--workdir=absent", "--prompt=x", *line.split()], words
    ends = ["--workdir=absent", "--prompt=x", "--prompt=y"]
    for line, words in [
        ("--frames=1001", "--frames=1001: it must be an integer, at least 2 and at most"),
        ("--seed=-1", "--seed=-1: it must be"),
        ("--seed=0 --seed=4294967296", "--seed=4294967296: it must be"),
        ("--prompt=z --seed=0 --seed=1", "there are 3 prompts and 2 seeds"),
        ("--frames_per_second=0", "--frames_per_second=0: it must be a number, at least 0.1"),
        ("--frames_per_second=5", "--frames_per_second=5.0 is for animations"),
        ("--layout=grid --output=x.gif", "--layout=grid is for pictures"),
        ("--output=x.avi", "--output=x.avi: the name must end in .png"),
    ]:
        yield "interpolate.py", [*ends, *line.split()], words
    for line, words in [
        ("--heldout_share=nan", "--heldout_share is nan"),
        ("--max_white=1.5", "--max_white is 1.5"),
        ("--min_similarity=inf", "--min_similarity is inf"),
        ("--max_aspect_ratio=0.5", "--max_aspect_ratio is 0.5; it must be at least 1"),
        ("--image_size=1000000", "--image_size is 1000000"),
        ("--num_streams=0", "--num_streams is 0"),
        (f"--seed={2**32}", f"--seed is {2**32}"),
        (f"--workers={BEYOND}", f"--workers={BEYOND}: it must be"),
        ("--export_text_tower=maybe", "--export_text_tower=maybe: it must be true or false"),
    ]:
        yield "prepare_data.py", ["--source=folder:absent", "--output=absent", line], words
    yield (
        "copy_data.py",
        ["--source=a", "--output=b", "--workers=9999"],
        "--workers=9999: it must be",
    )
    yield "audit_data.py", ["x", "--near_duplicates=16"], "at least 0 and at most 15"
    yield "runs.py", ["x", "--keep_last=0"], "--keep_last=0: it must be"


@pytest.mark.parametrize(("script", "flags", "words"), list(list_cases()))
def test_error_about_a_value_names_its_flag(run, script, flags, words):
    result = run(script, flags)
    assert words in result.error and "absent" not in result.error
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.train.learning_rate=1e39", "config.train.learning_rate is 1e+39"),
        ("--config.train.learning_rate=nan", "config.train.learning_rate is nan"),
        ("--config.train.learning_rate=fast", "--config.train.learning_rate=fast: it must be"),
        ("--config.train.beta_2=0.99999999999", "config.train.beta_2 is 0.99999999999"),
        (f"--config.train.total_steps={BEYOND}", "config.train.total_steps is"),
        (f"--config.train.steps_per_loop={2**31}", "config.train.steps_per_loop is"),
        (f"--config.train.warmup_steps={BEYOND}", "config.train.warmup_steps is"),
        (f"--config.train.global_batch_size={BEYOND}", "config.train.global_batch_size is"),
        (f"--config.model.widths=({BEYOND},)", "config.model.widths is"),
        ("--config.model.widths=(0,)", "each entry must be at least 1"),
        (f"--config.model.embedding_dim={BEYOND}", "config.model.embedding_dim is"),
        ("--config.model.block_depth=1000000", "config.model.block_depth is"),
        (f"--config.sample.steps={BEYOND}", "config.sample.steps is"),
        (f"--config.preview.num_train={BEYOND}", "config.preview.num_train is"),
        (f"--config.data.image_size={BEYOND}", "config.data.image_size is"),
        (f"--config.seed={2**32}", "config.seed is 4294967296"),
        ("--watchdog_minutes=nan", "--watchdog_minutes is nan"),
        ("--watchdog_minutes=1e300", "--watchdog_minutes=1e300: it must be"),
        ("--on_nonfinite=rolback", "did you mean 'rollback'"),
    ],
)
def test_error_about_a_number_names_its_field(run, tmp_path, squares, config_file, flag, words):
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}", *tiny.make_flags(squares)]
    error = run("train.py", [*flags, flag]).error
    assert words in error
    assert not (tmp_path / "run").exists()


def test_every_seed_gives_a_different_image(run, trained, tmp_path):
    images = set()
    for seed in (0, 1, 2**31, 2**32 - 1):
        output = tmp_path / f"{seed}"
        flags = [f"--workdir={trained('embedding')}", "--prompt=red square", "--num_images=1"]
        result = run("sample.py", [*flags, f"--seed={seed}", f"--output={output}"])
        assert result.code == 0, result.stderr
        images.add((output / f"000_seed{seed}.png").read_bytes())
    assert len(images) == 4


def test_last_of_several_values_of_a_tuple_counts(run, tmp_path, squares, config_file):
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}", *tiny.make_flags(squares)]
    wide = ["--config.model.widths=(24,)", "--config.model.widths", "(0,)"]
    error = run("train.py", [*flags, *wide]).error
    assert_mentions(error, ["config.model.widths is (0,)"])
    # The widths are accepted if the last value counts, so the next mistake is named.
    error = run("train.py", [*flags, *wide[1:], wide[0], "--config.seed=-1"]).error
    assert_mentions(error, ["config.seed is -1"])
