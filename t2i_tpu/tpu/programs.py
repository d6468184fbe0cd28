"""Compiles the programs of a preflight, and finds the largest batch that fits the TPU."""

from collections.abc import Callable

from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.tpu import lower
from t2i_tpu.tpu.child import CompilationError
from t2i_tpu.tpu.compile import CompiledProgram, compile_program, compile_with_jax, hbm_needed
from t2i_tpu.tpu.compiler_environment import prepare_environment
from t2i_tpu.tpu.hardware import format_gib
from t2i_tpu.tpu.report import Report

_MAX_PADDING_WASTE = 1.3

# The search for a batch that fits tries multiples of the rows of a tile, and aims at a share of HBM: the
# closer a program comes to all of it, the longer the compiler searches for values to compute again.
_BATCH_STEP = 8
_HBM_SHARE = 0.85
_MAX_BATCH_TRIES = 3


def lower_training_step(
    report: Report, config: Config, manifest: Manifest, batch_size: int
) -> lower.Program:
    """Lower the training step for the report's TPU and engine, with a replica's batch size."""
    shards = report.tpu.num_replicas if config.train.shard_state else 1
    return lower.lower_training_step(config, manifest, batch_size, report.engine, shards)


def compile_programs(report: Report, config: Config, manifest: Manifest, timeout: float) -> None:
    """Compile the training step and the sampler, and add the results to the report."""
    try:
        python = prepare_environment()
    except CompilationError as error:
        report.notes.append(f"not compiled: {error}")
        return

    def compile_here(program: lower.Program) -> CompiledProgram:
        if report.engine == "jax":
            return compile_with_jax(program, config, manifest, report.tpu, python, timeout)
        return compile_program(program, report.tpu, python, timeout)

    # Compile the training step, and find a batch that fits if this one does not.
    excessive_bytes = _compile_into_report(report, report.step, compile_here)
    if excessive_bytes:
        report.failures.append(
            _find_largest_batch(report, config, manifest, excessive_bytes, compile_here)
        )
    compiled = report.programs.get(report.step.name)
    if compiled and compiled.padding_waste > _MAX_PADDING_WASTE:
        report.notes.append(
            f"{report.step.name}: tiles make its arrays {compiled.padding_waste:.2f} times as large; "
            "multiples of 128 in config.model.widths, or a larger batch, waste less"
        )

    # Compile the sampler.
    _compile_into_report(report, lower.lower_sampler(config, manifest, report.engine), compile_here)


def _compile_into_report(
    report: Report, program: lower.Program, compile_here: Callable
) -> int | None:
    """Compile a program. Return the bytes of HBM that it needs if it does not fit, or else None."""
    try:
        compiled = report.programs[program.name] = compile_here(program)
    except CompilationError as error:
        report.failures.append(f"{program.name}: {error}")
        return error.hbm_needed
    needed = hbm_needed(program, compiled)
    if needed <= report.tpu.hbm_bytes:
        return None
    report.failures.append(
        f"{program.name}: needs {format_gib(needed)} of HBM, but a replica of {report.tpu.name} "
        f"has {format_gib(report.tpu.hbm_bytes)}"
    )
    return needed


def _find_largest_batch(
    report: Report, config: Config, manifest: Manifest, needed: int, compile_here: Callable
) -> str:
    """Find the largest batch of a replica that fits, and return a line that names it.

    Each try interpolates linearly between no images and the last batch, and compiles the result.

    Args:
      report: the preflight's report, whose batch does not fit.
      config: a resolved config.
      manifest: the manifest of the data set.
      needed: bytes of HBM that the report's batch needs.
      compile_here: compiles a program.
    """
    tpu, fixed = report.tpu, report.step.state_bytes
    batch = report.per_replica_batch_size
    for _ in range(_MAX_BATCH_TRIES):
        # Choose a batch.
        per_image = (needed - fixed) / batch
        batch = min(int((_HBM_SHARE * tpu.hbm_bytes - fixed) / per_image), batch - 1)
        batch -= batch % _BATCH_STEP if batch > _BATCH_STEP else 0
        if batch < 1:
            return f"no batch fits a replica of {tpu.name}; use a smaller model or another TPU"

        # Compile it.
        program = lower_training_step(report, config, manifest, batch)
        try:
            needed = hbm_needed(program, compile_here(program))
        except CompilationError as error:
            if not error.hbm_needed:
                return (
                    f"a per-replica batch of about {batch} should fit, but compiling it failed: "
                    f"{error}"
                )
            needed = error.hbm_needed
        if needed <= tpu.hbm_bytes:
            return (
                f"a per-replica batch of {batch} fits and needs {format_gib(needed)}; "
                f"use --config.train.global_batch_size={batch * tpu.num_replicas}"
            )
    return f"no per-replica batch of {batch} or more fits a replica of {tpu.name}"
