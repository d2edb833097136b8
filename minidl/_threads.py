"""How many threads the BLAS uses: `threads(n)` sets it, `warn_if_oversubscribed()` looks whether it does harm.

More BLAS threads than free processors make them wait for each other: measured on two busy processors, two threads
turned a training step of 115 us into one of 34,700 us. The library itself sets nothing when it is imported.
"""

from __future__ import annotations

import math
import operator
import os
import warnings
from pathlib import Path
from typing import Any

REMEDY = "limit them with minidl.threads({n}), or set OPENBLAS_NUM_THREADS={n} before Python starts"
_warned = False


class ThreadLimit:
    """What `threads(n)` returns. As a context, it brings the old numbers of threads back at the end of the block."""

    def __init__(self, limiter: Any, n: int):
        self._limiter = limiter
        self.n = n

    def __enter__(self) -> ThreadLimit:
        return self

    def __exit__(self, *exc: object) -> None:
        self._limiter.restore_original_limits()

    def __repr__(self) -> str:
        return f"threads({self.n})"


def threads(n: int) -> ThreadLimit:
    """Let matrix products use at most n threads of the processor: from now on, or for one `with` block.

    Limits the BLAS libraries that are loaded (OpenBLAS, MKL, BLIS), through the package threadpoolctl; ImportError if
    that is missing. Warns (RuntimeWarning) where no such library is found and the limit has no effect, as with Apple's
    Accelerate. Kernels that Numba compiles run on one thread in any case.

    >>> with threads(1):
    ...     blas_threads()
    1
    """
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"threads: must be an integer, got {type(n).__name__}") from None
    if count < 1 or isinstance(n, bool):
        raise ValueError(f"threads: must be a positive integer, got {n!r}")
    try:
        import threadpoolctl
    except ImportError as error:
        raise ImportError("threads: needs the package threadpoolctl; pip install threadpoolctl") from error
    limit = ThreadLimit(threadpoolctl.threadpool_limits(limits=count, user_api="blas"), count)
    if blas_threads() is None:
        warnings.warn("threads: no BLAS that can be limited is loaded, so this has no effect", RuntimeWarning, 2)
    return limit


def blas_threads() -> int | None:
    """Return the number of threads of the BLAS that is loaded; None if threadpoolctl is missing or finds none."""
    try:
        import threadpoolctl
    except ImportError:
        return None
    import numpy as np  # noqa: F401  loads the BLAS

    pools = threadpoolctl.threadpool_info()
    return max((pool["num_threads"] for pool in pools if pool["user_api"] == "blas"), default=None)


def usable_cpus() -> int:
    """Return how many processors this process may use: its affinity, and the quota of its container."""
    limits = [_affinity(), _quota(Path("/sys/fs/cgroup/cpu.max"))]
    return max(1, min(limit for limit in limits if limit is not None))


def oversubscription() -> str | None:
    """Say in one sentence why the threads of the BLAS hinder each other, and the remedy; None if they do not.

    They do where there are more of them than processors this process may use, or where the machine is busy already (a
    load of more than 1.5 for each processor). Without threadpoolctl their number is taken from the environment, else to
    be one for each processor, which is what OpenBLAS starts.
    """
    count, cpus = blas_threads() or _expected_threads(), usable_cpus()
    if count > cpus:
        return f"the BLAS uses {count} threads, but this process may use {cpus} processor(s); {REMEDY.format(n=cpus)}"
    load, machine = _load(), os.cpu_count() or 1
    if count > 1 and load > 1.5 * machine:
        return (
            f"the BLAS uses {count} threads on a busy machine (load {load:.1f} on {machine} processor(s)), where they"
            f" wait for each other; {REMEDY.format(n=1)}"
        )
    return None


def warn_if_oversubscribed() -> None:
    """Issue `oversubscription()` as a RuntimeWarning, once in a process. Takes less than a millisecond."""
    global _warned
    text = None if _warned else oversubscription()
    if text is not None:
        _warned = True
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(file: Path) -> int | None:
    """Return how many processors a Linux control group grants, rounded up (its cpu.max: "150000 100000" is 2)."""
    try:
        granted, period = file.read_text().split()
        return None if granted == "max" else math.ceil(int(granted) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _expected_threads() -> int:
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    return _affinity()


def _load() -> float:
    """Return how many processes wanted to run, on average over the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0
