"""Measures how long a user waits for training to start and to end.

  python benchmarks/start.py --config=configs/emoji32.py
  python benchmarks/start.py --config=configs/fashion_mnist.py \\
      --source=idx:/usr/share/datasets/fashion-mnist --busy=2
  python benchmarks/start.py --config=configs/emoji32.py --synthetic=/tmp/million

Each run starts launch/train.py in a new workdir and trains three steps. The table gives the median,
the minimum and the maximum of the seconds from the start of the process to its first step, and from
"done" to the end of the process. --busy runs that many endless loops at the same time.
"""

import contextlib
import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CONFIG = flags.DEFINE_string("config", None, "The config of the runs.", required=True)
SOURCE = flags.DEFINE_string("source", None, "A value for config.data.source.")
SYNTHETIC = flags.DEFINE_string(
    "synthetic",
    None,
    "Folder of a data set of a million examples to train on. It is made if it does not exist, and needs "
    "little space, because all of its shards are links to the same file.",
)
RUNS = flags.DEFINE_integer("runs", 10, "Number of runs.", 1)
BUSY = flags.DEFINE_integer("busy", 0, "Number of endless loops that run at the same time.", 0)
LIMIT = flags.DEFINE_integer(
    "limit", 900, "Seconds after which a run is killed, which is an error.", 1
)

STEPS = 3
SHARD_SIZE, NUM_SHARDS, NUM_STREAMS = 1024, 992, 16


def main(_):
    source = SOURCE.value
    if SYNTHETIC.value:
        source = f"shards:{make_million(pathlib.Path(SYNTHETIC.value))}"
    starts, ends = [], []
    with run_busy_loops(BUSY.value):
        for _ in range(RUNS.value):
            start, end = measure(source)
            print(f"{start:.1f} s to the first step, {end:.1f} s from done to the end", flush=True)
            starts.append(start)
            ends.append(end)
    print(f"| {CONFIG.value} {source or ''} | busy loops | median | min | max |")
    print("|---|---|---|---|---|")
    for name, seconds in (("to the first step", starts), ("from done to the end", ends)):
        values = statistics.median(seconds), min(seconds), max(seconds)
        print(f"| s {name} | {BUSY.value} | {' | '.join(f'{value:.1f}' for value in values)} |")


def measure(source: str | None) -> tuple[float, float]:
    """Train three steps in a new workdir; return the seconds to the first step and after "done"."""
    times = {}
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        begin = time.monotonic()
        process = subprocess.Popen(
            ["timeout", str(LIMIT.value), sys.executable, *make_command(source, folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = []
        for line in process.stderr:
            lines.append(line)
            for word in (f" step 1/{STEPS}:", " done: "):
                if word in line:
                    times.setdefault(word.strip(), time.monotonic())
        process.wait()
        end = time.monotonic()
    if process.returncode or len(times) != 2:
        raise RuntimeError(f"train.py ended with {process.returncode}:\n{''.join(lines[-20:])}")
    first, done = times.values()
    return first - begin, end - done


def make_command(source: str | None, workdir: str) -> list[str]:
    """Return the arguments of Python for a run. Previews and checkpoints come only at the end."""
    command = [
        str(ROOT / "launch/train.py"),
        f"--config={CONFIG.value}",
        f"--workdir={workdir}/run",
    ]
    values = {"total_steps": STEPS, "log_every": 1, "steps_per_loop": 1}
    values |= {"preview_every": STEPS, "checkpoint_every": STEPS, "warmup_steps": 1}
    command += [f"--config.train.{name}={value}" for name, value in values.items()]
    # The preview before "done" belongs to neither time, so it may be quick.
    command.append("--config.sample.steps=2")
    if source:
        command.append(f"--config.data.source={source}")
    if SYNTHETIC.value:
        command.append("--config.preview.captions=()")
    return command


@contextlib.contextmanager
def run_busy_loops(count: int) -> Iterator[None]:
    """Keep processor cores busy inside the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def make_million(folder: pathlib.Path) -> pathlib.Path:
    """Make a data set of 1,015,808 examples whose shards are links to one file, and return its folder."""
    from t2i_tpu.data.locate import locate
    from t2i_tpu.data.manifest import MANIFEST_NAME
    from t2i_tpu.data.reader import open_dataset
    from t2i_tpu.data.records import Record
    from t2i_tpu.data.writer import write_dataset

    if (folder / MANIFEST_NAME).exists():
        return folder
    emoji = open_dataset(locate("embedded:emoji"), "embedding", 32)
    records = [
        Record(
            example["key"],
            example["image"],
            example["caption"],
            embedding=example["condition"]["embedding"],
        )
        for example in emoji.examples("train", SHARD_SIZE)
    ]
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        manifest = write_dataset(
            f"{temporary}/one",
            {"train": records},
            name="million",
            num_streams=1,
            shard_size=SHARD_SIZE,
            embedding=emoji.manifest.embedding,
        )
        ((shard,),) = manifest.streams("train")
        folder.mkdir(parents=True, exist_ok=True)
        shards = [
            dataclasses.replace(shard, file=f"train-{index:05d}.tfrecord")
            for index in range(NUM_SHARDS)
        ]
        for link in shards:
            os.link(f"{temporary}/one/{shard.file}", folder / link.file)
    streams = tuple(tuple(shards[stream::NUM_STREAMS]) for stream in range(NUM_STREAMS))
    manifest = dataclasses.replace(manifest, splits={"train": streams})
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return folder


if __name__ == "__main__":
    app.run(main)
