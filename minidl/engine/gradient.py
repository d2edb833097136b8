"""What happens to a gradient between a rule and the node it is for: shape, ownership, stale values."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .backend import MODULES, Array, as_array
from .node import Node, pick, written
from .tensor import Tensor, wrap


def aliased(gradient: Any, node: Node | None, g: Any) -> bool:
    """Tell whether a gradient may share memory: with the arriving one, a saved array, another gradient."""
    if g is None or node is None:
        return True  # the caller's own array, or a joint rule, which may return one array twice
    array = gradient.array if type(gradient) is Tensor else gradient
    others = (g.array if type(g) is Tensor else g, *node.args, node.out)
    owned = array.base is None or getattr(array, "fresh", False)  # a result of a step that is being recorded
    return not owned or any(array is a for a in others)


def number(value: Any, parent: Node, node: Node | None) -> Array:
    """Make the number that a rule returned, as NumPy's reductions do, an array on the parent's device."""
    if not isinstance(value, (float, int, np.generic)):
        name = "backward" if node is None else node.op.name
        raise TypeError(f"{name}: a rule must return an array or a Tensor, got {type(value).__name__}")
    return as_array(value, dtype=parent.dtype, device=parent.device, who="backward")


def no_scalar(x: Any) -> Any:
    """Undo NumPy's habit of returning a scalar where an operation on 0-d arrays is meant."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def as_tensors(node: Node) -> tuple[tuple, Any]:
    """Give the saved arrays of a node their place in the graph back, for a backward that is recorded."""
    if node.op.once:
        raise RuntimeError(
            f"{node.op.name}: its rules are exact for first derivatives only; create_graph=True needs more"
        )
    args = tuple(wrap(a, p) if type(a) in MODULES else a for a, p in zip(node.args, node.parents, strict=True))
    if type(node.out) is tuple:
        main: Any = node
        picks = (pick(main, i) if a.dtype.kind == "f" else None for i, a in enumerate(node.out))
        return args, tuple(wrap(a, p) for a, p in zip(node.out, picks, strict=True))
    return args, None if node.out is None else wrap(node.out, node)


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(n, dtype)


def sum_to(g: Any, parent: Node, node: Node | None) -> Any:
    """Sum a gradient over the axes along which its input was broadcast; RuntimeError if it was not broadcast to it."""
    shape = parent.shape
    if isinstance(g, np.ndarray) and g.ndim > 1 and g.shape[-1:] == shape and g.size and g.dtype.itemsize > 2:
        rows = g.reshape(-1, *shape)
        return np.dot(_ones(len(rows), g.dtype), rows)  # the gradient of a bias: BLAS adds rows thrice as fast as sum
    extra = g.ndim - len(shape)
    fits = extra >= 0 and all(n in (1, m) for n, m in zip(shape, g.shape[max(extra, 0) :], strict=False))
    if not fits:
        name = node.op.name if node is not None else "backward"
        position = 0 if node is None else [p is parent for p in node.parents].index(True)
        raise RuntimeError(
            f"{name}: invalid gradient at index {position}: its rule returned the shape {tuple(g.shape)}, "
            f"the input has {shape}"
        )
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1)
    return no_scalar(g.sum(axis=axes)).reshape(shape)


def check_unwritten(node: Node) -> None:
    """Raise if an array that a node saved has been written into since."""
    op, n = node.op, len(node.args)
    names = [f"input {i}" for i in range(n)] if op.variadic else op.inputs
    saved = [(name, a) for name, a, keep in zip(names, node.args, op.kept(n), strict=True) if keep]
    saved += [("its result", a) for a in (node.out if type(node.out) is tuple else (node.out,))]
    for name, array in saved:
        when = written(array) if type(array) in MODULES else 0
        if when > node.time:
            raise RuntimeError(
                f"backward of {node.op.name}: {name} (shape {array.shape}), needed for the gradient, was modified by "
                f"an in-place operation: expected its version of time {node.time}, found one of time {when}; "
                "write after backward(), or into a copy"
            )
