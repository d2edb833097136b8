"""Randomness: every draw of a program is a pure function of (seed, number of draws before it).

All random numbers come from NumPy's Philox generator on the host, so that a run on a GPU starts from the same bits as
one on the CPU, and the whole state is two integers that fit in any checkpoint.
"""

from __future__ import annotations

import operator
import os
import threading
from typing import Any

import numpy as np

from .engine import backend

_lock = threading.Lock()
_seed = int.from_bytes(os.urandom(8), "little")
_draws = 0


def seed(value: int) -> None:
    """Start the stream of random numbers again from a seed, an integer in [0, 2**64).

    >>> seed(0)
    >>> first = generator().random(3)
    >>> seed(0)
    >>> bool((generator().random(3) == first).all())
    True
    """
    global _seed, _draws
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"seed: must be an integer, got {type(value).__name__}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"seed: must be in [0, 2**64), got {number}")
    if backend.recorder is not None:  # a captured step starts the stream again at each replay
        backend.recorder.again("manual_seed", seed, value)
    with _lock:
        _seed, _draws = number, 0


def generator() -> np.random.Generator:
    """Return the generator of the next draw: independent of all others, on the host, and reproducible.

    Draw k uses the Philox counter block that starts at k * 2**128, so no two draws overlap (Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3").
    """
    global _draws
    with _lock:
        index = _draws
        _draws += 1
    return np.random.Generator(np.random.Philox(key=_seed, counter=[0, 0, index, 0]))


def get_state() -> dict[str, int]:
    """Return the state of the stream: {"seed": ..., "draws": ...}.

    >>> seed(7)
    >>> _ = generator()
    >>> get_state()
    {'seed': 7, 'draws': 1}
    """
    return {"seed": _seed, "draws": _draws}


def set_state(state: dict[str, Any]) -> None:
    """Go back to a state that `get_state` returned; ValueError if it is not one."""
    global _seed, _draws
    if backend.recorder is not None:  # going back to a place that was right while recording would repeat masks
        backend.recorder.refuse("random.set_state (frozen_statistics calls it)")
    if not isinstance(state, dict) or set(state) != {"seed", "draws"}:
        raise ValueError(f"set_state: needs the keys 'seed' and 'draws' of get_state(), got {state!r}")
    new_seed, draws = operator.index(state["seed"]), operator.index(state["draws"])
    if not (0 <= new_seed < 2**64 and 0 <= draws < 2**64):
        raise ValueError(f"set_state: seed and draws must be in [0, 2**64), got {state!r}")
    with _lock:
        _seed, _draws = new_seed, draws
