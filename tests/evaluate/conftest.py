"""Fixtures for the tests of evaluation."""

import numpy as np
import pytest

from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import open_dataset


@pytest.fixture(scope="session")
def emoji() -> tuple[np.ndarray, np.ndarray]:
    """Images of the embedded emoji: 1,000 of the training split and the 356 held-out ones, uint8."""
    dataset = open_dataset(locate("embedded:emoji"), "embedding", 32)
    return tuple(
        np.stack([example["image"] for example in dataset.examples(split, 1000)])
        for split in ("train", "heldout")
    )
