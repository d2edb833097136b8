"""Recording on and off: contexts, decorators, generators, threads; and that nothing leaves a flag behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minidl as md


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


def in_thread(function):
    """Run a function in a thread and return what it returns."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(60)
    return found[0]


# ---- A15 -------------------------------------------------------------------------------------------------------------


def test_A15_under_no_grad_nothing_is_recorded():
    x = leaf([1.0])
    with md.no_grad():
        y = x * 2
        assert not md.is_grad_enabled()
    assert (y.requires_grad, y.node, y.is_leaf) == (False, None, True)
    assert md.is_grad_enabled()
    assert (x * 2).requires_grad


def test_A15_modes_nest_and_come_back():
    states = []
    with md.no_grad():
        with md.enable_grad():
            states.append(md.is_grad_enabled())
            with md.no_grad(), md.no_grad():
                states.append(md.is_grad_enabled())
            states.append(md.is_grad_enabled())
        states.append(md.is_grad_enabled())
    assert states == [True, False, True, False]
    assert md.is_grad_enabled()


@pytest.mark.parametrize("kind", [md.no_grad, md.enable_grad, lambda: md.set_grad_enabled(False)])
def test_A15_an_exception_brings_the_mode_back(kind):
    with pytest.raises(KeyError), kind():
        raise KeyError
    assert md.is_grad_enabled()
    with md.no_grad():
        with pytest.raises(KeyError), kind():
            raise KeyError
        assert not md.is_grad_enabled()


def test_A15_one_context_object_may_be_entered_again_and_again():
    context = md.no_grad()
    for _ in range(2):
        with context, context:
            assert not md.is_grad_enabled()
        assert md.is_grad_enabled()


def test_A15_a_decorator_switches_for_its_function_only():
    @md.no_grad()
    def f(x, *, scale):
        """Scale."""
        return x * scale, md.is_grad_enabled()

    y, enabled = f(leaf([1.0]), scale=2)
    assert (y.requires_grad, enabled, f.__name__, f.__doc__) == (False, False, "f", "Scale.")
    assert md.is_grad_enabled()

    @md.enable_grad()
    def g():
        return md.is_grad_enabled()

    with md.no_grad():
        assert g()
        assert not md.is_grad_enabled()


def test_A15_a_decorated_function_may_call_itself_and_raise():
    @md.no_grad()
    def f(n):
        assert not md.is_grad_enabled()
        if n == 0:
            raise KeyError
        f(n - 1)

    with pytest.raises(KeyError):
        f(5)
    assert md.is_grad_enabled()


def test_A15_set_grad_enabled_works_by_call_as_context_and_as_decorator():
    md.set_grad_enabled(False)
    assert not md.is_grad_enabled()
    md.set_grad_enabled(True)
    with md.set_grad_enabled(False):
        assert not md.is_grad_enabled()
    assert md.is_grad_enabled()

    @md.set_grad_enabled(False)
    def f():
        return md.is_grad_enabled()

    assert md.is_grad_enabled()
    assert f() is False
    assert f() is False
    assert md.is_grad_enabled()


def test_A15_a_generator_runs_in_its_mode_and_its_consumer_in_its_own():
    @md.no_grad()
    def numbers():
        for i in range(3):
            assert not md.is_grad_enabled()
            yield i
        return "end"

    seen = []
    for i in numbers():
        assert md.is_grad_enabled()
        seen.append(i)
    assert seen == [0, 1, 2]

    def outer():
        return (yield from numbers())

    run = outer()
    assert [next(run) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration) as stop:
        next(run)
    assert stop.value.value == "end"


def test_A15_a_generator_gets_what_is_sent_thrown_and_closed():
    log = []

    @md.no_grad()
    def echo():
        try:
            while True:
                try:
                    log.append(((yield len(log)), md.is_grad_enabled()))
                except ValueError:
                    log.append(("caught", md.is_grad_enabled()))
        finally:
            log.append(("closed", md.is_grad_enabled()))

    g = echo()
    next(g)
    assert g.send("a") == 1
    assert g.throw(ValueError) == 2
    g.close()
    assert log == [("a", False), ("caught", False), ("closed", False)]
    assert md.is_grad_enabled()


def test_A15_interleaved_generators_do_not_disturb_each_other():
    @md.no_grad()
    def off():
        while True:
            yield md.is_grad_enabled()

    @md.enable_grad()
    def on():
        while True:
            yield md.is_grad_enabled()

    a, b, c = off(), on(), off()
    assert [next(a), next(b), next(c), next(a), next(b)] == [False, True, False, False, True]
    with md.no_grad():
        assert [next(b), next(a)] == [True, False]
        assert not md.is_grad_enabled()
    assert md.is_grad_enabled()


def test_A15_a_coroutine_cannot_be_decorated_for_its_mode_would_leak_to_other_tasks():
    async def work():
        return md.is_grad_enabled()

    with pytest.raises(TypeError, match=r"no_grad.*(async|coroutine)"):
        md.no_grad()(work)


def test_A15_another_thread_still_records():
    x = leaf([1.0])
    with md.no_grad():
        assert in_thread(lambda: (md.is_grad_enabled(), (x * 2).requires_grad)) == (True, True)
    md.set_grad_enabled(False)
    try:
        assert in_thread(md.is_grad_enabled)
    finally:
        md.set_grad_enabled(True)


