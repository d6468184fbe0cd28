"""JAX and TensorFlow agree about the FLOPs of a step."""

import pytest

from t2i_tpu.profile import cost, jax_cost
from tests import tiny
from tests.launch import launcher

CHANGES = dict(model__widths=(16, 32), model__attention_levels=(False, True))


def count_on_jax(squares, path):
    run = tiny.Run(tiny.make_config(squares, **CHANGES))
    path.write_text(str(jax_cost.count_product_flops(run.trainer.loop.trace(run.iterator))))


def test_engines_count_the_same_flops(squares, tmp_path):
    process = launcher.start_process(count_on_jax, (squares, tmp_path / "count"), "jax")
    run = tiny.Run(tiny.make_config(squares, **CHANGES))
    expected = cost.count_product_flops(run.trainer.loop.trace(run.iterator))
    process.join()
    # JAX computes sums over the batch as matrix products where TensorFlow reduces, for example.
    assert int((tmp_path / "count").read_text()) == pytest.approx(expected, rel=0.02)
