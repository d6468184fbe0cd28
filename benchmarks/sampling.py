"""Measures the speed of sampling and compares it with a Python loop that calls Keras' `predict`.

  python benchmarks/sampling.py --workdir=runs/fashion_mnist --images=16
  python benchmarks/sampling.py --workdir=runs/emoji32 --images=64 --batch_sizes=1,4,8,16,32,64

The loop repeats the sampler of apapiu/guided-diffusion-keras with the same network. Each of its 34 DDIM
steps calls `predict` for the prompts and the null condition, applies guidance, thresholds dynamically with
NumPy's percentile, and takes the weighted mean of the image and the estimate. t2i_tpu draws the same number
of images twice: with the same steps ("same settings") and with the run's settings, whose number of steps
--steps can change. The three take turns, and each draws all images in every round.

The first table gives the images per second and the processor seconds per image, each as the median, the
minimum and the maximum over the rounds. The second table compares t2i_tpu with a loop that makes the same
number of calls of the network and does nothing else. The third table gives the speed with other batch sizes.
"""

import contextlib
import itertools
import pathlib
import statistics
import sys
import time

import numpy as np
from absl import app, flags, logging

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
IMAGES = flags.DEFINE_integer("images", 64, "Number of images drawn at once.", 1)
STEPS = flags.DEFINE_integer(
    "steps", None, "Number of steps with the run's settings. The default is the run's number.", 1
)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Number of rounds.", 1)
BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Batch sizes of the third table.")

ORIGINAL_STEPS, PERCENTILE, PREDICT_BATCH_SIZE = 35, 99.5, 64


class Comparison:
    """Runs functions in turn and measures the seconds that they take."""

    def __init__(self, functions):
        self.functions = functions
        self.seconds = {name: [] for name in functions}
        self.cpu_seconds = {name: [] for name in functions}
        for function in functions.values():  # compile
            function()

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, function in self.functions.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                function()
                self.seconds[name].append(time.perf_counter() - start)
                self.cpu_seconds[name].append(time.process_time() - cpu_start)

    def compare(self, name, other) -> str:
        """Return how many times as fast `name` is as `other`, from the ratios in each round."""
        ratios = [b / a for a, b in zip(self.seconds[name], self.seconds[other], strict=True)]
        cpu = [b / a for a, b in zip(self.cpu_seconds[name], self.cpu_seconds[other], strict=True)]
        return f"{describe(ratios)}, by processor time {describe(cpu)}"


def describe(values) -> str:
    """Return the median, the minimum and the maximum."""
    values = list(values)
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main(_):
    from t2i_tpu import framework

    framework.start()
    from t2i_tpu.sample.trained import load_trained

    logging.set_verbosity(logging.ERROR)  # TensorFlow warns about programs of several batch sizes
    model = load_trained(
        WORKDIR.value, per_replica_batch_size=max(IMAGES.value, 64), steps=STEPS.value
    )
    names = list(model.config.preview.captions) or model.manifest.label_names
    names = list(itertools.islice(itertools.cycle(names), IMAGES.value))
    conditions, seeds = model.make_conditions(names), np.arange(IMAGES.value)
    compare_with_loop(model, conditions, seeds)
    measure_overhead(model, conditions, seeds)
    if BATCH_SIZES.value:
        measure_batch_sizes(model, conditions, [int(size) for size in BATCH_SIZES.value])


def compare_with_loop(model, conditions, seeds):
    from t2i_tpu.sample.trained import change_settings

    scale = model.config.sample.guidance_scale
    same = dict(
        sampler="ddim", levels="baseline", steps=ORIGINAL_STEPS, guidance_interval=(0.0, 1.0)
    )
    settings = change_settings(model.config, same | {"threshold_percentile": PERCENTILE}).sample
    plain = change_settings(model.config, same | {"threshold_percentile": 0.0}).sample
    network, levels = make_network(model), model.generator.make_table(settings).levels
    noise = model.generator.initial_noise(seeds)

    def draw_with_loop(percentile=PERCENTILE):
        return draw_in_python(network, levels, scale, percentile, noise, conditions)

    # Check that both compute the same images, without thresholding, because the loop takes the percentile
    # over the batch.
    difference = np.abs(draw_with_loop(None) - draw(model, plain, conditions, seeds) / 127.5 + 1.0)
    print(f"mean difference without thresholding: {difference.mean() * 127.5:.2f} out of 255")
    comparison = Comparison(
        {
            f"Python loop, {len(levels)} steps": draw_with_loop,
            "t2i_tpu, same settings": lambda: draw(model, settings, conditions, seeds),
            f"t2i_tpu, {describe_settings(model.config.sample)}": lambda: draw(
                model, None, conditions, seeds
            ),
        }
    )
    comparison.run(ROUNDS.value)
    print(
        f"\n| {WORKDIR.value}, {len(seeds)} images | images/s | CPU s per image | times as fast |"
    )
    print("|---|---|---|---|")
    loop = next(iter(comparison.functions))
    for name, seconds in comparison.seconds.items():
        speeds = describe(len(seeds) / second for second in seconds)
        cpu = describe(second / len(seeds) for second in comparison.cpu_seconds[name])
        print(f"| {name} | {speeds} | {cpu} | {comparison.compare(name, loop)} |", flush=True)


