"""The stopwatch of the benchmarks: fair order, ratios within a round, no absurd number without a word."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl")

TIMING = Path(__file__).resolve().parent.parent / "benchmarks" / "_timing.py"


def load_timing():
    """Import the helper from its file: the benchmarks are scripts, not a package."""
    spec = importlib.util.spec_from_file_location("benchmark_timing", TIMING)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


timing = load_timing()


class FakeClock:
    """A clock that only the tasks move, and a log of who ran."""

    def __init__(self):
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, seconds):
        """Return a task that lasts `seconds` (a number, or the next of an iterator)."""

        def run():
            self.log.append(name)
            self.now += seconds if isinstance(seconds, float) else next(seconds)

        return run


def test_the_order_rotates_from_round_to_round():
    clock = FakeClock()
    tasks = {name: clock.task(name, 1.0) for name in "abc"}
    timing.compare(tasks, rounds=3, warmup=0, number=1, clock=clock)
    assert "".join(clock.log[-9:]) == "abcbcacab"


def test_times_are_for_one_call_however_many_a_measurement_makes():
    clock = FakeClock()
    found = timing.compare({"a": clock.task("a", 0.25)}, rounds=4, number=8, clock=clock)
    np.testing.assert_array_equal(found["a"].rounds, 0.25)
    assert clock.log[-32:] == ["a"] * 32


def test_the_fastest_task_is_repeated_until_a_measurement_lasts_two_milliseconds():
    clock = FakeClock()
    tasks = {"slow": clock.task("slow", 2.0**-8), "fast": clock.task("fast", 2.0**-14)}
    timing.compare(tasks, rounds=1, warmup=0, clock=clock)
    assert clock.log.count("fast") == clock.log.count("slow") == 1 + 33  # one to look, ceil(0.002 * 2**14) to measure


def test_a_ratio_is_formed_within_each_round_so_a_slow_machine_cancels():
    clock = FakeClock()
    machine = (1.0, 50.0, 3.0, 1000.0, 2.0)  # how slow the machine is in each round
    a = clock.task("a", iter([1.0, *(2.0 * m for m in machine)]))
    b = clock.task("b", iter([1.0, *(4.0 * m for m in machine)]))
    found = timing.compare({"a": a, "b": b}, rounds=5, warmup=0, number=1, clock=clock)
    assert str(timing.ratio(found["a"], found["b"])) == "0.50 [0.50 0.50]"
    assert not found["a"].steady


def test_work_that_runs_ahead_is_waited_for_once_a_measurement():
    clock = FakeClock()
    found = timing.compare(
        {"a": clock.task("a", 1.0)}, rounds=2, warmup=0, number=4, finish={"a": clock.task("wait", 2.0)}, clock=clock
    )
    np.testing.assert_array_equal(found["a"].rounds, (4 * 1.0 + 2.0) / 4)


def test_a_clock_that_stands_still_is_an_error_and_not_a_record():
    clock = FakeClock()
    with pytest.raises(RuntimeError, match=r"b took 0\.0 s"):
        timing.compare({"a": clock.task("a", 1.0), "b": clock.task("b", 0.0)}, rounds=2, number=1, clock=clock)


def test_the_verdict_says_whether_the_median_reaches_the_target():
    found = timing.Ratio(np.array([0.5, 0.7, 0.9]))
    assert timing.verdict(found, 0.7) == "target <= 0.7: reached"
    assert timing.verdict(found, 0.65) == "target <= 0.65: MISSED"
    assert timing.verdict(found, None) == ""


def test_unsteady_rows_are_marked_in_the_table(capsys):
    steady = timing.Timing("steady", np.full(11, 3e-6))
    jumpy = timing.Timing("jumpy", np.geomspace(1e-6, 1e-5, 11))
    timing.report("title", {"steady": steady, "jumpy": jumpy}, "steady", {"jumpy": 2.0})
    rows = capsys.readouterr().out.splitlines()
    assert rows[-2].split() == ["steady", "3.00", "[3.00", "3.00]"]
    assert rows[-1].split()[:5] == ["jumpy", "3.16", "[1.26", "7.94]", "?"]
    assert rows[-1].endswith("target <= 2: reached")


def test_a_busy_machine_is_said_to_be_busy(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for load, own, busy in ((0.0, 0, False), (1.5, 0, True), (1.5, 1, False), (100.0, 2, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0), raising=False)
        text = timing.load_text(own)
        assert text.startswith(f"{load:.2f}")
        assert ("THE MACHINE IS BUSY" in text) is busy


def test_zero_threads_are_refused():
    with pytest.raises(ValueError, match="at least one thread, got 0"):
        timing.use_threads(0)
