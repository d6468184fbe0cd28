"""launch/sample.py: an image depends only on its prompt, its seed and the sampling flags."""

import numpy as np
import pytest
from PIL import Image

from tests.assertions import assert_mentions


def read_images(folder):
    """Return the pixels of every image in a folder by its file name."""
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.iterdir())}


def test_help_lists_the_sampling_flags(run):
    flags = ["--workdir:", "--strategy:", "--steps:", "--sampler: <ddim|euler|", "--prompt:"]
    assert_mentions(run("sample.py", ["--help"]).stdout, flags)


@pytest.mark.parametrize("conditioning", ["embedding", "tokens"])
def test_image_does_not_depend_on_the_others(tmp_path, trained, run, conditioning):
    workdir = f"--workdir={trained(conditioning)}"
    prompts = [f"--prompt={colour} square" for colour in ("red", "green", "blue")]
    together = ["--num_images=5", "--guidance_scale=8", f"--output={tmp_path / 'all'}"]
    result = run("sample.py", [workdir, *prompts, *together])
    assert result.code == 0 and "drew 15 image(s)" in result.stdout, result.stderr
    images = read_images(tmp_path / "all")
    assert list(images) == [
        f"{prompt:03d}_seed{seed}.png" for prompt in range(3) for seed in range(5)
    ]
    assert len(set(images.values())) == 15  # all prompts and seeds differ after 12 steps
    picture = Image.open(tmp_path / "all" / "000_seed0.png")
    assert picture.size == (16, 16) and picture.mode == "RGB"

    alone = ["--num_images=1", "--seed=4", "--guidance_scale=8", f"--output={tmp_path / 'alone'}"]
    assert run("sample.py", [workdir, prompts[2], *alone]).code == 0
    assert read_images(tmp_path / "alone") == {"000_seed4.png": images["002_seed4.png"]}


def test_labels_are_accepted_by_name_and_by_number(tmp_path, trained, run):
    workdir = f"--workdir={trained('label')}"
    labels = [f"--label={label}" for label in ("red", "0", "2", "blue", "yellow")]
    flags = ["--num_images=2", "--seed=7", "--guidance_scale=4", f"--output={tmp_path / 'labels'}"]
    result = run("sample.py", [workdir, *labels, *flags])
    assert result.code == 0, result.stderr
    images = read_images(tmp_path / "labels")
    for seed in (7, 8):
        red, zero, two, blue, yellow = (images[f"{index:03d}_seed{seed}.png"] for index in range(5))
        assert red == zero and two == blue and len({red, two, yellow}) == 3


def test_picture_contains_the_enlarged_images(tmp_path, trained, run):
    flags = [f"--workdir={trained('embedding')}", "--prompt=red square", "--num_images=2"]
    picture, single = tmp_path / "out" / "two.PNG", tmp_path / "single"
    assert run("sample.py", [*flags, f"--output={picture}", "--sampler=ddim"]).code == 0
    # The config has 4 steps too.
    same = [f"--output={single}", "--sampler=ddim", "--steps=4"]
    assert run("sample.py", [*flags, *same]).code == 0
    page = np.asarray(Image.open(picture).convert("RGB"))
    for seed in range(2):
        image = np.asarray(Image.open(single / f"000_seed{seed}.png"))
        enlarged = np.kron(image, np.ones((4, 4, 1), np.uint8))
        windows = np.lib.stride_tricks.sliding_window_view(page, (64, 64, 3))[:, :, 0]
        assert np.any(np.all(windows == enlarged, axis=(2, 3, 4)))


def test_sampling_flags_change_the_image(tmp_path, trained, run):
    flags = [f"--workdir={trained('embedding')}", "--prompt=red square", "--num_images=1"]
    samplers = {"a": ["--sampler=ddim", "--steps=4"], "b": ["--sampler=dpmpp_2m", "--steps=9"]}
    for name, sampler in samplers.items():
        assert run("sample.py", [*flags, f"--output={tmp_path / name}", *sampler]).code == 0
    assert read_images(tmp_path / "a") != read_images(tmp_path / "b")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.sample.steps=3", ["config.sample.steps", "takes no --config"]),
        ("--output=x.bmp", ["--output=x.bmp", ".png"]),
    ],
)
def test_flags_that_cannot_work_are_rejected(run, tmp_path, flag, words):
    error = run("sample.py", [f"--workdir={tmp_path}", "--prompt=x", flag]).error
    assert_mentions(error, words)
