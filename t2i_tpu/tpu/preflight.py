"""Before a TPU is paid for: will this config run on it, does it fit, how long, how much?"""

import concurrent.futures
import dataclasses
import multiprocessing
import os

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.data.order import check_batch_divides
from t2i_tpu.errors import UserError
from t2i_tpu.tpu import hardware, lower
from t2i_tpu.tpu.assumed_data import find_manifest
from t2i_tpu.tpu.compile import Compiled, NotCompiled, compile_for, environment
from t2i_tpu.tpu.estimate import Estimate, Work, estimate
from t2i_tpu.tpu.hardware import Tpu

MAX_PADDING_WASTE = 1.3
_TRACED = 32  # replicas at most: the graph is the same for more
_BATCH_STEP = 8  # rows of a tile
_FILL = 0.85  # of HBM: nearer to its end the compiler searches for long what to compute again


@dataclasses.dataclass
class Report:
    """What was found; `failures` empty means that nothing speaks against the TPU.

    Attributes:
      trace: facts of the graphs under TPUStrategy.
      programs: by name, what the compiler made of it.
      failures, notes: one line each.
    """

    tpu: Tpu
    per_replica_batch_size: int
    trace: dict[str, object] = dataclasses.field(default_factory=dict)
    step: lower.Program | None = None
    programs: dict[str, Compiled] = dataclasses.field(default_factory=dict)
    estimates: list[Estimate] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def preflight(
    config: Config,
    tpu_name: str,
    compiles: bool = True,
    compile_seconds: float = 1800,  # for each program
    price_per_hour: float | None = None,  # of the whole TPU; None: hardware.json's
) -> Report:
    """Lowers, traces, compiles and estimates a config for a TPU.

    Raises:
      UserError: no such TPU, a batch that its replicas or the data's streams don't divide, a config
        that does not go with its data.
    """
    tpu, config = hardware.parse(tpu_name), config_lib.resolve(config)
    batch_size = config.train.global_batch_size // tpu.num_replicas
    if batch_size * tpu.num_replicas != config.train.global_batch_size:
        raise UserError(
            f"config.train.global_batch_size is {config.train.global_batch_size}; "
            f"{tpu.name} has {tpu.num_replicas} replicas and needs a multiple of {tpu.num_replicas}"
        )
    if config.train.dtype_policy == "mixed_float16":
        raise UserError(
            "config.train.dtype_policy is 'mixed_float16'; TPUs multiply bfloat16: leave it at 'auto'"
        )
    report = Report(tpu, batch_size)
    manifest, note = find_manifest(config)
    if note:
        report.notes.append(note)
    else:
        check_batch_divides(config.train.global_batch_size, manifest.num_streams(), tpu.num_hosts)
    report.step = lower.training_step(config, manifest, batch_size)
    _trace(report, config, manifest)
    if compiles:
        _compile(report, config, manifest, compile_seconds)
    else:
        report.notes.append("not compiled: --compile=false")
    report.estimates = _estimates(report, config, price_per_hour)
    return report


def _trace(report, config, manifest):
    """In a process of its own, for its logical devices and the memory of that many replicas."""
    replicas, hosts = _traced(report)
    if replicas < report.tpu.num_replicas:
        report.notes.append(
            f"traced with {replicas} replicas on {hosts} host(s) instead of "
            f"{report.tpu.num_replicas} on {report.tpu.num_hosts}, for this machine's memory"
        )
    config = config_lib.from_json(config_lib.to_json(config))
    config.train.global_batch_size = report.per_replica_batch_size * replicas
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["t2i_tpu.tensorflow_quietly", __name__])
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        try:
            traced = pool.submit(_traced_here, config, manifest, replicas, hosts).result()
        except concurrent.futures.process.BrokenProcessPool:
            report.failures.append("the trace was killed; memory may be short here")
            return
    report.trace = traced.facts
    report.failures += [f"trace: {problem}" for problem in traced.problems]


