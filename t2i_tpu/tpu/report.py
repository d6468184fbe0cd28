"""A preflight's report, as text for a terminal and as JSON."""

import dataclasses
import json

from t2i_tpu.tpu import hardware
from t2i_tpu.tpu.estimate import UTILISATION
from t2i_tpu.tpu.preflight import Report, hbm_needed


def to_text(report: Report) -> str:
    tpu = report.tpu
    rows = {
        "TPU": f"{tpu.name}: {tpu.num_replicas} replicas on {tpu.chips} chips, {tpu.num_hosts} host(s), "
        f"{_gib(tpu.hbm_bytes)} of HBM a replica",
        "batch": f"{report.per_replica_batch_size} a replica",
    }
    if report.trace:
        rows["trace"] = ", ".join(f"{name} {value}" for name, value in report.trace.items())
    for name, compiled in report.programs.items():
        rows[name] = (
            f"compiled in {compiled.seconds:.0f} s: {compiled.flops / 1e12:.3f} TFLOP, "
            f"{compiled.traffic / 1e9:.2f} GB from and to HBM, "
            f"padding waste {compiled.padding_waste:.2f}, {compiled.cycles / 1e6:.1f} M cycles"
        )
        rows[f"{name}'s HBM"] = (
            f"{_gib(compiled.hbm_bytes)}: arguments {_gib(compiled.argument_bytes)}, "
            f"temporaries {_gib(compiled.temporary_bytes)}, code {_gib(compiled.code_bytes)}"
        )
    step, compiled = report.step, report.programs.get("training step")
    rows["by shapes"] = (
        f"{step.product_flops / 1e12:.3f} TFLOP in products, which move {step.product_bytes / 1e9:.2f} GB; "
        f"activations {_gib(step.activation_bytes)}, weights and their like {_gib(step.state_bytes)}"
    )
    if compiled:
        rows["largest"] = "; ".join(
            f"{layer} {num_bytes / 2**20:.0f} MiB" for layer, num_bytes in compiled.largest[:5]
        )
    lines = [f"{name:20} {text}" for name, text in rows.items()]
    lines += ["", *_estimates(report), ""]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"FAILED {failure}" for failure in report.failures]
    if not report.failures:
        lines.append(
            f"Nothing speaks against {tpu.name}" + ("." if report.programs else " so far.")
        )
    return "\n".join(lines)


def _estimates(report):
    yield (
        f"Estimates: a step takes max(FLOPs / peak, bytes / bandwidth) / {UTILISATION} and the sum of "
        f"gradients; nothing of this was measured. Prices of {hardware.looked_up()}."
    )
    yield f"{'':12}{'step':>10}{'images/s':>10}{'bound by':>10}{'run':>10}{'on demand':>12}{'spot':>10}"
    for row in report.estimates:
        yield (
            f"{row.device:12}{row.step_seconds * 1e3:>7.0f} ms{row.images_per_second:>10.0f}"
            f"{row.bound:>10}{row.hours:>8.1f} h{row.on_demand:>11.2f} ${row.spot:>8.2f} $"
        )


def to_json(report: Report) -> str:
    values = dataclasses.asdict(report)
    values["passed"] = not report.failures
    del values["step"]["hlo"]
    for name, compiled in report.programs.items():
        values["programs"][name]["hbm_bytes"] = compiled.hbm_bytes
        if name == report.step.name:
            values["programs"][name]["hbm_needed"] = hbm_needed(report.step, compiled)
            values["programs"][name]["flops_over_logical"] = (
                compiled.flops / report.step.product_flops
            )
    return json.dumps(values, indent=2) + "\n"


def _gib(num_bytes):
    return f"{num_bytes / hardware.GIB:.2f} GiB"
