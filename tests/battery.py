"""What every operation must pass: one function a truth, each taking an operation and a case of it.

A case offers `arrays(rng)` (its inputs, float64 or integers), `call(op, *inputs)` (how the operation is called with its
settings), `reference` (the same in NumPy), `orders` (how often it can be differentiated). See `cases`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

import minidl as md
from minidl.engine.backend import MODULES, to_numpy
from minidl.engine.op import Op
from minidl.engine.tensor import Tensor

HALF, SINGLE, DOUBLE = np.float16, np.float32, np.float64
STRICT = {"over": "raise", "divide": "raise", "invalid": "raise"}  # underflow to 0 is the right answer, not an error


# ---- from arrays to tensors and back ---------------------------------------------------------------------------------


def outputs_of(result: Any) -> tuple:
    """Return the results of an operation as a tuple."""
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def floating(a: Any) -> bool:
    """Tell whether an array or tensor can have a derivative."""
    return a.dtype.kind == "f"


def tensors(arrays: list, device: str = "cpu", wanted: bool = True) -> list[Tensor]:
    """Return tensors around the arrays themselves (their memory layout kept); floating ones want a gradient."""
    made = [md.from_numpy(a) if device == "cpu" else md.tensor(a, device=device) for a in arrays]
    for t in made:
        if wanted and floating(t):
            t.requires_grad_()
    return made


def cast(arrays: list, dtype: Any) -> list:
    """Return the arrays with the floating ones in another dtype."""
    return [a.astype(dtype) if floating(a) else a for a in arrays]


def cotangents(outs: tuple, seed: int = 1) -> list[np.ndarray]:
    """Return a random array of the shape of each floating output."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(y.shape)) for y in outs if floating(y)]


def values(ts: Any) -> list[np.ndarray]:
    """Return the values of tensors on the host."""
    return [to_numpy(t.array) for t in ts]


def run(op: Callable, case: Any, arrays: list, order: int = 1, device: str = "cpu") -> tuple[list, list[list]]:
    """Return the outputs of a case as tensors, and for each order up to `order` the gradients of all floating inputs.

    Order 2 is the gradient of the first gradients in a random direction, and so on.
    """
    xs = tensors(arrays, device)
    outs = outputs_of(case.call(op, *xs))
    wanted = [x for x in xs if floating(x)]
    current, orders = [y for y in outs if floating(y)], []
    for k in range(order):
        pairs = [(y, u) for y, u in zip(current, cotangents(tuple(current), k + 1), strict=True) if y.requires_grad]
        us = [md.tensor(u.astype(y.dtype), device=y.device) for y, u in pairs]
        ys = [y for y, _ in pairs]
        found = (
            md.autograd.grad(ys, wanted, us, create_graph=k + 1 < order, allow_unused=True)
            if ys
            else [None] * len(wanted)
        )
        current = [md.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]
        orders.append(current)
    return list(outs), orders


def assert_equal(got: Any, expected: Any, rtol: float = 1e-12, atol: float = 1e-14, what: str = "value") -> None:
    """Compare two arrays in shape and value."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=what)


# ---- the truths ------------------------------------------------------------------------------------------------------


def check_value(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """The result is NumPy's, in value, shape and dtype; arrays in, arrays out; tensors in, tensors out."""
    arrays = case.arrays(rng)
    expected = outputs_of(case.reference(*arrays))
    raw = outputs_of(case.call(op, *arrays))
    wrapped = outputs_of(case.call(op, *tensors(arrays)))
    assert len(raw) == len(wrapped) == len(expected)
    for a, t, e in zip(raw, wrapped, map(np.asarray, expected), strict=True):
        assert type(a) is np.ndarray, f"arrays in must give arrays out, got {type(a).__name__}"
        assert type(t) is Tensor, f"tensors in must give tensors out, got {type(t).__name__}"
        assert a.dtype == t.dtype == e.dtype, f"dtypes {a.dtype}, {t.dtype}, expected {e.dtype}"
        assert_equal(t.detach().numpy(), e, case.rtol, case.atol)
        assert_equal(a, t.detach().numpy(), 0, 0, "arrays and tensors must give the same numbers")
        assert t.requires_grad == (case.orders > 0 and floating(t) and any(map(floating, arrays)))


def check_orders(op: Callable, case: Any, rng: np.random.Generator, order: int = 3) -> None:
    """The derivatives are those of central differences, up to the order asked for."""
    md.check_grad(lambda *xs: case.call(op, *xs), case.arrays(rng), order=min(order, case.orders), **case.tolerance)


def layouts(a: np.ndarray) -> dict[str, np.ndarray]:
    """Return arrays equal to `a` that lie differently in memory."""
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


