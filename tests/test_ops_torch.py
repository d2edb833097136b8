"""Values, first and second derivatives of every operation that PyTorch has too are PyTorch's, if it is installed."""

from __future__ import annotations

import operator
from itertools import chain

import numpy as np
import pytest

import battery
import minidl as md
from cases import CASES

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is an optional second opinion")


def theirs(case):
    """Return PyTorch's function for a case."""
    if callable(case.entry.torch):
        return case.entry.torch(torch)
    return operator.attrgetter(case.entry.torch)(torch)


def comparable(case):
    index = case.sample.settings.get("index")
    steps_back = "slice(3,0,-2)" in str(case) or "slice(2,0,-1)" in str(
        case
    )  # PyTorch has no negative steps, and no empty axes
    return case.entry.torch is not None and not (index and steps_back) and case.sample.settings.get("axis") != ()


def their_orders(case, arrays, order):
    xs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    outs = battery.outputs_of(case.entry.call(theirs(case), *xs, **case.sample.settings))
    wanted = [x for x in xs if x.requires_grad]
    current, found = [y for y in outs if y.is_floating_point()], []
    for k in range(order):
        rng = np.random.default_rng(k + 1)
        us = [torch.tensor(np.asarray(rng.standard_normal(tuple(y.shape)))) for y in current]
        pairs = [(y, u) for y, u in zip(current, us, strict=True) if y.requires_grad]
        grads = [None] * len(wanted)
        if pairs:
            grads = torch.autograd.grad(
                [y for y, _ in pairs], wanted, [u for _, u in pairs], create_graph=True, allow_unused=True
            )
        current = [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, grads, strict=True)]
        found.append(current)
    return outs, found


@pytest.mark.filterwarnings("ignore:(var|std).*degrees of freedom")  # of an empty result
@pytest.mark.parametrize("case", [c for c in CASES if comparable(c)], ids=str)
def test_value_and_derivatives_are_pytorchs(case, rng):
    arrays = case.arrays(rng)
    order = min(2, case.orders)
    outs, orders = battery.run(getattr(md, case.name), case, arrays, order)
    outs2, orders2 = their_orders(case, arrays, order)
    for a, b in zip([*outs, *chain(*orders)], [*outs2, *chain(*orders2)], strict=True):
        battery.assert_equal(a.detach().numpy(), b.detach().numpy(force=True), 1e-9, 1e-11)


def test_most_of_the_table_is_compared():
    compared = {c.name for c in CASES if comparable(c)}
    assert len(compared) >= 0.8 * len({c.name for c in CASES})
