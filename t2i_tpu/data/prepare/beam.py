"""Processes units with Apache Beam, on this machine or on Dataflow: `--runner=beam` (extra `beam`).

Beam replaces only `pool`: its workers read units and write the files of the units. The process that
started them encodes the captions and writes the shards, so the bytes of the shards do not change.
"""

import concurrent.futures
import contextlib
import io
import logging
import threading
from collections.abc import Iterator, Sequence

from t2i_tpu.data.prepare import plan
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.sources import make_source
from t2i_tpu.data.prepare.unit import is_processed, process_unit
from t2i_tpu.data.sources.source import Unit
from t2i_tpu.errors import UserError
from t2i_tpu.options import suggest

try:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError:
    raise UserError("--runner=beam needs apache-beam; pip install -e '.[beam]'") from None

_POLL_SECONDS = 5
_DATAFLOW_CLIENT = "apache_beam.runners.dataflow.internal.apiclient"


def make_pipeline(arguments: Sequence[str], source: str, output: str) -> apache_beam.Pipeline:
    """Return an empty pipeline with the given options.

    Args:
      arguments: Beam's own options, for example --runner=DataflowRunner.
      source: value of --source.
      output: value of --output.

    Raises:
      UserError: Beam rejects an option, or Dataflow's workers cannot reach the source or output.
    """
    if not logging.root.isEnabledFor(logging.DEBUG):
        # Hide Beam's tracebacks, because this module reports errors in one line.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    options = _parse_options(arguments)
    runner = options.get_all_options(retain_unknown_options=True)["runner"]
    if "dataflow" in runner.lower():
        for flag, path in (("source", source), ("output", output)):
            if "gs://" not in path:
                raise UserError(
                    f"--{flag}={path} is on this machine, which Dataflow's workers cannot reach; use "
                    "a gs:// path"
                )
    try:
        return apache_beam.Pipeline(options=options)
    except Exception as error:  # any class: Google's own libraries check the bucket and the project
        raise UserError(f"Beam: {' '.join(str(error).split())}") from error


def _parse_options(arguments: Sequence[str]) -> PipelineOptions:
    """Parse Beam's options. Raises UserError if an option is misspelled or its value is invalid."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            options = PipelineOptions(["--runner=DirectRunner", *arguments])
            given = options.get_all_options(retain_unknown_options=True)
            known = PipelineOptions([]).get_all_options()
    except SystemExit:  # raised by argparse
        message = stderr.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"Beam: {message}") from None
    for name in given.keys() - known.keys():
        # A runner may have options that Beam does not know, so only likely misspellings are errors.
        if suggestion := suggest(name, list(known)):
            raise UserError(f"Beam has no option --{name}{suggestion}")
    return options


@contextlib.contextmanager
def process_units(
    work: str, settings: Settings, processed: set[str], pipeline: apache_beam.Pipeline
) -> Iterator[Iterator[str]]:
    """Process units in a Beam pipeline; see `run.Runner` for the interface.

    Args:
      work: the work folder.
      settings: settings of the preparation.
      processed: names of the units that have been processed.
      pipeline: an empty pipeline; see `make_pipeline`.
    """
    # Let Dataflow's client log the address at which the job can be watched.
    logging.getLogger(_DATAFLOW_CLIENT).setLevel(logging.INFO)
    (
        pipeline
        | apache_beam.Create([work])
        | apache_beam.FlatMap(plan.read_units)
        # Without this, Beam fuses the steps and one worker processes all units.
        | apache_beam.Reshuffle()
        | apache_beam.ParDo(_ProcessUnit(work, settings))
    )
    job = concurrent.futures.Future()

    def run():
        try:
            job.set_result(pipeline.run().wait_until_finish())
        except BaseException as error:
            job.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    yield _watch_units(work, set(processed), job)


def _watch_units(work: str, known: set[str], job: concurrent.futures.Future) -> Iterator[str]:
    """Yield the names of new units as their results appear, until the job has ended.

    The results are polled because Beam's runners do not report the progress of single units.

    Raises:
      UserError: the job failed, a worker recorded a problem, or units are left unprocessed.
    """
    while True:
        has_ended = job.done()  # checked before the results are listed, so that none is missed
        new = plan.list_processed(work) - known
        yield from sorted(new)
        known |= new
        if has_ended:
            break
        concurrent.futures.wait([job], _POLL_SECONDS)
    if error := job.exception():
        last_line = str(error).strip().splitlines()[-1]
        raise UserError(
            f"Beam: {last_line}; finished units are kept: run the same command again to resume"
        ) from error
    for problem in plan.read_problems(work):
        raise UserError(problem)
    # Units are left if the job was cancelled.
    if num_left := sum(name not in known for name, _ in plan.read_units(work)):
        raise UserError(
            f"Beam: the job ended with {num_left} units unprocessed; run the same command again to "
            "resume"
        )


class _ProcessUnit(apache_beam.DoFn):
    """Processes a unit on a worker. A unit that Beam delivers twice is not processed again.

    A UserError is recorded in a file. If it were raised, Beam would retry and show a traceback.
    """

    def __init__(self, work: str, settings: Settings):
        self.work, self.settings = work, settings

    def setup(self) -> None:
        self.source = make_source(self.settings)

    def process(self, named_unit: tuple[str, Unit]) -> None:
        name, unit = named_unit
        try:
            if not is_processed(self.work, name):
                process_unit(self.work, name, unit, self.source, self.settings)
        except UserError as error:
            plan.write_problem(self.work, name, str(error))
