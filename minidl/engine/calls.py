"""The call of an operation on the usual things, NumPy tensors and numbers: the engine's hot path.

Every line is paid by every operation, so calls are specialised by the number of inputs, work on locals, and leave
everything unusual (lists, GPUs, mixed devices, missing arguments) to `Op.apply`, which does the same in general.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .backend import MODULES
from .explain import explain
from .node import Node, mode, tick
from .tensor import TENSORS, Tensor, wrap

_NOTHING: dict[str, Any] = {}  # the settings of a call without any; never written to


def specialise(op: Any) -> Callable[..., Any]:
    """Return the function that calls to op run."""
    if op.variadic or op.settings or len(op.inputs) > 2 or not op.rules:
        return _general(op)
    return _unary(op) if len(op.inputs) == 1 else _binary(op, op.apply)


def operator(op: Any, takes: Callable[[Any], bool], reflected: bool = False) -> Callable[[Any, Any], Any]:
    """Return the method for an operator of two operands: NotImplemented for an operand that is none of ours."""

    def slow(args: tuple, settings: dict[str, Any]) -> Any:
        return op.apply(args, settings) if takes(args[0]) and takes(args[1]) else NotImplemented

    if op.differentiable and not reflected:
        return _binary(op, slow)
    return lambda self, other: slow((other, self) if reflected else (self, other), {})


def _unary(op: Any) -> Callable[..., Any]:
    compute, keep, save_out = op.on_numpy, op.keeps[0], op.save_out
    ndarray, tensors, thread, new = np.ndarray, TENSORS, mode, object.__new__

    def call(x: Any, /) -> Any:
        wrapped = type(x) is Tensor or type(x) in tensors
        a = x.array if wrapped else x
        if type(a) is not ndarray:
            return op.apply((x,), {})
        try:
            out = compute(a)
        except (ValueError, TypeError) as error:
            raise explain(op, error, (a,), {})  # noqa: B904 (often the same error: its own cause would be a cycle)
        if type(out) is not ndarray:
            out = op.returned(np, out)
        if not wrapped:
            return out
        t = new(Tensor)
        t.array = out
        t._grad = t.node = None
        parent = x.node
        if parent is None or not (record := thread.record):
            return t
        t.node = node = Node()
        node.op = op
        node.args = (a if keep else parent,)
        node.out = out if save_out else None
        node.parents = (parent,)
        node.static = _NOTHING
        node.time = tick()
        node.shape = out.shape
        node.dtype = out.dtype
        node.hooks = None
        if record == 2:
            thread.watch(node)
        return t

    return call


def _binary(op: Any, slow: Callable[[tuple, dict], Any]) -> Callable[..., Any]:
    compute, (keep_x, keep_y), save_out = op.on_numpy, op.keeps, op.save_out
    ndarray, tensors, thread, new = np.ndarray, TENSORS, mode, object.__new__

    def call(x: Any, y: Any, /) -> Any:
        m = n = None
        a, b = x, y
        if type(x) is Tensor or type(x) in tensors:
            a, m = x.array, x.node
        if type(y) is Tensor or type(y) in tensors:
            b, n = y.array, y.node
        # A raw array beside a tensor, whose dtype would have to be looked at, goes the slow way too.
        if type(a) is not ndarray or not (
            (a is x) is (b is y) if type(b) is ndarray else type(b) is float or type(b) is int
        ):
            return slow((x, y), {})
        try:
            out = compute(a, b)
        except (ValueError, TypeError) as error:
            raise explain(op, error, (a, b), {})  # noqa: B904 (often the same error: its own cause would be a cycle)
        if type(out) is not ndarray:
            out = op.returned(np, out)
        if a is x and b is y:
            return out
        t = new(Tensor)
        t.array = out
        t._grad = t.node = None
        if (m is None and n is None) or not (record := thread.record):
            return t
        t.node = node = Node()
        node.op = op
        node.args = (a if keep_x or m is None else m, b if keep_y or n is None else n)
        node.out = out if save_out else None
        node.parents = (m, n)
        node.static = _NOTHING
        node.time = tick()
        node.shape = out.shape
        node.dtype = out.dtype
        node.hooks = None
        if record == 2:
            thread.watch(node)
        return t

    return call


def _general(op: Any) -> Callable[..., Any]:
    """Any number of inputs, and settings; quick when all of them are NumPy arrays or tensors."""
    compute, n, keeps, tensors = op.on_numpy, len(op.inputs), op.keeps, TENSORS
    quick = not op.variadic and op.differentiable

    def call(*args: Any, **static: Any) -> Any:
        if len(args) != n or not quick:
            return op.apply(args, static)
        arrays, parents = [], []
        wrapped = tracked = False
        for x in args:
            node = None
            if type(x) in tensors:
                wrapped, node, x = True, x.node, x.array
                tracked = tracked or node is not None
            if type(x) is not np.ndarray:
                return op.apply(args, static)
            arrays.append(x)
            parents.append(node)
        try:
            out = compute(*arrays, **static)
        except (ValueError, TypeError, IndexError) as error:
            raise explain(op, error, args, static)  # noqa: B904 (often the same error: its own cause would be a cycle)
        if type(out) is tuple:
            return op.several(out, arrays, parents, static, tracked, wrapped)
        if type(out) not in MODULES:  # a move to a GPU gives an array of another module
            out = op.returned(np, out)
        if not wrapped:
            return out
        if not tracked or not mode.record or out.dtype.kind != "f":
            return wrap(out)
        return wrap(out, op.record(Node(), out, arrays, parents, keeps, static))

    return call
