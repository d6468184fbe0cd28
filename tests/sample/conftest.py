"""Fixtures that the tests of pictures share."""

import numpy as np
import pytest

from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import open_dataset


@pytest.fixture(scope="session")
def emoji_pictures() -> np.ndarray:
    """Twelve embedded emoji, uint8 [12, 32, 32, 3]."""
    dataset = open_dataset(locate("embedded:emoji"), "embedding", 32)
    return np.stack([example["image"] for example in dataset.examples("train", 12)])
