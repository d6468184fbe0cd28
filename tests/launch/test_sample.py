"""launch/sample.py: a seed is an image, whatever else is drawn with it."""

import numpy as np
import pytest
from PIL import Image

LONG = "red square " * 60


def drawn(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("conditioning", ["embedding", "tokens"])
def test_a_seed_gives_the_same_image_whatever_is_drawn_with_it(
    tmp_path, trained, run, conditioning
):
    workdir = f"--workdir={trained(conditioning)}"
    prompts = [f"--prompt={colour} square" for colour in ("red", "green", "blue")]
    together = ["--num_images=5", "--guidance_scale=3", f"--output={tmp_path / 'all'}"]
    result = run("sample.py", [workdir, *prompts, *together])
    assert result.code == 0 and "drew 15 image(s)" in result.stdout, result.stderr
    everything = drawn(tmp_path / "all")
    assert list(everything) == [
        f"{prompt:03d}_seed{seed}.png" for prompt in range(3) for seed in range(5)
    ]
    assert len(set(everything.values())) == 15  # prompts and seeds matter, after 12 steps
    picture = Image.open(tmp_path / "all" / "000_seed0.png")
    assert picture.size == (16, 16) and picture.mode == "RGB"

    alone = ["--num_images=1", "--seed=4", "--guidance_scale=3", f"--output={tmp_path / 'one'}"]
    assert run("sample.py", [workdir, prompts[2], *alone]).code == 0
    assert drawn(tmp_path / "one") == {"000_seed4.png": everything["002_seed4.png"]}


def test_labels_by_name_and_by_number(tmp_path, trained, run):
    workdir = f"--workdir={trained('label')}"
    labels = [f"--label={label}" for label in ("red", "0", "2", "blue", "yellow")]
    flags = ["--num_images=2", "--seed=7", "--guidance_scale=4", f"--output={tmp_path / 'labels'}"]
    result = run("sample.py", [workdir, *labels, *flags])
    assert result.code == 0, result.stderr
    found = drawn(tmp_path / "labels")
    for seed in (7, 8):
        red, zero, two, blue, yellow = (found[f"{index:03d}_seed{seed}.png"] for index in range(5))
        assert red == zero and two == blue and len({red, two, yellow}) == 3


def test_a_png_holds_every_image_and_options_change_it(tmp_path, trained, run):
    """One picture with the single images enlarged in it; another sampler draws another."""
    flags = [f"--workdir={trained('embedding')}", "--prompt=red square", "--num_images=2"]
    picture, single = tmp_path / "out" / "two.PNG", tmp_path / "single"
    assert run("sample.py", [*flags, f"--output={picture}", "--sampler=ddim"]).code == 0
    more = [f"--output={single}", "--sampler=ddim", "--steps=4"]  # 4 is the config's
    assert run("sample.py", [*flags, *more]).code == 0
    page = np.asarray(Image.open(picture).convert("RGB"))
    for seed in range(2):
        image = np.asarray(Image.open(single / f"000_seed{seed}.png"))
        enlarged = np.kron(image, np.ones((4, 4, 1), np.uint8))
        places = np.lib.stride_tricks.sliding_window_view(page, (64, 64, 3))[:, :, 0]
        assert np.any(np.all(places == enlarged, axis=(2, 3, 4)))
    other = [f"--output={tmp_path / 'other'}", "--sampler=dpmpp_2m", "--steps=9"]
    assert run("sample.py", [*flags, *other]).code == 0
    assert drawn(tmp_path / "other") != drawn(single)
