"""launch/interpolate.py: the ends are the images of sample.py, and each step between is small."""

import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def samples(tmp_path_factory, trained, run):
    """The images that launch/sample.py draws, float [16, 16, 3], by (prompt, seed)."""
    folder = tmp_path_factory.mktemp("samples")
    prompts = ["red square", "blue square"]
    flags = [f"--prompt={prompt}" for prompt in prompts] + [f"--output={folder}"]
    result = run("sample.py", [f"--workdir={trained('embedding')}", "--num_images=2", *flags])
    assert result.code == 0, result.stderr
    return {
        (prompt, seed): np.asarray(Image.open(folder / f"{index:03d}_seed{seed}.png"), np.float32)
        for index, prompt in enumerate(prompts)
        for seed in range(2)
    }


def read_strip(path, count):
    """Return the frames of a strip, enlarged four times, as [count, 16, 16, 3]."""
    strip = np.asarray(Image.open(path), np.float32)
    assert strip.shape == (64, 64 * count, 3)
    return strip[::4, ::4].reshape(16, count, 16, 3).swapaxes(0, 1)


def assert_same_image(actual, expected):
    # slerp returns its ends only up to rounding, so a pixel may differ by one level.
    np.testing.assert_allclose(actual, expected, atol=1)


def test_prompts_are_interpolated(tmp_path, trained, run, samples):
    flags = ["--prompt=red square", "--prompt=blue square", "--seed=1", "--frames=5"]
    output = tmp_path / "strip.png"
    result = run(
        "interpolate.py", [f"--workdir={trained('embedding')}", *flags, f"--output={output}"]
    )
    assert result.code == 0, result.stderr
    assert re.search(r"is \d\.\d times the mean change", result.stdout)
    frames = read_strip(output, 5)
    assert_same_image(frames[0], samples["red square", 1])
    assert_same_image(frames[-1], samples["blue square", 1])
    distance = np.abs(frames[-1] - frames[0]).mean()
    assert distance > 0
    assert all(np.abs(frames[i + 1] - frames[i]).mean() < distance for i in range(4))


def test_seeds_are_interpolated(tmp_path, trained, run, samples):
    flags = [f"--workdir={trained('embedding')}", "--prompt=red square", "--seed=0", "--seed=1"]
    flags += ["--frames=4"]
    strip, animation = tmp_path / "strip.png", tmp_path / "animation.gif"
    assert run("interpolate.py", [*flags, f"--output={strip}"]).code == 0
    frames = read_strip(strip, 4)
    assert_same_image(frames[0], samples["red square", 0])
    assert_same_image(frames[-1], samples["red square", 1])

    # The animation plays the same frames forward and back, forever.
    assert run("interpolate.py", [*flags, f"--output={animation}"]).code == 0
    gif = Image.open(animation)
    assert gif.n_frames == 6 and gif.info["loop"] == 0
    shown = []
    for index in range(6):
        gif.seek(index)
        shown.append(np.asarray(gif.convert("RGB"), np.float32))
    enlarged = [np.kron(frame, np.ones((4, 4, 1))) for frame in frames]
    for image, expected in zip(shown, [0, 1, 2, 3, 2, 1], strict=True):
        # A GIF has only 256 colours, so look for the nearest frame.
        errors = [np.abs(image - frame).mean() for frame in enlarged]
        assert np.argmin(errors) == expected


def test_classes_are_interpolated(tmp_path, trained, run):
    flags = [f"--workdir={trained('label')}", "--label=red", "--label=2", "--frames=3"]
    output = tmp_path / "classes.png"
    result = run("interpolate.py", [*flags, "--seed=3", f"--output={output}"])
    assert result.code == 0, result.stderr
    first, _, last = read_strip(output, 3)
    folder = tmp_path / "samples"
    alone = [*flags[:-1], "--num_images=1", "--seed=3", f"--output={folder}"]
    assert run("sample.py", alone).code == 0
    for index, frame in enumerate((first, last)):
        picture = Image.open(folder / f"{index:03d}_seed3.png")
        assert_same_image(frame, np.asarray(picture, np.float32))


def test_grid_has_a_row_for_each_seed(tmp_path, trained, run, samples):
    flags = [f"--workdir={trained('embedding')}", "--prompt=red square", "--prompt=blue square"]
    flags += ["--seed=0", "--seed=1", "--frames=3", "--layout=grid"]
    grid = tmp_path / "grid.png"
    result = run("interpolate.py", [*flags, f"--output={grid}"])
    assert result.code == 0 and "drew 6 frames" in result.stdout, result.stderr
    page = np.asarray(Image.open(grid), np.float32)
    places = [find_image(page, samples[prompt, seed]) for prompt, seed in sorted(samples)]
    (blue0, blue1), (red0, red1) = places[:2], places[2:]
    assert blue0[0] == red0[0] < blue1[0] == red1[0]  # the same rows
    assert red0[1] == red1[1] < blue0[1] == blue1[1]  # the same columns

    # The frames can be drawn again.
    again = tmp_path / "again.png"
    assert run("sample.py", [f"--like={grid}", f"--output={again}"]).code == 0
    assert find_image(np.asarray(Image.open(again), np.float32), samples["red square", 1])


def find_image(page, image):
    """Return the position (y, x) of an image, enlarged four times, in a picture."""
    enlarged = np.kron(image, np.ones((4, 4, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(page, (64, 64, 3))[:, :, 0]
    corners = np.abs(windows[:, :, ::16, ::16] - enlarged[::16, ::16]).max(axis=(2, 3, 4)) <= 1
    for y, x in np.argwhere(corners):
        if np.abs(windows[y, x] - enlarged).max() <= 1:
            return int(y), int(x)
    raise AssertionError("the image is not in the picture")
