"""Units done by Apache Beam, on this machine or on Dataflow's: `--runner=beam` (extra `beam`).

Beam's part is that of `pool`, and no more: its workers read units and write their files, the
process that started them encodes and puts the shards together. So the shards are the same bytes.
"""

import concurrent.futures
import contextlib
import io
import logging
import threading
from collections.abc import Iterator, Sequence

from t2i_tpu.data.prepare import plan, unit
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.sources.source import Unit
from t2i_tpu.errors import UserError
from t2i_tpu.options import suggest

try:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError:
    raise UserError("--runner=beam needs apache-beam; pip install -e '.[beam]'") from None

_LOOK_EVERY = 5  # seconds


def make_pipeline(options: Sequence[str], source: str, output: str) -> apache_beam.Pipeline:
    """An empty pipeline with Beam's own options, `--runner=DataflowRunner` among them.

    Raises:
      UserError: Beam refuses an option, or Dataflow's workers could not reach source or output.
    """
    if not logging.root.isEnabledFor(logging.DEBUG):  # what fails is told in a line
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(["--runner=DirectRunner", *options])
            given = options.get_all_options(retain_unknown_options=True)
            known = PipelineOptions([]).get_all_options()
    except SystemExit:  # argparse's
        raise UserError(f"Beam: {said.getvalue().strip().rpartition('error: ')[2]}") from None
    for name in given.keys() - known.keys():
        if near := suggest(name, list(known)):  # a runner may have options that Beam does not know
            raise UserError(f"Beam has no option --{name}{near}")
    if "dataflow" in given["runner"].lower():
        for flag, place in (("source", source), ("output", output)):
            if "gs://" not in place:
                raise UserError(
                    f"--{flag}={place} is on this machine, where Dataflow's workers do not see it; "
                    "use gs://"
                )
    try:
        return apache_beam.Pipeline(options=options)
    except Exception as error:  # of any class: Google's own libraries look at bucket and project
        raise UserError(f"Beam: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def do_units(
    work: str, settings: Settings, finished: set[int], pipeline: apache_beam.Pipeline
) -> Iterator[Iterator[int]]:
    """As `run.Runner`."""
    # It says where Dataflow's job is to be watched.
    logging.getLogger("apache_beam.runners.dataflow.internal.apiclient").setLevel(logging.INFO)
    (
        pipeline
        | apache_beam.Create([work])
        | apache_beam.FlatMap(plan.units)
        | apache_beam.Reshuffle()  # or one worker would do them all, fused with the one that lists
        | apache_beam.ParDo(_DoUnit(work, settings))
    )
    over = concurrent.futures.Future()

    def run():
        try:
            over.set_result(pipeline.run().wait_until_finish())
        except BaseException as error:
            over.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    yield _appearing(work, set(finished), over)


def _appearing(work, known, over):
    """Units as their files appear, until the pipeline is over: no runner tells of them sooner."""
    while True:
        is_over = over.done()  # asked before the look, so that none is missed
        new = plan.finished(work) - known
        yield from sorted(new)
        known |= new
        if is_over:
            break
        concurrent.futures.wait([over], _LOOK_EVERY)
    if error := over.exception():
        last = str(error).strip().splitlines()[-1]
        raise UserError(
            f"Beam: {last}; what is finished stays, and the same command goes on"
        ) from error
    for problem in plan.problems(work):
        raise UserError(problem)
    if undone := sum(1 for _ in plan.units(work)) - len(known):  # as of a job that was cancelled
        raise UserError(f"Beam: the job ended with {undone} units undone; the same command goes on")


class _DoUnit(apache_beam.DoFn):
    """Runs on the workers. Beam may give it a unit again, which is then not done again.

    A UserError goes to a file: raised, it would come as a traceback, after Beam had tried again.
    """

    def __init__(self, work: str, settings: Settings):
        self.work, self.settings = work, settings

    def setup(self) -> None:
        self.source = self.settings.make_source()

    def process(self, numbered: tuple[int, Unit]) -> None:
        index, one = numbered
        try:
            if not unit.is_done(self.work, index):
                unit.do_unit(self.work, index, one, self.source, self.settings)
        except UserError as error:
            plan.add_problem(self.work, index, str(error))
