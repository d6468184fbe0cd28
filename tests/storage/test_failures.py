"""Errors about files become one line; other errors are not changed."""

import os

import pytest
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage.failures import translate_file_errors


def write_with_tensorflow(path):
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("x")


@pytest.mark.parametrize("use", [write_with_tensorflow, open, os.listdir])
@pytest.mark.parametrize("name", ["file/x", "missing/x/y", "loop/x", "n" * 300])
def test_error_about_a_file_is_one_line(tmp_path, use, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError) as error, translate_file_errors():
        use(str(tmp_path / name))
    message = str(error.value)
    assert str(tmp_path) in message and "; " in message and "\n" not in message


@pytest.mark.parametrize(
    "error", [OSError("no file"), ValueError("x"), ConnectionError(5, "refused")]
)
def test_other_error_is_not_changed(error):
    with pytest.raises(type(error)) as raised, translate_file_errors():
        raise error
    assert raised.value is error


def test_error_of_a_computation_is_not_changed():
    with pytest.raises(tf.errors.InvalidArgumentError), translate_file_errors():
        tf.reshape([1, 2], [3])
