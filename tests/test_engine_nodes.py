"""Outputs of one operation as nodes, what is freed when, and calls that used to end in another library's words."""

from __future__ import annotations

import contextlib
import gc
import math
import weakref

import numpy as np
import pytest

import minidl as md

# ---- operations with several outputs: their results are nodes like any other ---------------------------------------


TWO = md.Op(
    lambda xp, x: (xp.exp(x), x + 1.0), joint=lambda g, out, x: (g[0] * out[0] + g[1],), saves="out", name="two"
)


def test_a_second_derivative_goes_through_a_saved_output_to_the_output_itself():
    x = md.tensor(np.array(0.5), requires_grad=True)
    e, _ = TWO(x)
    (first,) = md.autograd.grad(e * e, x, create_graph=True)  # 2 e e
    (second,) = md.autograd.grad(first, e)
    np.testing.assert_allclose(second.item(), 4 * math.exp(0.5), rtol=1e-15)


def test_a_hook_on_an_output_is_called_in_the_second_backward_too():
    x = md.tensor(np.array(0.5), requires_grad=True)
    e, _ = TWO(x)
    seen = []
    e.register_hook(lambda g: seen.append(g.item()))
    (first,) = md.autograd.grad(e * e, x, create_graph=True)
    md.autograd.grad(first, x)
    np.testing.assert_allclose(seen, [2 * math.exp(0.5), 4 * math.exp(0.5)], rtol=1e-15)


def test_eigenvectors_are_inner_nodes_of_a_second_derivative():
    a = md.tensor(np.array([[2.0, 0.5], [0.5, 1.0]]), requires_grad=True)
    c = np.array([[1.0, 2.0], [2.0, 5.0]])
    w, v = md.linalg.eigh(a)
    (ga,) = md.autograd.grad((w**2).sum(), a, create_graph=True)  # V diag(2 w) V'
    (gv,) = md.autograd.grad((ga * c).sum(), v)
    np.testing.assert_allclose(gv.numpy(), 2 * c @ v.detach().numpy() * (2 * w.detach().numpy()), rtol=1e-12)


# ---- what nothing refers to is freed at once -----------------------------------------------------------------------


def without_collector(run):
    """Return how many tensors are alive after `run` that were not before, with the collector off."""
    gc.collect()
    gc.disable()
    try:
        before = md.live_tensors()
        run()
        return md.live_tensors() - before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "call",
    [
        lambda: md.ones((2, 3)) @ md.ones((4, 5)),
        lambda: md.nn.functional.cross_entropy(md.ones((2, 3)), np.array([0, 7])),
        lambda: md.nn.Linear(2, 3)(md.ones((4, 5))),
        lambda: md.ones((2, 3)) + md.ones((4, 5)),
        lambda: md.ones((2, 3)).sum(axis=7),
    ],
)
def test_A11_an_error_keeps_nothing_alive(call):
    def run():
        for _ in range(20):
            with contextlib.suppress(ValueError, IndexError):
                call()

    run()
    assert without_collector(run) == 0


def test_A11_what_a_hook_holds_goes_with_the_graph():
    class Held:
        pass

    def hooked():
        held = Held()
        x = md.tensor([1.0, 2.0], requires_grad=True)
        y = x * 2
        for t in (x, y):
            t.register_hook(lambda g, held=held: None)
        layer = md.nn.Linear(2, 2)
        layer.register_forward_hook(lambda module, args, out, held=held: None)
        layer(y).sum().backward()
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        assert hooked()() is None
    finally:
        gc.enable()


def test_lists_among_the_settings_may_change_before_the_backward():
    x = md.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    axes = [1, 0]
    y = md.transpose(x, axes)
    axes[:] = [0, 1]
    (y * np.arange(6.0).reshape(3, 2)).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.arange(6.0).reshape(3, 2).T)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod", "logsumexp"])
@pytest.mark.parametrize("axis", [0, -1])
def test_a_number_is_reduced_over_its_axis_0_as_numpy_does(name, axis):
    x = md.tensor(np.array(2.0), requires_grad=True)
    y = getattr(md, name)(x, axis=axis)
    y.backward()
    assert (y.item(), x.grad.item()) == (2.0, 1.0)


def test_a_gradient_may_be_a_list_of_numbers():
    x = md.tensor([1.0, 2.0], requires_grad=True)
    (x * 2).backward([1, 10])
    assert x.grad.tolist() == [2.0, 20.0]


def test_a_write_that_does_not_fit_says_which_tensor_it_was():
    x = md.zeros(3)
    for write, kind in (
        (lambda: x.copy_(md.ones(4)), ValueError),
        (lambda: x.__setitem__(slice(None), md.ones(4)), ValueError),
        (lambda: x.__setitem__(5, 1.0), IndexError),
        (lambda: md.broadcast_to(md.ones(1), (3,)).fill_(2.0), ValueError),
    ):
        with pytest.raises(kind, match=r"^in-place write: .*\(tensor \(3,\)\)"):
            write()


def test_numpys_functions_that_make_an_array_like_another_make_tensors():
    x = md.ones((2, 3))
    for made, value in ((np.zeros_like(x), 0.0), (np.ones_like(x), 1.0), (np.full_like(x, 7.0), 7.0)):
        assert type(made) is md.Tensor
        assert made.tolist() == [[value] * 3] * 2
    assert repr(md.zeros((0, 3))) == "tensor([], shape=(0, 3))"


def test_where_one_of_two_is_nan_the_maximum_sends_the_gradient_to_both():
    x, y = (md.tensor(np.array(v), requires_grad=True) for v in ([1.0, np.nan, 2.0], [2.0, 1.0, np.nan]))
    for function, first in ((md.maximum, 0.0), (md.minimum, 1.0)):
        gx, gy = md.autograd.grad(function(x, y).sum(), (x, y))
        assert (gx.tolist(), gy.tolist()) == ([first, 1.0, 1.0], [1.0 - first, 1.0, 1.0])
