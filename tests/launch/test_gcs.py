"""Training and sampling give the same results on gs:// as on disk."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.gcs.harness import Faults
from tests.launch.launcher import ROOT

EMOJI = ROOT / "t2i_tpu" / "embedded" / "emoji"
# Changes to configs/emoji32.py.
TINY = {
    "model.widths": (8, 16),
    "model.attention_levels": (False, True),
    "model.block_depth": 1,
    "model.embedding_dim": 32,
    "train.global_batch_size": 16,
    "train.total_steps": 6,
    "train.steps_per_loop": 2,
    "train.log_every": 2,
    "train.preview_every": 6,
    "train.checkpoint_every": 3,
    "train.dtype_policy": "float32",
    "sample.steps": 2,
    "preview.captions": "('red heart', 'pizza')",
    "preview.num_train": 2,
    "preview.num_heldout": 1,
}
PERMISSIONS = [
    "storage.buckets.get",
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.list",
]
ACCOUNT = "tester@harness.iam.gserviceaccount.com"


def assert_equal_runs(first: pathlib.Path, second: pathlib.Path):
    """Fail unless the variables of the newest checkpoints and the previews are equal in all bits."""
    expected, values = tiny.read_checkpoint(first), tiny.read_checkpoint(second)
    assert expected.keys() == values.keys() and expected["step"] == 6
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    preview = "previews/step_00000006.png"
    assert (first / preview).read_bytes() == (second / preview).read_bytes()


@pytest.mark.parametrize(
    ("data_set", "rate", "engine"),
    [
        ("squares", 0.0, "tensorflow"),
        pytest.param("emoji", 0.0, "tensorflow", marks=pytest.mark.slow),
        pytest.param("emoji", 0.1, "tensorflow", marks=pytest.mark.slow),
        pytest.param("squares", 0.1, "jax", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_equals_one_on_disk(
    gcs, bucket, tmp_path, squares, config_file, start, data_set, rate, engine
):
    """The run on gs:// is killed and resumed, and a share `rate` of its requests fails."""
    if data_set == "emoji":
        folder, config = EMOJI, ROOT / "configs" / "emoji32.py"
        values = [f"--config.{name}={value}" for name, value in TINY.items()]
    else:
        folder, config = squares, config_file
        values = tiny.make_flags(
            "", train__total_steps=6, train__checkpoint_every=3, train__preview_every=6
        )

    def train(source, workdir, inside=None):
        flags = [f"--config={config}", f"--workdir={workdir}", f"--engine={engine}", *values]
        return start("train.py", [*flags, f"--config.data.source=shards:{source}"], (), inside)

    on_disk = train(folder, tmp_path / "run").wait(900)
    assert on_disk.code == 0, on_disk.stderr
    data, workdir = gcs.put_folder(folder, f"{bucket}/data"), f"{bucket}/run"
    with gcs.inject_faults(Faults(rate, seed=3)):
        first = train(data, workdir, gcs.inside)
        first.wait_for(lambda: "checkpoints/step-3.json" in gcs.names(workdir), 900)
        first.process.kill()
        first.wait()
        second = train(data, workdir, gcs.inside).wait(900)
        assert second.code == 0 and "starting at step 0" not in second.stderr, second.stderr
        assert sum(gcs.report()["faults"].values()) >= (10 if rate else 0)
    assert_equal_runs(tmp_path / "run", gcs.get_folder(workdir, tmp_path / "fetched"))


def test_sampling_on_gs_equals_sampling_on_disk(gcs, bucket, trained, run, tmp_path):
    workdir = gcs.put_folder(trained("embedding"), f"{bucket}/run")
    pictures = []
    for folder, inside in ((trained("embedding"), None), (workdir, gcs.inside)):
        output = tmp_path / f"{len(pictures)}" / "x"
        flags = [f"--workdir={folder}", "--prompt=red square", f"--output={output}"]
        result = run("sample.py", flags, inside=inside)
        assert result.code == 0, result.stderr
        pictures.append([Image.open(path).tobytes() for path in sorted(output.iterdir())])
    assert len(pictures[0]) == 4 and pictures[0] == pictures[1]
    flags = [f"--workdir={workdir}", "--prompt=red square", f"--output={bucket}/out/x.png"]
    assert run("sample.py", flags, inside=gcs.inside).code == 0
    assert gcs.files(f"{bucket}/out")["x.png"].startswith(b"\x89PNG")
    again = [f"--like={bucket}/out/x.png", f"--output={bucket}/out/again.webp"]
    result = run("sample.py", again, inside=gcs.inside)
    assert "drew 4 image(s)" in result.stdout, result.stderr
    # A folder is completed.
    gcs.put(f"{bucket}/prompts.txt", b"red square\nblue square\n")
    flags = [f"--workdir={workdir}", f"--prompts_file={bucket}/prompts.txt"]
    for count, words in ((1, "drew 2 image(s)"), (2, "drew 2 image(s)"), (2, "drew 0 image(s)")):
        more = [f"--num_images={count}", f"--output={bucket}/folder"]
        result = run("sample.py", [*flags, *more], inside=gcs.inside)
        assert words in result.stdout, result.stderr
    assert sum(name.endswith(".png") for name in gcs.names(f"{bucket}/folder")) == 4


@pytest.fixture
def get_errors(gcs, bucket, squares, config_file, run):
    """`get_errors(address)` returns the error lines of three scripts that use an address on gs://.

    The first trains on data there, the second trains into a workdir there, and the third samples
    from a workdir there.
    """
    data = gcs.put_folder(squares, f"{bucket}/data")

    def run_scripts(address, environment=()):
        config = f"--config={config_file}"
        commands = (
            ("train.py", [config, f"--workdir={bucket}/run", *tiny.make_flags(f"{address}/data")]),
            ("train.py", [config, f"--workdir={address}/run", *tiny.make_flags(data)]),
            ("sample.py", [f"--workdir={address}/run", "--prompt=x"]),
        )
        return [
            run(script, flags, environment, inside=gcs.inside).error for script, flags in commands
        ]

    return run_scripts


def test_missing_bucket_is_named(get_errors):
    for error in get_errors("gs://no-such-bucket"):
        assert "there is no bucket gs://no-such-bucket;" in error


def test_missing_permission_is_named(gcs, bucket, get_errors):
    other = gcs.make_bucket(bucket.removeprefix("gs://") + "-locked")
    with gcs.deny(other.removeprefix("gs://"), *PERMISSIONS):
        for error in get_errors(other):
            assert f"{other} denies storage.objects." in error and f" to {ACCOUNT};" in error
            grant = (
                f"add-iam-policy-binding {other} --member=serviceAccount:{ACCOUNT} --role=roles/"
            )
            assert grant in error
    with gcs.deny(other.removeprefix("gs://"), "storage.buckets.get"):
        data, workdir, sample = get_errors(other)
    # Reading does not need permission to get the bucket itself.
    assert "no data set at" in data and "holds no run" in sample
    assert f"{other} denies storage.buckets.get to {ACCOUNT};" in workdir
    assert "roles/storage.legacyBucketReader" in workdir


def test_missing_credentials_are_reported(bucket, get_errors, tmp_path):
    nothing = {"GOOGLE_APPLICATION_CREDENTIALS": "", "CLOUDSDK_CONFIG": str(tmp_path)}
    for error in get_errors(bucket, nothing):
        assert f"{bucket} requires credentials" in error
        assert "gcloud auth application-default login" in error
