"""Tests TFDS's own builders with small files in the original formats, served by this machine.

Only the URLs, the checksums and the number of examples in the MNIST builder are replaced. TFDS itself
downloads the files, verifies the checksums, unpacks the files, builds the data set and reads it.
"""

import functools
import http.server
import importlib
import io
import pathlib
import shutil
import socket
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import cifar, mnist

from t2i_tpu.data.locate import locate
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.data.sources import tfds as source
from t2i_tpu.errors import UserError
from t2i_tpu.training import loop
from tests import tiny

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100_NAMES = [f"fine_{index}" for index in range(100)]
# fmt: off
FASHION_NAMES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]
# fmt: on
NUM_TRAIN, NUM_TEST = 35, 20


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server for the folder tmp_path/served; `requests` lists the requested paths."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *args):
            server.requests.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.folder, server.requests = folder, []
    server.url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def publish(server, monkeypatch, builder_class):
    """Make a builder download the server's files."""
    infos = {
        server.url + path.name: checksums.compute_url_info(path)
        for path in server.folder.iterdir()
        if path.is_file()
    }
    monkeypatch.setattr(builder_class, "url_infos", infos)


def add_member(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def serve_cifar(server, monkeypatch, builder_class, folder, parts, label_files, num_classes):
    """Serve CIFAR's binary version: for each image its label bytes, then 3072 bytes, red plane first.

    Args:
      server: the web server.
      monkeypatch: pytest's fixture.
      builder_class: TFDS's builder.
      folder: name of the folder in the archive.
      parts: {name of a file: (split, number of images)}.
      label_files: {name of a file: its lines}.
      num_classes: 10 or 100.

    Returns:
      {split: [(label, image)]}.
    """
    rng = np.random.default_rng(0)
    truth = {"train": [], "heldout": []}
    archive = f"{builder_class.name}-binary.tar.gz"
    with tarfile.open(server.folder / archive, "w:gz") as tar:
        for name, lines in label_files.items():
            add_member(tar, f"{folder}/{name}", "".join(f"{line}\n" for line in lines).encode())
        for name, (split, count) in parts.items():
            content = b""
            for _ in range(count):
                label = len(truth[split]) % num_classes
                planes = rng.integers(0, 256, (3, 32, 32)).astype(np.uint8)
                label_bytes = [label // 5, label] if num_classes == 100 else [label]
                content += bytes(label_bytes) + planes.tobytes()
                truth[split].append((label, planes.transpose(1, 2, 0)))
            add_member(tar, f"{folder}/{name}", content)
    info = builder_class._cifar_info.fget
    replaced = property(lambda self: info(self)._replace(url=server.url + archive))
    monkeypatch.setattr(builder_class, "_cifar_info", replaced)
    publish(server, monkeypatch, builder_class)
    return truth


def serve_cifar10(server, monkeypatch, write_idx):
    parts = {f"data_batch_{n}.bin": ("train", NUM_TRAIN // 5) for n in range(1, 6)}
    parts["test_batch.bin"] = ("heldout", NUM_TEST)
    names = {"batches.meta.txt": [*CIFAR10_NAMES, ""]}
    return serve_cifar(server, monkeypatch, cifar.Cifar10, "cifar-10-batches-bin", parts, names, 10)


def serve_cifar100(server, monkeypatch, write_idx):
    parts = {"train.bin": ("train", NUM_TRAIN), "test.bin": ("heldout", NUM_TEST)}
    coarse_names = [f"coarse_{index}" for index in range(20)]
    names = {"fine_label_names.txt": CIFAR100_NAMES, "coarse_label_names.txt": coarse_names}
    return serve_cifar(server, monkeypatch, cifar.Cifar100, "cifar-100-binary", parts, names, 100)


def serve_mnist(server, monkeypatch, write_idx, builder_class=mnist.MNIST):
    arrays = write_idx(server.folder, train=NUM_TRAIN, test=NUM_TEST)
    monkeypatch.setattr(builder_class, "URL", server.url)
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", NUM_TRAIN)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", NUM_TEST)
    publish(server, monkeypatch, builder_class)
    return {
        split: [(label, image[:, :, None]) for image, label in zip(*arrays[prefix], strict=True)]
        for split, prefix in (("train", "train"), ("heldout", "t10k"))
    }


serve_fashion_mnist = functools.partial(serve_mnist, builder_class=mnist.FashionMNIST)

DATA_SETS = {
    "cifar10": (serve_cifar10, 32, 3, CIFAR10_NAMES),
    "cifar100": (serve_cifar100, 32, 3, CIFAR100_NAMES),
    "mnist": (serve_mnist, 28, 1, list("0123456789")),
    "fashion_mnist": (serve_fashion_mnist, 28, 1, FASHION_NAMES),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", DATA_SETS)
def test_tfds_is_downloaded_prepared_and_trained_on(
    name, server, tmp_path, monkeypatch, write_idx, read_shards
):
    serve, size, channels, names = DATA_SETS[name]
    truth = serve(server, monkeypatch, write_idx)
    spec = f"tfds:{name}@{tmp_path / 'tfds'}"
    folder = locate(spec)
    manifest = read_manifest(folder)
    assert manifest.name == name and list(manifest.label_names) == names
    assert (manifest.image_size, manifest.channels) == (size, channels)
    assert manifest.num_streams() == manifest.num_streams("heldout") == 16
    for split in ("train", "heldout"):
        examples = read_shards(folder, split)
        assert all(each["caption"].decode() == names[each["label"]] for each in examples)
        pairs = sorted((int(each["label"]), each["image"].tobytes()) for each in examples)
        assert pairs == sorted((int(label), image.tobytes()) for label, image in truth[split])

    # The second call needs neither TFDS's files nor the network.
    num_requests = len(server.requests)
    shutil.rmtree(tmp_path / "tfds")
    assert locate(spec) == folder
    assert len(server.requests) == num_requests

    # Train with the config of the data set, made small.
    monkeypatch.syspath_prepend(str(CONFIGS))
    config = importlib.import_module(name).get_config()
    assert config.data.source == f"tfds:{name}"
    config.data.source = spec
    config.model.widths, config.model.attention_levels = (8,), (False,)
    config.model.block_depth, config.sample.steps = 1, 2
    config.train.global_batch_size, config.train.total_steps = 16, 2
    # "cpu" would take all four logical devices, which quadruples the time for tracing.
    monkeypatch.setattr(loop, "make_engine", lambda name: tiny.make_engine())
    assert loop.train(config, str(tmp_path / "run"), "cpu") == 0
    assert (tmp_path / "run/previews/step_00000002.png").exists()


def test_data_prepared_elsewhere_needs_no_network(server, tmp_path, monkeypatch, write_idx):
    serve_mnist(server, monkeypatch, write_idx)
    made = str(tmp_path / "made")
    records = list(source.read_tfds("mnist", made, "train"))
    server.shutdown()
    server.server_close()
    copied = str(tmp_path / "copied")
    shutil.copytree(f"{made}/mnist", f"{copied}/mnist")
    for data_dir in (made, copied):
        offline = source.read_tfds("mnist", data_dir, "train")
        for first, second in zip(records, offline, strict=True):
            assert first.key == second.key
            assert first.label == second.label
            assert first.caption == second.caption
            np.testing.assert_array_equal(first.image, second.image)


def test_data_that_another_process_prepared_first_is_used(server, tmp_path, monkeypatch, write_idx):
    serve_mnist(server, monkeypatch, write_idx)
    prepare = mnist.MNIST.download_and_prepare

    def lose_the_race(builder, **settings):
        prepare(builder, **settings)
        raise OSError("Directory not empty")

    monkeypatch.setattr(mnist.MNIST, "download_and_prepare", lose_the_race)
    assert len(list(source.read_tfds("mnist", str(tmp_path / "tfds"), "heldout"))) == NUM_TEST


def find_closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_missing_network_is_reported_at_once_and_leaves_no_files(cache, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{find_closed_port()}/"
    monkeypatch.setattr(mnist.MNIST, "URL", url)
    monkeypatch.setattr(mnist.MNIST, "url_infos", {f"{url}train-images-idx3-ubyte.gz": None})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = time.monotonic()
    message = "could not download mnist/.*machine with network access.*tfds:mnist@DATA_DIR"
    with pytest.raises(UserError, match=message) as error:
        locate(f"tfds:mnist@{tmp_path / 'tfds'}")
    assert time.monotonic() - started < 10
    assert "\n" not in str(error.value)
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "tfds").exists()


def test_download_with_a_wrong_checksum_is_an_error(
    server, cache, tmp_path, monkeypatch, write_idx
):
    serve_mnist(server, monkeypatch, write_idx)
    (server.folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError, match="could not download mnist/.*checksum") as error:
        locate(f"tfds:mnist@{tmp_path / 'tfds'}")
    assert "\n" not in str(error.value)
    assert list(cache.iterdir()) == []


def test_missing_package_is_reported_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[data\]'"):
        locate("tfds:mnist")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifra10", "no data set 'cifra10'; did you mean 'cifar10'"),
        ("qqqqqqqq", "no data set 'qqqqqqqq'; see"),
        ("cifar10:9.9.9", "cannot be loaded at version 9.9.9"),
        ("cifar10/no_config", "cannot open 'cifar10/no_config'"),
        ("not a name", "cannot open 'not a name'"),
        ("coco", "'coco' is not an image classification data set"),
        ("cats_vs_dogs", "'cats_vs_dogs' has images of different sizes"),
    ],
)
def test_unusable_names_are_one_line_errors(tmp_path, name, message):
    with pytest.raises(UserError, match=message) as error:
        locate(f"tfds:{name}@{tmp_path}")
    assert "\n" not in str(error.value)
