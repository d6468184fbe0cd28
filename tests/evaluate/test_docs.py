"""docs/evaluation.md explains every figure in the words of the report."""

from t2i_tpu.evaluate.report.figures import list_descriptions
from tests.launch.launcher import ROOT


def test_docs_explain_every_figure():
    text = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    for figure in list_descriptions().values():
        row = f"| {figure.title} | {figure.better or '–'} | {figure.meaning} |"
        assert row in text, f"docs/evaluation.md lacks this row: {row}"
