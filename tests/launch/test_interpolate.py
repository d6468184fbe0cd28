"""launch/interpolate.py: both ends are the plain samples, and the way between is a way."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def plain(tmp_path_factory, trained, run):
    """(prompt, seed) -> the image that launch/sample.py draws, float [16, 16, 3]."""
    folder = tmp_path_factory.mktemp("plain")
    prompts = ["red square", "blue square"]
    flags = [f"--prompt={prompt}" for prompt in prompts] + [f"--output={folder}"]
    result = run("sample.py", [f"--workdir={trained('embedding')}", "--num_images=2", *flags])
    assert result.code == 0, result.stderr
    return {
        (prompt, seed): np.asarray(Image.open(folder / f"{index:03d}_seed{seed}.png"), np.float32)
        for index, prompt in enumerate(prompts)
        for seed in range(2)
    }


def frames_of(path, count):
    """A strip as [count, 16, 16, 3]: each image was enlarged four times."""
    strip = np.asarray(Image.open(path), np.float32)
    assert strip.shape == (64, 64 * count, 3)
    return strip[::4, ::4].reshape(16, count, 16, 3).swapaxes(0, 1)


def assert_same_image(one, other):
    # An end of the arc is its point to the last bit or two, so an image to a grey level.
    np.testing.assert_allclose(one, other, atol=1)


def test_between_prompts(tmp_path, trained, run, plain):
    flags = ["--from_prompt=red square", "--to_prompt=blue square", "--from_seed=1", "--frames=5"]
    output = tmp_path / "strip.png"
    result = run(
        "interpolate.py", [f"--workdir={trained('embedding')}", *flags, f"--output={output}"]
    )
    assert result.code == 0, result.stderr
    frames = frames_of(output, 5)
    assert_same_image(frames[0], plain["red square", 1])
    assert_same_image(frames[-1], plain["blue square", 1])
    whole = np.abs(frames[-1] - frames[0]).mean()
    assert whole > 0
    assert all(np.abs(frames[i + 1] - frames[i]).mean() < whole for i in range(4))


def test_between_seeds_and_there_and_back(tmp_path, trained, run, plain):
    flags = [f"--workdir={trained('embedding')}", "--mode=noise", "--from_prompt=red square"]
    flags += ["--from_seed=0", "--to_seed=1", "--frames=4"]
    strip, animation = tmp_path / "strip.png", tmp_path / "way.gif"
    assert run("interpolate.py", [*flags, f"--output={strip}"]).code == 0
    frames = frames_of(strip, 4)
    assert_same_image(frames[0], plain["red square", 0])
    assert_same_image(frames[-1], plain["red square", 1])
    assert run("interpolate.py", [*flags, f"--output={animation}"]).code == 0
    gif = Image.open(animation)
    assert gif.n_frames == 6 and gif.info["loop"] == 0  # four there, two back, forever
    shown = []
    for index in range(6):
        gif.seek(index)
        shown.append(np.asarray(gif.convert("RGB"), np.float32))
    for index, frame in enumerate([0, 1, 2, 3, 2, 1]):
        expected = np.kron(frames[frame], np.ones((4, 4, 1)))
        # A GIF has 256 colours: near, and nearer than any other frame.
        errors = [np.abs(shown[index] - np.kron(f, np.ones((4, 4, 1)))).mean() for f in frames]
        assert np.abs(shown[index] - expected).mean() == min(errors)


def test_classes_walk_between_seeds_only(tmp_path, trained, run):
    flags = [f"--workdir={trained('label')}", "--label=red", "--frames=2"]
    output = tmp_path / "classes.png"
    walk = ["--mode=noise", "--from_seed=3", "--to_seed=4", f"--output={output}"]
    result = run("interpolate.py", [*flags, *walk])
    assert result.code == 0, result.stderr
    first, last = frames_of(output, 2)
    assert np.abs(first - last).max() > 0
    refused = [f"--workdir={trained('label')}", "--from_prompt=red", "--to_prompt=blue"]
    assert "--mode=noise" in run("interpolate.py", refused).error
