"""check_grad: are the derivatives of a function right? Compared with central differences, to any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .autograd import _tuple, grad
from .backend import as_array, to_numpy
from .modes import enable_grad, no_grad
from .tensor import Tensor, wrap

# Five-point stencil for a first derivative: error h^4 f''''' / 30, about 1e-13 at this step, as much as its rounding.
_STEP = 2e-3
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))


class GradientError(AssertionError):
    """A derivative that is not what differences say, has the wrong shape or dtype, or changes between two runs."""


def check_grad(
    f: Callable[..., Any],
    inputs: Sequence[Any] | Any,
    order: int = 2,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int = 0,
) -> None:
    """Raise GradientError unless the derivatives of f at inputs are right, up to `order`.

    f takes Tensors and returns a Tensor or a tuple of them; inputs are float64 arrays or tensors (integer ones are
    passed on as constants). For one random direction v in the inputs and one random cotangent u on the outputs,
    u'(J v) by a five-point central difference must equal (u'J) v by `grad`; then the same is asked of the function
    (inputs, u) -> u'J, and so on. Also checked: the gradient's shape and dtype, that two runs agree bitwise, that a
    zero cotangent gives zero. f must be smooth within 4e-3 of the inputs.

    ValueError: no floating input, an input that is not float64 (differences would be rounding noise) or one with
    repeated elements in memory.

    >>> from minidl import ops
    >>> check_grad(lambda x: ops.exp(x) * x, [np.array([0.3, -1.2])], order=3)
    """
    arrays = [x.array if isinstance(x, Tensor) else as_array(x, who="check_grad") for x in _tuple(inputs)]
    _check_inputs(arrays)
    if type(order) is not int or order < 1:
        raise ValueError(f"check_grad: order must be an integer of at least 1, got {order!r}")
    rng = np.random.Generator(np.random.Philox(key=seed))
    with enable_grad():
        _check(f, arrays, order, rtol, atol, rng, 1)


def _check_inputs(arrays: list) -> None:
    floating = [a for a in arrays if a.dtype.kind == "f"]
    if not floating:
        raise ValueError("check_grad: needs at least one floating input to differentiate by")
    for a in floating:
        if a.dtype != np.float64:
            raise ValueError(f"check_grad: needs float64 inputs, got {a.dtype}: differences would be rounding noise")
        if a.size and any(s == 0 and n > 1 for s, n in zip(a.strides, a.shape, strict=True)):
            raise ValueError(
                f"check_grad: an input of shape {a.shape} repeats elements in memory (strides {a.strides}); copy it"
            )


def _check(
    f: Callable, arrays: list, order: int, rtol: float, atol: float, rng: np.random.Generator, level: int
) -> None:
    floating = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"]
    directions = [_beside(arrays[i], rng.standard_normal(arrays[i].shape)) for i in floating]
    outputs = _floating(_run(f, arrays, floating))
    cotangents = [_beside(y.array, rng.standard_normal(y.shape)) for y in outputs]
    numeric, size = _difference(f, arrays, dict(zip(floating, directions, strict=True)), cotangents, outputs, level)

    gradients = _gradients(f, arrays, floating, cotangents)
    again = _gradients(f, arrays, floating, cotangents)
    zero = _gradients(f, arrays, floating, [u * 0 for u in cotangents])
    exact = 0.0
    for i, g, g2, g0, v in zip(floating, gradients, again, zero, directions, strict=True):
        _expect(
            g.shape == arrays[i].shape,
            level,
            f"the gradient of input {i} has shape {g.shape}, the input {arrays[i].shape}",
        )
        _expect(
            g.dtype == arrays[i].dtype, level, f"the gradient of input {i} is {g.dtype}, the input {arrays[i].dtype}"
        )
        _expect(
            _equal(g, g2), level, f"the gradient of input {i} differs between two runs: the rule is not deterministic"
        )
        _expect(
            not to_numpy(g0).any(),
            level,
            f"input {i}: a zero cotangent must give a zero gradient; does the rule multiply by g?",
        )
        exact += float((to_numpy(g) * to_numpy(v)).sum())
    allowed = rtol * max(abs(exact), abs(numeric)) + atol + 1e-14 * size
    # Written so that NaN fails.
    _expect(
        abs(exact - numeric) <= allowed, level, f"derivative {exact:.12g} by the rules, {numeric:.12g} by differences"
    )

    if order > 1:
        _check(_derivative(f, len(arrays), floating), [*arrays, *cotangents], order - 1, rtol, atol, rng, level + 1)


def _difference(
    f: Callable, arrays: list, directions: dict, cotangents: list, outputs: tuple, level: int
) -> tuple[float, float]:
    """Return u'(J v) by the stencil, and the size of the terms that cancel in it, which rounding is relative to."""
    numeric = size = 0.0
    for step, weight in _STENCIL:
        moved = [a + step * _STEP * directions[i] if i in directions else a for i, a in enumerate(arrays)]
        with no_grad():
            values = _floating(_tuple(f(*(wrap(np.asarray(a) if isinstance(a, np.generic) else a) for a in moved))))
        for u, y, y0 in zip(cotangents, values, outputs, strict=True):
            _expect(y.shape == y0.shape, level, f"the output changed its shape from {y0.shape} to {y.shape} nearby")
            terms = to_numpy(u) * to_numpy(y.array)
            numeric += weight / _STEP * float(terms.sum())
            size = max(size, float(np.abs(terms).sum()) / _STEP)
    return numeric, size


