"""Trains our networks on JAX, without TensorFlow: one half of the comparison, and the picture."""

import importlib.metadata
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.on_gpu.cases import Case, read_pack
from benchmarks.on_gpu.timing import time_steps
from t2i_tpu.engines.jax.engine import JaxEngine
from t2i_tpu.models.conditioning import ConditionSpec
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.profile.jax_cost import count_product_flops
from t2i_tpu.sample.generator import Generator
from t2i_tpu.sample.pictures import draw_grid
from t2i_tpu.step.state import State

_PEAK_CHAIN, _PEAK_ROUNDS = 10, 5


class JaxWorker:
    """The methods that benchmarks/gpu.py calls in the process of JAX.

    Args:
      data: path of the file that --pack wrote.
    """

    def __init__(self, data: str):
        self.pack, self.engine = read_pack(data), JaxEngine(jax.devices()[:1])
        self.runs: dict[tuple[str, int], JaxRun] = {}

    def describe(self) -> dict[str, str]:
        """Return the device and the versions of the packages that compute."""
        return {
            "device": self.engine.mesh.devices.flat[0].device_kind,
            "jax": jax.__version__,
            "keras": importlib.metadata.version("keras"),
        }

    def measure_peak(self) -> dict[str, object]:
        """Return the FLOPs per second of the fastest of a few chains of bfloat16 matrix products."""
        size = self.pack.about["settings"]["peak_size"]
        first, second = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)
        second = second / size**0.5  # keeps the products at the size of the factors

        @jax.jit
        def multiply(first, second):
            return jax.lax.fori_loop(0, _PEAK_CHAIN, lambda _, x: x @ second, first)

        multiply(first, second).block_until_ready()
        seconds = []
        for _ in range(_PEAK_ROUNDS):
            begin = time.perf_counter()
            multiply(first, second).block_until_ready()
            seconds.append(time.perf_counter() - begin)
        return {"size": size, "flops_per_s": _PEAK_CHAIN * 2 * size**3 / min(seconds)}

    def check(self, reference: str) -> dict[str, object]:
        """Compare the weights after some float32 steps with those of TensorFlow."""
        case, expected = self.pack.case(reference), self.pack.arrays(f"{reference}/weights")
        steps = case.config.train.total_steps
        run = JaxRun(self.engine, case, case.config.train.global_batch_size)
        start = run.read_weights()
        # A GPU would otherwise round the factors of products to 10 bits (TF32).
        with jax.default_matmul_precision("highest"):
            run.do_steps(steps)
        error = measure_difference(start, run.read_weights(), expected)
        limit = self.pack.about["limits"][reference]
        return {
            "name": reference,
            "steps": steps,
            "error": error,
            "limit": limit,
            "passed": bool(error <= limit),
        }

    def prepare(self, case: str, batch_size: int) -> dict[str, object]:
        """Build and compile the training step of a case, which `time` then measures."""
        begin = time.monotonic()
        run = JaxRun(self.engine, self.pack.case(case), batch_size)
        run.do_steps(2)
        self.runs[case, batch_size] = run
        return {
            "parameters": run.count_parameters(),
            "flops_per_image": run.count_flops() / batch_size,
            "compile_seconds": time.monotonic() - begin,
        }

    def time(self, case: str, batch_size: int, seconds: float) -> float:
        """Return the seconds per step of a prepared case, timed for about `seconds`."""
        return time_steps(self.runs[case, batch_size].do_steps, seconds)

    def draw_picture(self, case: str, path: str, seconds: float) -> dict[str, object]:
        """Train a case to its end, and draw its captions with the final weights.

        Args:
          case: the name of the case.
          path: the PNG file to write.
          seconds: the time limit for compiling and training.
        """
        begin = time.monotonic()
        data, pictured = self.pack.case(case), self.pack.arrays(f"{case}/picture")
        config = data.config
        run = JaxRun(self.engine, data, config.train.global_batch_size)
        run.do_steps(1)
        compile_seconds, loss, steps = time.monotonic() - begin, float("nan"), 1
        begin_training = time.monotonic()
        while steps < config.train.total_steps and time.monotonic() - begin < seconds:
            count = min(config.train.steps_per_loop, config.train.total_steps - steps)
            loss, steps = run.do_steps(count), steps + count
        begin_drawing = time.monotonic()
        real, condition = pictured.pop("image"), pictured
        images = run.make_generator().draw(condition, np.arange(len(real)))
        cells = [
            (np.concatenate(pair, axis=1), caption)
            for *pair, caption in zip(images, real, self.pack.about["captions"], strict=True)
        ]
        draw_grid([(f"{case}, step {steps}: drawn | real", cells)]).save(path)
        return {
            "steps": steps,
            "total_steps": config.train.total_steps,
            "batch_size": config.train.global_batch_size,
            "compile_seconds": compile_seconds,
            "train_seconds": begin_drawing - begin_training,
            "draw_seconds": time.monotonic() - begin_drawing,
            "images": len(images),
            "loss": loss,
        }


class JaxRun:
    """The state of a run, its compiled train loop, and its batches."""

    def __init__(self, engine: JaxEngine, case: Case, batch_size: int):
        self.engine, self.case, self.batch_size = engine, case, batch_size
        case.config.train.global_batch_size = batch_size
        dtype_policy = case.config.train.dtype_policy
        spec = ConditionSpec(case.fields, case.num_ids)
        with engine.scope():
            denoiser = build_denoiser(case.config, case.channels, spec, dtype_policy)
            self.state = State(case.config, denoiser)
        engine.place(self.state, case.config)
        self.loop = engine.make_train_loop(case.config, self.state, jit_compile=True)
        self.feed = engine.make_iterator(case.config, lambda *_: _Batches(case, batch_size))

    def do_steps(self, count: int) -> float:
        """Train for some steps, wait until they are done, and return their mean loss."""
        metrics, _ = self.loop.run(self.feed, count)
        losses = [value for name, value in metrics.items() if name.startswith("loss/")]
        return sum(losses) / (count * self.batch_size)

    def read_weights(self) -> dict[str, np.ndarray]:
        """Return the trained weights by path."""
        trained = self.state.first_moments
        return {path: self.engine.read(self.state.weights[path]) for path in trained}

    def count_parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(weight.size for weight in self.read_weights().values())

    def count_flops(self) -> int:
        """Return the FLOPs of the convolutions and matrix products of a step."""
        return count_product_flops(self.loop.trace(self.feed))

    def make_generator(self) -> Generator:
        """Return a generator that draws with the average of the weights."""
        config, state = self.case.config, self.state
        weights = state.sampling_weights
        return Generator(self.engine, state.denoiser, weights, config.sample, jit_compile=True)


class _Batches:
    """The batches of a case in the form that `Engine.make_iterator` takes."""

    def __init__(self, case: Case, batch_size: int):
        self.case, self.batch_size = case, batch_size

    def as_numpy_iterator(self):
        """Yield the batch of each step."""
        step = 0
        while True:
            stacked = self.case.make_batches(self.batch_size, step, 1)
            yield jax.tree.map(lambda array: array[0], stacked)
            step += 1


def measure_difference(
    start: dict[str, np.ndarray], end: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> float:
    """Return the norm of end - expected, divided by the norm of expected - start."""

    def measure(first, second):
        squares = [
            np.sum(np.square(first[path] - second[path], dtype=np.float64)) for path in second
        ]
        return float(np.sqrt(sum(squares)))

    return measure(end, expected) / measure(start, expected)
