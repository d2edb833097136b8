"""What every operation must pass: one function a truth, each taking an operation and a case of it; and `check_op`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from ..creation import ones, tensor, zeros_like
from ..engine.autograd import backward, grad
from ..engine.backend import MODULES, cuda_state, to_numpy, transfers
from ..engine.check import check_grad
from ..engine.modes import no_grad
from ..engine.op import Op
from ..engine.tensor import Tensor
from .values import (
    DOUBLE,
    HALF,
    SINGLE,
    assert_close,
    cast,
    check_double,
    cotangents,
    expect,
    floating,
    host_arrays,
    layouts,
    results,
    tensors,
)

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """Inputs and settings of one call of an operation: what the truths below are asked of."""

    inputs: tuple[np.ndarray, ...]  # float64, or integers
    settings: Mapping[str, Any] = field(default_factory=dict)
    orders: int = 3  # how often it can be differentiated; 0: not at all
    numpy: Callable | None = None  # the same in NumPy
    rtol: float = 1e-12  # of values, against NumPy's
    atol: float = 1e-14
    tolerance: Mapping[str, float] = field(default_factory=dict)  # of check_grad
    dtypes: tuple[np.dtype, ...] = (HALF, SINGLE, DOUBLE)
    keeps_dtype: bool = True  # results are as wide as the inputs
    sample_inputs: tuple[int, ...] = (0,)  # whose rows are samples, where the operation is samplewise
    transfers: int = 0  # copies to the device that it cannot do without

    def arrays(self, rng: Rng) -> list[np.ndarray]:
        """Return the inputs, which are always the same: the generator is for cases that draw theirs."""
        return [a.copy() for a in self.inputs]

    def call(self, op: Callable, *inputs: Any) -> Any:
        """Call an operation with the settings."""
        return op(*inputs, **self.settings)

    def reference(self, *arrays: np.ndarray) -> Any:
        """Return NumPy's answer, or None."""
        return None if self.numpy is None else self.numpy(*arrays, **self.settings)


def run(op: Callable, case: Any, arrays: list, order: int = 1, device: str = "cpu") -> tuple[list, list[list]]:
    """Return the outputs of a case as tensors, and for each order up to `order` the gradients of all floating inputs.

    Order 2 is the gradient of the first gradients in a random direction, and so on.
    """
    xs = tensors(arrays, device)
    outs = results(case.call(op, *xs))
    wanted = [x for x in xs if floating(x)]
    current, orders = [y for y in outs if floating(y)], []
    for k in range(order):
        pairs = [(y, u) for y, u in zip(current, cotangents(tuple(current), k + 1), strict=True) if y.requires_grad]
        us = [tensor(u.astype(y.dtype), device=y.device) for y, u in pairs]
        ys = [y for y, _ in pairs]
        found: Any = [None] * len(wanted)
        if ys:
            found = grad(ys, wanted, us, create_graph=k + 1 < order, allow_unused=True)
        current = [zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]
        orders.append(current)
    return list(outs), orders


def _same(ts: list, others: list, rtol: float, atol: float, what: str) -> None:
    for a, b in zip(ts, others, strict=True):
        assert_close(to_numpy(b.array), to_numpy(a.array), rtol, atol, what)


# ---- the truths --------------------------------------------------------------------------------------------------


def check_value(op: Callable, case: Any, rng: Rng) -> None:
    """The result is NumPy's, in value, shape and dtype; arrays in, arrays out; tensors in, tensors out."""
    arrays = case.arrays(rng)
    raw = results(case.call(op, *arrays))
    wrapped = results(case.call(op, *tensors(arrays)))
    answer = case.reference(*arrays)
    expected = map(np.asarray, results(raw if answer is None else answer))
    expect(len(raw) == len(wrapped), f"{len(raw)} results for arrays, {len(wrapped)} for tensors")
    for a, t, e in zip(raw, wrapped, expected, strict=True):
        expect(type(a) is np.ndarray, f"arrays in must give arrays out, got {type(a).__name__}")
        expect(type(t) is Tensor, f"tensors in must give tensors out, got {type(t).__name__}")
        assert_close(t.detach(), e, case.rtol, case.atol)
        assert_close(a, t.detach(), 0, 0, "arrays and tensors must give the same numbers")
        wanted = case.orders > 0 and floating(t) and any(map(floating, arrays))
        expect(t.requires_grad == wanted, f"requires_grad is {t.requires_grad}, expected {wanted}")


