"""Sets up all tests: Keras on TensorFlow, four logical CPU devices, fixtures and skips in CI."""

import gc
import os
import pathlib
import signal
import traceback
import uuid

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Otherwise libtpu waits minutes for a metadata server.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import keras
import pytest
import tensorflow as tf
from tensorflow.python.data.ops import iterator_ops, multi_device_iterator_ops

from t2i_tpu import installed
from tests import tiny
from tests.gcs import harness
from tests.launch.launcher import ROOT, open_launcher

# A background job of a shell ignores Ctrl-C, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A collection visits the millions of objects of all graphs so far, and takes seconds in the end.
gc.set_threshold(100_000, 20, 50)

LOGICAL_DEVICES = 4  # most tests use one or two

# This works only before TensorFlow initializes its devices, so it cannot be in a fixture.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * LOGICAL_DEVICES,
)

IS_TPU_BUILD = installed.is_tpu_build()
REQUIRE_ALL = os.environ.get("T2I_TPU_REQUIRE_ALL") == "1"
FASHION_MNIST = pathlib.Path(
    os.environ.get("T2I_TPU_FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
)


@pytest.fixture(scope="session")
def fashion_mnist_idx() -> pathlib.Path:
    """The folder of the four real idx files, as Debian's dataset-fashion-mnist installs it."""
    if not (FASHION_MNIST / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(
            f"no Fashion MNIST in {FASHION_MNIST}: install Debian's dataset-fashion-mnist, "
            "or set T2I_TPU_FASHION_MNIST to a folder of the four idx .gz files"
        )
    return FASHION_MNIST


@pytest.fixture(scope="session", autouse=True)
def forbid_autotuning():
    """Fail a test in which the package starts an autotuning thread; see data/pipeline.py."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (
            iterator_ops.OwnedIterator,
            multi_device_iterator_ops.OwnedMultiDeviceIterator,
        ):
            patch.setattr(kind, "__init__", _check_autotuning(kind.__init__))
        yield


def _check_autotuning(create):
    """Wrap the constructor of an iterator. Code outside the package may use autotuning."""

    def create_checked(self, dataset=None, *arguments, **options):
        if dataset is not None and dataset.options().autotune.enabled is not False:
            files = [frame.filename for frame in traceback.extract_stack(limit=40)]
            package = [file for file in files if file.startswith(str(ROOT / "t2i_tpu"))]
            assert not package, f"{package[-1]} starts an autotuning thread: see data/pipeline.py"
        create(self, dataset, *arguments, **options)

    return create_checked


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """The folder of a data set of colored squares; see `tiny.write_squares`."""
    folder = tmp_path_factory.mktemp("squares")
    tiny.write_squares(folder)
    return folder


@pytest.fixture
def launch(tmp_path):
    """`launch("train.py", arguments)` starts a script; see `open_launcher`."""
    with open_launcher(tmp_path / "launched") as launch_script:
        yield launch_script


@pytest.fixture(scope="session")
def gcs_server():
    """The storage server that all tests share. Tests should use the fixture `gcs` instead."""
    try:
        with harness.start_server() as server:
            yield server
    except harness.Unavailable as reason:
        pytest.skip(f"no gs:// harness: {reason}")


@pytest.fixture
def gcs(gcs_server) -> harness.Gcs:
    """A local gs://, for use with `gcs.call(function)` and `gcs.run(command)`; see tests/gcs."""
    yield gcs_server
    gcs_server.stop_processes()


@pytest.fixture
def bucket(gcs):
    """The gs:// address of an empty bucket that only this test uses."""
    address = gcs.make_bucket(f"bucket-{uuid.uuid4().hex[:8]}")
    yield address
    gcs.empty(address)


def _fail_if_skipped(report):
    """Turn a skip into a failure if T2I_TPU_REQUIRE_ALL=1."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"T2I_TPU_REQUIRE_ALL=1 does not allow skipping: {reason}"


def pytest_runtest_setup(item):
    if IS_TPU_BUILD and item.get_closest_marker("host_xla"):
        pytest.skip("TensorFlow's TPU build compiles nothing for the host (keras #19448)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    allowed = ["allowed_skip", "host_xla"] if IS_TPU_BUILD else ["allowed_skip"]
    if not any(item.get_closest_marker(name) for name in allowed):
        _fail_if_skipped(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report():
    outcome = yield
    # A module may skip itself, as pytest.importorskip does.
    _fail_if_skipped(outcome.get_result())


@pytest.fixture(autouse=True)
def restore_dtype_policy():
    """Reset Keras' global dtype policy, which building a model sets, after every test."""
    yield
    keras.mixed_precision.set_global_policy("float32")
