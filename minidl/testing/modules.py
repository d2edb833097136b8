"""What every layer must pass: one function a truth, each taking a module and its inputs; and `check_module`."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import random
from ..creation import tensor, zeros_like
from ..engine.autograd import backward, grad
from ..engine.backend import cuda_state, to_numpy
from ..engine.check import check_grad
from ..engine.modes import no_grad
from ..nn import Module, frozen_statistics
from .operations import prove
from .values import (
    DOUBLE,
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


def pure(module: Module, count: int) -> Callable[..., tuple]:
    """Return a module as a function of `count` inputs and of its parameters, the same at every call.

    For the length of a call the parameters are given the values, and the place in the graph, of the arguments.
    """
    parameters, frozen = module.parameters(), frozen_statistics()

    def function(*xs: Any) -> tuple:
        before = [(p.array, p.node) for p in parameters]
        try:
            for p, x in zip(parameters, xs[count:], strict=True):
                p.array, p.node = x.array, x.node
            with frozen:
                return tuple(y for y in results(module(*xs[:count])) if floating(y))
        finally:
            for p, (array, node) in zip(parameters, before, strict=True):
                p.array, p.node = array, node

    return function


def run(module: Module, arrays: list, frozen: frozen_statistics, device: str = "cpu") -> tuple[list, list]:
    """Return a module's results, and the gradients of a random mix of them by the inputs and the parameters.

    An input or a parameter that no result depends on has the gradient None.
    """
    xs = tensors(arrays, device)
    with frozen:
        outs = list(results(module(*xs)))
    wanted = [t for t in (*xs, *module.parameters()) if t.requires_grad]
    pairs = zip((y for y in outs if floating(y)), cotangents(tuple(outs)), strict=True)
    reached = [(y, tensor(u.astype(y.dtype), device=y.device)) for y, u in pairs if y.requires_grad]
    if not reached or not wanted:
        return outs, [None] * len(wanted)
    ys, us = zip(*reached, strict=True)
    return outs, list(grad(ys, wanted, us, allow_unused=True))


def _same(found: tuple[list, list], expected: tuple[list, list], rtol: float, atol: float, what: str) -> None:
    for name, here, there in zip(("result", "gradient"), found, expected, strict=True):
        for i, (a, b) in enumerate(zip(here, there, strict=True)):
            expect((a is None) == (b is None), f"{what}: {name} {i} is there in one run and not in the other")
            if a is not None:
                assert_close(to_numpy(a.array), to_numpy(b.array), rtol, atol, f"{what}: {name} {i}")


def _bits(tensors: Any) -> dict[str, bytes]:
    return {name: to_numpy(t.array).tobytes() for name, t in tensors}


# ---- the truths --------------------------------------------------------------------------------------------------


def check_orders(module: Module, arrays: list, order: int = 2) -> None:
    """The derivatives by inputs and parameters are those of central differences, in training and in evaluation."""
    values = [*arrays, *(p.detach() for p in module.parameters())]
    if any(map(floating, values)):
        for mode in (True, False):
            check_grad(pure(module.train(mode), len(arrays)), values, order)


def check_reached(module: Module, arrays: list, order: int = 2) -> None:
    """Every parameter that is trained takes part in the result."""
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    gradients = run(module.train(), arrays, frozen_statistics())[1]
    lost = [name for name, g in zip(names, gradients[len(gradients) - len(names) :], strict=True) if g is None]
    expect(not lost, f"no gradient reaches {', '.join(lost)}")


def check_layouts(module: Module, arrays: list, order: int = 2) -> None:
    """Inputs that lie differently in memory give the same results and gradients as contiguous ones."""
    frozen = frozen_statistics()
    expected = run(module, arrays, frozen)
    for name in layouts(np.zeros((2, 2))) | layouts(np.zeros(())):
        found = run(module, [layouts(a).get(name, a) for a in arrays], frozen)
        _same(found, expected, 1e-10, 1e-12, f"an input that is {name}")


def check_float32(module: Module, arrays: list, order: int = 2) -> None:
    """In float32 results, gradients and buffers are float32, and those of float64 rounded."""
    frozen = frozen_statistics()
    single = copy.deepcopy(module).to(SINGLE)
    outs, gradients = run(module, cast(cast(arrays, SINGLE), DOUBLE), frozen)
    outs2, gradients2 = run(single, cast(arrays, SINGLE), frozen)
    for t, t2 in zip((*outs, *gradients), (*outs2, *gradients2), strict=True):
        if t is not None and floating(t):
            expect(t2.dtype == SINGLE, f"float32 gave {t2.dtype}")
            scale = float(np.abs(to_numpy(t.array)).max(initial=1.0))
            assert_close(t2.detach().to(DOUBLE), t.detach(), 1e-3, 1e-3 * scale, "float32 against float64")
    for name, b in single.named_buffers():
        expect(b.dtype == SINGLE or not floating(b), f"the buffer {name} became {b.dtype}")


def check_unchanged(module: Module, arrays: list, order: int = 2) -> None:
    """Neither forward nor backward writes into inputs, results or parameters."""
    given, parameters = [a.tobytes() for a in arrays], _bits(module.named_parameters())
    xs = tensors(arrays)
    outs = [y for y in results(module(*xs)) if y.requires_grad]
    before = [y.array.tobytes() for y in outs]
    if outs:
        backward(outs, [zeros_like(y) + 1 for y in outs], create_graph=True)
    expect(given == [a.tobytes() for a in arrays], "an input was written into")
    expect(parameters == _bits(module.named_parameters()), "a parameter was written into")
    expect(before == [y.array.tobytes() for y in outs], "a result was written into by its gradient")


def check_modes(module: Module, arrays: list, order: int = 2) -> None:
    """Evaluation changes no buffer and draws nothing at random; nor does a frozen training mode, which repeats."""
    frozen = frozen_statistics()
    for mode in (False, True):
        module.train(mode)
        expect(all(m.training is mode for m in module.modules()), f"train({mode}) does not reach every module")
        module(*tensors(arrays))  # what is made at the first call is there from now on
        buffers, drawn = _bits(module.named_buffers()), random.get_state()
        first = run(module, arrays, frozen)
        if not mode:
            module(*tensors(arrays))
        expect(drawn == random.get_state(), "random numbers are drawn in evaluation")
        expect(buffers == _bits(module.named_buffers()), "a buffer changed in evaluation, or in frozen_statistics()")
        _same(run(module, arrays, frozen), first, 0, 0, "a second run")


def check_copies(module: Module, arrays: list, order: int = 2) -> None:
    """A deep copy and a pickled copy compute the same, and share nothing with the module."""
    frozen = frozen_statistics()
    module(*tensors(arrays))
    expected, before = run(module, arrays, frozen), _bits(module.state_dict().items())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        _same(run(other, arrays, frozen), expected, 1e-12, 1e-12, "a copy")
        with no_grad():
            for t in (*other.parameters(), *other.buffers()):
                t.zero_()
        expect(before == _bits(module.state_dict().items()), "a copy shares memory with the module")


def check_state(module: Module, arrays: list, order: int = 2) -> None:
    """A state that is saved and loaded into another module of the class makes it compute the same."""
    other, frozen = copy.deepcopy(module), frozen_statistics()
    with no_grad():
        for t in (*other.parameters(), *other.buffers()):
            t.zero_()
    other.load_state_dict({name: t.numpy() for name, t in module.cpu().state_dict().items()})
    for name, t in module.named_buffers():
        if name not in module.state_dict():
            other.get_buffer(name).data = t.data.copy()  # not saved: both have it from their constructor
    _same(run(other, arrays, frozen), run(module, arrays, frozen), 1e-12, 1e-12, "a module with the same state")


def check_constants(module: Module, arrays: list, order: int = 2) -> None:
    """Nothing is recorded under no_grad."""
    with no_grad():
        for y in results(module(*tensors(arrays))):
            expect(y.node is None or y.is_leaf, "something was recorded under no_grad()")


def check_freed(module: Module, arrays: list, order: int = 2) -> None:
    """The graph goes with the results: the module keeps nothing of it."""
    outs = [y for y in results(module(*tensors(arrays))) if y.requires_grad and not y.is_leaf]
    enabled = gc.isenabled()
    gc.disable()
    nodes = [weakref.ref(y.node) for y in outs]
    outs.clear()
    alive = any(r() is not None for r in nodes)
    if enabled:
        gc.enable()
    expect(not alive, "the graph outlived the results: does the module keep a result as an attribute?")


def check_device(module: Module, arrays: list, order: int = 2, device: str = "cuda:0") -> None:
    """On a GPU results and gradients are those of the CPU."""
    frozen = frozen_statistics()
    expected = run(module, arrays, frozen)
    found = run(copy.deepcopy(module).to(device), arrays, frozen, device)
    for t in (*found[0], *found[1]):
        expect(t is None or t.device == device, f"a result of {device} is on {getattr(t, 'device', None)}")
    _same(found, expected, 1e-9, 1e-10, device)


TRUTHS = (
    check_orders, check_reached, check_layouts, check_float32, check_unchanged, check_modes, check_copies, check_state,
    check_constants, check_freed,
)  # fmt: skip


def check_module(module: Module, *inputs: Any, order: int = 2) -> None:
    """Raise AssertionError, with the truth that fails, unless a module passes the library's own battery.

    inputs: arrays or tensors, the floating ones float64, that module(*inputs) takes; results may be tensors, or tuples,
    lists and dictionaries of them. The module itself is not touched: a copy of it, in float64, is tried. Checked, in
    training and in evaluation: derivatives up to `order` by inputs and parameters against differences, at which it must
    be smooth; every trained parameter takes part; other layouts in memory; float32; nothing is written into; evaluation
    is fixed; deep copies, pickles and loaded states compute the same; the graph is freed; on a GPU, if there is one,
    the same numbers.

    >>> from minidl import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         self.factor, self.idle = nn.Parameter([2.0]), nn.Parameter([0.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> check_module(Scale(), np.ones((2, 3)))
    Traceback (most recent call last):
    AssertionError: Every parameter that is trained takes part in the result: no gradient reaches idle
    """
    arrays, before = host_arrays(inputs), random.get_state()
    check_double("check_module", arrays)
    whole = copy.deepcopy(module).to("cpu").to(DOUBLE)
    try:
        for check in (*TRUTHS, *([check_device] if cuda_state()[0] else [])):
            prove(check, copy.deepcopy(whole), [a.copy() for a in arrays], order)
    finally:
        random.set_state(before)