def check_orders(op: Callable, case: Any, rng: Rng, order: int = 3) -> None:
    """The derivatives are those of central differences, up to the order asked for."""
    if case.orders:
        check_grad(lambda *xs: results(case.call(op, *xs)), case.arrays(rng), min(order, case.orders), **case.tolerance)


def check_layouts(op: Callable, case: Any, rng: Rng) -> None:
    """Inputs that lie differently in memory give the same value and gradients as contiguous ones."""
    arrays = case.arrays(rng)
    outs, (grads,) = run(op, case, arrays)
    for name in layouts(np.zeros((2, 2))) | layouts(np.zeros(())):
        outs2, (grads2,) = run(op, case, [layouts(a).get(name, a) for a in arrays])
        _same(outs + grads, outs2 + grads2, 1e-10, 1e-13, f"an input that is {name}")


def check_repeated(op: Callable, case: Any, rng: Rng) -> None:
    """An input of zero strides, one row seen many times, gives the same value and gradients as its copy."""
    arrays = [np.broadcast_to(a[:1], a.shape) if floating(a) and a.ndim and len(a) > 1 else a for a in case.arrays(rng)]
    outs, (grads,) = run(op, case, [a.copy() for a in arrays])
    outs2, (grads2,) = run(op, case, arrays)
    _same(outs + grads, outs2 + grads2, 1e-10, 1e-13, "an input of zero strides")


def check_dtypes(op: Callable, case: Any, rng: Rng) -> None:
    """Float16, float32 and float64 stay what they are, in value, gradient and second derivative."""
    arrays = case.arrays(rng)
    for dtype in getattr(case, "dtypes", (HALF, SINGLE, DOUBLE)):
        given = cast(arrays, dtype)
        outs, orders = run(op, case, given, min(2, case.orders))
        answer = case.reference(*given)
        for y, e in zip(outs, results(outs if answer is None else answer), strict=True):
            usual = floating(e if hasattr(e, "dtype") else np.asarray(e)) and case.keeps_dtype
            expected = dtype if usual else e.dtype if hasattr(e, "dtype") else np.asarray(e).dtype
            expect(y.dtype == expected, f"{np.dtype(dtype)} gave {y.dtype}")
        for g in chain(*orders):
            expect(g.dtype == dtype, f"the gradient of {np.dtype(dtype)} is {g.dtype}")


def check_half_and_single(op: Callable, case: Any, rng: Rng) -> None:
    """Float32 and float16 results and gradients are those of float64 up to their rounding."""
    arrays = cast(case.arrays(rng), HALF)  # numbers that all three dtypes represent
    outs, orders = run(op, case, cast(arrays, DOUBLE))
    for dtype in getattr(case, "dtypes", (HALF, SINGLE)):
        tolerance = {HALF: 5e-2, SINGLE: 2e-5, DOUBLE: 1e-10}[dtype]
        outs2, orders2 = run(op, case, cast(arrays, dtype))
        for t, t2 in zip(outs + orders[0], outs2 + orders2[0], strict=True):
            a, b = to_numpy(t.array), to_numpy(t2.array).astype(t.dtype)
            scale = np.abs(a[np.isfinite(a)]).max(initial=1.0) if floating(a) else 1.0
            assert_close(b, a, tolerance, tolerance * float(scale), dtype.name)


def check_inputs_unchanged(op: Callable, case: Any, rng: Rng) -> None:
    """Neither the operation nor its gradient writes into its inputs, its saved arrays or the arriving gradient."""
    arrays = case.arrays(rng)
    before = [a.tobytes() for a in arrays]
    case.call(op, *arrays)
    xs = tensors(arrays)
    outs = results(case.call(op, *xs))
    bits = [y.array.tobytes() for y in outs]
    reached = [y for y in outs if y.requires_grad]
    if reached:
        seeds = [np.ones(y.shape, y.dtype) for y in reached]
        for create in (False, True):
            grad(reached, [x for x in xs if floating(x)], seeds, True, create, allow_unused=True)
        expect(all((s == 1).all() for s in seeds), "the arriving gradient was written into")
    expect(before == [a.tobytes() for a in arrays], "an input was written into")
    expect(bits == [y.array.tobytes() for y in outs], "the result was written into by its gradient")


