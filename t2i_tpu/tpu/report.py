"""The report of a preflight, and its forms as text and as JSON."""

import dataclasses
import json
from collections.abc import Iterator

from t2i_tpu.storage import outputs
from t2i_tpu.tpu import hardware, lower
from t2i_tpu.tpu.compile import CompiledProgram, hbm_needed
from t2i_tpu.tpu.estimate import UTILIZATION, Estimate
from t2i_tpu.tpu.hardware import Tpu, format_gib


@dataclasses.dataclass
class Report:
    """The result of a preflight.

    Attributes:
      tpu: the TPU that the config was checked for.
      engine: "tensorflow" or "jax".
      per_replica_batch_size: number of images of a replica in a step.
      trace: facts about TensorFlow's graphs under TPUStrategy, by name.
      step: the training step before compilation.
      programs: the compiled programs, by name.
      estimates: time and price on the TPU and on GPUs.
      failures: reasons why the config will not run on the TPU, one line each; empty if none is known.
      notes: remarks that are not failures, one line each.
    """

    tpu: Tpu
    engine: str
    per_replica_batch_size: int
    trace: dict[str, object] = dataclasses.field(default_factory=dict)
    step: lower.Program | None = None
    programs: dict[str, CompiledProgram] = dataclasses.field(default_factory=dict)
    estimates: list[Estimate] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def to_text(report: Report) -> str:
    """Return the report as text for a terminal."""
    rows = _make_rows(report)
    lines = [f"{name:20} {text}" for name, text in rows.items()]
    lines += ["", *_format_estimates(report), ""]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"FAILED {failure}" for failure in report.failures]
    if not report.failures:
        so_far = "" if report.programs else " so far"
        lines.append(f"No problems found for {report.tpu.name}{so_far}.")
    return "\n".join(lines)


def to_json(report: Report) -> str:
    """Return all figures of the report as a JSON object."""
    values = {"generator": outputs.MARK} | dataclasses.asdict(report)
    values["passed"] = not report.failures
    del values["step"]["hlo"]
    for name, compiled in report.programs.items():
        program = values["programs"][name]
        program["hbm_bytes"] = compiled.hbm_bytes
        if name == report.step.name:
            program["hbm_needed"] = hbm_needed(report.step, compiled)
            program["flops_over_logical"] = compiled.flops / report.step.product_flops
    return json.dumps(values, indent=2) + "\n"


def _make_rows(report: Report) -> dict[str, str]:
    """Return the rows above the estimates by their names."""
    tpu, step = report.tpu, report.step
    rows = {
        "TPU": f"{tpu.name}: {tpu.num_replicas} replicas on {tpu.chips} chips, {tpu.num_hosts} host(s), "
        f"{format_gib(tpu.hbm_bytes)} of HBM per replica",
        "engine": "TensorFlow: the same program on each replica, and sums over the replicas"
        if report.engine == "tensorflow"
        else f"JAX: one program for a mesh of {tpu.num_replicas} devices",
        "batch": f"{report.per_replica_batch_size} per replica",
    }
    if report.trace:
        rows["trace"] = ", ".join(f"{name} {value}" for name, value in report.trace.items())
    for name, compiled in report.programs.items():
        rows |= _make_program_rows(name, compiled)
    rows["by shapes"] = (
        f"{step.product_flops / 1e12:.3f} TFLOP in products, which move {step.product_bytes / 1e9:.2f} GB; "
        f"activations {format_gib(step.activation_bytes)}, "
        f"weights, moments and averages {format_gib(step.state_bytes)}"
    )
    if step.name in report.programs:
        largest = report.programs[step.name].largest[:5]
        rows["largest"] = "; ".join(
            f"{layer} {num_bytes / 2**20:.0f} MiB" for layer, num_bytes in largest
        )
    return rows


def _make_program_rows(name: str, compiled: CompiledProgram) -> dict[str, str]:
    exchanged = "".join(
        f", {kind} of {n / 1e6:.1f} MB" for kind, n in compiled.exchanged_bytes.items()
    )
    return {
        name: (
            f"compiled in {compiled.seconds:.0f} s: {compiled.flops / 1e12:.3f} TFLOP, "
            f"{compiled.traffic / 1e9:.2f} GB from and to HBM, "
            f"padding waste {compiled.padding_waste:.2f}, {compiled.cycles / 1e6:.1f} M cycles"
            f"{exchanged}"
        ),
        f"{name}'s HBM": (
            f"{format_gib(compiled.hbm_bytes)}: arguments {format_gib(compiled.argument_bytes)}, "
            f"temporaries {format_gib(compiled.temporary_bytes)}, "
            f"code {format_gib(compiled.code_bytes)}"
        ),
    }


def _format_estimates(report: Report) -> Iterator[str]:
    """Yield the lines of the table of estimates."""
    yield (
        f"Estimates: a step takes max(FLOPs / peak, bytes / bandwidth) / {UTILIZATION}, plus the time "
        f"to sum the gradients. Nothing was measured. Prices as of {hardware.get_table_date()}."
    )
    yield f"{'':12}{'step':>10}{'images/s':>10}{'bound by':>10}{'run':>10}{'on demand':>12}{'spot':>10}"
    for row in report.estimates:
        yield (
            f"{row.device:12}{row.step_seconds * 1e3:>7.0f} ms{row.images_per_second:>10.0f}"
            f"{row.bound:>10}{row.hours:>8.1f} h{row.on_demand:>11.2f} ${row.spot:>8.2f} $"
        )
