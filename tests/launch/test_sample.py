"""launch/sample.py: an image depends only on its prompt, its seed and the sampling flags."""

import shutil

import numpy as np
import pytest
from PIL import Image

import t2i_tpu
from tests.assertions import assert_mentions


@pytest.fixture(scope="module")
def model(trained):
    """The model that the scripts use, in this process."""
    return t2i_tpu.load(trained("embedding"), strategy="cpu")


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


def open_images(folder):
    """Return the images of a folder, int [N, H, W, C], in the order of their names."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]).astype(int)


def test_python_folder_and_metadata_give_the_same_images(tmp_path, trained, run, model):
    flags = [f"--workdir={trained('embedding')}", "--prompt=red square", "--prompt=blue square"]
    flags += ["--num_images=2", "--seed=3", "--steps=3", "--guidance_scale=2"]
    expected = model.sample(
        ["red square", "blue square"], num_images=2, seed=3, steps=3, guidance_scale=2
    )
    folder = tmp_path / "new" / "folder"
    assert run("sample.py", [*flags, f"--output={folder}", "--format=webp"]).code == 0
    assert np.abs(open_images(folder) - expected.array).max() <= 1
    grid, again = tmp_path / "grid.png", tmp_path / "again"
    assert run("sample.py", [*flags, f"--output={grid}"]).code == 0
    result = run("sample.py", [f"--like={grid}", f"--output={again}"])
    assert "drew 4 image(s)" in result.stdout, result.stderr
    assert np.abs(open_images(again) - expected.array).max() <= 1


def test_like_finds_a_moved_workdir_and_the_average(tmp_path, trained, run):
    picture, again, moved = (tmp_path / name for name in ("a.png", "b.png", "moved"))
    shutil.copytree(trained("embedding"), moved)
    flags = ["--prompt=red square", "--num_images=1", "--average=none", "--guide_average=0.1"]
    result = run("sample.py", [f"--workdir={moved}", *flags, f"--output={picture}"])
    assert result.code == 0, result.stderr
    workdir = moved.rename(tmp_path / "elsewhere")
    like = [f"--like={picture}", f"--output={again}"]
    assert str(moved) in run("sample.py", like).error
    result = run("sample.py", [*like, f"--workdir={workdir}"])
    assert result.code == 0, result.stderr
    assert np.array_equal(Image.open(picture), Image.open(again))
    before, after = (t2i_tpu.read_records(path)[0] for path in (picture, again))
    assert before["workdir"] == str(moved) and after["workdir"] == str(workdir)
    assert before["average"] == after["average"] == "none"
    assert before["guide"][1:] == after["guide"][1:] == [12, "0.1"]


def test_killed_command_draws_only_what_is_missing(tmp_path, trained, run, start, model):
    folder, count = tmp_path / "folder", 400
    flags = [f"--workdir={trained('embedding')}", "--prompt=red square", f"--num_images={count}"]
    flags += [f"--output={folder}"]
    script = start("sample.py", flags)
    script.wait_for(lambda: folder.exists() and len(list(folder.glob("*.png"))) >= 8)
    script.process.kill()
    script.wait()
    first = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert 8 <= len(first) < count
    for name in first:
        Image.open(folder / name).load()
    # A file that a full disk has cut is drawn again.
    damaged = sorted(first)[1]
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:150])

    result = run("sample.py", flags)
    there = len(first) - 1
    assert f"drew {count - there} image(s)" in result.stdout
    assert f"{there} already existed" in result.stdout
    for name, time in first.items():
        assert ((folder / name).stat().st_mtime_ns == time) == (name != damaged)
    for path in folder.glob("*.t2i_tpu-partial"):
        path.unlink()
    images = open_images(folder)
    # The names sort like the seeds if these have as many digits.
    expected = model.sample("red square", num_images=count - 100, seed=100).array
    sorted_names = sorted(path.name for path in folder.iterdir())
    rows = [sorted_names.index(f"000_seed{seed}.png") for seed in range(100, count)]
    assert len(images) == count and np.abs(images[rows] - expected).max() <= 1

    # Other settings would mix two sets of images.
    error = run("sample.py", [*flags, "--steps=3"]).error
    assert_mentions(error, ["sample.steps", "another folder"])


def test_file_of_prompts_has_values_per_row(tmp_path, trained, run, model):
    table, folder = tmp_path / "prompts.csv", tmp_path / "folder"
    table.write_text(
        "prompt,seed,guidance_scale,num_images,negative_prompt\n"
        "red square,5,0,,\n"
        '"blue, square",,,1,red square\n'
    )
    flags = [f"--workdir={trained('embedding')}", f"--prompts_file={table}", "--num_images=2"]
    result = run("sample.py", [*flags, "--seed=9", f"--output={folder}"])
    assert result.code == 0, result.stderr
    names = ["000_seed5.png", "000_seed6.png", "001_seed9.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    expected = model.sample("red square", 2, seed=5, guidance_scale=0)
    expected += model.sample("blue, square", seed=9, negative_prompt="red square")
    assert np.abs(open_images(folder) - expected.array).max() <= 1


def test_composed_and_image_prompts_match_python(tmp_path, trained, run, model):
    picture, folder = tmp_path / "red.png", tmp_path / "folder"
    square = Image.new("RGB", (16, 16), "red")
    square.save(picture)
    flags = [f"--workdir={trained('embedding')}", "--compose=red square:1 a hat:0.5"]
    flags += [f"--image_prompt={picture}", "--num_images=1", f"--output={folder}"]
    result = run("sample.py", flags)
    assert result.code == 0, result.stderr
    expected = model.sample([[("red square", 1.0), ("a hat", 0.5)], square])
    assert np.abs(open_images(folder) - expected.array).max() <= 1


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