def check_ownership(op: Callable, case: Any, rng: Rng) -> None:
    """A leaf's gradient is a writeable array of its own: it shares no memory with anything else."""
    arrays = [a.copy() for a in case.arrays(rng)]
    xs = tensors(arrays)
    outs = results(case.call(op, *xs))
    reached = [y for y in outs if y.requires_grad]
    if not reached:
        return
    seeds = [np.ones(y.shape, y.dtype) for y in reached]
    for create in (False, True):
        for x in xs:
            x.grad = None
        backward(reached, seeds, retain_graph=True, create_graph=create)
        grads = [x.grad.array for x in xs if x.grad is not None]
        for i, g in enumerate(grads):
            expect(g.flags.writeable, f"gradient {i} is read-only")
            others = [*arrays, *seeds, *(y.array for y in outs), *grads[:i]]
            expect(not any(np.shares_memory(g, o) for o in others), f"gradient {i} shares memory")
            strides = [s for s, n in zip(g.strides, g.shape, strict=True) if n > 1]
            expect(g.size < 2 or 0 not in strides, f"gradient {i} repeats elements in memory")


def check_freed(op: Callable, case: Any, rng: Rng) -> None:
    """Nothing but the result holds the graph, even after a recorded backward: it goes without the garbage collector."""
    xs = tensors(case.arrays(rng))
    outs = [y for y in results(case.call(op, *xs)) if y.requires_grad]
    if not outs:
        return
    backward(outs, [ones(y.shape, dtype=y.dtype) for y in outs], create_graph=True)
    grads = [x.grad.node for x in xs if x.grad is not None and x.grad.node is not None]
    graph = [weakref.ref(node) for node in (*grads, *(y.node for y in outs))]
    leaves = [weakref.ref(x.node) for x in xs if x.node is not None]
    grads.clear()
    enabled = gc.isenabled()
    gc.disable()
    del xs, outs
    alive = any(r() is not None for r in (*graph, *leaves))
    if enabled:
        gc.enable()
    expect(not alive, "the graph outlived its result: does a rule or a closure hold a tensor?")


def check_constants(op: Callable, case: Any, rng: Rng) -> None:
    """Nothing is recorded where no gradient is wanted: of constants, and under no_grad."""
    arrays = case.arrays(rng)
    for y in results(case.call(op, *tensors(arrays, wanted=False))):
        expect(y.node is None, "something was recorded though no input wants a gradient")
    with no_grad():
        for y in results(case.call(op, *tensors(arrays))):
            expect(y.node is None or y.is_leaf, "something was recorded under no_grad()")


def check_device(op: Callable, case: Any, rng: Rng, device: str) -> None:
    """On a GPU the numbers and dtypes are those of the CPU, up to second derivatives, and nothing crosses over."""
    arrays = case.arrays(rng)
    order = min(2, case.orders)
    outs, orders = run(op, case, arrays, order)
    xs = tensors(arrays, device)
    with transfers(max=case.transfers):
        case.call(op, *xs)
    outs2, orders2 = run(op, case, arrays, order, device)
    everything, everything2 = [*outs, *chain(*orders)], [*outs2, *chain(*orders2)]
    for a, b in zip(everything, everything2, strict=True):
        expect(b.device == device, f"a result of {device} is on {b.device}")
        assert_close(to_numpy(b.array), a.array, 1e-10, 1e-12, device)
    for a, b in zip(results(case.call(op, *[x.array for x in xs])), outs2, strict=True):
        expect(type(a) in MODULES, f"device arrays in must give device arrays out, got {type(a).__name__}")
        expect(type(a) is type(b.array), f"arrays give {type(a).__name__}, tensors {type(b.array).__name__}")


def check_finite(op: Callable, case: Any, arrays: list) -> None:
    """Value, gradient and second derivative are finite and come without a warning, in float32 and float64."""
    for dtype in (SINGLE, DOUBLE):
        with np.errstate(over="raise", divide="raise", invalid="raise"):  # underflow to 0 is right
            outs, orders = run(op, case, cast(arrays, dtype), min(2, case.orders))
        for what, ts in zip(("value", "gradient", "second derivative"), (outs, *orders), strict=False):
            for t in ts:
                expect(np.isfinite(to_numpy(t.array)).all(), f"{what} in {np.dtype(dtype)}: {t.detach()}")


