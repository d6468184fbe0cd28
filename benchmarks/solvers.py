"""Measures how many network calls each sampler and schedule needs on a trained model.

  python benchmarks/solvers.py --workdir=runs/emoji32
  python benchmarks/solvers.py --workdir=runs/emoji32 --samplers=ddim,unipc --calls=8,16 --kid_images=250

The first table gives the RMSE, on a scale from 0 to 255, between images and those that 250 calls draw from
the same noise, for the captions of the preview or for all classes. With --kid_images, the second table
gives the KID to the real images of the training set, with its standard error, and the share of images that
are recognized as what was asked for. The first row is the sampler of the original: DDIM with 34 calls at its
own noise levels. A call evaluates the network for the prompt and, within the guidance interval, for the null
condition.
"""

import pathlib
import sys
import tempfile

import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
SOURCE = flags.DEFINE_string(
    "source", None, "Data set. The default is the run's config.data.source."
)
SAMPLERS = flags.DEFINE_list("samplers", "ddim,heun,dpmpp_2m,unipc", "Samplers.")
LEVELS = flags.DEFINE_list("levels", "shifted,karras,log_snr", "Schedules of noise levels.")
CALLS = flags.DEFINE_list("calls", "4,6,8,12,16,20", "Numbers of calls.")
SCALE = flags.DEFINE_float("scale", None, "Guidance scale. The default is the run's.")
INTERVAL = flags.DEFINE_list("interval", None, "Guidance interval. The default is the run's.")
IMAGES = flags.DEFINE_integer("images", 48, "Number of images for the RMSE. 0 skips it.", 0)
KID_IMAGES = flags.DEFINE_integer("kid_images", 0, "Number of images for KID. 0 skips it.", 0)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 48, "Number of images drawn at once.", 1)

REFERENCE = ("unipc", "log_snr", 250)
ORIGINAL = ("ddim", "baseline", 34)


def main(_):
    from t2i_tpu.sample.trained import load_trained

    interval = INTERVAL.value and tuple(map(float, INTERVAL.value))
    model = load_trained(
        WORKDIR.value,
        per_replica_batch_size=BATCH_SIZE.value,
        guidance_scale=SCALE.value,
        guidance_interval=interval,
    )
    sample = model.config.sample
    print(
        f"guidance scale {sample.guidance_scale:g}, interval {sample.guidance_interval}", flush=True
    )
    calls = [int(number) for number in CALLS.value]
    rows = [(sampler, levels) for sampler in SAMPLERS.value for levels in LEVELS.value]
    if IMAGES.value:
        print_table("RMSE", RmseMeter(model, IMAGES.value), rows, calls)
    if KID_IMAGES.value:
        print_table("KID, agreement", KidMeter(model, KID_IMAGES.value), rows, calls)


def print_table(title, meter, rows, calls):
    """Print a Markdown table with a row for each sampler and schedule, as it is measured."""
    print(f"\n| {title} | " + " | ".join(f"{number} calls" for number in calls) + " |")
    print("|---" * (len(calls) + 1) + "|")
    print(
        f"| original, {ORIGINAL[2]} calls | {meter.measure(*ORIGINAL)} |" + " |" * (len(calls) - 1)
    )
    for sampler, levels in rows:
        print(f"| {sampler}, {levels} |", end="", flush=True)
        for number in calls:
            # Heun's method needs at least three calls.
            is_possible = sampler != "heun" or number > 2
            cell = meter.measure(sampler, levels, number) if is_possible else ""
            print(f" {cell} |", end="", flush=True)
        print(flush=True)


def make_table(model, sampler, levels, calls):
    """Return the table of a sampler that makes this number of calls, or one less for Heun's method."""
    from t2i_tpu.diffusion.samplers import SAMPLERS as MAKERS
    from t2i_tpu.diffusion.schedules import LEVELS as SCHEDULES

    path = model.generator.denoiser.diffusion_path
    steps = (calls + 1) // 2 if sampler == "heun" else calls + (levels == "baseline")
    return MAKERS[sampler](SCHEDULES[levels](steps, path, model.config.sample.shift), path)


def draw(model, conditions, table):
    """Draw an image, uint8, for each condition, from the noise of the seeds 0, 1, and so on."""
    from t2i_tpu.sample.request import Request

    count = len(next(iter(conditions.values())))
    scales = np.full((count, 1), model.config.sample.guidance_scale, np.float32)
    encoded = model.generator.encode(conditions)
    return model.generator.run(Request([encoded], scales, np.arange(count), table=table))[0]


class RmseMeter:
    """Measures the RMSE to images that many calls draw."""

    def __init__(self, model, count):
        self.model = model
        if model.config.model.conditioning == "label":
            names = model.manifest.label_names
            labels = [names[index % len(names)] for index in range(count)]
            self.conditions = model.make_conditions((), labels)
        else:
            captions = model.config.preview.captions
            prompts = [captions[index % len(captions)] for index in range(count)]
            self.conditions = model.make_conditions(prompts)
        self.reference = draw(model, self.conditions, make_table(model, *REFERENCE))

    def measure(self, sampler, levels, calls) -> str:
        images = draw(self.model, self.conditions, make_table(self.model, sampler, levels, calls))
        errors = images.astype(np.float64) - self.reference
        return f"{np.sqrt(np.mean(errors**2)):.2f}"


class KidMeter:
    """Measures KID and how well images agree with their conditions, for prompts of the training set."""

    def __init__(self, model, count):
        from t2i_tpu.data.locate import locate
        from t2i_tpu.data.reader import open_dataset
        from t2i_tpu.evaluate.extractors.choose import choose_spec, make_extractor
        from t2i_tpu.evaluate.images import read_images

        self.model, config = model, model.config
        dataset = open_dataset(
            locate(SOURCE.value or config.data.source),
            config.model.conditioning,
            config.data.image_size,
            config.data.on_damage,
        )
        self.extractor = make_extractor(choose_spec(model.manifest))
        with tempfile.TemporaryDirectory() as folder:
            real = read_images(dataset, "train", 3000, folder)
            self.rows = real.choose(count)
            is_other = np.ones(len(real), bool)
            is_other[self.rows] = False
            self.real = self.extractor.extract(np.array(real.images[is_other]))
            self.conditions = {
                name: np.array(values) for name, values in real.get_conditions(self.rows).items()
            }
            self.captions = [real.captions[row] for row in self.rows]

    def measure(self, sampler, levels, calls) -> str:
        from t2i_tpu.evaluate.distances.kid import compute_kid

        images = draw(self.model, self.conditions, make_table(self.model, sampler, levels, calls))
        features = self.extractor.extract(images)
        kid = compute_kid(self.real, features)
        return f"{kid['kid']:.4f} ± {kid['kid_standard_error']:.4f}, {self._measure_agreement(features):.3f}"

    def _measure_agreement(self, features) -> float:
        """Return the share of images whose class or caption is recognized."""
        from t2i_tpu.evaluate.agreement import compute_agreement

        if "label" in self.conditions:
            predicted = self.extractor.classify(features, self.model.manifest.label_names)
            return np.mean(predicted == self.conditions["label"] - 1)
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
        texts = self.extractor.encode_texts(self.captions)
        return compute_agreement(features, texts, self.captions, 0)["retrieval_at_1"]


if __name__ == "__main__":
    app.run(main)
