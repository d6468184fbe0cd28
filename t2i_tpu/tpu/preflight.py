"""Checks, before a TPU is paid for, whether a config runs and fits on it, and estimates the cost."""

import concurrent.futures
import os

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.data.order import check_batch_divides
from t2i_tpu.engines.tensorflow.engine import check_unsharded
from t2i_tpu.errors import UserError
from t2i_tpu.process.workers import exit_with_parent, start_fork_server
from t2i_tpu.tpu import hardware, programs
from t2i_tpu.tpu.assumed_data import find_manifest
from t2i_tpu.tpu.estimate import Estimate, Work, estimate_run
from t2i_tpu.tpu.hardware import Tpu
from t2i_tpu.tpu.report import Report

# More replicas than this are not traced, because they would not change the graph.
_MAX_TRACED_REPLICAS = 32


def run_preflight(
    config: Config,
    tpu_name: str,
    compiles: bool = True,
    compile_seconds: float = 1800,
    price_per_hour: float | None = None,
    engine_name: str = "auto",
) -> Report:
    """Lower, trace and compile a config for a TPU, and estimate time and price.

    With JAX, nothing is traced: it compiles one program for all devices.

    Args:
      config: not resolved yet.
      tpu_name: an accelerator type, such as v3-8.
      compiles: whether to compile the training step and the sampler.
      compile_seconds: time limit for compiling each program.
      price_per_hour: US dollars for the entire TPU, or None for the price in hardware.json.
      engine_name: "auto", "tensorflow" or "jax"; see `hardware.choose_engine`.

    Raises:
      UserError: there is no such TPU, the engine cannot drive it, its replicas or the data's streams do
        not divide the batch, or the config does not fit its data.
    """
    # Check the config against the TPU and the data.
    tpu, config = hardware.parse_tpu(tpu_name), config_lib.resolve(config)
    engine = hardware.choose_engine(engine_name, tpu)
    if engine == "tensorflow":
        check_unsharded(config)
    report = Report(tpu, engine, _divide_batch(config, tpu))
    manifest, note = find_manifest(config)
    if note:
        report.notes.append(note)
    else:
        check_batch_divides(config.train.global_batch_size, manifest.num_streams(), tpu.num_hosts)

    # Build the programs.
    report.step = programs.lower_training_step(
        report, config, manifest, report.per_replica_batch_size
    )
    if engine == "tensorflow":
        _trace_in_subprocess(report, config, manifest)
    if compiles:
        programs.compile_programs(report, config, manifest, compile_seconds)
    else:
        report.notes.append("not compiled: --compile=false")

    report.estimates = _estimate_devices(report, config, price_per_hour)
    return report


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
    context = start_fork_server(["t2i_tpu.process.tensorflow_alone", __name__])
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


def _estimate_devices(
    report: Report, config: Config, price_per_hour: float | None
) -> list[Estimate]:
    """Return the estimates for the TPU and for each GPU."""
    step, compiled = report.step, report.programs.get("training step")
    images, steps = config.train.global_batch_size, config.train.total_steps
    if compiled:
        summed_bytes = compiled.summed_bytes or step.gradient_bytes
        on_tpu = Work(compiled.flops, compiled.traffic, summed_bytes)
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
