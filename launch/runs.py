"""Manage the checkpoints of a run: python launch/runs.py runs/emoji32

By default, it lists each checkpoint with its loss, its size, whether its files have their full sizes, and
its preview. Below, it lists the figures of each evaluation, if there are any.
--verify also compares all files with their hashes.
--compare=500,2000 writes the previews of two steps side by side into one picture.
--prune removes all checkpoints except those that the --keep flags select.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
import posixpath
import re
from concurrent import futures

from absl import flags

from t2i_tpu import cli
from t2i_tpu.errors import UserError
from t2i_tpu.flag_values import check_ending

VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Read all checkpoints and compare them with their hashes. This may take a while.",
)
COMPARE = flags.DEFINE_list("compare", None, "Two steps whose previews to put side by side.")
OUTPUT = cli.define_path(
    "output", None, "PNG file that --compare writes. Default: compare_A_B.png."
)
PRUNE = flags.DEFINE_bool(
    "prune", False, "Remove the checkpoints that the --keep flags do not select."
)
KEEP_LAST = flags.DEFINE_integer(
    "keep_last", 3, "With --prune: number of newest checkpoints to keep.", 1
)
KEEP_EVERY = flags.DEFINE_integer(
    "keep_every",
    0,
    "With --prune: also keep each step that is a multiple of this number. 0 turns this off.",
    0,
)
KEEP_BEST = flags.DEFINE_integer(
    "keep_best",
    0,
    "With --prune: also keep this number of checkpoints with the best value of config.train.best_metric.",
    0,
)


def main(workdir: str) -> None:
    from t2i_tpu.run import workdir as workdir_lib

    config, _ = workdir_lib.read(workdir)
    if COMPARE.value:
        _compare(workdir)
    elif PRUNE.value:
        _prune(workdir, config.train.best_metric)
    else:
        _list(workdir)


def _list(workdir: str) -> None:
    """Print a table of the checkpoints, oldest first."""
    from tqdm import tqdm

    from t2i_tpu.run import checkpoint_store
    from t2i_tpu.storage import listing

    steps = checkpoint_store.list_steps(workdir)
    previews = _find_previews(workdir)
    listed = listing.list_files(checkpoint_store.get_folder(workdir))
    sizes = {name: info.num_bytes for name, info in listed.items()}
    rows = [("step", "loss", "MB", "intact", "preview")]
    # On gs://, each info file takes a request. With --verify, checkpoints are read in full, one by one,
    # and in this thread, which Ctrl-C ends at once.
    with futures.ThreadPoolExecutor(16) as pool:
        map_steps = map if VERIFY.value else pool.map
        described = map_steps(lambda step: _describe(workdir, step, sizes), steps[::-1])
        progress = tqdm(
            described, "reading", len(steps), unit=" checkpoints", disable=None, leave=False
        )
        for step, columns in zip(steps[::-1], progress, strict=True):
            rows.append((str(step), *columns, previews.get(step, "-")))
    _print_table(rows)
    if not steps:
        print("no checkpoint yet")
    without_checkpoint = sorted(set(previews) - set(steps))
    if without_checkpoint:
        print("previews without a checkpoint:", _join(without_checkpoint))
    _list_evaluations(workdir)


def _list_evaluations(workdir: str) -> None:
    """Print a table of the figures of each evaluation, if there are any."""
    from t2i_tpu.run import evaluations

    by_step = evaluations.read_all(workdir)
    measured = {name for evaluation in by_step.values() for name in evaluation["figures"]}
    names = [name for name in evaluations.FIGURES if name in measured]
    rows = [("step", *names)]
    for step, evaluation in by_step.items():
        figures = evaluation["figures"]
        rows.append((str(step), *(f"{figures[n]:.4g}" if n in figures else "-" for n in names)))
    if by_step:
        print()
        _print_table(rows)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print a table. The first row contains the titles of the columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _describe(workdir: str, step: int, sizes: dict[str, int]) -> tuple[str, str, str]:
    """Return a checkpoint's loss, its size in MB, and whether it is intact, as text.

    Args:
      workdir: the workdir, local or gs://.
      step: the step of the checkpoint.
      sizes: the size in bytes of each file in the folder of checkpoints.
    """
    from t2i_tpu.run import checkpoint_store

    loss = size = "-"
    try:
        info = checkpoint_store.read_info(workdir, step)
        size = f"{info.num_bytes / 1e6:.1f}"
        if "loss" in info.metrics:
            loss = f"{info.metrics['loss']:.4f}"
        for name, (num_bytes, _) in info.files.items():
            if sizes.get(name) != num_bytes:
                problem = "has changed since it was written" if name in sizes else "is missing"
                raise checkpoint_store.DamagedCheckpoint(f"{name} {problem}")
        if VERIFY.value:
            checkpoint_store.verify(workdir, step)
    except (checkpoint_store.DamagedCheckpoint, UserError) as error:
        return loss, size, f"no: {error}"
    return loss, size, "yes" if VERIFY.value else "full size"


def _compare(workdir: str) -> None:
    """Write the previews of two steps into one picture."""
    from t2i_tpu.sample.picture_files import read_picture, save_picture
    from t2i_tpu.sample.pictures import join_pictures
    from t2i_tpu.storage import outputs

    previews, pictures = _find_previews(workdir), []
    if len(COMPARE.value) != 2:
        raise UserError(
            f"--compare={','.join(COMPARE.value)}: it must be two steps, for example --compare=500,2000"
        )
    for text in COMPARE.value:
        if not text.strip().isdecimal() or int(text) not in previews:
            known = _join(sorted(previews)) or "none"
            raise UserError(
                f"--compare: there is no preview of step {text!r}; choose from these steps: {known}"
            )
        pictures.append((f"step {int(text)}", read_picture(previews[int(text)])))
    output = OUTPUT.value or "compare_{}_{}.png".format(*map(int, COMPARE.value))
    check_ending("output", output, (".png",))
    outputs.check_file(output, "--output=")
    save_picture(join_pictures(pictures), output)
    print(output)


def _prune(workdir: str, metric: str) -> None:
    """Remove the checkpoints that the --keep flags do not select, but never the newest intact one.

    Args:
      workdir: local or gs://.
      metric: the metric that --keep_best compares; see `Retention`.
    """
    from t2i_tpu.run import checkpoint_store
    from t2i_tpu.run.retention import Retention
    from t2i_tpu.storage.lock import Lock

    with Lock(workdir):
        retention = Retention(KEEP_LAST.value, KEEP_EVERY.value, KEEP_BEST.value, metric)
        expired = retention.list_expired(workdir)
        newest_intact = next(checkpoint_store.iter_intact(workdir), None)
        if newest_intact:
            expired = [step for step in expired if step != newest_intact.step]
        for step in expired:
            checkpoint_store.remove(workdir, step)
        checkpoint_store.remove_unfinished(workdir)
    print("removed:", _join(sorted(expired)) or "nothing")
    print("kept:", _join(checkpoint_store.list_steps(workdir)[::-1]))


def _find_previews(workdir: str) -> dict[int, str]:
    """Return the path of each preview by its step."""
    from t2i_tpu.storage import files

    folder = posixpath.join(workdir, "previews")
    matches = [re.fullmatch(r"step_(\d+)\.png", name) for name in files.list_names(folder)]
    return {int(match[1]): posixpath.join(folder, match[0]) for match in matches if match}


def _join(steps: list[int]) -> str:
    return ", ".join(map(str, steps))


if __name__ == "__main__":
    cli.run(main, positional="WORKDIR")
