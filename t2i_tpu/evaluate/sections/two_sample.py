"""Tests whether a classifier can tell drawn images from real ones."""

from t2i_tpu.evaluate.sections.section import Context, Section, round_figure, summarize_or_explain
from t2i_tpu.evaluate.two_sample import FIGURES, combine_p_values, compute_two_sample_test


def measure(context: Context) -> Section:
    """Test each set of drawn images against the real images of the same split."""
    figures = {}
    for name, split in context.splits.items():
        real = split.real_features[split.rows]

        def compute(split=split, real=real):
            return [
                compute_two_sample_test(real, drawn, seed)
                for seed, drawn in enumerate(split.features)
            ]

        figures[name] = summarize_or_explain(FIGURES, compute)
        entry = figures[name]["two_sample_p_value"]
        if entry["value"] is not None:
            p_value = combine_p_values(entry["values"])
            figures[name]["two_sample_p_value"] = entry | {
                "value": round_figure(p_value),
                "spread": None,
            }
    return Section(figures)
