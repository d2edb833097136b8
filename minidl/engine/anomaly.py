"""Anomaly mode: find the operation, and the user's line, where a NaN or a stale value enters."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .backend import MODULES, scalar
from .node import Node, mode
from .tensor import Tensor

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


class detect_anomaly:
    """Find where a NaN or a stale value enters: slow, and for debugging only.

    In the block every operation notes the user's line that called it and a checksum of what it saved. A backward whose
    rule returns NaN, or whose saved arrays were changed behind the library's back, raises RuntimeError with the
    operation's name and that line.
    """

    def __init__(self) -> None:
        self._before: list[tuple[int, Any]] = []

    def __enter__(self) -> detect_anomaly:
        self._before.append((mode.record, mode.watch))
        mode.watch = self
        mode.record = 2 if mode.record else 0
        return self

    def __exit__(self, *exc: object) -> None:
        mode.record, mode.watch = self._before.pop()

    def __call__(self, node: Node) -> None:
        """Note where a new node was made."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back
        file, line = frame.f_code.co_filename, frame.f_lineno
        text = linecache.getline(file, line).strip()
        node.trace = (f'{file}:{line}, in {frame.f_code.co_name}: "{text}"', _checksums(node))

    def before(self, node: Node) -> None:
        """Check that what a node saved is still what it was."""
        trace = getattr(node, "trace", None)
        if trace is not None and trace[1] != _checksums(node):
            raise RuntimeError(
                f"backward of {node.op.name}: an array it saved was modified outside the library since the "
                f"forward at {trace[0]}; write into a copy"
            )

    def explain(self, error: Exception, node: Any) -> None:
        """Add to an error that a rule raised where its operation was called."""
        if hasattr(node, "trace"):
            note = f"backward of {node.op.name}; forward at {node.trace[0]}"
            notes = [*getattr(error, "__notes__", []), note]  # what add_note, new in Python 3.11, does
            error.__notes__ = notes  # type: ignore[attr-defined]

    def after(self, node: Node, parent: Node, gradient: Any) -> None:
        """Check the gradient that a rule returned."""
        array = gradient.array if type(gradient) is Tensor else gradient
        if scalar((array != array).any()):
            where = getattr(node, "trace", ("a line outside detect_anomaly()",))[0]
            position = [p is parent for p in node.parents].index(True)
            raise RuntimeError(f"{node.op.name}: returned nan values in its gradient {position}; forward at {where}")


def _checksums(node: Node) -> list:
    """Return the bytes' hash of each saved array; copies to the host on a GPU, which a debugging mode may."""
    outs = node.out if type(node.out) is tuple else (node.out,)
    host = (a if type(a) is np.ndarray else a.get() for a in (*node.args, *outs) if type(a) in MODULES)
    return [hash(a.tobytes()) for a in host]
