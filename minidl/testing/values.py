"""Comparing arrays, and what the batteries share: expectations, casts, memory layouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..creation import from_numpy, tensor
from ..engine.backend import is_array, to_numpy
from ..engine.tensor import Tensor

HALF, SINGLE, DOUBLE = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
TOLERANCES = {HALF: (1e-3, 1e-5), SINGLE: (1.3e-6, 1e-5), DOUBLE: (1e-7, 1e-7)}  # rtol, atol: PyTorch's


def expect(condition: Any, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds.

    >>> expect(1 < 2, "numbers are out of order")
    """
    if not condition:
        raise AssertionError(message)


def assert_close(
    actual: Any, expected: Any, rtol: float | None = None, atol: float | None = None, what: str = "value"
) -> None:
    """Raise AssertionError unless |actual - expected| <= atol + rtol |expected|, and shapes and dtypes are equal.

    Tensors (whose gradients do not matter here) and arrays on any device, numbers, and tuples, lists and dictionaries
    of them. NaN equals NaN. A Python number has no dtype of its own. By default rtol and atol are those of PyTorch:
    1.3e-6 and 1e-5 for float32, 1e-7 twice for float64, 1e-3 and 1e-5 for float16, and 0 for integers.

    >>> assert_close(tensor([1.0, 2.0]), tensor([1.0, 2.0000001]))
    >>> assert_close(tensor([1.0, 2.0]), tensor([1.0, 2.5]))
    Traceback (most recent call last):
    AssertionError: value: 2.0, expected 2.5 (rtol 1.3e-06, atol 1e-05); 1 of 2 elements differ, first at (1,)
    """
    several = (tuple, list)
    if isinstance(expected, Mapping) or (isinstance(expected, several) and isinstance(actual, several)):
        _assert_alike(actual, expected, rtol, atol, what)
        return
    a, b = _host(actual), _host(expected)
    typed = [x.dtype for x, given in ((a, actual), (b, expected)) if hasattr(given, "dtype")]
    expect(a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}")
    expect(len(set(typed)) < 2, f"{what}: dtype {a.dtype}, expected {b.dtype}")
    usual = TOLERANCES.get(typed[0] if typed else DOUBLE, (0.0, 0.0))
    rtol, atol = usual[0] if rtol is None else rtol, usual[1] if atol is None else atol
    exact = not (rtol or atol) and a.dtype.kind != "f"
    off = np.asarray(a != b if exact else ~np.isclose(_wide(a), _wide(b), rtol=rtol, atol=atol, equal_nan=True))
    if off.any():
        at = tuple(map(int, np.unravel_index(int(off.argmax()), off.shape)))
        count = f"{int(off.sum())} of {off.size} elements differ" + (f", first at {at}" if at else "")
        raise AssertionError(f"{what}: {a[at]}, expected {b[at]} (rtol {rtol:g}, atol {atol:g}); {count}")


def _assert_alike(actual: Any, expected: Any, rtol: float | None, atol: float | None, what: str) -> None:
    """Compare tuples, lists or dictionaries part by part."""
    keyed = isinstance(expected, Mapping)
    expect(
        isinstance(actual, Mapping if keyed else (tuple, list)), f"{what}: {type(actual).__name__}, expected several"
    )
    here, there = (dict(x) if keyed else dict(enumerate(x)) for x in (actual, expected))
    expect(here.keys() == there.keys(), f"{what}: has the parts {list(here)}, expected {list(there)}")
    for key, value in there.items():
        assert_close(here[key], value, rtol, atol, f"{what}[{key!r}]")


def _host(x: Any) -> np.ndarray:
    x = x.array if isinstance(x, Tensor) else x
    return to_numpy(x) if is_array(x) else np.asarray(x)


def _wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64)


# ---- what the batteries are tried on -----------------------------------------------------------------------------


def floating(a: Any) -> bool:
    """Tell whether an array or tensor can have a derivative."""
    return bool(a.dtype.kind == "f")


def check_double(who: str, arrays: Iterable[np.ndarray]) -> None:
    """Refuse floating inputs that are not float64, with which differences would be rounding noise."""
    for a in arrays:
        if a.dtype.kind == "f" and a.dtype != DOUBLE:
            raise TypeError(f"{who}: floating inputs must be float64, got {a.dtype}; use .astype('float64')")


def host_arrays(inputs: Any) -> list[np.ndarray]:
    """Return inputs as arrays on the host."""
    return [_host(x) for x in inputs]


def tensors(arrays: Any, device: str = "cpu", wanted: bool = True) -> list[Tensor]:
    """Return tensors around the arrays themselves (their memory layout kept); floating ones want a gradient."""
    made = [from_numpy(a) if device == "cpu" else tensor(a, device=device) for a in arrays]
    for t in made:
        if wanted and floating(t):
            t.requires_grad_()
    return made


def cast(arrays: Any, dtype: Any) -> list:
    """Return the arrays with the floating ones in another dtype."""
    return [a.astype(dtype) if floating(a) else a for a in arrays]


def results(out: Any) -> tuple:
    """Return the tensors in a result, which may be one, or tuples, lists and dictionaries of them; None is left out."""
    if isinstance(out, Mapping):
        out = tuple(out.values())
    return (
        tuple(t for part in out for t in results(part))
        if isinstance(out, (tuple, list))
        else (out,) * (out is not None)
    )


def cotangents(outs: tuple, seed: int = 1) -> list[np.ndarray]:
    """Return a random array of the shape of each floating output."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(y.shape)) for y in outs if floating(y)]


def layouts(a: np.ndarray) -> dict[str, np.ndarray]:
    """Return arrays equal to `a` that lie differently in memory.

    >>> {name: (b == np.arange(3)).all().item() for name, b in layouts(np.arange(3)).items()}
    {'read-only': True, 'strided': True, 'backwards': True, 'offset': True}
    """
    found = {"read-only": a.copy()}
    found["read-only"].flags.writeable = False
    if a.ndim > 1:
        found["F-ordered"] = np.asfortranarray(a)
    if a.ndim:
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        wide[..., ::2] = a
        found["strided"] = wide[..., ::2]
        found["backwards"] = a[::-1].copy()[::-1]
        found["offset"] = np.concatenate([a[:1], a])[1:] if len(a) else a
    else:
        found["0-d view"] = np.array([[a, a]], a.dtype)[0, 1, ...]
    return found
