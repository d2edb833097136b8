"""Evaluating a network again and again as one fixed function: no running average moves, every random mask repeats."""

from __future__ import annotations

import threading

from . import random


class _Flag(threading.local):
    depth = 0  # of the blocks this thread is in


_flag = _Flag()


def is_frozen() -> bool:
    """Tell whether this thread is inside a `frozen_statistics` block: then layers must not change their buffers."""
    return _flag.depth > 0


class frozen_statistics:
    """Make a network in training mode a fixed function of its parameters, for curvature and line searches.

    Inside a block running averages do not change. Each time a block of the same object is entered, random numbers start
    again where they stood when the object was made, so masks repeat; after the block they go on as if it had not been.
    Layers still normalize by the batch, and derivatives flow through its mean and variance.

    >>> manual_seed(0)
    >>> drop, x, frozen = nn.Dropout(0.5), ones(100), nn.frozen_statistics()
    >>> masks = []
    >>> for _ in range(2):
    ...     with frozen:
    ...         masks.append(drop(x).tolist())
    >>> masks[0] == masks[1], masks[0] == [drop(x), drop(x)][1].tolist()
    (True, False)
    """

    def __init__(self) -> None:
        self._start = random.get_state()
        self._before: list[dict[str, int]] = []

    def __enter__(self) -> frozen_statistics:
        self._before.append(random.get_state())
        random.set_state(self._start)
        _flag.depth += 1
        return self

    def __exit__(self, *exc: object) -> None:
        _flag.depth -= 1
        random.set_state(self._before.pop())
