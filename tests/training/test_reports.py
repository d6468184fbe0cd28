"""A run evaluates its model when it should, keeps the best checkpoints, and survives failures."""

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.monitor import Monitor
from t2i_tpu.run import checkpoint_store, evaluations
from t2i_tpu.training import loop
from t2i_tpu.training.finish import is_finished
from tests import tiny
from tests.evaluate.colors import ColorExtractor


def test_checkpoint_with_the_best_figure_is_kept(squares, tmp_path, monkeypatch, caplog):
    """The third of four evaluations fails, which does not end the run."""
    kids = [0.3, -0.1, UserError("the model draws nothing"), 0.4]

    def measure(*_):
        kid = kids.pop(0)
        if isinstance(kid, UserError):
            raise kid
        return {"figures": {"kid": kid}}

    def make_monitor(config, dataset):
        return Monitor(config, dataset, ColorExtractor())

    monkeypatch.setattr(Monitor, "measure", measure)
    monkeypatch.setattr(loop, "make_monitor", make_monitor)
    config = tiny.make_config(
        squares,
        train__evaluate_every=5,
        train__evaluate_images=10,
        train__checkpoint_every=5,
        train__keep_checkpoints=1,
        train__keep_best=1,
        train__best_metric="kid",
    )
    assert loop.train(config, str(tmp_path), "cpu") == 0
    assert checkpoint_store.list_steps(str(tmp_path)) == [20, 10]
    written = evaluations.read_all(str(tmp_path))
    figures = {step: evaluation["figures"]["kid"] for step, evaluation in written.items()}
    assert figures == {5: 0.3, 10: -0.1, 20: 0.4}
    assert "no evaluation of step 15: the model draws nothing" in caplog.messages


def test_run_without_its_last_evaluation_is_not_finished(squares, tmp_path):
    """It was killed after it had written the last checkpoint."""
    config = tiny.make_config(squares, train__evaluate_every=15)
    (tmp_path / "checkpoints").mkdir()
    checkpoint_store.commit(str(tmp_path), 20, {"loss": 0.1})
    assert not is_finished(config, str(tmp_path))
    evaluations.write(str(tmp_path), 15, {"figures": {}})
    assert not is_finished(config, str(tmp_path))
    assert is_finished(tiny.make_config(squares), str(tmp_path))
    evaluations.write(str(tmp_path), 20, {"figures": {}})
    assert is_finished(config, str(tmp_path))


def test_evaluation_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "evaluations").touch()
    with pytest.raises(UserError, match=r"cannot write .*evaluations/step_00000005\.json: "):
        evaluations.write(str(tmp_path), 5, {"figures": {}})
