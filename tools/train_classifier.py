"""Train the classifier of Fashion MNIST that ships with the package. Evaluations use it.

This needs the extra `clip` (torch, onnx, onnxscript) and Debian's package dataset-fashion-mnist, and
takes about 5 minutes on one core with bfloat16. Run it in the root of the repository:

  OMP_NUM_THREADS=1 python -m tools.train_classifier --data=/usr/share/datasets/fashion-mnist \\
      --output=t2i_tpu/embedded/fashion_mnist

It writes two graphs, from images to features and from features to logits, and their weights as float16.
It looks at the test images only at the end, when it prints the accuracy of the written files on them.
"""

import json
import math
import os
import pathlib
import time

import numpy as np
import torch
import tqdm
from absl import app, flags, logging
from torch import nn

# torch must be imported before TensorFlow, which idx imports.
from t2i_tpu.data.sources import idx
from t2i_tpu.evaluate.extractors import classifier
from t2i_tpu.evaluate.extractors.image_graph import RESAMPLE
from t2i_tpu.text import onnx_graph

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Folder of Fashion MNIST's four idx files.")
flags.DEFINE_string("output", None, "Folder to write the classifier into.")
flags.DEFINE_integer("epochs", 12, "Number of passes over the training images.", lower_bound=1)
flags.mark_flags_as_required(["data", "output"])

NUM_FEATURES = 128
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
_MAX_SHIFT = 1  # pixels


class Network(nn.Module):
    """A small convolutional network from images, uint8 [N, 28, 28, 1], to logits.

    `features` returns the values before the last layer, [N, NUM_FEATURES].
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            _Normalize(),
            nn.PixelUnshuffle(2),  # 1x28x28 -> 4x14x14, which halves the time of the first layers
            *_make_convolution(4, 64),
            *_make_convolution(64, 64, pool=True),
            *_make_convolution(64, 128, pool=True),
            nn.Flatten(),
            nn.Linear(128 * 3 * 3, NUM_FEATURES),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.features(images)))


class _Normalize(nn.Module):
    """Turns images, uint8 [N, H, W, C], into values from -1 to 1, float32 [N, C, H, W]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def main(_):
    torch.manual_seed(0)
    images, labels = _read_split("train")
    names = idx.read_label_names(FLAGS.data)
    network = Network(len(names)).to(memory_format=torch.channels_last)
    started = time.process_time()
    _train(network, torch.from_numpy(images), torch.from_numpy(labels), FLAGS.epochs)
    logging.info("trained in %.0f seconds of CPU time", time.process_time() - started)

    output = pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    _write(network.eval(), names, output)
    images, labels = _read_split("heldout")
    trained = classifier.Classifier(str(output))
    classes = trained.classify(trained.extract(images), names)
    logging.info("accuracy on the test images: %.4f", (classes == labels).mean())


def _make_convolution(width_in: int, width_out: int, *, pool: bool = False) -> list[nn.Module]:
    """Return the layers of a 3x3 convolution, which also halves the image if `pool` is true."""
    convolution = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
    pooling = [nn.MaxPool2d(2)] if pool else []
    return [convolution, *pooling, nn.BatchNorm2d(width_out), nn.ReLU()]


def _read_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split, uint8 [N, 28, 28, 1], and their labels, int64 [N]."""
    records = list(idx.read_idx(FLAGS.data, split))
    labels = np.array([record.label for record in records], np.int64)
    return np.stack([record.image for record in records]), labels


def _train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """Train a network with AdamW, in bfloat16."""
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps_per_epoch = len(images) // BATCH_SIZE
    total = steps_per_epoch * epochs
    progress = tqdm.trange(total, desc="classifier", mininterval=5)
    for step in progress:
        if step % steps_per_epoch == 0:
            order = torch.randperm(len(images))
        warm_up, decay = min(1, (step + 1) / 300), 0.5 + 0.5 * math.cos(math.pi * step / total)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm_up * decay
        start = step % steps_per_epoch * BATCH_SIZE
        chosen = order[start : start + BATCH_SIZE]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(_augment(images[chosen]))
        loss = nn.functional.cross_entropy(logits.float(), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")


def _augment(images: torch.Tensor) -> torch.Tensor:
    """Flip half of the images, uint8 [N, H, W, 1], and shift each by up to _MAX_SHIFT pixels."""
    count, height, width, _ = images.shape
    flipped = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images, images.flip(2))
    padded = nn.functional.pad(flipped, (0, 0, *[_MAX_SHIFT] * 4))
    shifts = torch.randint(0, 2 * _MAX_SHIFT + 1, (2, count, 1, 1))
    rows = shifts[0] + torch.arange(height)[:, None]
    columns = shifts[1] + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows, columns]


def _write(network: Network, names: tuple[str, ...], folder: pathlib.Path) -> None:
    """Write the files that `Classifier` reads."""
    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(value.half())
    onnx_graph.save_weights(network, folder / classifier.WEIGHTS_NAME)
    onnx_graph.write_graph(
        network,
        lambda network, images: network.features(images),
        torch.zeros((2, 28, 28, 1), dtype=torch.uint8),
        folder / classifier.FEATURES_NAME,
        classifier.WEIGHTS_NAME,
        input_name="images",
        output_names=["features"],
        metadata={RESAMPLE: "BICUBIC"},
    )
    onnx_graph.write_graph(
        network,
        lambda network, features: network.head(features),
        torch.zeros((2, NUM_FEATURES)),
        folder / classifier.LOGITS_NAME,
        classifier.WEIGHTS_NAME,
        input_name="features",
        output_names=["logits"],
        metadata={classifier.CLASS_NAMES: json.dumps(names)},
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
