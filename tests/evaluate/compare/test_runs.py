"""Runs are named by the ends of their paths that differ."""

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.compare.runs import name_runs


@pytest.mark.parametrize(
    ("workdirs", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run", "z"], ["x/run", "y/run", "z"]),
        (["run", "x/run"], ["run", "x/run"]),
        (["gs://bucket/a/run", "gs://bucket/b/run"], ["a/run", "b/run"]),
    ],
)
def test_names_are_short_and_unique(workdirs, names):
    assert name_runs(workdirs) == names


def test_run_that_is_given_twice_is_rejected():
    with pytest.raises(UserError, match="'a/b' is given twice"):
        name_runs(["a", "b", "a/b", "a/b"])