def describe_settings(sample) -> str:
    """Return the settings that determine the number of network calls."""
    low, high = sample.guidance_interval
    return f"{sample.sampler}, {sample.steps} steps, guidance from {low:g} to {high:g}"


def draw(model, settings, conditions, seeds):
    """Draw images with t2i_tpu, uint8 [N, H, W, C]."""
    from t2i_tpu.sample.request import Request

    scales = np.full((len(seeds), 1), model.config.sample.guidance_scale, np.float32)
    prompt = model.generator.encode(conditions)
    return model.generator.run(Request([prompt], scales, seeds, settings=settings))[0]


def draw_in_python(network, levels, scale, percentile, noise, conditions):
    """Draw images with one call of `predict` for each noise level, float32 [N, H, W, C]."""
    x, estimate = noise, None
    both = {
        name: np.concatenate([values, np.zeros_like(values)]) for name, values in conditions.items()
    }
    for level, following in itertools.pairwise([*levels, 0.0]):
        inputs = {"x": np.concatenate([x, x]), "level": np.full(2 * len(x), level, np.float32)}
        outputs = network.predict(inputs | both, batch_size=PREDICT_BATCH_SIZE, verbose=0)
        conditional, unconditional = np.split(outputs, 2)
        estimate = scale * conditional + (1.0 - scale) * unconditional
        if percentile:
            limit = max(1.0, np.percentile(np.abs(estimate), percentile))
            estimate = np.clip(estimate, -limit, limit) / limit
        x = (1.0 - following / level) * estimate + following / level * x
    return np.clip(estimate, -1.0, 1.0)


def make_network(model):
    """Return a keras.Model that denoises, with the loaded weights."""
    import keras

    denoiser = model.generator.denoiser

    class Network(keras.Model):
        def call(self, inputs):
            condition = {name: inputs[name] for name in denoiser.condition_spec.fields}
            return denoiser.denoise(inputs["x"], inputs["level"], condition)

    network = Network()
    network.denoiser = denoiser
    network.compile(jit_compile=model.jit_compile)
    return network


def measure_overhead(model, conditions, seeds):
    from keras import ops

    from t2i_tpu.sample.generate import make_plan

    generator, sample = model.generator, model.config.sample
    denoiser = generator.denoiser
    plan = make_plan(generator.make_table(sample), sample, sample.guidance_scale != 1)

    def call_network(inputs, _):
        x, once = inputs["x"], inputs["condition"]
        twice = {name: ops.concatenate([values, values]) for name, values in once.items()}
        start = 0
        for end, is_guided in plan.segments:
            encoded, copies = (twice, 2) if is_guided else (once, 1)

            def step(_, x, encoded=encoded, copies=copies):
                batch = ops.concatenate([x] * copies)
                levels = ops.full(ops.shape(batch)[:1], 0.5, "float32")
                return denoiser.denoise_encoded(batch, levels, encoded)[: ops.shape(x)[0]]

            x = ops.fori_loop(start, end, step, x)
            start = end
        return x

    pairs = [(variable, variable) for variable in denoiser.variables]
    program = model.engine.compile_inference(call_network, pairs, model.jit_compile)
    inputs = {"x": generator.initial_noise(seeds), "condition": generator.encode(conditions)}
    comparison = Comparison(
        {
            "sampling": lambda: draw(model, None, conditions, seeds),
            "network calls": lambda: program(inputs, {}),
        }
    )
    comparison.run(ROUNDS.value)
    calls = sum((end - start) * (1 + flag) for start, (end, flag) in _add_starts(plan.segments))
    print(f"\n| {len(seeds)} images, {calls} calls per image | s | CPU s |\n|---|---|---|")
    for name in comparison.functions:
        times = f"{describe(comparison.seconds[name])} | {describe(comparison.cpu_seconds[name])}"
        print(f"| {name} | {times} |")
    print(
        "sampling takes this many times as long:", comparison.compare("network calls", "sampling")
    )


def _add_starts(segments):
    """Yield the start of each segment of a plan with the segment."""
    start = 0
    for segment in segments:
        yield start, segment
        start = segment[0]


def measure_batch_sizes(model, conditions, sizes):
    def make_draw(size):
        part = {name: np.resize(v, (size, *v.shape[1:])) for name, v in conditions.items()}
        return lambda: draw(model, None, part, np.arange(size))

    comparison = Comparison({size: make_draw(size) for size in sizes})
    comparison.run(ROUNDS.value)
    print("\n| batch size | images/s | CPU s per image |\n|---|---|---|")
    for size, seconds in comparison.seconds.items():
        cpu = describe(second / size for second in comparison.cpu_seconds[size])
        print(f"| {size} | {describe(size / second for second in seconds)} | {cpu} |")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        app.run(main)
