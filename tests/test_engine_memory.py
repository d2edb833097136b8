"""Graphs may be deep and wide, take linear time, and go at once with their last result: no recursion, no cycles."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import minidl as md

DEEP = 100_000


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


@pytest.fixture
def no_collector():
    """Run without the garbage collector: what is not freed by reference counts stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def default_recursion_limit():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


def chain(x, n):
    y = x
    for _ in range(n):
        y = y * 1.0
    return y


# ---- depth and width (A9, A10) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [False, True])
def test_A9_a_hundred_thousand_operations_go_forward_backward_and_away(no_collector, backward):
    x = leaf(1.0)
    y = chain(x, DEEP)
    first = weakref.ref(y.node.parents[0])
    if backward:
        y.backward()
        assert x.grad.item() == 1.0
    del y
    assert first() is None


def test_A9_a_deep_graph_that_is_retained_goes_too(no_collector):
    x = leaf(1.0)
    y = chain(x, DEEP)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 2.0


def test_A9_a_deep_graph_of_second_derivatives_goes_forward_backward_and_away(no_collector):
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = md.tanh(y)
    (g,) = md.autograd.grad(y, x, create_graph=True)
    (h,) = md.autograd.grad(g, x)
    # y_n(x) = tanh(tanh(...)): compare with the recurrence, y' <- s y', y'' <- -2 t s y'^2 + s y'', s = 1 - t^2.
    v, d, dd = 1.0, 1.0, 0.0
    for _ in range(20_000):
        t = np.tanh(v)
        s = 1 - t * t
        v, d, dd = t, s * d, -2 * t * s * d * d + s * dd
    np.testing.assert_allclose([g.item(), h.item()], [d, dd], rtol=1e-9)
    node = weakref.ref(g.node)
    del y, g, h
    assert node() is None


