"""Rollbacks return to the right checkpoints, and their record survives in the workdir."""

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.rollbacks import Rollbacks


def test_rollback_returns_to_the_newest_unused_checkpoint(tmp_path):
    for step in (10, 20, 30, 40):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / f"step-{step}.index").touch()
        checkpoint_store.commit(str(tmp_path), step, {})
    rollbacks = Rollbacks(str(tmp_path))
    assert rollbacks.learning_rate_scale == 1
    expected = [(35, 30), (30, 20), (45, 40), (25, 10), (41, 0), (9, 0)]
    for count, (began, to) in enumerate(expected):
        assert rollbacks.find_target(str(tmp_path), began) == to
        if to:
            rollbacks.add(began + 3, to, write=True)
            rollbacks = Rollbacks(str(tmp_path))  # as a resumed run reads it
            assert rollbacks.learning_rate_scale == 0.5 ** (count + 1)


@pytest.mark.parametrize("text", ["", "[", "{}", "[3]", '[{"at": 3}]', '[{"at": 3, "to": "x"}]'])
def test_damaged_rollbacks_file_is_rejected(tmp_path, text):
    (tmp_path / "rollbacks.json").write_text(text)
    if text == "{}":
        assert Rollbacks(str(tmp_path)).records == []
        return
    with pytest.raises(UserError, match="rollbacks.json is damaged"):
        Rollbacks(str(tmp_path))
