"""The checkpoints of a run: python launch/runs.py runs/emoji32

Lists each with its loss, its size, whether it is whole, and its preview. With --compare=500,2000 it
writes the previews of two steps side by side; with --prune it removes what --keep_* do not name.
"""

import sys

from absl import flags

from t2i_tpu import cli
from t2i_tpu.errors import UserError

COMPARE = flags.DEFINE_list("compare", None, "Two steps whose previews to put side by side.")
OUTPUT = flags.DEFINE_string("output", None, "PNG for --compare; compare_A_B.png unless told.")
PRUNE = flags.DEFINE_bool("prune", False, "Remove the checkpoints that are not to be kept.")
KEEP_LAST = flags.DEFINE_integer("keep_last", 3, "With --prune: the newest.", 1)
KEEP_EVERY = flags.DEFINE_integer("keep_every", 0, "And those of every so many steps; 0 = none.", 0)
KEEP_BEST = flags.DEFINE_integer("keep_best", 0, "And so many of the lowest loss.", 0)


def main(workdir: str) -> None:
    from t2i_tpu.run import workdir as workdir_lib

    workdir_lib.read(workdir)  # it is a run's
    if COMPARE.value:
        _compare(workdir)
    elif PRUNE.value:
        _prune(workdir)
    else:
        _list(workdir)


def _list(workdir: str) -> None:
    from tqdm import tqdm

    from t2i_tpu.run import checkpoint_store

    steps = checkpoint_store.list_steps(workdir)
    previews = _previews(workdir)
    rows = [("step", "loss", "MB", "whole", "preview")]
    for step in tqdm(steps[::-1], unit="checkpoint", disable=not sys.stderr.isatty(), leave=False):
        loss = size = "-"
        try:
            version = checkpoint_store.read_info(workdir, step)
            loss = f"{version.metrics['loss']:.4f}" if "loss" in version.metrics else "-"
            size = f"{version.num_bytes / 1e6:.1f}"
            checkpoint_store.verify(workdir, step)
            whole = "yes"
        except (checkpoint_store.DamagedCheckpoint, UserError) as damage:
            whole = f"no: {damage}"
        rows.append((str(step), loss, size, whole, previews.get(step, "-")))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    if not steps:
        print("no checkpoint yet")
    rest = sorted(set(previews) - set(steps))
    if rest:
        print("previews alone:", ", ".join(map(str, rest)))


def _compare(workdir: str) -> None:
    from t2i_tpu.sample.pictures import join_pictures, read_picture, save_picture

    previews, pictures = _previews(workdir), []
    if len(COMPARE.value) != 2:
        raise UserError(f"--compare={','.join(COMPARE.value)}: it takes two steps, as in 500,2000")
    for text in COMPARE.value:
        if not text.strip().isdecimal() or int(text) not in previews:
            known = ", ".join(map(str, sorted(previews))) or "none"
            raise UserError(f"--compare: there is no preview of step {text!r}; there are: {known}")
        pictures.append((f"step {int(text)}", read_picture(previews[int(text)])))
    output = OUTPUT.value or "compare_{}_{}.png".format(*map(int, COMPARE.value))
    save_picture(join_pictures(pictures), output)
    print(output)


def _prune(workdir: str) -> None:
    from t2i_tpu.run import checkpoint_store
    from t2i_tpu.run.lock import Lock

    with Lock(workdir):
        keep = checkpoint_store.Retention(KEEP_LAST.value, KEEP_EVERY.value, KEEP_BEST.value)
        newest = next(
            checkpoint_store.iter_intact(workdir), None
        )  # stays, should later ones be damaged
        dropped = [step for step in keep.expired_steps(workdir) if step != newest.step]
        for step in dropped:
            checkpoint_store.remove(workdir, step)
        checkpoint_store.remove_unfinished(workdir)
    print("removed:", ", ".join(map(str, sorted(dropped))) or "nothing")
    print("kept:", ", ".join(map(str, checkpoint_store.list_steps(workdir)[::-1])))


def _previews(workdir: str) -> dict[int, str]:
    """Step -> path of its preview."""
    import posixpath
    import re

    import tensorflow as tf

    found = tf.io.gfile.glob(posixpath.join(workdir, "previews", "step_*.png"))
    return {
        int(match[1]): path for path in found if (match := re.search(r"step_(\d+)\.png$", path))
    }


if __name__ == "__main__":
    cli.run(main, positional="WORKDIR")
