"""Trains small runs on the engine of Keras' backend. The tests compare the results of engines and devices."""

import dataclasses
import multiprocessing
import os
import pathlib
import pickle

import keras
import numpy as np

from t2i_tpu.engines.choose import make_engine
from t2i_tpu.step.objective import corrupt_batch
from t2i_tpu.step.state import iter_variables
from tests import tiny
from tests.launch import launcher

FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
DRAWN = 4  # number of images

Results = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of the tiny config, and the results that it returns.

    Attributes:
      folder: the folder of the data set.
      changes: values of the config, as for `tiny.make_config`.
      devices: the number of devices, or 0 for those of all workers in TF_CONFIG.
      stops: steps at which the train loop returns. The results contain the state at each of them.
      restore: the workdir whose checkpoint the run resumes, or "".
      save: the workdir that receives a checkpoint at the step `save_at`, or "".
      save_at: one of the stops.
      draw_at: the stop at which images are drawn, or 0 for none.
      count_examples: the number of steps whose corrupted batches are results.
    """

    folder: str
    changes: dict
    devices: int = 1
    stops: tuple[int, ...] = (20,)
    restore: str = ""
    save: str = ""
    save_at: int = 0
    draw_at: int = 0
    count_examples: int = 0


def run_jobs(jobs: dict[str, Job]) -> dict[str, Results]:
    """Return the results of jobs on the engine of this process."""
    return {name: run_job(job) for name, job in jobs.items()}


def run_jobs_on_jax(jobs: dict[str, Job], path: pathlib.Path) -> dict[str, Results]:
    """Return the results of jobs on the JAX engine, in another process with four CPU devices.

    Args:
      jobs: the jobs.
      path: a new file for the results.
    """
    return wait_for_results(start_on_jax(jobs, path), path)


def start_on_jax(
    jobs: dict[str, Job], path: pathlib.Path, **environment
) -> multiprocessing.Process:
    """Start a process for `wait_for_results`."""
    return launcher.start_process(_save_results, (jobs, path, FOUR_DEVICES | environment), "jax")


def wait_for_results(process: multiprocessing.Process, path: pathlib.Path) -> dict[str, Results]:
    """Return the results of a process that `start_on_jax` has started with the same path."""
    try:
        process.join()
    finally:
        process.kill()
    assert process.exitcode == 0
    return pickle.loads(path.read_bytes())


def _save_results(jobs, path, environment):
    import jax

    os.environ.update(environment)
    # For that many steps, it takes longer to run than to compile.
    jax.config.update("jax_disable_most_optimizations", False)
    path.write_bytes(pickle.dumps(run_jobs(jobs)))
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()  # the first process must not end before the others


def run_job(job: Job) -> Results:
    """Return the results of a job.

    They are STEP/NAME for the variables' values at the start and at the stops; metrics/STEP;
    examples/STEP/NAME; images; and bytes/NAME, the size of each variable on the first device.
    """
    names = [f"CPU:{index}" for index in range(job.devices)]
    engine = tiny.make_engine(names) if job.devices else make_engine("multiworker")
    run, step = tiny.Run(tiny.make_config(job.folder, **job.changes), engine=engine), 0
    if job.restore:
        step = run.make_checkpointer(job.restore).restore()
        run.iterator = run.batches(step)
    results = read_state(run, step) | corrupt_batches(run, step, job.count_examples)
    for stop in job.stops:
        metrics = run.steps(stop - step)
        step = stop
        results |= read_state(run, step)
        results[f"metrics/{step}"] = np.array(list(metrics.values()))
        if job.save_at == step:
            run.save(job.save)
        if job.draw_at == step:
            results["images"] = draw_images(run)
    return results | measure_variables(run)


def read_state(run: tiny.Run, step: int) -> Results:
    pairs = iter_variables(run.state.get_saved())
    return {f"{step}/{name}": np.array(run.engine.read(variable)) for name, variable in pairs}


def measure_variables(run: tiny.Run) -> Results:
    if keras.backend.backend() != "jax":
        return {}
    pairs = iter_variables(run.state.get_saved())
    return {
        f"bytes/{name}": np.array(variable.value.addressable_shards[0].data.nbytes)
        for name, variable in pairs
    }


def corrupt_batches(run: tiny.Run, start: int, count: int) -> Results:
    """Return batches as they are read, and as the network sees them."""
    config, path, results = run.config, run.state.denoiser.diffusion_path, {}
    corrupt = compile_function(lambda batch, step: corrupt_batch(config, path, batch, step))
    batches = run.trainer.read_host_batches(run.dataset, start, 0, 1).as_numpy_iterator()
    for step in range(start, start + count):
        batch = next(batches)
        tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
        seen = corrupt(tensors, keras.ops.convert_to_tensor(step, "int32"))
        seen |= {"pixels": batch["image"], "slot": batch["slot"]}
        for name, value in (seen | seen.pop("condition")).items():
            results[f"examples/{step}/{name}"] = np.asarray(value)
    return results


def compile_function(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def draw_images(run: tiny.Run) -> np.ndarray:
    """Return images that the run's generator draws for the conditions of the first examples."""
    batch = next(run.trainer.read_host_batches(run.dataset, 0, 0, 1).as_numpy_iterator())
    conditions = {name: rows[:DRAWN] for name, rows in batch["condition"].items()}
    return run.trainer.generator.draw(conditions, np.arange(DRAWN))
