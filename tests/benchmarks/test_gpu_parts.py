"""Tests of the parts of benchmarks/gpu.py: its data, processes, schedule and report."""

import os
import time

import numpy as np
import pytest

from benchmarks.on_gpu import pair, schedule
from benchmarks.on_gpu.cases import Case, read_pack
from benchmarks.on_gpu.report import format_report
from benchmarks.on_gpu.worker import OutOfTime, Worker, WorkerError
from t2i_tpu.config import Config, resolve
from t2i_tpu.errors import UserError
from tests.assertions import assert_mentions


def test_batches_cover_the_data_in_every_epoch():
    image = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    condition = {"label": np.arange(10, dtype=np.int32)}
    case = Case(resolve(Config()), 1, {"label": ((), "int32")}, 10, image, condition)
    batches = case.make_batches(4, 0, 5)
    rows = batches["image"].ravel()
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert list(rows[:10]) != list(rows[10:])
    np.testing.assert_array_equal(batches["condition"]["label"].ravel(), rows)
    np.testing.assert_array_equal(batches["slot"], [range(4)] * 5)
    # A step's batch does not depend on where reading starts.
    later = case.make_batches(4, 3, 2)
    np.testing.assert_array_equal(later["image"], batches["image"][3:])


@pytest.mark.parametrize("content", [None, b"", b"not a zip file", "zip"])
def test_a_file_that_is_no_pack_is_rejected(tmp_path, content):
    path = tmp_path / "data.npz"
    if content == "zip":
        np.savez(path, other=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_pack(str(path))
    assert_mentions(str(error.value), [f"--data={path}", "--pack"])
    assert "\n" not in str(error.value)


@pytest.fixture
def worker(tmp_path):
    worker = Worker("tests.benchmarks.computer:Computer", tmp_path / "log", {"T2I_TPU_TEST": "set"})
    yield worker
    worker.close()


def in_seconds(seconds):
    return time.monotonic() + seconds


def test_a_worker_computes_in_another_process(worker, tmp_path, capfd):
    assert worker.call("add", in_seconds(100), first=1, second=2) == (3, "set")
    with pytest.raises(WorkerError, match=r"^ValueError: first line$"):
        worker.call("fail", in_seconds(100), text="first line\nsecond line")
    with pytest.raises(WorkerError, match="^out of memory$"):
        worker.call("fail", in_seconds(100), text="RESOURCE_EXHAUSTED: 1 TB\n...")
    assert worker.call("add", in_seconds(100), first=3, second=4) == (7, "set")
    assert "adding" in (tmp_path / "log").read_text()
    assert capfd.readouterr().out == ""


def test_a_worker_is_killed_at_its_deadline_and_starts_again(worker):
    worker.call("add", in_seconds(100), first=1, second=2)
    process = worker._process.pid
    begin = time.monotonic()
    with pytest.raises(OutOfTime):
        worker.call("sleep", in_seconds(0.5))
    assert time.monotonic() - begin < 10
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(WorkerError, match="ended with 7"):
        worker.call("end", in_seconds(100))
    assert worker.call("add", in_seconds(100), first=1, second=2) == (3, "set")


class SimulatedPair:
    """A `Pair` whose calls take simulated time.

    Attributes:
      now: the time.
      rates: images per second by (engine, batch size, mode). A batch size that is not listed does not
        fit into memory.
      compile_seconds: how long any compilation takes.
    """

    has_peer = True

    def __init__(self, rates, compile_seconds):
        self.now, self.rates, self.compile_seconds = 1000.0, rates, compile_seconds

    def start_peer(self, case, setting):
        pass

    def close(self):
        pass

    def spend(self, seconds, deadline):
        self.now += seconds
        if self.now > deadline:
            self.now = deadline
            raise OutOfTime("out of time")

    def call(self, engine, method, deadline, **arguments):
        results = {
            "describe": {"device": "GPU", "jax": "1"},
            "measure_peak": {"size": 8, "flops_per_s": 1e12},
            "check": dict(name="modern", steps=20, error=1e-5, limit=1e-2, passed=True),
            "draw_picture": dict(
                *({"steps": 9, "total_steps": 9, "batch_size": 8, "compile_seconds": 1.0},),
                **{"train_seconds": 1.0, "draw_seconds": 1.0, "images": 4, "loss": 0.1},
            ),
        }
        self.spend(self.compile_seconds if method in ("check", "draw_picture") else 1, deadline)
        return results[method]

    def prepare(self, case, settings, deadline):
        ready, failed = {}, {}
        try:
            self.spend(self.compile_seconds, deadline)
        except OutOfTime as error:
            return {}, dict.fromkeys(settings, str(error))
        for engine, (size, mode) in settings.items():
            if (engine, size, mode) in self.rates:
                known = {"batch_size": size, "mode": mode, "parameters": 1, "flops_per_image": 1e6}
                ready[engine] = known | {"compile_seconds": self.compile_seconds}
            else:
                failed[engine] = pair.OUT_OF_MEMORY
        return ready, failed

    def time(self, case, ready, rounds, seconds, deadline):
        self.spend(rounds * seconds * len(ready), deadline)
        for engine, known in ready.items():
            rate = self.rates[engine, known["batch_size"], known["mode"]]
            known["images_per_second"] = [rate] * rounds


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    """`simulate(rates, compile_seconds, budget)` returns the results of a simulated benchmark."""

    def run(rates, compile_seconds, budget):
        simulated = SimulatedPair(rates, compile_seconds)
        names = ["emoji32", "clip64"]
        settings = {"cases": names, "references": ["modern"], "rounds": 3, "round_seconds": 1.0}
        settings["largest_batch_size"] = 1024
        about = {"settings": settings, "cases": {name: {"batch_size": 8} for name in names}}
        pack = type("SimulatedPack", (), {"about": about})
        monkeypatch.setattr(schedule, "Pair", lambda *_, **options: simulated)
        monkeypatch.setattr(schedule, "read_pack", lambda _: pack)
        monkeypatch.setattr(time, "monotonic", lambda: simulated.now)
        benchmark = schedule.Benchmark("x.npz", tmp_path, budget, ["default", "tuned"])
        results = benchmark.run()
        assert results["seconds"] <= budget
        return results

    return run


RATES = {
    ("jax", 8, None): 100,
    ("jax", 16, None): 120,
    ("jax", 32, None): 121,
    ("peer", 8, "default"): 50,
    ("peer", 8, "tuned"): 60,
}


def test_faster_batches_and_modes_are_found(simulate):
    results = simulate(RATES, 10, 1000)
    assert results["missing"] == results["unfinished"] == []
    for speeds in results["speeds"].values():
        assert (speeds["jax"]["batch_size"], speeds["jax"]["images_per_second"]) == (16, [120] * 3)
        assert (speeds["peer"]["mode"], speeds["peer"]["images_per_second"]) == ("tuned", [60] * 3)
    assert ["emoji32", "jax", 32, None, 121] in results["tried"]
    assert ["emoji32", "peer", 16, "default", "out of memory"] in results["tried"]
    text = format_report(results)
    assert_mentions(text, ["| emoji32 | JAX |", "PyTorch, tuned", "2.00 (2.00 to 2.00)"])
    assert "Not measured" not in text


def test_what_does_not_fit_is_listed(simulate):
    results = simulate(RATES, 60, 340)
    # The check, emoji32 and the picture fit, but not clip64, because the picture has priority.
    assert list(results["speeds"]) == ["emoji32"]
    assert results["picture"]["steps"] == 9
    assert [what for what, _ in results["missing"]] == ["clip64"]
    assert results["unfinished"] == ["emoji32"]
    assert_mentions(format_report(results), ["Not measured", "clip64: out of time", "--budget"])


def test_a_compilation_that_does_not_end_is_reported(simulate):
    results = simulate(RATES, 500, 340)
    assert results["speeds"] == {} and results["picture"] is None and results["checks"] == []
    reasons = dict(results["missing"])
    assert {"correctness of modern", "the picture of emoji32"} <= reasons.keys()
    assert "emoji32" in reasons and "clip64" in reasons
    assert_mentions(format_report(results), ["# benchmarks/gpu.py on GPU", *reasons])
