"""Measures the denoising loss on training and held-out images."""

import numpy as np

from t2i_tpu.evaluate.denoising import NOISE_LEVELS, DenoisingLoss
from t2i_tpu.evaluate.sections.section import Context, Section, round_figure
from t2i_tpu.run import evaluations


def measure(context: Context) -> Section:
    """Measure the loss by noise level, and add the history of the evaluations during training."""
    model, figures = context.model, {"noise_levels": list(NOISE_LEVELS)}
    denoiser = model.generator.denoiser
    weights = {variable.path: variable for variable in denoiser.variables}
    loss = DenoisingLoss(model.engine, denoiser, weights, model.jit_compile)
    means = {}
    for name, split in context.splits.items():
        rows = split.rows
        errors = loss.measure(split.real.images, split.real.conditions, rows=rows)
        means[name] = errors.mean(axis=0, dtype=np.float64)
        figures[name] = [round_figure(value) for value in means[name]]
        if len(rows) > 1:  # the standard error of the mean over images
            spread = errors.std(axis=0, dtype=np.float64, ddof=1) / len(rows) ** 0.5
            figures[f"{name}_spread"] = [round_figure(value) for value in spread]
    if len(means) == 2:
        figures["gap"] = round_figure(float((means["heldout"] - means["train"]).mean()))
    figures["history"] = [
        {"step": step, **entry["figures"]}
        for step, entry in evaluations.read_all(model.workdir).items()
    ]
    return Section(figures)
