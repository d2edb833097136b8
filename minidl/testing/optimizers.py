"""What every optimizer must keep, as one function for an optimizer of one's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.tensor import Parameter

SHAPES = ((3, 4), (5,), (2, 3, 2), (), (0, 2))


def check_optimizer(
    make: Callable[..., Any],
    formula: Callable[..., Any] | None = None,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    steps: int = 40,
    rtol: float = 1e-12,
    seed: int = 0,
) -> None:
    """Raise AssertionError, saying what fails, unless an optimizer passes the library's own battery.

    make       `make(params, **options)`: a class, or a function that fixes some of its options
    formula    (x, g, s, t) -> new x for one element, s a dictionary for its state: the trajectory must follow it
    shapes     of the parameters to try it on

    A parameter without a gradient stays, without state; maximizing -f is minimizing f, bitwise; saving, loading and
    going on is going on, bitwise; parameters keep their arrays and dtype, float32 too; no graph is recorded.

    >>> from minidl.optim import SGD
    >>> check_optimizer(SGD, lambda x, g, s, t: x - 1e-3 * g)
    """
    _check_identity(make, shapes, seed)
    _check_without_gradient(make, shapes, seed)
    _check_maximize(make, shapes, seed)
    _check_resume(make, shapes, seed)
    if formula is not None:
        _check_formula(make, formula, shapes, steps, rtol, seed)


def _params(shapes: Sequence[tuple[int, ...]], seed: int, dtype: Any = np.float64) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [Parameter(np.asarray(rng.standard_normal(shape), dtype)) for shape in shapes]


def _gradients(params: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Return the gradients of a noisy quadratic."""
    return [np.asarray(0.3 * p.data + rng.standard_normal(p.shape), p.dtype) for p in params]


def _run(optimizer: Any, params: Sequence[Any], steps: int, seed: int, sign: float = 1.0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for p, g in zip(params, _gradients(params, rng), strict=True):
            p.grad = np.asarray(sign * g, p.dtype)
        optimizer.step()


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(f"check_optimizer: {what}")


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return all(np.array_equal(x.data, y.data) for x, y in zip(a, b, strict=True))


def _check_identity(make: Callable[..., Any], shapes: Sequence[tuple[int, ...]], seed: int) -> None:
    for dtype in (np.float32, np.float64):
        params = _params(shapes, seed, dtype)
        held, before = [p.data for p in params], [p.data.copy() for p in params]
        optimizer = make(params)
        _run(optimizer, params, 3, seed)
        kept = all(p.data is x for p, x in zip(params, held, strict=True))
        _demand(kept, "a step must write into the parameters' own arrays")
        _demand(all(p.dtype == dtype for p in params), f"{dtype.__name__} parameters must stay {dtype.__name__}")
        _demand(all(p.is_leaf and p.requires_grad for p in params), "a step must not record a graph")
        _demand(not all(np.array_equal(p.data, x) for p, x in zip(params, before, strict=True)), "nothing moved")
        for entry in optimizer.state.values():
            good = all(x.dtype == dtype for slot, x in entry.items() if slot != "t")
            _demand(good, f"the state of {dtype.__name__} parameters must be {dtype.__name__}")


def _check_without_gradient(make: Callable[..., Any], shapes: Sequence[tuple[int, ...]], seed: int) -> None:
    params = _params(shapes, seed)
    before = params[0].data.copy()
    optimizer = make(params)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        for p, g in zip(params[1:], _gradients(params[1:], rng), strict=True):
            p.grad = g
        optimizer.step()
    _demand(np.array_equal(params[0].data, before), "a parameter without a gradient must not move or decay")
    _demand("0" not in optimizer.state, "a parameter without a gradient must get no state")


def _check_maximize(make: Callable[..., Any], shapes: Sequence[tuple[int, ...]], seed: int) -> None:
    up, down = _params(shapes, seed), _params(shapes, seed)
    optimizers = make(up, maximize=True), make(down)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        for p, q, g in zip(up, down, _gradients(down, rng), strict=True):
            p.grad, q.grad = -g, g
        for optimizer in optimizers:
            optimizer.step()
    _demand(_same(up, down), "maximizing -f must be minimizing f, to the last bit")


def _check_resume(make: Callable[..., Any], shapes: Sequence[tuple[int, ...]], seed: int) -> None:
    params, others = _params(shapes, seed), _params(shapes, seed)
    whole, first = make(params), make(others)
    for optimizer, own in ((whole, params), (first, others)):
        _run(optimizer, own, 4, seed)
    saved = copy.deepcopy(first.state_dict())
    second = make(others)
    second.load_state_dict(saved)
    _run(whole, params, 4, seed + 1)
    _run(second, others, 4, seed + 1)
    _demand(_same(params, others), "a loaded state must go on as if nothing had happened, to the last bit")


def _check_formula(
    make: Callable[..., Any],
    formula: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
    steps: int,
    rtol: float,
    seed: int,
) -> None:
    params = _params(shapes, seed)
    values = [p.data.copy() for p in params]
    states: list[dict[Any, Any]] = [{i: {} for i in np.ndindex(p.shape)} for p in params]
    optimizer, rng = make(params), np.random.default_rng(seed)
    for t in range(1, steps + 1):
        for p, x, state, g in zip(params, values, states, _gradients(params, rng), strict=True):
            p.grad = g
            for i, s in state.items():
                x[i] = formula(float(x[i]), float(g[i]), s, t)
        optimizer.step()
        for k, (p, x) in enumerate(zip(params, values, strict=True)):
            close = np.allclose(p.data, x, rtol=rtol, atol=1e-14)
            _demand(close, f"at step {t} parameter {k} {p.shape} is not where the formula says")
