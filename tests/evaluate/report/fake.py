"""A report as launch/evaluate.py writes it, with numbers that mean nothing."""

import dataclasses

import numpy as np

from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.sample.pictures import draw_grid, draw_strip

SEEDS = (0, 1, 2)
SPLITS = ("train", "heldout")


@dataclasses.dataclass
class FakeEvaluation:
    report: dict
    pictures: dict


def make_figure(rng, value, spread):
    """Return a figure of a report whose values vary over the seeds."""
    values = [float(number) for number in rng.normal(value, spread, len(SEEDS))]
    return {
        "value": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)),
        "values": values,
    }


def make_distances(rng, scale=1.0):
    """Return the distances of one split."""
    return {
        "images": {"real": 3180, "drawn": 250, "same_prompts": False},
        "kid": make_figure(rng, 0.0213 * scale, 0.0007),
        "kid_standard_error": make_figure(rng, 0.0016, 0.0001),
        "fid": make_figure(rng, 12.3 * scale, 0.4),
        "precision": make_figure(rng, 0.81, 0.01),
        "recall": make_figure(rng, 0.52, 0.01),
        "density": make_figure(rng, 0.93, 0.02),
        "coverage": {"value": None, "reason": "300 images are too few; 1,000 are needed"},
    }


def make_report(kid=0.0213, seed=0) -> dict:
    """Return a report that is JSON."""
    rng = np.random.default_rng(seed)
    distances = {split: make_distances(rng, kid / 0.0213) for split in SPLITS}
    distances["real"] = {name: {"value": 0.0011} for name in ("kid", "kid_standard_error", "fid")}
    agreement = {"judge": {"id": "embedded", "weights_sha256": "0123"}} | {
        name: {
            "clip_score": make_figure(rng, 71, 1),
            "retrieval_at_1": make_figure(rng, 0.42, 0.02),
            "retrieval_at_5": make_figure(rng, 0.77, 0.02),
        }
        for name in ("train", "heldout", "real_train", "real_heldout")
    }
    two_sample = {
        split: {
            "two_sample_accuracy": make_figure(rng, 0.61, 0.01),
            "two_sample_p_value": make_figure(rng, 0.003, 0.001),
        }
        for split in SPLITS
    }
    return {
        "run": {
            "workdir": "runs/emoji32",
            "step": 3300,
            "total_steps": 3300,
            "weights": "average with std 0.05",
            "recipe": "modern",
            "data": "emoji",
        },
        "settings": {
            "num_images": {"train": 1000, "heldout": 356},
            "num_real": {"train": 3430, "heldout": 356},
            "num_sets": len(SEEDS),
            "first_seeds": [0, 1000, 2000],
            "extractor": {
                "id": "embedded",
                "weights_sha256": "0123456789abcdef" * 4,
                "resize": "32x32, bicubic (Pillow)",
                "dim": 128,
            },
            "sampler": {"sampler": "dpmpp_2m", "steps": 20, "guidance_scale": 2.5},
        },
        "distances": distances,
        "agreement": agreement,
        "generalisation": make_generalisation(rng),
        "two_sample": two_sample,
        "interpolation": {
            name: {"largest_step": {"value": value, "spread": None, "values": [value]}}
            for name, value in (("seeds", 2.41), ("prompts", 1.92))
        },
        "memorisation": make_memorisation(rng),
        "guess": {"seed": 0, "pairs": []},
        "warnings": ["the embedded image tower saw the training images"],
        "seconds": {"sampling": 203.2, "features": 31.4, "total": 301.0},
    }


def make_generalisation(rng) -> dict:
    levels = np.linspace(0.1, 0.9, 9)
    history = [
        {
            "step": step,
            "train_loss": 0.05 + 4 / step,
            "heldout_loss": 0.055 + 4 / step + step * 2e-6,
            "kid": 0.02 + 10 / step + float(rng.normal(0, 0.001)),
            "kid_standard_error": 0.002,
            "condition_accuracy": 0.7 - 30 / step,
        }
        for step in range(200, 3301, 300)
    ]
    return {
        "noise_levels": levels.tolist(),
        "train": (levels**2 / 5).tolist(),
        "train_spread": [0.002] * len(levels),
        "heldout": (levels**2 / 4.6).tolist(),
        "heldout_spread": [0.004] * len(levels),
        "gap": 0.0062,
        "history": history,
    }


def make_memorisation(rng) -> dict:
    worst = [
        {
            "drawn_for": "red heart",
            "nearest": "heart suit",
            "nearest_key": f"train-{number}",
            "space": "pixels",
            "distance": 0.02 + number / 100,
            "likelihood": 0.9 - number / 10,
        }
        for number in range(4)
    ]
    return {
        "num_flagged": 3,
        "num_checked": 1000,
        "pixels": {
            "drawn": rng.normal(0.2, 0.05, 300).tolist(),
            "heldout": rng.normal(0.22, 0.05, 300).tolist(),
        },
        "features": {
            "drawn": rng.normal(0.5, 0.1, 300).tolist(),
            "heldout": rng.normal(0.55, 0.1, 300).tolist(),
        },
        "worst": worst,
        "duplicates": [["1f1e8-1f1ed", "1f1ea-1f1ec"], ["1f600", "1f601", "1f602"]],
    }


def make_evaluation() -> FakeEvaluation:
    """Return an evaluation with real emoji in the place of drawn images."""
    dataset = open_dataset(locate("embedded:emoji"), "embedding", 32)
    examples = dataset.examples("heldout", 48)
    images = np.stack([example["image"] for example in examples])
    cells = [(example["image"], example["caption"]) for example in examples]
    pictures = {
        "drawn/heldout": draw_grid([("drawn", cells[:16]), ("real", cells[16:32])]),
        "interpolation/seeds": draw_strip(images[:9]),
        "interpolation/prompts": draw_strip(images[9:18]),
        "memorisation/worst": draw_grid([("most likely copies", cells[32:48])]),
    }
    return FakeEvaluation(make_report(), pictures)
