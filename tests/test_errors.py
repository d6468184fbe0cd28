"""Tests how errors and other texts are quoted in one line."""

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu import cli
from t2i_tpu.errors import get_first_line, shorten
from t2i_tpu.storage import files, gcs


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  \n one \ntwo"), "one"),
        (ValueError(), "ValueError"),
        (OSError(" \n"), "OSError"),
        (tf.errors.NotFoundError(None, None, ""), "NotFoundError"),
        (tf.errors.NotFoundError(None, None, "gone\nfrom here"), "gone"),
    ],
)
def test_first_line_of_an_error(error, line):
    assert get_first_line(error) == line


def test_errors_without_a_message_are_explained():
    error = tf.errors.UnknownError(None, None, "")
    assert files.explain_error("/data", error) == "UnknownError; check the path"
    assert files.explain_error("gs://some/data", error) == "UnknownError"
    assert gcs.explain_error(tf.errors.AbortedError(None, None, "")).endswith("when it does")


def test_long_or_odd_text_is_shortened_to_one_line():
    assert shorten("one\n two\x1b\udce9") == "one two??"
    assert shorten("x" * 61) == "x" * 60 + "..."


def test_lack_of_memory_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit_, cli._exit_on_user_error():
        np.empty(2**60, np.uint8)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 1 and "error: not enough memory (Unable to allocate" in line
