"""benchmarks/gpu.py measures on a machine without TensorFlow and without most other packages."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.on_gpu.cases import read_pack
from t2i_tpu.profile.cost import count_product_flops
from tests.assertions import assert_mentions


def test_everything_is_measured_on_jax_without_tensorflow(run, data, without_tensorflow, tmp_path):
    pytest.importorskip("jax", reason="needs jax (extra dev)")
    arguments = [f"--data={data}", f"--output={tmp_path}/report", "--nopeer", "--budget=270"]
    done = run(arguments, without_tensorflow)
    logs = (tmp_path / "report" / "jax.log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + logs
    results = json.loads((tmp_path / "report" / "report.json").read_text())
    (check,) = results["checks"]
    assert 0 < check["error"] < 1e-3 and check["steps"] == 5
    assert results["picture"]["steps"] == results["picture"]["total_steps"] == 4
    with Image.open(tmp_path / "report" / "emoji32.png") as picture:
        assert picture.width > 8 * 2 * 64 and len(np.unique(np.asarray(picture))) > 50
    jax = results["speeds"]["emoji32"]["jax"]
    assert len(jax["images_per_second"]) == 2 and min(jax["images_per_second"]) > 0
    # Sorting the losses by noise level takes a few more FLOPs.
    expected = count_flops_in_tensorflow(data)
    assert expected <= jax["flops_per_image"] <= 1.0001 * expected
    assert jax["parameters"] == read_pack(str(data)).about["cases"]["emoji32"]["parameters"]
    assert_mentions(done.stdout, ["| emoji32 | JAX |", "agree with those of TensorFlow", "Peak:"])
    assert (tmp_path / "report" / "report.md").read_text() in done.stdout


def count_flops_in_tensorflow(data):
    """Return the FLOPs per image of a step of emoji32, counted in TensorFlow's graph."""
    import tensorflow as tf

    from t2i_tpu.models.conditioning import ConditionSpec
    from t2i_tpu.models.denoiser import build_denoiser
    from t2i_tpu.step.objective import compute_losses, corrupt_batch

    case = read_pack(str(data)).case("emoji32")
    spec = ConditionSpec(case.fields, case.num_ids)
    denoiser = build_denoiser(case.config, case.channels, spec, "float32")
    weights = [weight.value for weight in denoiser.trainable_variables]
    stacked = case.make_batches(8, 0, 1)
    batch = tf.nest.map_structure(lambda array: tf.constant(array[0]), stacked)

    @tf.function(autograph=False)
    def differentiate():
        with tf.GradientTape() as tape:
            examples = corrupt_batch(case.config, denoiser.diffusion_path, batch, 0)
            losses, _ = compute_losses(case.config, denoiser, examples)
        return tape.gradient(losses, weights)

    return count_product_flops(differentiate.get_concrete_function().graph) / 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--pack", "--data"]),
        (["--data=missing.npz"], ["--data=missing.npz", "--pack"]),
        (["--pack=x.npz", "--cases=emoji32,imagenet"], ["--cases=emoji32,imagenet", "clip64"]),
        (["--pack=x.npz", "--cases=clip64"], ["--cases=clip64", "emoji32"]),
    ],
)
def test_mistakes_are_one_line(run, arguments, words, tmp_path):
    done = run([*arguments, f"--output={tmp_path}"], {})
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert_mentions(lines[0], words)


def test_differences_are_measured_relative_to_the_change(data):
    pytest.importorskip("jax", reason="needs jax (extra dev)")
    from benchmarks.on_gpu.jax_training import measure_difference

    expected = read_pack(str(data)).arrays("modern/weights")
    start = {path: np.zeros_like(weight) for path, weight in expected.items()}
    assert measure_difference(start, expected, expected) == 0
    wrong = {path: weight * 1.02 for path, weight in expected.items()}
    np.testing.assert_allclose(measure_difference(start, wrong, expected), 0.02, rtol=1e-4)
