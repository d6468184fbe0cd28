"""docs/evaluation.md explains every figure in the words of the report."""

from tools import describe_figures


def test_docs_explain_every_figure():
    text = describe_figures.PATH.read_text("utf-8")
    assert describe_figures.describe(text) == text, "run make docs"
