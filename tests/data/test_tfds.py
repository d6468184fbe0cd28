"""TFDS's own builders, fed over loopback with small files in the data sets' original formats.

Only the addresses, their checksums and the sizes that the MNIST builder fixes are replaced: the
download, the checksum test, the unpacking, the builder and the reading are TFDS's.
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
from t2i_tpu.train.loop import train

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100_NAMES = [f"fine_{index}" for index in range(100)]
FASHION_NAMES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(
    ","
)
TRAIN, TEST = 35, 20


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of `tmp_path`/served on loopback; `requests` lists what it was asked for."""

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
    infos = {
        server.url + path.name: checksums.compute_url_info(path)
        for path in server.folder.iterdir()
        if path.is_file()
    }
    monkeypatch.setattr(builder_class, "url_infos", infos)


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def serve_cifar(server, monkeypatch, builder_class, folder, parts, label_files, num_classes):
    """The binary version: per image its label bytes, then 3072 bytes, red plane first."""
    rng = np.random.default_rng(0)
    truth = {"train": [], "heldout": []}
    archive = f"{builder_class.name}-binary.tar.gz"
    with tarfile.open(server.folder / archive, "w:gz") as tar:
        for name, lines in label_files.items():
            add(tar, f"{folder}/{name}", "".join(f"{line}\n" for line in lines).encode())
        for name, (split, count) in parts.items():
            content = b""
            for _ in range(count):
                label = len(truth[split]) % num_classes
                planes = rng.integers(0, 256, (3, 32, 32)).astype(np.uint8)
                label_bytes = [label // 5, label] if num_classes == 100 else [label]
                content += bytes(label_bytes) + planes.tobytes()
                truth[split].append((label, planes.transpose(1, 2, 0)))
            add(tar, f"{folder}/{name}", content)
    info = builder_class._cifar_info.fget
    replaced = property(lambda self: info(self)._replace(url=server.url + archive))
    monkeypatch.setattr(builder_class, "_cifar_info", replaced)
    publish(server, monkeypatch, builder_class)
    return truth


def serve_cifar10(server, monkeypatch, write_idx):
    parts = {f"data_batch_{n}.bin": ("train", TRAIN // 5) for n in range(1, 6)}
    parts["test_batch.bin"] = ("heldout", TEST)
    names = {"batches.meta.txt": [*CIFAR10_NAMES, ""]}
    return serve_cifar(server, monkeypatch, cifar.Cifar10, "cifar-10-batches-bin", parts, names, 10)


def serve_cifar100(server, monkeypatch, write_idx):
    parts = {"train.bin": ("train", TRAIN), "test.bin": ("heldout", TEST)}
    coarse_names = [f"coarse_{index}" for index in range(20)]
    names = {"fine_label_names.txt": CIFAR100_NAMES, "coarse_label_names.txt": coarse_names}
    return serve_cifar(server, monkeypatch, cifar.Cifar100, "cifar-100-binary", parts, names, 100)


def serve_mnist(server, monkeypatch, write_idx, builder_class=mnist.MNIST):
    arrays = write_idx(server.folder, train=TRAIN, test=TEST)
    monkeypatch.setattr(builder_class, "URL", server.url)
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", TRAIN)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", TEST)
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
def test_tfds_downloads_prepares_and_becomes_shards(
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
        assert all(e["caption"].decode() == names[e["label"]] for e in examples)
        found = sorted((int(e["label"]), e["image"].tobytes()) for e in examples)
        assert found == sorted((int(label), image.tobytes()) for label, image in truth[split])

    asked = len(server.requests)
    shutil.rmtree(tmp_path / "tfds")
    assert locate(spec) == folder and len(server.requests) == asked  # neither TFDS nor network

    monkeypatch.syspath_prepend(str(CONFIGS))
    config = importlib.import_module(name).get_config()
    assert config.data.source == f"tfds:{name}"
    config.data.source = spec
    config.model.widths, config.model.attention_levels = (8,), (False,)  # all else as it is
    config.model.block_depth, config.sample.steps = 1, 2
    config.train.global_batch_size, config.train.total_steps = 16, 2
    assert train(config, str(tmp_path / "run"), "cpu") == 0
    assert (tmp_path / "run/previews/step_00000002.png").exists()


def test_prepared_elsewhere_needs_no_network_and_gives_the_same_records(
    server, tmp_path, monkeypatch, write_idx
):
    serve_mnist(server, monkeypatch, write_idx)
    made = str(tmp_path / "made")
    records = list(source.read_tfds("mnist", made, "train"))
    server.shutdown()
    server.server_close()
    copied = str(tmp_path / "copied")
    shutil.copytree(f"{made}/mnist", f"{copied}/mnist")
    for again in (
        source.read_tfds("mnist", made, "train"),
        source.read_tfds("mnist", copied, "train"),
    ):
        for first, second in zip(records, again, strict=True):
            assert (first.key, first.label, first.caption) == (
                second.key,
                second.label,
                second.caption,
            )
            np.testing.assert_array_equal(first.image, second.image)


def test_another_process_prepares_first(server, tmp_path, monkeypatch, write_idx):
    serve_mnist(server, monkeypatch, write_idx)
    prepare = mnist.MNIST.download_and_prepare

    def lose_the_race(builder, **settings):
        prepare(builder, **settings)
        raise OSError("Directory not empty")

    monkeypatch.setattr(mnist.MNIST, "download_and_prepare", lose_the_race)
    assert len(list(source.read_tfds("mnist", str(tmp_path / "tfds"), "heldout"))) == TEST


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_no_network_is_told_soon_and_leaves_nothing(cache, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{closed_port()}/"
    monkeypatch.setattr(mnist.MNIST, "URL", url)
    monkeypatch.setattr(mnist.MNIST, "url_infos", {f"{url}train-images-idx3-ubyte.gz": None})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = time.monotonic()
    with pytest.raises(
        UserError, match="could not download mnist/.*machine with a network"
    ) as raised:
        locate(f"tfds:mnist@{tmp_path / 'tfds'}")
    assert time.monotonic() - started < 10
    assert "\n" not in str(raised.value) and "tfds:mnist@DATA_DIR" in str(raised.value)
    assert list(cache.iterdir()) == [] and not (tmp_path / "tfds").exists()


def test_a_download_that_is_not_the_data_set(server, cache, tmp_path, monkeypatch, write_idx):
    serve_mnist(server, monkeypatch, write_idx)
    (server.folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError, match="could not download mnist/.*checksum") as raised:
        locate(f"tfds:mnist@{tmp_path / 'tfds'}")
    assert "\n" not in str(raised.value) and list(cache.iterdir()) == []


def test_missing_package(monkeypatch):
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
        ("coco", "'coco' is not image classification"),
        ("cats_vs_dogs", "'cats_vs_dogs' has images of many sizes"),
    ],
)
def test_names_that_will_not_do(tmp_path, name, message):
    with pytest.raises(UserError, match=message) as raised:
        locate(f"tfds:{name}@{tmp_path}")
    assert "\n" not in str(raised.value)