def _traced(report) -> tuple[int, int]:
    """Replicas and hosts to trace with: all that fit into half of this machine's memory."""
    tpu, step = report.tpu, report.step
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    room = max(1, int(memory / 2 // step.state_bytes))
    per_host = tpu.num_replicas // tpu.num_hosts
    hosts = min(tpu.num_hosts, max(1, min(room, _TRACED) // per_host))
    return hosts * min(per_host, room), hosts


def _traced_here(config: Config, manifest: Manifest, replicas: int, hosts: int):
    from t2i_tpu.tpu.stand_in import stand_in_strategy
    from t2i_tpu.tpu.trace import trace

    return trace(config, manifest, stand_in_strategy(replicas, hosts))


def _compile(report, config, manifest, seconds):
    tpu = report.tpu
    try:
        python = environment()
    except NotCompiled as reason:
        report.notes.append(f"not compiled: {reason}")
        return

    def compiled(program):
        return compile_for(program, tpu, python, seconds)

    for program in (report.step, lower.sampler(config, manifest)):
        try:
            found = report.programs[program.name] = compiled(program)
        except NotCompiled as error:
            report.failures.append(f"{program.name}: {error}")
            if error.hbm_needed and program is report.step:
                report.failures.append(
                    _largest_batch(report, config, manifest, error.hbm_needed, compiled)
                )
            continue
        needed = hbm_needed(program, found)
        if needed > tpu.hbm_bytes:
            report.failures.append(
                f"{program.name}: needs {_gib(needed)} of HBM, a replica of {tpu.name} has {_gib(tpu.hbm_bytes)}"
            )
            if program is report.step:
                report.failures.append(_largest_batch(report, config, manifest, needed, compiled))
        if found.padding_waste > MAX_PADDING_WASTE and program is report.step:
            report.notes.append(
                f"{program.name}: tiles make its arrays {found.padding_waste:.2f} times as large; "
                "config.model.widths that 128 divides, or a larger batch, waste less"
            )


def hbm_needed(program: lower.Program, compiled: Compiled) -> int:
    """By the compiler; but where its temporaries are far below what the backward pass must read, it
    keeps activations where it did not count them, and their own size is taken instead."""
    counted = compiled.temporary_bytes
    if 2 * counted >= program.activation_bytes:
        return compiled.hbm_bytes
    return compiled.hbm_bytes - counted + program.activation_bytes


def _largest_batch(report, config, manifest, needed, compiled, tries=3) -> str:
    """Says which batch fits, by a line through what was compiled, compiled again to be sure."""
    tpu, fixed = report.tpu, report.step.state_bytes
    batch = report.per_replica_batch_size
    for _ in range(tries):
        per_image = (needed - fixed) / batch
        batch = min(int((_FILL * tpu.hbm_bytes - fixed) / per_image), batch - 1)
        batch -= batch % _BATCH_STEP if batch > _BATCH_STEP else 0
        if batch < 1:
            return f"no batch fits a replica of {tpu.name}: take a smaller model or another TPU"
        program = lower.training_step(config, manifest, batch)
        try:
            needed = hbm_needed(program, compiled(program))
        except NotCompiled as error:
            if not error.hbm_needed:
                return (
                    f"a per-replica batch of about {batch} should fit; compiling it failed: {error}"
                )
            needed = error.hbm_needed
        if needed <= tpu.hbm_bytes:
            return (
                f"a per-replica batch of {batch} fits, compiled to {_gib(needed)}: "
                f"--config.train.global_batch_size={batch * tpu.num_replicas}"
            )
    return f"no per-replica batch of {batch} or more fits a replica of {tpu.name}"


def _estimates(report, config, price_per_hour):
    step, compiled = report.step, report.programs.get("training step")
    logical = Work(
        step.product_flops, step.product_bytes + step.optimizer_bytes, step.gradient_bytes
    )
    on_tpu = logical
    if compiled:
        on_tpu = Work(compiled.flops, compiled.traffic, step.gradient_bytes)
    images, steps = config.train.global_batch_size, config.train.total_steps
    # One GPU has the whole batch, and the update once.
    share = images / report.per_replica_batch_size
    on_gpu = Work(
        share * step.product_flops, share * step.product_bytes + step.optimizer_bytes, 0.0
    )
    return [
        estimate(report.tpu, on_tpu, images, steps, price_per_hour),
        *(estimate(gpu, on_gpu, images, steps) for gpu in hardware.gpus()),
    ]


def _gib(num_bytes):
    return f"{num_bytes / hardware.GIB:.2f} GiB"
