"""Writes torch_fidelity.json, the figures of torch-fidelity on the features of `make_features`.

Run it in an environment with torch-fidelity 0.4: python tests/evaluate/make_reference.py
"""

import json
import pathlib

import numpy as np

PATH = pathlib.Path(__file__).with_name("torch_fidelity.json")


def make_features() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return pairs of the features of real and drawn images, float32 [300, 16], by name."""
    rng = np.random.default_rng(0)
    real, drawn, other = rng.standard_normal((3, 300, 16))
    mixing = rng.standard_normal((16, 16)) / 4
    pairs = {
        "shifted": (real, drawn + 0.3),
        "correlated": (real @ mixing, drawn @ mixing[::-1] + 0.1),
        "wide": (real, 1.5 * drawn),
        "halved": (real, np.abs(other)),
        # Multiples of 1/2 have many equal distances, and their distances have no rounding errors.
        "duplicates": (np.round(2 * np.repeat(real[:60], 5, axis=0)) / 2, np.round(drawn)),
    }
    return {
        name: (real.astype(np.float32), drawn.astype(np.float32))
        for name, (real, drawn) in pairs.items()
    }


def compute_reference() -> dict[str, dict[str, float]]:
    """Return the figures of torch-fidelity by the names of the pairs."""
    import torch
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    reference = {}
    for name, (real, drawn) in make_features().items():
        first, second = torch.from_numpy(drawn), torch.from_numpy(real)
        moments = [metric_fid.fid_features_to_statistics(points) for points in (first, second)]
        options = {"kid_subsets": 1, "kid_subset_size": len(real), "verbose": False}
        kid = metric_kid.kid_features_to_metric(first, second, **options)
        prc = metric_prc.prc_features_to_metric(first, second, prc_neighborhood=3, verbose=False)
        reference[name] = {
            "kid": kid["kernel_inception_distance_mean"],
            "fid": metric_fid.fid_statistics_to_metric(*moments, False)[
                "frechet_inception_distance"
            ],
            "precision": prc["precision"],
            "recall": prc["recall"],
        }
    return reference


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute_reference(), indent=2) + "\n", "utf-8")