def check_samplewise(op: Callable, case: Any, rng: Rng) -> None:
    """An operation that declares itself samplewise keeps samples apart: row n of its result depends on row n alone."""
    arrays = case.arrays(rng)
    xs = tensors(arrays)
    y = results(case.call(op, *xs))[0]
    node = y.node
    if node is None or node.op is None or not y.ndim or not 0 < len(node.parents) <= len(xs):
        return
    if any(p is not x.node for p, x in zip(node.parents, xs, strict=False)):
        return  # several operations: each is declared, and tested, by itself
    if not node.op.is_samplewise(tuple(x.shape for x in xs[: len(node.parents)]), node.static):
        return
    for i in case.sample_inputs[: len(xs)]:
        if xs[i].ndim != y.ndim or len(xs[i].array) != len(y.array) or len(y.array) < 2 or not floating(xs[i]):
            continue
        moved = [a.copy() for a in arrays]
        moved[i][0] += 0.125
        z = results(case.call(op, *tensors(moved)))[0]
        assert_close(z.detach().numpy()[1:], y.detach().numpy()[1:], 0, 0, f"rows beyond the changed one of input {i}")


def check_into(op: Op, case: Any, rng: Rng) -> None:
    """Computing into an existing array gives the same numbers."""
    arrays = case.arrays(rng)
    expected = case.call(op, *arrays)
    out = np.full(expected.shape, 7, expected.dtype)
    case.call(lambda *xs, **settings: op.compute_into(out, *xs, **settings), *arrays)
    assert_close(out, expected, 0, 0)


TRUTHS = (
    check_inputs_unchanged, check_value, check_orders, check_layouts, check_dtypes, check_half_and_single,
    check_ownership, check_freed, check_constants, check_samplewise,
)  # fmt: skip


def check_op(
    op: Callable,
    *inputs: Any,
    order: int = 3,
    reference: Callable | None = None,
    float16: bool = True,
    rtol: float = 1e-12,
    atol: float = 1e-14,
    tolerance: Mapping[str, float] | None = None,
    **settings: Any,
) -> None:
    """Raise AssertionError, with the truth that fails, unless an operation passes the library's own battery.

    op: an `Op`, or any function of tensors made of operations. inputs: float64 arrays or tensors (integer ones are
    constants), at which op is smooth; settings are passed on to op. Checked: arrays give arrays and tensors tensors,
    with the numbers, shape and dtype of `reference`, the same in NumPy, if given, up to rtol and atol; derivatives up
    to `order` (0: none) against differences, with the tolerance {"rtol": ..., "atol": ...} of `check_grad`; the same
    for other layouts in memory; float32 and, unless `float16` is False, float16 stay what they are, and are float64
    rounded; nothing is written into; gradients own their memory; the graph is freed, and not recorded where nobody
    wants it; samples are kept apart if the Op says so; on a GPU, if there is one, the same numbers without a transfer.

    >>> cube = Op(lambda xp, x: x * x * x, lambda g, out, x: 3 * g * x * x, saves="x", name="cube")
    >>> check_op(cube, np.array([0.5, -2.0]), reference=lambda x: x**3)
    >>> wrong = Op(lambda xp, x: x * x * x, lambda g, out, x: 3 * g * x, saves="x", name="wrong")
    >>> check_op(wrong, np.array([0.5, -2.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: The derivatives are those of central differences, ...: check_grad, order 1: derivative ...
    """
    dtypes = (HALF, SINGLE, DOUBLE) if float16 else (SINGLE, DOUBLE)
    arrays = tuple(host_arrays(inputs))
    check_double("check_op", arrays)
    case = Case(arrays, settings, order, reference, rtol, atol, tolerance or {}, dtypes)
    rng = np.random.default_rng(0)
    checks: list[Callable] = [*TRUTHS]
    if isinstance(op, Op) and op.into is not None:
        checks.append(check_into)
    if cuda_state()[0]:
        checks.append(lambda op, case, rng: check_device(op, case, rng, "cuda:0"))
    for check in checks:
        prove(check, op, case, rng)


def prove(check: Callable, *args: Any) -> None:
    """Run a check; what fails says which truth it is."""
    try:
        check(*args)
    except Exception as error:
        truth = (check.__doc__ or check.__name__).strip().splitlines()[0].rstrip(".")
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise AssertionError(f"{truth}: {kind}{error}") from error
