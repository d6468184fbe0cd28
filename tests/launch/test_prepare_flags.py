"""launch/prepare_data.py rejects wrong flags in one line, before it reads the source."""

import pytest


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--source=flder:x", "did you mean 'folder'"),
        ("--crop=centre", "--crop=centre: it must be one of center, none"),
        ("--heldout_share=1.5", "--heldout_share is 1.5; it must be at least 0 and below 1"),
        ("--channels=2", "--channels is 2; it must be 1 or 3"),
        ("--near_duplicates=99", "--near_duplicates is 99; it must be at least 0 and below 16"),
        ("--encoder=clip", "unknown encoder 'clip'"),
        ("--min_words=x", "--min_words"),
    ],
)
def test_wrong_flag_is_a_one_line_error(run, tmp_path, flag, message):
    result = run("prepare_data.py", ["--source=folder:x", f"--output={tmp_path / 'data'}", flag])
    assert message in result.error
    assert not (tmp_path / "data").exists()
