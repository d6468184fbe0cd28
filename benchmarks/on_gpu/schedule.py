"""The order of the measurements of benchmarks/gpu.py, and their share of the time."""

import pathlib
import time

from benchmarks.on_gpu.cases import read_pack
from benchmarks.on_gpu.pair import JAX, OUT_OF_MEMORY, PEER, Pair, get_rate, seconds_until
from benchmarks.on_gpu.report import write_report
from benchmarks.on_gpu.worker import WorkerError

# Seconds at the end for ending the processes and writing the report.
MARGIN = 3.0
# Share of the budget that is kept for the picture until it is known how long compiling takes.
PICTURE_SHARE = 0.28
# A larger batch must be faster by this factor, or the smaller one already fills the GPU.
GAIN = 1.03
QUICK = ("describe", "measure_peak")  # calls that take seconds
LATE = "out of time; use a larger --budget"


class Benchmark:
    """Measures everything that fits into a number of seconds.

    A part starts only if it is likely to end in time, and the process of a part that does not end is
    killed. What was not measured is listed in the report, with the reason.

    Args:
      data: path of the file that --pack wrote.
      output: folder for the report and the logs.
      seconds: the time budget.
      modes: modes of torch.compile. Every case is measured with the first one first. If there are
        none, PyTorch is left out.
      absent: the reason why PyTorch is left out, if the user did not want this.
    """

    def __init__(
        self,
        data: str,
        output: pathlib.Path,
        seconds: float,
        modes: list[str],
        absent: str | None = None,
    ):
        self.begin = time.monotonic()
        self.end = self.begin + seconds - MARGIN
        # Until the picture is drawn, the other parts must end this many seconds before the end.
        self.reserve = PICTURE_SHARE * seconds
        self.slowest = 0.0  # seconds that the slowest compilation took
        self.pack, self.output, self.modes = read_pack(data), output, modes
        self.settings = self.pack.about["settings"]
        self.pair = Pair(data, output, has_peer=bool(modes))
        self.results = {
            "device": "an unknown device",
            "versions": {},
            "budget": seconds,
            "seconds": 0.0,
            "peak": None,
            "checks": [],
            "speeds": {},
            "tried": [],
            "picture": None,
            "unfinished": [],
            "missing": [["PyTorch", absent]] if absent else [],
        }

    def run(self) -> dict:
        """Measure, write the report, and return its content."""
        cases, references = self.settings["cases"], self.settings["references"]
        first = cases[0]
        try:
            if self.pair.has_peer:  # PyTorch compiles while JAX is busy with other parts
                self.pair.start_peer(first, self._first_settings(first)[PEER])
            self._describe(JAX)
            self._check(references[0])
            for case in cases:
                self._measure(case)
            self._draw_picture(first)
            for reference in references[1:]:
                self._check(reference)
            for case in self.results["speeds"]:
                self._improve(case)
        finally:
            self.pair.close()
            self._write()
        return self.results

    # The parts.

    def _describe(self, engine: str) -> None:
        """Record the device and the versions of an engine."""
        about = self._call("the device", "describe", engine)
        if about:
            self.results["device"] = about.pop("device")
            self.results["versions"] |= about

    def _check(self, reference: str) -> None:
        """Compare the weights after the steps of a reference with those of TensorFlow."""
        begin = time.monotonic()
        check = self._call(f"correctness of {reference}", "check", reference=reference)
        if check:
            self.results["checks"].append(check)
            self._say(
                f"weights of {reference}: they differ by {check['error']:.1e} of their change"
            )
            self.slowest = max(self.slowest, time.monotonic() - begin)
            self._write()

    def _measure(self, case: str) -> None:
        """Measure a case on both engines, with the first batch size and mode."""
        deadline = self.end - self.reserve
        if seconds_until(deadline) <= self.slowest:
            self._miss(case, LATE)
            return
        ready, failed = self.pair.prepare(case, self._first_settings(case), deadline)
        for engine, reason in failed.items():
            self._miss(f"{case} on {engine}", reason)
        if not ready:
            return
        self._learn(ready)
        if self.results["peak"] is None:  # both engines are idle now
            self.results["peak"] = self._call("the peak", "measure_peak")
        if PEER in ready and "torch" not in self.results["versions"]:
            self._describe(PEER)
        if JAX in ready and case == self.settings["cases"][0]:
            # The picture needs the same step with another batch size, and a sampler.
            self.reserve = 2 * ready[JAX]["compile_seconds"] + 0.1 * self.results["budget"]
        if self._time(case, ready):
            self.results["speeds"][case] = ready
        self._write()

    def _draw_picture(self, case: str) -> None:
        """Train a case to its end, and draw its captions."""
        self.reserve = 0.0
        file = f"{case}.png"
        picture = self._call(
            f"the picture of {case}",
            "draw_picture",
            case=case,
            path=str(self.output / file),
            seconds=0.7 * seconds_until(self.end),  # the rest is for the sampler
        )
        if picture:
            self.results["picture"] = {"file": file, **picture}
            self._say(f"{case} trained for {picture['steps']} steps: {file}")
            if picture["steps"] < picture["total_steps"]:
                self._miss(f"the rest of the training of {case}", LATE)
            self._write()

    def _improve(self, case: str) -> None:
        """Look for larger batches and for modes of torch.compile that are faster."""
        best = dict(self.results["speeds"][case])
        largest = self.settings["largest_batch_size"]
        growing = [engine for engine in best if 2 * best[engine]["batch_size"] <= largest]
        modes = self.modes[1:] if PEER in best else []
        changed = False
        while growing or modes:
            if seconds_until(self.end) < 1.5 * self.slowest:
                self.results["unfinished"].append(case)
                break
            if growing:
                settings = {
                    engine: (2 * best[engine]["batch_size"], best[engine]["mode"])
                    for engine in growing
                }
            else:
                settings = {PEER: (best[PEER]["batch_size"], modes.pop(0))}
            better = self._try(case, best, settings)
            best |= better
            growing = [
                engine
                for engine in growing
                if engine in better and 2 * best[engine]["batch_size"] <= largest
            ]
            changed = changed or bool(better)
        if changed and self._time(case, best):
            self.results["speeds"][case] = best
        self._write()

    def _try(self, case: str, best: dict, settings: dict) -> dict:
        """Return the results of the engines that are faster with other settings."""
        ready, failed = self.pair.prepare(case, settings, self.end)
        for engine, reason in failed.items():
            self._record(case, engine, settings[engine], reason)
            if reason != OUT_OF_MEMORY:
                self._miss(f"{case} on {engine} with {settings[engine]}", reason)
        self._learn(ready)
        better = {}
        for engine, known in ready.items():
            if known["batch_size"] != settings[engine][0]:  # halved to fit into memory
                self._record(case, engine, settings[engine], OUT_OF_MEMORY)
                continue
            timed = self._time(case, {engine: known}, rounds=1)
            if timed and get_rate(known) > GAIN * get_rate(best[engine]):
                better[engine] = known
        return better

    # Helpers.

    def _call(self, what: str, method: str, engine: str = JAX, **arguments):
        """Return the result of a call, or None after recording why there is none."""
        deadline = self.end - (0 if method in QUICK else self.reserve)
        try:
            if seconds_until(deadline) <= 0:
                raise WorkerError(LATE)
            return self.pair.call(engine, method, deadline, **arguments)
        except WorkerError as error:
            self._miss(what, str(error))
            return None

    def _time(self, case: str, ready: dict, rounds: int | None = None) -> bool:
        """Time engines in turns, and return whether that worked."""
        rounds, seconds = rounds or self.settings["rounds"], self.settings["round_seconds"]
        try:
            self.pair.time(case, ready, rounds, seconds, self.end)
        except WorkerError as error:
            self._miss(f"the speed of {case}", str(error))
            return False
        for engine, known in ready.items():
            self._record(case, engine, (known["batch_size"], known["mode"]), get_rate(known))
        return True

    def _first_settings(self, case: str) -> dict[str, tuple[int, str | None]]:
        size = self.pack.about["cases"][case]["batch_size"]
        settings = {JAX: (size, None)}
        return settings | {PEER: (size, self.modes[0])} if self.pair.has_peer else settings

    def _learn(self, ready: dict) -> None:
        self.slowest = max([self.slowest, *(known["compile_seconds"] for known in ready.values())])

    def _record(self, case: str, engine: str, setting: tuple, result: float | str) -> None:
        self.results["tried"].append([case, engine, *setting, result])
        size, mode = setting
        what = ", ".join([case, engine, f"batch {size}", *([mode] if mode else [])])
        self._say(f"{what}: {result if isinstance(result, str) else f'{result:,.0f} images/s'}")

    def _miss(self, what: str, reason: str) -> None:
        self.results["missing"].append([what, reason])
        self._say(f"{what}: {reason}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begin:4.0f} s: {text}", flush=True)

    def _write(self) -> None:
        """Write the report so far."""
        self.results["seconds"] = time.monotonic() - self.begin
        write_report(self.output, self.results)