def _floating(outputs: tuple) -> tuple:
    return tuple(y for y in outputs if y.dtype.kind == "f")


def _derivative(f: Callable, n: int, floating: list[int]) -> Callable:
    """Return the function (inputs, cotangents) -> gradients, recorded if its arguments are."""

    def g(*xs: Tensor) -> tuple[Tensor, ...]:
        recording = any(x.requires_grad for x in xs)
        inputs = [x.detach().requires_grad_() if i in floating and not recording else x for i, x in enumerate(xs[:n])]
        with enable_grad():
            outputs = _floating(_tuple(f(*inputs)))
        reached = [(y, u) for y, u in zip(outputs, xs[n:], strict=True) if y.requires_grad]
        wanted = [inputs[i] for i in floating]
        if not reached:
            return tuple(t.detach() * 0 for t in wanted)
        found = grad(
            [y for y, _ in reached], wanted, [u for _, u in reached], create_graph=recording, allow_unused=True
        )
        return tuple(t.detach() * 0 if d is None else d for t, d in zip(wanted, found, strict=True))

    return g


def _run(f: Callable, arrays: list, floating: list[int]) -> tuple:
    tensors = [wrap(a) for a in arrays]
    for i in floating:
        tensors[i].requires_grad = True
    outputs = _tuple(f(*tensors))
    for y in outputs:
        if not isinstance(y, Tensor):
            raise TypeError(f"check_grad: f must return a Tensor or a tuple of them, got {type(y).__name__}")
    return outputs


def _gradients(f: Callable, arrays: list, floating: list[int], cotangents: list) -> list:
    """Return the gradients by the rules, as arrays; zeros for an input that no output depends on."""
    tensors = [wrap(a) for a in arrays]
    for i in floating:
        tensors[i].requires_grad = True
    pairs = zip(_floating(_tuple(f(*tensors))), cotangents, strict=True)
    reached = [(y, wrap(np.asarray(u) if isinstance(u, np.generic) else u)) for y, u in pairs if y.requires_grad]
    wanted = [tensors[i] for i in floating]
    if not reached:
        return [t.array * 0 for t in wanted]
    found = grad([y for y, _ in reached], wanted, [u for _, u in reached], allow_unused=True)
    return [t.array * 0 if g is None else g.array for t, g in zip(wanted, found, strict=True)]


def _beside(array: Any, values: np.ndarray) -> Any:
    """Bring random numbers drawn on the host beside an array."""
    return as_array(np.asarray(values), device=wrap(array).device)


def _equal(a: Any, b: Any) -> bool:
    return to_numpy(a).tobytes() == to_numpy(b).tobytes()


def _expect(condition: bool, level: int, message: str) -> None:
    if not condition:
        raise GradientError(f"check_grad, order {level}: {message}")