@pytest.mark.parametrize("shared", ["decorator", "context"])
def test_A15_a_decorated_function_or_context_shared_by_threads_leaves_each_its_own_mode(shared):
    """Two threads in one `no_grad` object; the second, which enters last and leaves last, was not recording before."""
    inside, leave = threading.Barrier(2), [threading.Event(), threading.Event()]
    context = md.no_grad()

    def body(i):
        if i == 0:
            entered.set()
        inside.wait(30)
        leave[i].wait(30)

    decorated = context(body) if shared == "decorator" else None

    def enter(i):
        if decorated is not None:
            decorated(i)
        else:
            with context:
                body(i)

    after = {}

    def work(i, before):
        md.set_grad_enabled(before)
        if i == 1:
            entered.wait(30)
        enter(i)
        after[i] = md.is_grad_enabled()

    entered = threading.Event()
    threads = [threading.Thread(target=work, args=(i, before)) for i, before in ((0, True), (1, False))]
    for thread in threads:
        thread.start()
    for i in (0, 1):  # the first to enter leaves first
        leave[i].set()
        threads[i].join(30)
    assert after == {0: True, 1: False}


def test_backward_works_under_no_grad_and_leaves_it_on():
    x = leaf([3.0])
    y = x * x
    with md.no_grad():
        y.backward()
        assert not md.is_grad_enabled()
    assert x.grad.tolist() == [6.0]
    z = x * x * x
    with md.no_grad():
        (g,) = md.autograd.grad(z, x, create_graph=True)
        assert not md.is_grad_enabled()
    assert md.autograd.grad(g, x)[0].tolist() == [18.0]


# ---- threads (A23) ---------------------------------------------------------------------------------------------------


def test_A23_threads_with_graphs_of_their_own_do_not_disturb_each_other():
    def work(seed):
        x = leaf(np.random.default_rng(seed).standard_normal(4))
        for _ in range(50):
            (g,) = md.autograd.grad(md.softmax(md.tanh(x) * x)[0], x, create_graph=True)
            md.autograd.grad((g * g).sum(), x)
        return g.tolist()

    alone = [work(i) for i in range(4)]
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: work(i)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(4)] == alone


def test_A23_threads_may_read_one_leaf_and_take_gradients_as_values():
    x = leaf(np.arange(4.0))

    def work(k):
        return [md.autograd.grad((x * x * k).sum(), x)[0].tolist() for _ in range(50)]

    found = {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: work(k)})) for k in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {k: [[0.0, 2 * k, 4 * k, 6 * k]] * 50 for k in (1.0, 2.0, 3.0)}
    assert x.grad is None


# ---- interruptions (A29), reentrance (A22) ---------------------------------------------------------------------------


class Interrupt:
    """A rule that raises as a Ctrl-C does."""

    def __init__(self, kind):
        def rule(g, out, x):
            raise kind

        self.op = md.Op(lambda xp, x: x.copy(), rule, name="interrupted")


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_A29_an_interrupted_backward_leaves_no_flag_set(create, enabled):
    x = leaf([1.0])
    y = (Interrupt(KeyboardInterrupt).op(x * 2) * 3).sum()
    md.set_grad_enabled(enabled)
    try:
        with pytest.raises(KeyboardInterrupt):
            y.backward(create_graph=create)
        assert md.is_grad_enabled() is enabled
    finally:
        md.set_grad_enabled(True)
    (x * x).backward()
    assert x.grad.tolist() == [2.0]


def test_A29_an_interrupted_anomaly_block_leaves_no_flag_set():
    x = leaf([1.0])
    with pytest.raises(KeyboardInterrupt), md.detect_anomaly():
        Interrupt(KeyboardInterrupt).op(x).backward()
    from minidl.engine.node import mode

    assert (mode.record, mode.watch) == (1, None)


def test_A29_an_error_before_the_walk_leaves_no_flag_set():
    x = leaf([1.0])
    y = x * x
    y.backward()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            y.backward()
        assert md.is_grad_enabled()
    with pytest.raises(RuntimeError):
        md.autograd.grad(md.stack([x, x]), x)
    assert md.is_grad_enabled()


def nested(depth):
    """Return an operation whose rule runs a backward of its own, `depth` deep."""

    def rule(g, out, x):
        inner = leaf(np.ones(1))
        with md.enable_grad():
            y = (nested(depth - 1)(inner) if depth else inner) * 2.0
            y.sum().backward()
        return g * (inner.grad.array if not isinstance(g, md.Tensor) else inner.grad)

    return md.Op(lambda xp, x: x * 1.0, rule, name="nested")


def test_A22_a_backward_inside_a_backward_works_fifty_deep():
    x = leaf([1.0])
    nested(50)(x).backward()
    assert x.grad.item() == 2.0**51
    assert md.is_grad_enabled()


def test_A22_an_error_in_an_inner_backward_comes_out():
    def rule(g, out, x):
        with md.enable_grad():
            Interrupt(ZeroDivisionError("inner")).op(leaf([1.0])).backward()

    x = leaf([1.0])
    with pytest.raises(ZeroDivisionError, match="inner"):
        md.Op(lambda xp, x: x * 1.0, rule, name="outer")(x).backward()
    assert md.is_grad_enabled()
    assert x.grad is None


def test_A22_a_hook_may_run_a_backward():
    x, w = leaf([2.0]), leaf([3.0])

    def hook(g):
        with md.enable_grad():
            (w * w).sum().backward()

    x.register_hook(hook)
    (x * x).backward()
    assert (x.grad.tolist(), w.grad.tolist()) == ([4.0], [6.0])
