"""Fair timing: several callables, interleaved in one process, compared pair by pair.

Two measurements made one after the other differ by what else the machine did meanwhile. So every round times each task
once, the order rotates from round to round, and a ratio is taken within each round, where both sides met the same
machine; reported are the median of the rounds and the 10th and 90th percentile. BLAS and PyTorch get the same number
of threads, and the process is bound to as many cores, which is the only limit that XLA (JAX) respects.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

SHORTEST = 2e-3  # seconds that one measurement lasts at least: the timer and the loop then cost under 0.1 %
UNSTEADY = 1.5  # a row whose 90th percentile exceeds its 10th by this factor is marked: do not build on it
PACKAGES = ("numpy", "minidl", "numba", "torch", "jax", "jaxlib", "autograd", "optax")

Task = Callable[[], object]


@dataclass
class Timing:
    """Seconds a call for each round."""

    name: str
    rounds: np.ndarray

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return float(np.median(self.rounds))

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile of the rounds."""
        return spread(self.rounds)

    @property
    def steady(self) -> bool:
        """False if the spread is so wide that the median says little."""
        low, high = self.spread
        return high <= UNSTEADY * low


@dataclass
class Ratio:
    """How long one task takes in units of another, round by round."""

    rounds: np.ndarray

    @property
    def median(self) -> float:
        """The median of the rounds' ratios."""
        return float(np.median(self.rounds))

    def __str__(self) -> str:
        low, high = spread(self.rounds)
        return f"{self.median:.2f} [{low:.2f} {high:.2f}]"


def spread(values: np.ndarray) -> tuple[float, float]:
    """Return the 10th and the 90th percentile."""
    low, high = np.percentile(values, (10, 90))
    return float(low), float(high)


def ratio(a: Timing, b: Timing) -> Ratio:
    """Return a / b, formed within each round.

    >>> print(ratio(Timing("a", np.array([1.0, 20.0, 3.0])), Timing("b", np.array([2.0, 40.0, 6.0]))))
    0.50 [0.50 0.50]
    """
    if len(a.rounds) != len(b.rounds):
        raise ValueError(f"ratio: {a.name} has {len(a.rounds)} rounds and {b.name} {len(b.rounds)}; time them together")
    return Ratio(a.rounds / b.rounds)


def compare(
    tasks: Mapping[str, Task],
    rounds: int = 40,
    warmup: int = 3,
    number: int | None = None,
    finish: Mapping[str, Task] | None = None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Timing]:
    """Time the tasks side by side and return a Timing for each.

    Parameters
    ----------
    tasks : what to time, by name; each is called without arguments.
    rounds : how often each task is measured; the order rotates by one from round to round.
    warmup : unmeasured rounds before (compilers, caches and frequency settle).
    number : calls a measurement, the same for all; by default so many that the fastest lasts 2 ms.
    finish : for tasks that return before their work is done (JAX), what waits for it, once a measurement.
    clock : seconds, as `time.perf_counter`.

    Raises RuntimeError if a measurement is not positive: the clock is broken or the task was not run.
    """
    names = list(tasks)
    finish = finish or {}
    loops = {name: _loop(tasks[name], finish.get(name), clock) for name in names}
    fastest = min(min(loops[name](1) for _ in range(warmup + 1)) for name in names)
    number = number or max(1, math.ceil(SHORTEST / max(fastest, 1e-7)))
    for _ in range(warmup):
        for name in names:
            loops[name](number)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _settled_collector():
        for i in range(rounds):
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                seconds[name].append(loops[name](number) / number)
    for name in names:
        if min(seconds[name]) <= 0:
            raise RuntimeError(f"compare: {name} took {min(seconds[name])} s, which cannot be; the clock does not run")
    return {name: Timing(name, np.array(seconds[name])) for name in names}


def _loop(task: Task, finish: Task | None, clock: Callable[[], float]) -> Callable[[int], float]:
    def run(number: int) -> float:
        start = clock()
        for _ in range(number):
            task()
        if finish is not None:
            finish()
        return clock() - start

    return run


@contextmanager
def _settled_collector() -> Iterator[None]:
    """Keep the garbage collector on, since its cost is part of a library's, but hide what was there before.

    Otherwise each full collection walks the modules of every imported peer, and whoever triggers it pays for all.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# ---- the machine -------------------------------------------------------------------------------------------------


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share: --threads and --rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1, help="cores and threads for every library (default 1)")
    parser.add_argument("--rounds", type=int, default=40, help="measurements of each task (default 40)")
    return parser


def use_threads(count: int) -> None:
    """Give every library `count` threads: bind the process to that many cores, then limit BLAS and PyTorch.

    Call it before importing JAX, whose thread pool takes its size from the cores the process may use.
    """
    if count < 1:
        raise ValueError(f"use_threads: needs at least one thread, got {count}")
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if count > len(cores):
            raise ValueError(f"use_threads: {count} threads asked for, but this process may use {len(cores)} cores")
        os.sched_setaffinity(0, cores[-count:])
    threadpool_limits(count)
    torch = optional("torch")
    if torch is not None:
        torch.set_num_threads(count)


def optional(name: str):
    """Import and return a module, or return None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def describe_machine() -> str:
    """Return lines that say what was measured on: processor, cores, versions, threads, load."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    pools = {f"{p['internal_api']} {p['version'] or ''}".strip(): p["num_threads"] for p in threadpool_info()}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "\n".join(
        [
            f"machine: {_processor()}, {os.cpu_count()} cores, {usable} used; {platform.system()} {platform.machine()}",
            f"versions: Python {platform.python_version()}, {', '.join(versions)}",
            f"threads: {', '.join(f'{name} {count}' for name, count in pools.items())}",
            f"load average before: {load_text()}",
        ]
    )


def _processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def load_text(own: int = 0) -> str:
    """Return the load average of the last minute, with a warning if more than `own`, this benchmark's share, runs."""
    if not hasattr(os, "getloadavg"):
        return "unknown on this system"
    load = os.getloadavg()[0]
    busy = load - own > 0.25 * (os.cpu_count() or 1)
    return f"{load:.2f}" + (" - THE MACHINE IS BUSY: trust ratios only, and only steady ones" if busy else "")


# ---- tables ------------------------------------------------------------------------------------------------------


def microseconds(timing: Timing) -> str:
    """Return "median [10th 90th]" in microseconds, with a question mark when the spread is too wide to trust."""
    low, high = timing.spread
    return f"{_short(timing.median)} [{_short(low)} {_short(high)}]{'' if timing.steady else ' ?'}"


def _short(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def verdict(found: Ratio, target: float | None) -> str:
    """Return what to print beside a ratio: the target, and whether the median reaches it."""
    if target is None:
        return ""
    return f"target <= {target:g}: {'reached' if found.median <= target else 'MISSED'}"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a titled table with aligned columns."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        print("  " + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def report(title: str, timings: Mapping[str, Timing], ours: str, targets: Mapping[str, float]) -> None:
    """Print a comparison: the time of each task, and ours in units of it beside the target where there is one."""
    rows = []
    for name, timing in timings.items():
        found = None if name == ours else ratio(timings[ours], timing) if ours in timings else None
        rows.append((name, microseconds(timing), str(found or ""), verdict(found, targets.get(name)) if found else ""))
    print_table(title, ("", "us: median [10 % 90 %]", f"{ours} / this", ""), rows)
