"""Checks, before a TPU is paid for, whether a config runs and fits on it, and estimates the cost."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.data.order import check_batch_divides
from t2i_tpu.errors import UserError
from t2i_tpu.process.workers import exit_with_parent, start_fork_server
from t2i_tpu.tpu import hardware, lower
from t2i_tpu.tpu.assumed_data import find_manifest
from t2i_tpu.tpu.child import CompilationError
from t2i_tpu.tpu.compile import CompiledProgram, compile_program
from t2i_tpu.tpu.compiler_environment import prepare_environment
from t2i_tpu.tpu.estimate import Estimate, Work, estimate_run
from t2i_tpu.tpu.hardware import Tpu, format_gib

_MAX_PADDING_WASTE = 1.3

# More replicas than this are not traced, because they would not change the graph.
_MAX_TRACED_REPLICAS = 32

# The search for a batch that fits tries multiples of the rows of a tile, and aims at a share of HBM: the
# closer a program comes to all of it, the longer the compiler searches for values to compute again.
_BATCH_STEP = 8
_HBM_SHARE = 0.85
_MAX_BATCH_TRIES = 3


@dataclasses.dataclass
class Report:
    """The result of a preflight.

    Attributes:
      tpu: the TPU that the config was checked for.
      per_replica_batch_size: number of images of a replica in a step.
      trace: facts about the graphs under TPUStrategy, by name.
      step: the training step before compilation.
      programs: the compiled programs, by name.
      estimates: time and price on the TPU and on GPUs.
      failures: reasons why the config will not run on the TPU, one line each; empty if none is known.
      notes: remarks that are not failures, one line each.
    """

    tpu: Tpu
    per_replica_batch_size: int
    trace: dict[str, object] = dataclasses.field(default_factory=dict)
    step: lower.Program | None = None
    programs: dict[str, CompiledProgram] = dataclasses.field(default_factory=dict)
    estimates: list[Estimate] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def run_preflight(
    config: Config,
    tpu_name: str,
    compiles: bool = True,
    compile_seconds: float = 1800,
    price_per_hour: float | None = None,
) -> Report:
    """Lower, trace and compile a config for a TPU, and estimate time and price.

    Args:
      config: not resolved yet.
      tpu_name: an accelerator type, such as v3-8.
      compiles: whether to compile the training step and the sampler.
      compile_seconds: time limit for compiling each program.
      price_per_hour: US dollars for the entire TPU, or None for the price in hardware.json.

    Raises:
      UserError: there is no such TPU, its replicas or the data's streams do not divide the batch, or
        the config does not fit its data.
    """
    # Check the config against the TPU and the data.
    tpu, config = hardware.parse_tpu(tpu_name), config_lib.resolve(config)
    report = Report(tpu, _divide_batch(config, tpu))
    manifest, note = find_manifest(config)
    if note:
        report.notes.append(note)
    else:
        check_batch_divides(config.train.global_batch_size, manifest.num_streams(), tpu.num_hosts)

    # Build the programs.
    report.step = lower.lower_training_step(config, manifest, report.per_replica_batch_size)
    _trace_in_subprocess(report, config, manifest)
    if compiles:
        _compile_programs(report, config, manifest, compile_seconds)
    else:
        report.notes.append("not compiled: --compile=false")

    report.estimates = _estimate_devices(report, config, price_per_hour)
    return report


def hbm_needed(program: lower.Program, compiled: CompiledProgram) -> int:
    """Return the bytes of HBM that a program needs.

    This is the compiler's figure, unless its temporaries are much smaller than the activations that the
    backward pass must read. The compiler then keeps activations in memory that it did not count, so
    the size of the activations replaces that of the temporaries.
    """
    temporary_bytes = compiled.temporary_bytes
    if 2 * temporary_bytes >= program.activation_bytes:
        return compiled.hbm_bytes
    return compiled.hbm_bytes - temporary_bytes + program.activation_bytes


def _divide_batch(config: Config, tpu: Tpu) -> int:
    """Return the batch size of a replica, or raise UserError if the config does not suit the TPU."""
    batch_size = config.train.global_batch_size // tpu.num_replicas
    if batch_size * tpu.num_replicas != config.train.global_batch_size:
        raise UserError(
            f"config.train.global_batch_size is {config.train.global_batch_size}, but {tpu.name} has "
            f"{tpu.num_replicas} replicas; use a multiple of {tpu.num_replicas}"
        )
    if config.train.dtype_policy == "mixed_float16":
        raise UserError(
            "config.train.dtype_policy is 'mixed_float16', but TPUs multiply in bfloat16; "
            "use 'auto'"
        )
    return batch_size


def _trace_in_subprocess(report: Report, config: Config, manifest: Manifest) -> None:
    """Trace the config and add the result to the report.

    This runs in a separate process, which can still configure logical devices, and which frees the
    memory of all replicas when it ends.
    """
    # Choose how many replicas to trace.
    replicas, hosts = _choose_traced_topology(report)
    if replicas < report.tpu.num_replicas:
        report.notes.append(
            f"traced with {replicas} replicas on {hosts} host(s) instead of "
            f"{report.tpu.num_replicas} on {report.tpu.num_hosts}, to save memory; more replicas "
            "would not change the graph"
        )
    config = config_lib.from_json(config_lib.to_json(config))
    config.train.global_batch_size = report.per_replica_batch_size * replicas

    # Trace.
    context = start_fork_server(["t2i_tpu.process.tensorflow_quietly", __name__])
    with concurrent.futures.ProcessPoolExecutor(1, context, exit_with_parent) as pool:
        try:
            trace = pool.submit(_trace_with_stand_in, config, manifest, replicas, hosts).result()
        except concurrent.futures.process.BrokenProcessPool:
            report.failures.append(
                "the trace was killed; if memory ran out, use a machine with more of it"
            )
            return
        except BaseException:  # do not wait for the trace
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    report.trace = trace.facts
    report.failures += [f"trace: {problem}" for problem in trace.problems]


def _choose_traced_topology(report: Report) -> tuple[int, int]:
    """Return the number of replicas and hosts to trace: as many as fit into half of the memory."""
    tpu = report.tpu
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    capacity = max(1, int(memory / 2 // report.step.state_bytes))
    per_host = tpu.num_replicas // tpu.num_hosts
    hosts = min(tpu.num_hosts, max(1, min(capacity, _MAX_TRACED_REPLICAS) // per_host))
    return hosts * min(per_host, capacity), hosts


def _trace_with_stand_in(config: Config, manifest: Manifest, replicas: int, hosts: int):
    from t2i_tpu.tpu.stand_in import make_stand_in_strategy
    from t2i_tpu.tpu.trace import trace_config

    return trace_config(config, manifest, make_stand_in_strategy(replicas, hosts))


def _compile_programs(report: Report, config: Config, manifest: Manifest, timeout: float) -> None:
    """Compile the training step and the sampler, and add the results to the report."""
    try:
        python = prepare_environment()
    except CompilationError as error:
        report.notes.append(f"not compiled: {error}")
        return

    def compile_here(program: lower.Program) -> CompiledProgram:
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
    _compile_into_report(report, lower.lower_sampler(config, manifest), compile_here)


def _compile_into_report(
    report: Report, program: lower.Program, compile_here: Callable
) -> int | None:
    """Compile a program. Return the bytes of HBM that it needs if they are too many, else None."""
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
        program = lower.lower_training_step(config, manifest, batch)
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


def _estimate_devices(
    report: Report, config: Config, price_per_hour: float | None
) -> list[Estimate]:
    """Return the estimates for the TPU and for each GPU."""
    step, compiled = report.step, report.programs.get("training step")
    images, steps = config.train.global_batch_size, config.train.total_steps
    if compiled:
        on_tpu = Work(compiled.flops, compiled.traffic, step.gradient_bytes)
    else:
        step_bytes = step.product_bytes + step.optimizer_bytes
        on_tpu = Work(step.product_flops, step_bytes, step.gradient_bytes)
    # A single GPU processes the entire batch, but updates the weights only once.
    scale = images / report.per_replica_batch_size
    on_gpu = Work(
        scale * step.product_flops, scale * step.product_bytes + step.optimizer_bytes, 0.0
    )
    return [
        estimate_run(report.tpu, on_tpu, images, steps, price_per_hour),
        *(estimate_run(gpu, on_gpu, images, steps) for gpu in hardware.list_gpus()),
    ]
