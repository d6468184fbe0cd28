"""Tests that each mode of launch/edit.py does the same as a method of `t2i_tpu.Model`."""

import re

import numpy as np
import pytest
from PIL import Image

import t2i_tpu
from tests.assertions import assert_mentions


@pytest.fixture(scope="module")
def model(trained):
    """The model that the scripts use, in this process."""
    return t2i_tpu.load(trained("embedding"), strategy="cpu")


@pytest.fixture(scope="module")
def image(model):
    return model.sample("green square", seed=8)[0]


def make_mask():
    mask = np.zeros((16, 16), bool)
    mask[2:9, 5:12] = True
    return mask


@pytest.mark.parametrize(
    ("flags", "edit"),
    [
        (
            ["--prompt=red square", "--strength=0.5", "--seed=2", "--negative_prompt=blue"],
            lambda model, image: model.edit(
                image, "red square", 0.5, 2, seed=2, negative_prompt="blue"
            ),
        ),
        (["--mode=vary"], lambda model, image: model.vary(image, num_images=2)),
        (
            ["--mode=inpaint", "--mask=mask.png", "--prompt=red square", "--resamplings=2"],
            lambda model, image: model.inpaint(image, make_mask(), "red square", 2, 2),
        ),
        (
            ["--mode=outpaint", "--prompt=red square", "--scale=0.5", "--resamplings=1"],
            lambda model, image: model.outpaint(
                image, "red square", 0.5, resamplings=1, num_images=2
            ),
        ),
    ],
)
def test_mode_draws_the_images_of_the_method(tmp_path, trained, run, model, image, flags, edit):
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(make_mask()).save(tmp_path / "mask.png")
    folder = tmp_path / "folder"
    flags = [flag.replace("mask.png", str(tmp_path / "mask.png")) for flag in flags]
    flags += [f"--workdir={trained('embedding')}", f"--image={tmp_path / 'image.png'}"]
    result = run("edit.py", [*flags, "--num_images=2", f"--output={folder}"])
    assert result.code == 0 and "drew 2 image(s)" in result.stdout, result.stderr
    drawn = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
    assert np.abs(drawn.astype(int) - edit(model, image).array).max() <= 1
    if "--mode=inpaint" in flags:
        assert (drawn == image)[:, ~make_mask()].all()


def test_inversion_prints_its_error(tmp_path, trained, run, image):
    path, output = tmp_path / "image.png", tmp_path / "out.webp"
    Image.fromarray(image).save(path)
    flags = [f"--workdir={trained('embedding')}", "--mode=invert", f"--image={path}"]
    flags += ["--prompt=green square", "--steps=20", f"--output={output}"]
    result = run("edit.py", flags)
    assert result.code == 0, result.stderr
    error = np.abs(np.asarray(Image.open(output).convert("RGB")).astype(int) - image).mean()
    (printed,) = re.findall(r"by (\d+\.\d+) out of 255", result.stdout)
    assert float(printed) == pytest.approx(error, abs=0.01) and error < 40
    assert_mentions(run("sample.py", [f"--like={output}"]).error, ["another image", "repeat"])


def test_image_and_mask_are_checked_before_the_model_is_loaded(tmp_path, trained, run, image):
    path, wrong = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(image).save(path)
    Image.new("L", (8, 16), 255).save(wrong)
    workdir = trained("embedding")
    flags = [f"--workdir={workdir}", "--mode=inpaint", "--prompt=x", f"--image={path}"]
    assert_mentions(run("edit.py", flags).error, [str(path), "no transparent parts"])
    error = run("edit.py", [*flags, f"--mask={wrong}"]).error
    assert_mentions(error, [str(wrong), "8x16 pixels", "the mask must have the image's size"])
    path.write_bytes(path.read_bytes()[:60])
    error = run("edit.py", [f"--workdir={workdir}", "--prompt=x", f"--image={path}"]).error
    assert_mentions(error, [str(path)])
