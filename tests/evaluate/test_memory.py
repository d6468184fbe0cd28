"""The memory of an evaluation does not grow with the number of images."""

import json
import os
import subprocess
import sys

import pytest

from tests.launch.launcher import ROOT

# Prints the largest anonymous memory in MB, and the figures. Pages of mapped files are not counted,
# because the system can drop them.
_CODE = """
import json, sys, threading, time
import numpy as np
from t2i_tpu.evaluate.distances.find import list_distances
from t2i_tpu.evaluate.extractors.choose import make_extractor
from t2i_tpu.evaluate.features import extract_features
from t2i_tpu.evaluate.images import create_array
from t2i_tpu.evaluate.memorisation import find_nearest_images, group_duplicates
from t2i_tpu.evaluate.two_sample import compute_two_sample_test

folder, count, names = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
peak = 0.0

def watch():
    global peak
    while True:
        with open("/proc/self/status") as status:
            used = [line.split()[1] for line in status if line.startswith("RssAnon")]
        peak = max(peak, int(used[0]) / 1024)
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
extractor, sets = make_extractor("embedded"), []
for number in range(2):
    images = create_array(f"{folder}/{number}.npy", (count, 64, 64, 3), np.uint8)
    rng = np.random.default_rng(number)
    for start in range(0, count, 500):
        images[start : start + 500] = rng.integers(0, 256, images[start : start + 500].shape, np.uint8)
    path = f"{folder}/{number}_features.npy"
    sets.append((images, extract_features(extractor, images, path, "images")))
(real_images, real), (drawn_images, drawn) = sets
figures = {}
for distance in list_distances():
    if distance.figures[0].name in names:
        figures |= distance.compute(real, drawn)
figures |= compute_two_sample_test(real, drawn, 0)
find_nearest_images(drawn_images[:50], real_images)
assert not group_duplicates(real_images)
print(json.dumps({"peak": peak, **figures}))
"""


def measure(folder, count, names):
    folder.mkdir()
    command = [sys.executable, "-c", _CODE, str(folder), str(count), ",".join(names)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        command, capture_output=True, check=True, env=environment, text=True, timeout=3600
    )
    return json.loads(output.stdout)


@pytest.mark.parametrize(
    "count", [2500, pytest.param(50_000, marks=[pytest.mark.slow, pytest.mark.timeout(0)])]
)
def test_memory_does_not_grow_with_the_images(tmp_path, count):
    """The images alone take 0.6 GB for each set of 50,000."""
    names = ["kid", "fid", "precision", "density"]
    few, many = (measure(tmp_path / str(n), n, names) for n in (1000, count))
    image_mb = 2 * (count - 1000) * 64 * 64 * 3 / 2**20
    assert many["peak"] < few["peak"] + max(30, 0.1 * image_mb), (few, many)