def test_A9_skip_connections_are_no_deeper():
    x = leaf(1.0)
    y, old = x, x
    for _ in range(DEEP // 4):
        y, old = y * 0.5 + old * 0.5, y
    y.backward()
    assert x.grad.item() == pytest.approx(1.0)


def test_A9_a_deep_graph_is_freed_on_the_small_stack_of_a_thread():
    failed = []

    def work():
        try:
            y = chain(leaf(1.0), DEEP // 2)
            y.backward()
            del y
        except BaseException as error:  # pragma: no cover
            failed.append(error)

    size = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
    assert failed == []


def test_A10_a_hundred_thousand_uses_of_one_tensor_add_up():
    x = leaf(1.0)
    y = md.stack([x * 2.0 for _ in range(1000)] * 100).sum()
    y.backward()
    assert x.grad.item() == 200_000.0


def calls_of(function):
    """Return how many Python functions a call calls: time that does not depend on the machine."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def wide(x, n):
    y = x * 0.0
    for _ in range(n):
        y = y + x * x
    return y


def skips(x, n):
    results = [x]
    for i in range(n):
        results.append(results[-1] * 0.5 + results[i // 2] * 0.5)
    return results[-1]


@pytest.mark.parametrize("graph", [chain, wide, skips])
@pytest.mark.parametrize("create", [False, True])
def test_A10_backward_takes_linear_time(graph, create):
    x = leaf(1.0)
    small, large = graph(x, 300), graph(x, 600)
    a = calls_of(lambda: md.autograd.grad(small, x, create_graph=create))
    b = calls_of(lambda: md.autograd.grad(large, x, create_graph=create))
    assert b / a < 2.1


# ---- who holds whom (A11) --------------------------------------------------------------------------------------------


def loss_of(x):
    return (md.softmax(md.tanh(x) * x) ** 2).sum()


def test_A11_dropping_the_loss_frees_the_graph_without_the_collector(no_collector):
    x = leaf(np.ones(3))
    y = md.tanh(x)
    loss = (y * y).sum()
    nodes = [weakref.ref(t.node) for t in (y, loss)]
    array = weakref.ref(y.array)
    del y
    assert array() is not None  # saved for the rule of tanh
    del loss
    assert [r() for r in nodes] == [None, None]
    assert array() is None


def test_A11_backward_frees_what_was_saved_while_the_loss_lives(no_collector):
    x = leaf(np.ones(3))
    y = md.tanh(x)
    loss = (y * y).sum()
    array = weakref.ref(y.array)
    del y
    loss.backward()
    assert array() is None
    assert loss.item() > 0


def test_A11_a_graph_under_create_graph_is_no_cycle(no_collector):
    x = leaf(np.ones(3))
    loss = loss_of(x)
    loss.backward(create_graph=True)
    nodes = [weakref.ref(loss.node), weakref.ref(x.grad.node), weakref.ref(x.node)]
    del loss
    assert nodes[1]() is not None  # the gradient lives as long as x.grad
    x.grad = None
    assert [r() is None for r in nodes] == [True, True, False]
    loss = loss_of(x)
    loss.backward(create_graph=True)
    more = [weakref.ref(loss.node), weakref.ref(x.grad.node), weakref.ref(x.node), weakref.ref(x)]
    del loss, x
    assert [r() for r in more] == [None] * 4


def test_A11_a_second_backward_on_the_gradient_is_no_cycle(no_collector):
    x = leaf(np.ones(3))
    before = md.live_tensors()
    for _ in range(3):
        loss = loss_of(x)
        loss.backward(create_graph=True)
        (x.grad * x.grad).sum().backward(create_graph=True)
        x.grad = None
        del loss
    assert md.live_tensors() == before


@pytest.mark.parametrize("keep", ["hook", "retain"])
def test_A11_hooks_and_retained_gradients_hold_no_cycle(no_collector, keep):
    x = leaf(np.ones(3))
    y = x * 2
    y.retain_grad() if keep == "retain" else y.register_hook(lambda g: g * 1.0)
    loss = (y * y).sum()
    loss.backward(create_graph=True)
    dead = [weakref.ref(o) for o in (y, loss, y.node, loss.node, x, x.node)]
    del x, y, loss
    assert [r() for r in dead] == [None] * len(dead)


def test_A11_several_outputs_hold_no_cycle(no_collector):
    x = leaf(np.random.default_rng(0).standard_normal((4, 2)))
    outs = md.batch_norm_train(x, leaf(np.ones(2)), leaf(np.zeros(2)), eps=1e-3)
    main = weakref.ref(outs[0].node.parents[0])
    (g,) = md.autograd.grad(outs[0].sum() + outs[2].sum(), x, create_graph=True)
    md.autograd.grad(g.sum(), x, retain_graph=True)
    assert main() is not None
    del outs, g
    assert main() is None


def test_A11_derivatives_of_functions_leave_nothing(no_collector):
    a = np.random.default_rng(0).standard_normal(3)
    before = md.live_tensors()
    for f in (md.func.grad, md.func.hessian, md.func.value_and_grad):
        f(loss_of)(a)
    md.func.hvp(loss_of, (a,), (a,))
    md.func.jvp(md.tanh, (a,), (a,))
    md.func.jacobian(md.tanh)(a)
    md.check_grad(loss_of, a, order=3)
    assert md.live_tensors() == before


def test_A11_an_error_in_backward_leaves_nothing(no_collector):
    boom = md.Op(lambda xp, x: x.copy(), lambda g, out, x: 1 / 0, name="boom")
    x = leaf(np.ones(3))
    before = md.live_tensors()
    for _ in range(3):
        with contextlib.suppress(ZeroDivisionError):
            (boom(x) * x).sum().backward()
    assert md.live_tensors() == before


def test_A11_a_thousand_steps_leave_as_many_tensors_as_one(no_collector):
    w, x = leaf(np.ones((3, 2))), md.tensor(np.ones((4, 2)))
    target = np.array([0, 1, 2, 0])

    def step(second):
        loss = md.cross_entropy(md.linear(x, w), target)
        loss.backward(create_graph=second)
        if second:
            (w.grad * w.grad).sum().backward()
        with md.no_grad():
            w[...] = w.detach() * 0.9
        w.grad = None

    step(False)
    before, objects = md.live_tensors(), len(gc.get_objects())
    for i in range(1000):
        step(i % 10 == 0)
    assert md.live_tensors() == before
    assert len(gc.get_objects()) - objects < 20


def test_the_stamps_of_arrays_that_are_gone_are_gone():
    from minidl.engine import node

    x = md.zeros(3)
    with md.no_grad():
        x.fill_(1.0)
    before = len(node._stamps)
    for _ in range(50):
        t = md.zeros(3)
        with md.no_grad():
            t[0] = 2.0
        del t
    assert len(node._stamps) == before


def test_live_tensors_counts_tensors():
    before = md.live_tensors()
    kept = [md.ones(1) for _ in range(5)]
    assert md.live_tensors() == before + 5
    del kept
    assert md.live_tensors() == before


def test_a_leaf_may_die_before_its_graph():
    x, w = leaf([2.0]), leaf([3.0])
    y = x * w
    del x
    y.backward()
    assert w.grad.tolist() == [2.0]
