"""Backward and grad: what they accept, what they return, what they leave alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minidl as md
from minidl.engine.autograd import backward, grad


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


# ---- what backward asks for (A1 to A4) -------------------------------------------------------------------------------


def test_A1_backward_of_many_elements_needs_a_gradient():
    y = leaf([1.0, 2.0]) * 2
    with pytest.raises(RuntimeError, match=r"backward: .*scalar.*\(2,\).*gradient="):
        y.backward()
    leaf([[3.0]]).sum(axis=0).backward()  # one element in any shape will do
    (leaf([[3.0]]) * 2).backward()


def test_A2_backward_needs_something_that_requires_a_gradient():
    for t in (md.tensor([1.0]), md.tensor([1.0]) * 2, leaf([1.0]).detach(), leaf([1.0]) > 0):
        with pytest.raises(RuntimeError, match=r"does not require a gradient"):
            t.backward()


def test_A3_the_gradient_must_have_the_outputs_shape_and_device(fake_cuda):
    x = leaf([1.0, 2.0])
    for bad in (np.ones(3), np.ones((2, 1)), 1.0, md.ones(1, 2)):
        with pytest.raises(RuntimeError, match=r"\(2,\).*got \("):
            (x * 2).backward(bad)
    with pytest.raises(RuntimeError, match=r"cuda:0.*cpu.*\.to"):
        (x * 2).backward(md.ones(2, dtype="float64", device="cuda"))
    assert x.grad is None
    (x * 2).backward(np.ones(2, np.float32))  # another dtype is cast
    assert x.grad.dtype == np.float64


def test_A3_the_number_of_gradients_must_be_that_of_the_outputs():
    x = leaf([1.0])
    with pytest.raises(ValueError, match=r"2 outputs.*got 1"):
        backward([x * 2, x * 3], [np.ones(1)])
    with pytest.raises(TypeError, match=r"Tensors.*float"):
        backward(2.0)
    with pytest.raises(ValueError, match=r"at least one output"):
        grad([], x)
    with pytest.raises(TypeError, match=r"inputs must be Tensors.*ndarray"):
        grad(x * 2, np.ones(1))


@pytest.mark.parametrize("f", [lambda x: x.sum(), lambda x: (x + 1.0).sum(), lambda x: (x * x).sum(), lambda x: x[0]])
def test_A4_the_second_backward_is_an_error_whatever_was_saved(f):
    y = f(leaf([1.0, 2.0]))
    y.backward()
    with pytest.raises(RuntimeError, match=r"second time.*retain_graph=True"):
        y.backward()
    assert md.is_grad_enabled()


def test_A4_a_freed_part_stops_what_was_built_on_it():
    x = leaf([2.0])
    shared = x * x
    (shared * 3).backward()
    assert x.grad.tolist() == [12.0]
    with pytest.raises(RuntimeError, match=r"second time"):
        (shared * 5).backward()
    assert x.grad.tolist() == [12.0]


def test_grad_frees_only_what_it_walked():
    x, y = leaf([2.0]), leaf([3.0])
    a, b = x * x, y * y
    z = a * b
    grad(z, x, retain_graph=True)
    assert grad(z, x)[0].item() == 36.0
    assert grad(b, y)[0].item() == 6.0


# ---- accumulation (A5 to A7) -----------------------------------------------------------------------------------------


def test_A5_two_backwards_of_a_retained_graph_give_exactly_twice():
    x = leaf(np.random.default_rng(0).standard_normal(5))
    y = md.tanh(md.exp(x) * x).sum()
    y.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    y.backward()
    assert (x.grad.numpy() == 2 * once).all()


def test_A6_gradients_add_up_until_they_are_taken_away():
    x = leaf([1.0, 2.0], "float32")
    for k in (1, 2, 3):
        (x * 2).sum().backward()
        assert x.grad.tolist() == [2.0 * k, 2.0 * k]
    assert (x.grad.shape, x.grad.dtype, x.grad.device) == (x.shape, x.dtype, x.device)
    x.grad = None
    (x * 5).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0]


def test_A6_a_gradient_is_a_fresh_array_each_time():
    x = leaf([1.0])
    (x * 2).backward()
    first = x.grad
    (x * 3).backward()
    assert (first.tolist(), x.grad.tolist()) == ([2.0], [5.0])


def test_A6_a_gradient_that_does_not_fit_is_refused():
    x = leaf([1.0, 2.0])
    for bad in (np.ones(3), np.ones(2, np.float32), md.ones(2), 1.0):
        with pytest.raises((ValueError, TypeError), match=r"grad: "):
            x.grad = bad
    x.grad = np.ones(2)
    x.grad = md.ones(2, dtype="float64")
    assert type(x.grad) is md.Tensor


def test_A7_grad_touches_no_grad_attribute():
    x = leaf([2.0])
    y = x * x
    y.retain_grad()
    z = y * 3
    assert [g.tolist() for g in grad(z, [x, y], retain_graph=True)] == [[12.0], [3.0]]
    assert grad(y, x)[0].tolist() == [4.0]
    assert x.grad is None
    assert y.grad is None


def test_A7_an_unreached_input_is_an_error_or_none():
    x, other = leaf([1.0]), leaf([2.0])
    y = x * 2
    with pytest.raises(RuntimeError, match=r"input 1 .*allow_unused"):
        grad(y, [x, other], retain_graph=True)
    assert grad(y, [x, other], allow_unused=True)[1] is None
    with pytest.raises(RuntimeError, match=r"input 0 .*does not require a gradient"):
        grad(leaf([1.0]) * 2, md.tensor([1.0]))


def test_A7_an_input_of_a_later_time_is_unreached():
    x = leaf([1.0])
    y = x * 2
    later = x * 3
    assert grad(y, later, allow_unused=True) == (None,)


def test_an_inner_node_and_its_own_input_get_their_gradients_at_once():
    x = leaf([3.0])
    y = x * x
    z = y * y + y
    assert [g.item() for g in grad(z, [z, y, x])] == [1.0, 19.0, 114.0]


def test_an_output_that_is_its_own_input_has_the_gradient_given():
    x = leaf([3.0, 4.0])
    assert grad(x, x, np.array([5.0, 6.0]))[0].tolist() == [5.0, 6.0]
    x.backward(np.array([5.0, 6.0]))
    assert x.grad.tolist() == [5.0, 6.0]


def test_several_outputs_add_and_each_may_be_given_its_gradient():
    x = leaf([3.0])
    a, b = x * x, x * 5
    assert grad([a, b, a], x)[0].item() == 17.0
    a, b = x * x, x * 5
    assert grad([a, b], x, [np.array([10.0]), None])[0].item() == 65.0


def test_one_output_may_depend_on_another():
    x = leaf([2.0])
    a = x * x
    b = a * 3
    assert grad([a, b], x)[0].item() == 16.0


def test_the_same_input_twice_gets_its_gradient_twice():
    x = leaf([2.0])
    assert [g.item() for g in grad(x * x, [x, x])] == [4.0, 4.0]


def test_backward_of_chosen_inputs_leaves_the_others():
    x, w = leaf([2.0]), leaf([3.0])
    backward(x * w, inputs=w)
    assert x.grad is None
    assert w.grad.item() == 2.0
    y = x * w
    with pytest.raises(RuntimeError, match=r"leaves.*autograd\.grad"):
        backward(y * 2, inputs=y)


def test_nothing_is_deposited_when_a_leaf_has_moved_away(fake_cuda):
    x, y, z = leaf([1.0]), leaf([2.0]), leaf([3.0])
    loss = x * y * z
    y.data = md.ones(1, dtype="float64", device="cuda")
    with pytest.raises(RuntimeError, match=r"leaf.*cuda:0.*cpu"):
        loss.backward()
    assert (x.grad, y.grad, z.grad) == (None, None, None)


def test_later_arrivals_add_into_an_array_that_is_the_engines_own():
    """The first arrival is kept by reference: adding into it would change what others see."""
    seen = []
    x = leaf([1.0, 2.0])
    a = x * 1.0
    outs = [a + 0.0 for _ in range(4)]
    for y in outs:
        y.retain_grad()
        y.register_hook(lambda g: seen.append(g))
    seeds = [np.full(2, 10.0**k) for k in range(4)]
    backward(outs, seeds)
    assert x.grad.tolist() == [1111.0, 1111.0]
    assert [y.grad.tolist()[0] for y in outs] == [1.0, 10.0, 100.0, 1000.0]
    assert sorted(g.tolist()[0] for g in seen) == [1.0, 10.0, 100.0, 1000.0]
    assert [s.tolist()[0] for s in seeds] == [1.0, 10.0, 100.0, 1000.0]


def test_nothing_is_deposited_when_a_rule_raises():
    boom = md.Op(lambda xp, x: x.copy(), lambda g, out, x: 1 / 0, name="boom")
    x, y = leaf([1.0]), leaf([1.0])
    z = y * 2 + boom(x)
    with pytest.raises(ZeroDivisionError):
        z.backward()
    assert x.grad is None
    assert y.grad is None


# ---- constants (A14, A26, A28) ---------------------------------------------------------------------------------------


def test_A14_no_gradient_flows_through_detach_and_the_memory_is_shared():
    x = leaf([2.0])
    d = x.detach()
    (x * d).backward()
    assert x.grad.tolist() == [2.0]
    assert np.shares_memory(d.array, x.array)
    assert not d.requires_grad


def test_A26_integers_and_bools_in_a_graph_are_constants():
    x, n, mask = leaf([1.0, 2.0]), md.tensor([3, 4]), md.tensor([True, False])
    y = (x * n + md.where(mask, x, 0.0)).sum() + n.sum()
    y.backward()
    assert x.grad.tolist() == [4.0, 4.0]
    assert not (n * 2).requires_grad
    assert md.argmax(x).node is None


def test_A28_results_of_constants_hold_nothing():
    x = md.tensor([1.0])
    assert ((x * 2 + 1).node, md.exp(x).node, x.sum().node, md.concatenate([x, x]).node) == (None,) * 4
    with md.no_grad():
        assert (leaf([1.0]) * 2).node is None


def test_a_constant_beside_a_leaf_is_not_kept_if_no_rule_reads_it():
    import weakref

    x, big = leaf([1.0]), np.ones(100)
    constant = md.tensor(big)
    array = weakref.ref(constant.array)
    y = x * constant
    del constant
    assert array() is not None  # multiply reads it
    y.backward(np.ones(100))
    assert array() is None


# ---- aliasing --------------------------------------------------------------------------------------------------------


SHARING = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "reshape": lambda x, y: x.reshape((2, 1)) + y.reshape((2, 1)),
    "broadcast": lambda x, y: md.broadcast_to(x, (2,)) + md.broadcast_to(y, (1, 2)),
    "concatenate": lambda x, y: md.concatenate([x, y]),
    "stack": lambda x, y: md.stack([x, y]),
    "mean": lambda x, y: x.mean() + y.mean(),
    "sum": lambda x, y: x.sum() + y.sum(),
    "getitem": lambda x, y: x[:] + y[::-1],
    "copy": lambda x, y: x.copy() + y.astype("float64"),
    "transpose": lambda x, y: x.T + y.T,
    "twice": lambda x, y: x + x + y + y,
    "max": lambda x, y: x.max() + md.maximum(x, y).sum(),
}


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("name", SHARING)
def test_gradients_of_leaves_share_memory_with_nothing(name, create):
    x, y = leaf([1.0, 2.0]), leaf([3.0, 5.0])
    out = SHARING[name](x, y)
    seed = np.ones(out.shape)
    out.backward(seed, create_graph=create)
    arrays = [x.grad.array, y.grad.array, x.array, y.array, seed, out.array]
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[i + 1 :]), i
    assert x.grad.array.flags.writeable
    assert y.grad.array.flags.writeable
    with md.no_grad():
        x.grad *= 0
    assert x.grad.tolist() == [0.0, 0.0]
    assert np.all(y.grad.numpy() != 0)


def test_the_gradient_given_is_not_kept():
    x, seed = leaf([1.0, 2.0]), np.ones(2)
    x.backward(seed)
    seed[:] = 7
    assert x.grad.tolist() == [1.0, 1.0]
    y = x * 1.0
    y.retain_grad()
    y.backward(seed)
    seed[:] = 0
    assert y.grad.tolist() == [7.0, 7.0]


def test_what_grad_returns_for_leaves_shares_memory_with_nothing():
    x, y, seed = leaf([1.0, 2.0]), leaf([1.0, 2.0]), np.ones(2)
    a = x + y
    b = a + 0.0
    gx, gy, ga, gb = (g.array for g in grad(b, [x, y, a, b], seed))
    for g, others in ((gx, (gy, ga, gb, seed)), (gy, (ga, gb, seed))):
        assert not any(np.shares_memory(g, other) for other in others)


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_backward_on_a_gpu_copies_nothing_and_waits_for_nothing(fake_cuda):
    x = md.tensor(np.random.default_rng(0).standard_normal((4, 3)), device="cuda", requires_grad=True)
    w = md.tensor(np.ones((2, 3)), device="cuda", requires_grad=True)
    b = md.tensor(np.zeros(2), device="cuda", requires_grad=True)
    target = md.tensor([0, 1, 1, 0], device="cuda")
    fake_cuda.stats.reset()
    with md.transfers(max=0):
        loss = md.cross_entropy(md.linear(md.tanh(x), w, b), target)
        loss.backward(create_graph=True)
        (w.grad * w.grad).sum().backward()
    stats = fake_cuda.stats
    assert (stats.to_device, stats.to_host, stats.waits) == (0, 0, 0)
    assert (w.grad.device, loss.device) == ("cuda:0", "cuda:0")


def test_gradients_cross_between_devices_where_the_program_does(fake_cuda):
    x = leaf([1.0, 2.0])
    y = (x * 2).to("cuda") * md.tensor([3.0, 4.0], dtype="float64", device="cuda")
    assert y.device == "cuda:0"
    y.sum().backward()
    assert (x.grad.device, x.grad.tolist()) == ("cpu", [6.0, 8.0])
    (g,) = grad((x.cuda() ** 3).sum().cpu(), x, create_graph=True)
    assert grad(g.sum(), x)[0].tolist() == [6.0, 12.0]


def test_backward_runs_on_the_gpu_where_the_arrays_are(fake_cuda):
    with fake_cuda.devices(2):
        x = md.tensor([1.0, 2.0], device="cuda:1", requires_grad=True)
        y = md.softmax(x * x) * x
        (g,) = grad(y.sum(), x, create_graph=True)
        (h,) = grad(g.sum(), x, retain_graph=True)
        assert (y.device, g.device, h.device) == ("cuda:1",) * 3
        z = y.to("cuda:0")
        z.sum().backward()
        assert x.grad.device == "cuda:1"


def test_a_branch_that_was_freed_does_not_matter_to_an_input_beside_it():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    h = x * x
    h.sum().backward()
    assert grad((h * w).sum(), w)[0].tolist() == [1.0, 4.0]
    with pytest.raises(RuntimeError, match="second time"):
        grad((h * w).sum(), x)


def test_threads_that_share_a_leaf_lose_no_gradient():
    x = leaf([1.0])

    def work():
        for _ in range(300):
            (x * 2).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert x.grad.item() == 2400.0
