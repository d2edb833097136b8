"""What every operation must pass: the truths of `minidl.testing.operations`, and those that need the stand-in GPU.

Each takes an operation and a case of it; see `cases`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minidl as md
from minidl.engine.backend import to_numpy
from minidl.engine.tensor import Tensor
from minidl.testing.operations import (
    check_constants,
    check_device,
    check_dtypes,
    check_finite,
    check_freed,
    check_half_and_single,
    check_inputs_unchanged,
    check_into,
    check_layouts,
    check_orders,
    check_ownership,
    check_repeated,
    check_samplewise,
    check_value,
    run,
)
from minidl.testing.values import DOUBLE, HALF, SINGLE, cast, cotangents, floating, layouts, tensors
from minidl.testing.values import results as outputs_of

__all__ = [
    "assert_equal", "cast", "check_constants", "check_device", "check_dtypes", "check_finite", "check_freed",
    "check_half_and_single", "check_inputs_unchanged", "check_into", "check_launches_only", "check_layouts",
    "check_orders", "check_ownership", "check_repeated", "check_samplewise", "check_value", "check_weak_scalars",
    "cotangents", "floating", "layouts", "outputs_of", "run", "tensors", "values",
]  # fmt: skip


def values(ts: Any) -> list[np.ndarray]:
    """Return the values of tensors on the host."""
    return [to_numpy(t.array) for t in ts]


def assert_equal(got: Any, expected: Any, rtol: float = 1e-12, atol: float = 1e-14, what: str = "value") -> None:
    """Compare two arrays in shape and value."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=what)


def check_weak_scalars(op: Callable) -> None:
    """Python and NumPy numbers take the dtype of the array beside them, on either side."""
    for dtype in (HALF, SINGLE, DOUBLE):
        x = md.tensor(np.array([1.0, 2.0], dtype), requires_grad=True)
        for number in (2, 2.0, True, np.float64(2), np.float32(2), np.float16(2), np.int64(2)):
            for arguments in ((x, number), (number, x), (x.array, number), (number, x.array)):
                out = op(*arguments)
                assert out.dtype in (dtype, np.bool_), (
                    f"{np.dtype(dtype)} with {type(number).__name__} gave {out.dtype}"
                )
                if isinstance(out, Tensor) and out.requires_grad:
                    (g,) = md.autograd.grad(out.sum(), x)
                    assert g.dtype == dtype


def check_launches_only(op: Callable, case: Any, rng: np.random.Generator, stats: Any) -> None:
    """Forward and recorded backward neither copy between host and device nor wait for the device."""
    xs = tensors(case.arrays(rng), "cuda")
    stats.reset()
    outs = [y for y in outputs_of(case.call(op, *xs)) if y.requires_grad]
    if outs:
        ones = [y.detach() * 0 + 1 for y in outs]
        wanted = [x for x in xs if floating(x)]
        found = md.autograd.grad(outs, wanted, ones, create_graph=True, allow_unused=True)
        again = [g for g in found if g is not None and g.requires_grad]
        if again and case.orders > 1:
            md.autograd.grad(again, wanted, [g.detach() for g in again], allow_unused=True)
    seen = {k: v for k, v in vars(stats).items() if k != "launches" and v}
    assert not seen, f"costs on a GPU: {seen}"