def check_layouts(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """Inputs that lie differently in memory give the same value and gradients as contiguous ones."""
    arrays = case.arrays(rng)
    outs, (grads,) = run(op, case, arrays)
    for name in layouts(np.zeros((2, 2))) | layouts(np.zeros(())):
        moved = [layouts(a).get(name, a) for a in arrays]
        outs2, (grads2,) = run(op, case, moved)
        for a, b in zip(values(outs + grads), values(outs2 + grads2), strict=True):
            assert_equal(b, a, 1e-10, 1e-13, name)


def check_repeated(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """An input of zero strides, one row seen many times, gives the same value and gradients as its copy."""
    arrays = [np.broadcast_to(a[:1], a.shape) if floating(a) and a.ndim and len(a) > 1 else a for a in case.arrays(rng)]
    outs, (grads,) = run(op, case, [a.copy() for a in arrays])
    outs2, (grads2,) = run(op, case, arrays)
    for a, b in zip(values(outs + grads), values(outs2 + grads2), strict=True):
        assert_equal(b, a, 1e-10, 1e-13)


def check_dtypes(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """Float16, float32 and float64 stay what they are, in value, gradient and second derivative."""
    arrays = case.arrays(rng)
    for dtype in (HALF, SINGLE, DOUBLE):
        if case.orders == 0:
            outs, orders = outputs_of(case.call(op, *tensors(cast(arrays, dtype)))), []
        else:
            outs, orders = run(op, case, cast(arrays, dtype), min(2, case.orders))
        for y, e in zip(outs, outputs_of(case.reference(*cast(arrays, dtype))), strict=True):
            expected = dtype if floating(np.asarray(e)) and case.keeps_dtype else np.asarray(e).dtype
            assert y.dtype == expected, f"{np.dtype(dtype)} gave {y.dtype}"
        for g in (g for gs in orders for g in gs):
            assert g.dtype == dtype, f"the gradient of {np.dtype(dtype)} is {g.dtype}"


def check_half_and_single(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """Float32 and float16 results and gradients are those of float64 up to their rounding."""
    arrays = cast(case.arrays(rng), HALF)  # numbers that all three dtypes represent
    outs, orders = run(op, case, cast(arrays, DOUBLE))
    for dtype, tolerance in ((SINGLE, 2e-5), (HALF, 5e-2)):
        outs2, orders2 = run(op, case, cast(arrays, dtype))
        for a, b in zip(values(outs + orders[0]), values(outs2 + orders2[0]), strict=True):
            scale = np.abs(a[np.isfinite(a)]).max(initial=1.0) if floating(a) else 1.0
            assert_equal(b.astype(DOUBLE), a.astype(DOUBLE), tolerance, tolerance * scale, np.dtype(dtype).name)


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


def check_inputs_unchanged(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """Neither the operation nor its gradient writes into its inputs, its saved arrays or the arriving gradient."""
    arrays = case.arrays(rng)
    before = [a.tobytes() for a in arrays]
    case.call(op, *arrays)
    xs = tensors(arrays)
    outs = outputs_of(case.call(op, *xs))
    bits = [y.array.tobytes() for y in outs]
    reached = [y for y in outs if y.requires_grad]
    if reached:
        seeds = [np.ones(y.shape, y.dtype) for y in reached]
        for create in (False, True):
            md.autograd.grad(reached, [x for x in xs if floating(x)], seeds, True, create, allow_unused=True)
        assert all((s == 1).all() for s in seeds), "the arriving gradient was written into"
    assert before == [a.tobytes() for a in arrays], "an input was written into"
    assert bits == [y.array.tobytes() for y in outs], "the result was written into by its gradient"


def check_ownership(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """A leaf's gradient is a writeable array of its own: it shares no memory with anything else."""
    arrays = [a.copy() for a in case.arrays(rng)]
    xs = tensors(arrays)
    outs = outputs_of(case.call(op, *xs))
    reached = [y for y in outs if y.requires_grad]
    if not reached:
        return
    seeds = [np.ones(y.shape, y.dtype) for y in reached]
    for create in (False, True):
        for x in xs:
            x.grad = None
        md.autograd.backward(reached, seeds, retain_graph=True, create_graph=create)
        grads = [x.grad.array for x in xs if x.grad is not None]
        for i, g in enumerate(grads):
            assert g.flags.writeable, f"gradient {i} is read-only"
            others = [*arrays, *seeds, *(y.array for y in outs), *grads[:i]]
            assert not any(np.shares_memory(g, o) for o in others), f"gradient {i} shares memory"
            assert g.size < 2 or 0 not in [s for s, n in zip(g.strides, g.shape, strict=True) if n > 1]


def check_freed(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """Nothing but the result holds the graph, even after a recorded backward: it goes without the garbage collector."""
    xs = tensors(case.arrays(rng))
    outs = [y for y in outputs_of(case.call(op, *xs)) if y.requires_grad]
    if not outs:
        return
    md.autograd.backward(outs, [md.ones(y.shape, dtype=y.dtype) for y in outs], create_graph=True)
    grads = [x.grad.node for x in xs if x.grad is not None and x.grad.node is not None]
    graph = [weakref.ref(node) for node in (*grads, *(y.node for y in outs))]
    leaves = [weakref.ref(x.node) for x in xs if x.node is not None]
    grads.clear()
    del xs, outs
    assert not any(r() for r in (*graph, *leaves)), "the graph outlived its result"


def check_constants(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """Nothing is recorded where no gradient is wanted: of constants, and under no_grad."""
    arrays = case.arrays(rng)
    for y in outputs_of(case.call(op, *tensors(arrays, wanted=False))):
        assert y.node is None
    with md.no_grad():
        for y in outputs_of(case.call(op, *tensors(arrays))):
            assert y.node is None or y.is_leaf


def check_device(op: Callable, case: Any, rng: np.random.Generator, device: str) -> None:
    """On a GPU the numbers and dtypes are those of the CPU, up to second derivatives, and nothing crosses over."""
    arrays = case.arrays(rng)
    order = min(2, case.orders)
    outs, orders = run(op, case, arrays, order)
    xs = tensors(arrays, device)
    with md.transfers(max=case.transfers):
        outs2 = list(outputs_of(case.call(op, *xs)))
    outs2, orders2 = run(op, case, arrays, order, device)
    everything, everything2 = [*outs, *chain(*orders)], [*outs2, *chain(*orders2)]
    assert all(t.device == device for t in everything2)
    for a, b in zip(everything, everything2, strict=True):
        assert a.dtype == b.dtype, f"{b.dtype} on {device}, {a.dtype} on the CPU"
        assert_equal(to_numpy(b.array), a.array, 1e-10, 1e-12)
    raw = outputs_of(case.call(op, *[x.array for x in xs]))
    for a, b in zip(raw, outs2, strict=True):
        assert type(a) in MODULES, f"device arrays in must give device arrays out, got {type(a).__name__}"
        assert type(a) is type(b.array)


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


def check_finite(op: Callable, case: Any, arrays: list) -> None:
    """Value, gradient and second derivative are finite and come without a warning, in float32 and float64."""
    for dtype in (SINGLE, DOUBLE):
        with np.errstate(**STRICT):
            outs, orders = run(op, case, cast(arrays, dtype), min(2, case.orders))
        for what, ts in zip(("value", "gradient", "second derivative"), (outs, *orders), strict=False):
            for t in ts:
                assert np.isfinite(to_numpy(t.array)).all(), f"{what} in {np.dtype(dtype)}: {t.detach()}"


def check_samplewise(op: Callable, case: Any, rng: np.random.Generator) -> None:
    """An operation that declares itself samplewise keeps samples apart: row n of its result depends on row n alone."""
    arrays = case.arrays(rng)
    xs = tensors(arrays)
    y = outputs_of(case.call(op, *xs))[0]
    node = y.node
    if node is None or node.op is None or not y.ndim or not 0 < len(node.parents) <= len(xs):
        return
    if any(p is not x.node for p, x in zip(node.parents, xs, strict=False)):
        return  # several operations: each is declared, and tested, by itself
    if not node.op.is_samplewise(tuple(x.shape for x in xs[: len(node.parents)]), node.static):
        return
    if len(node.parents) == 1:
        assert len(xs[0]) == len(y), f"{len(xs[0])} samples became {len(y)}"
    for i in case.sample_inputs[: len(xs)]:
        if xs[i].ndim != y.ndim or len(xs[i].array) != len(y.array) or len(y.array) < 2 or not floating(xs[i]):
            continue
        moved = [a.copy() for a in arrays]
        moved[i][0] += 0.125
        z = outputs_of(case.call(op, *tensors(moved)))[0]
        assert_equal(
            z.detach().numpy()[1:], y.detach().numpy()[1:], 0, 0, f"rows beyond the one of input {i} that changed"
        )


def check_into(op: Op, case: Any, rng: np.random.Generator) -> None:
    """Computing into an existing array gives the same numbers."""
    arrays = case.arrays(rng)
    expected = case.call(op, *arrays)
    out = np.full(expected.shape, 7, expected.dtype)
    case.call(lambda *xs, **settings: op.compute_into(out, *xs, **settings), *arrays)
    assert_equal(out, expected, 0, 0)
