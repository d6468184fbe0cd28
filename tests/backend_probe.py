"""Computes with diffusion/, models/ and sample/generate.py; test_backends.py runs it on JAX.

python backend_probe.py WEIGHTS.npz RESULT.npz
"""

import sys

import keras
import numpy as np

from t2i_tpu.config import Config, SampleConfig, resolve
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.schedules import LEVELS
from t2i_tpu.models.conditioning import ConditionSpec
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.random import Purpose, make_keys, normal, threefry2x32, uniform
from t2i_tpu.sample.generate import generate, make_plan

STATES = np.where(
    np.arange(3)[:, None] < [[[2]], [[1]]],
    np.random.default_rng(1).standard_normal((2, 3, 2)),
    0,
)
# Kind -> its spec and two conditions.
CONDITIONS = {
    "tokens": (
        ConditionSpec({"tokens": ((4,), "int32")}, num_ids=9),
        {"tokens": np.array([[3, 1, 0, 0], [8, 2, 5, 0]], "int32")},
    ),
    "sequence": (
        ConditionSpec({"embedding": ((5,), "float32"), "sequence": ((3, 2), "float32")}),
        {
            "embedding": np.random.default_rng(2).standard_normal((2, 5)).astype("float32"),
            "sequence": STATES.astype("float32"),
        },
    ),
    "label": (
        ConditionSpec({"label": ((), "int32")}, num_ids=3),
        {"label": np.array([1, 3], "int32")},
    ),
}


def compute_results(weights: dict[str, np.ndarray] | None) -> tuple[dict, dict]:
    """Return the results, and the weights used, on the backend that Keras has.

    The weights are drawn if they are None.
    """
    results, used = draw_random_numbers(), {}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 8, 3)).astype("float32")
    level = np.array([0.1, 0.7], "float32")
    for recipe, kind in (("modern", "tokens"), ("modern", "sequence"), ("baseline", "label")):
        name, condition = f"{recipe}/{kind}", CONDITIONS[kind][1]
        denoiser = make_denoiser(recipe, kind)
        for variable in denoiser.variables:
            path = f"{name}/{variable.path}"
            used[path] = draw_weight(path, variable, rng) if weights is None else weights[path]
            variable.assign(used[path])

        def images(x, level, condition, denoiser=denoiser):
            denoised = denoiser.denoise(x, level, condition)
            return denoised, generate_images(denoiser, condition, x)

        tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, (x, level, condition))
        denoised, drawn = compile_function(images)(*tensors)
        results |= {name: np.asarray(denoised), f"{name}/images": np.asarray(drawn)}
    return results, used


def generate_images(denoiser: Denoiser, condition: dict, noise):
    """Draw images with every option of the guidance."""
    sample = SampleConfig("dpmpp_2m_sde", "shifted", 2.0, 4, 2.0, (0.3, 0.9), 0.5, 99.5)
    path = denoiser.diffusion_path
    table = SAMPLERS[sample.sampler](LEVELS[sample.levels](sample.steps, path, sample.shift), path)
    encoded = denoiser.encode(condition)
    null = denoiser.encode(keras.tree.map_structure(keras.ops.zeros_like, condition))
    inputs = {
        "start": noise,
        "seeds": np.arange(2),
        "conditions": {
            name: keras.ops.stack([encoded[name], null[name]], axis=1) for name in encoded
        },
        "scales": np.full((2, 1), sample.guidance_scale, "float32"),
        "known": keras.ops.zeros_like(noise),
        "is_known": keras.ops.zeros_like(noise)[..., :1],
    }
    plan = make_plan(table, sample, is_guided=True)
    columns = keras.tree.map_structure(keras.ops.convert_to_tensor, table.as_arrays())
    return generate(denoiser.denoise_encoded, None, inputs, columns, plan)["images"]


def draw_random_numbers() -> dict[str, np.ndarray]:
    """Return numbers from every function of random.py."""
    words = [
        keras.ops.convert_to_tensor(np.array(part, "uint32"))
        for part in ([0x13198A2E, 1], [0x03707344, 2], [0x243F6A88, 3], [0x85A308D3, 4])
    ]
    keys = make_keys(7, Purpose.NOISE, 3, np.arange(9, dtype="int32"))
    return {
        "bits": np.stack(threefry2x32(tuple(words[:2]), tuple(words[2:]))),
        "keys": np.stack([np.asarray(part) for part in keys]),
        "uniform": np.asarray(uniform(keys)),
        "normal": np.asarray(normal(keys, (3, 3))),
    }


def make_denoiser(recipe: str, kind: str) -> Denoiser:
    """Return a small model with its variables created."""
    config = Config(recipe=recipe)
    config.data.image_size, config.model.embedding_dim, config.model.block_depth = 8, 8, 1
    config.model.conditioning = kind
    config.model.widths, config.model.attention_levels = (8, 16), (False, True)
    spec, condition = CONDITIONS[kind]
    denoiser = Denoiser(resolve(config), 3, spec)
    # Symbols suffice to create the variables; JAX would compile every operation of a real call.
    inputs = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "float32"), condition
    denoiser(*keras.tree.map_structure(make_symbol, inputs))
    return denoiser


def draw_weight(path: str, variable, rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal(variable.shape) * 0.5
    values /= np.sqrt(np.prod(variable.shape[:-1]))
    values = 0.7 + np.abs(values) if "variance" in path else values
    return values.astype("float32")


def make_symbol(array):
    return keras.Input(batch_shape=array.shape, dtype=str(array.dtype))


def compile_function(function):
    """Compile a function as one unit. JAX would otherwise compile every operation on its own."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


if __name__ == "__main__":
    weights_path, result_path = sys.argv[1:]
    computed, _ = compute_results(dict(np.load(weights_path)))
    from jax.extend.random import threefry_2x32

    assert keras.backend.backend() == "jax"
    assert "tensorflow" not in sys.modules, "something imported tensorflow"
    key = np.array([0x13198A2E, 0x03707344], "uint32")
    counter = np.array([0x243F6A88, 0x85A308D3], "uint32")
    computed["jaxs_own_bits"] = np.asarray(threefry_2x32(key, counter))
    np.savez(result_path, **computed)
