"""Hooks and retained gradients."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


# ---- A19 -------------------------------------------------------------------------------------------------------------


def test_A19_a_hook_is_called_once_a_backward_with_the_whole_gradient():
    seen = []
    x = leaf([2.0])
    y = x * 3
    y.register_hook(lambda g: seen.append(("y", g.tolist())))
    x.register_hook(lambda g: seen.append(("x", g.tolist())))
    (y + y * y).backward(retain_graph=True)
    assert seen == [("y", [13.0]), ("x", [39.0])]
    (y * 1.0).backward()
    assert seen[2:] == [("y", [1.0]), ("x", [3.0])]


def test_A19_hooks_run_in_the_order_of_registration_and_each_may_replace_the_gradient():
    x = leaf([1.0])
    x.register_hook(lambda g: g * 2)
    x.register_hook(lambda g: None)
    x.register_hook(lambda g: g + np.array([1.0]))
    (x * 5).backward()
    assert x.grad.tolist() == [11.0]


def test_A19_a_replaced_gradient_goes_on_to_the_inputs():
    x = leaf([1.0])
    y = x * 2
    y.register_hook(lambda g: g * 10)
    (y * 3).backward()
    assert x.grad.tolist() == [60.0]


@pytest.mark.parametrize(
    "bad", [lambda g: np.ones(3), lambda g: g.astype("float32"), lambda g: np.ones((1, 1)), lambda g: md.ones(1)]
)
def test_A19_a_hook_that_changes_shape_or_dtype_is_an_error(bad):
    x = leaf([1.0])
    x.register_hook(bad)
    with pytest.raises(RuntimeError, match=r"hook: .*\(1,\).*float64.*got"):
        (x * 2).backward()
    assert x.grad is None


def test_A19_a_hook_on_another_device_is_an_error(fake_cuda):
    x = leaf([1.0])
    x.register_hook(lambda g: g.cuda())
    with pytest.raises(RuntimeError, match=r"hook: .*cpu.*cuda:0"):
        (x * 2).backward()


def test_A19_a_removed_hook_is_silent_and_removing_twice_does_nothing():
    seen = []
    x = leaf([1.0])
    first = x.register_hook(lambda g: seen.append(1))
    x.register_hook(lambda g: seen.append(2))
    first.remove()
    first.remove()
    (x * 2).backward()
    assert seen == [2]


def test_A19_a_hook_may_remove_itself_and_others_while_it_runs():
    seen, handles = [], []
    x = leaf([1.0])
    handles.append(x.register_hook(lambda g: (seen.append("a"), [h.remove() for h in handles])[0]))
    handles.append(x.register_hook(lambda g: seen.append("b")))
    (x * 2).backward()
    (x * 2).backward()
    assert seen in (["a"], ["a", "b"])  # b was already due in the first


def test_A19_a_hook_may_add_a_hook():
    seen = []
    x = leaf([1.0])
    x.register_hook(lambda g: x.register_hook(lambda g: seen.append(1)) and None)
    (x * 2).backward()
    (x * 2).backward()
    assert len(seen) >= 1


def test_A19_an_exception_in_a_hook_comes_out_and_the_engine_goes_on():
    x = leaf([1.0])
    handle = x.register_hook(lambda g: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        (x * 2).backward()
    assert md.is_grad_enabled()
    assert x.grad is None
    handle.remove()
    (x * 2).backward()
    assert x.grad.tolist() == [2.0]


def test_A19_any_callable_will_do():
    class Hook:
        def __call__(self, g):
            return g * 3

    import functools

    x = leaf([1.0])
    x.register_hook(Hook())
    x.register_hook(functools.partial(lambda k, g: g + k, 1.0))
    (x * 1.0).backward()
    assert x.grad.tolist() == [4.0]


def test_a_hook_needs_a_tensor_that_requires_a_gradient():
    for f in (lambda t: t.register_hook(print), lambda t: t.retain_grad()):
        with pytest.raises(RuntimeError, match=r"does not require a gradient"):
            f(md.tensor([1.0]))


def test_hooks_run_in_grad_where_the_walk_passes_and_not_elsewhere():
    seen = []
    x, w = leaf([2.0]), leaf([3.0])
    y, other = x * 1.0, w * 1.0
    y.register_hook(lambda g: seen.append("y"))
    other.register_hook(lambda g: seen.append("other"))
    md.autograd.grad(y * other, x)
    assert seen == ["y"]


def test_under_create_graph_a_hook_is_part_of_the_derivative():
    x = leaf([2.0])
    x.register_hook(lambda g: g * x)
    (g,) = md.autograd.grad(x * x, x, create_graph=True)  # 2 x * x
    assert g.tolist() == [8.0]
    with md.no_grad():
        pass
    assert md.autograd.grad(g, x)[0].tolist() == [2.0 * 8.0]  # (4 x) through the hook once more, times x


def test_in_a_plain_backward_a_hook_records_nothing():
    recorded = []
    x = leaf([2.0])
    x.register_hook(lambda g: recorded.append((g * x).requires_grad))
    (x * x).backward()
    assert recorded == [False]


def test_a_hook_on_one_of_several_outputs_gets_that_outputs_gradient():
    x = leaf(np.random.default_rng(0).standard_normal((4, 2)))
    y, mean, _ = md.batch_norm_train(x, leaf(np.ones(2)), leaf(np.zeros(2)), eps=1e-3)
    seen = []
    mean.register_hook(lambda g: seen.append(g.tolist()))
    (y.sum() + (mean * md.tensor([1.0, 2.0])).sum() + (mean * 3).sum()).backward()
    assert seen == [[4.0, 5.0]]
    assert (mean * 0).tolist() == [0.0, 0.0]


def test_a_hook_replaces_the_gradient_of_one_of_several_outputs():
    x = leaf(np.random.default_rng(0).standard_normal((4, 2)))
    _, mean, _ = md.batch_norm_train(x, leaf(np.ones(2)), leaf(np.zeros(2)), eps=1e-3)
    mean.register_hook(lambda g: g * 4)
    mean.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0]] * 4


# ---- retain_grad -----------------------------------------------------------------------------------------------------


def test_retain_grad_keeps_the_gradient_of_a_result():
    x = leaf([2.0])
    y = x * 3
    y.retain_grad()
    y.retain_grad()  # twice is once
    assert y.grad is None
    (y * y).backward()
    assert (y.grad.tolist(), x.grad.tolist()) == ([12.0], [36.0])
    x.retain_grad()  # on a leaf it does nothing
    (x * 1.0).backward()
    assert x.grad.tolist() == [37.0]


def test_without_retain_grad_a_result_has_none():
    x = leaf([2.0])
    y = x * 3
    (y * y).backward()
    assert y.grad is None


def test_retain_grad_adds_up_and_sees_what_the_hooks_before_it_made():
    x = leaf([2.0])
    y = x * 3
    y.register_hook(lambda g: g * 10)
    y.retain_grad()
    (y * 1.0).backward(retain_graph=True)
    (y * 1.0).backward()
    assert y.grad.tolist() == [20.0]


def test_a_retained_gradient_under_create_graph_can_be_differentiated():
    x = leaf([2.0])
    y = x * 3
    y.retain_grad()
    (y * y * y).sum().backward(create_graph=True)
    assert md.autograd.grad(y.grad, x)[0].tolist() == [6.0 * 6 * 3]


def test_retained_gradients_share_no_memory():
    x = leaf([2.0])
    a = x + 0.0
    b = a + 0.0
    a.retain_grad()
    b.retain_grad()
    b.backward(np.ones(1))
    assert not np.shares_memory(a.grad.array, b.grad.array)
    assert not np.shares_memory(a.grad.array, x.grad.array)


def test_retain_grad_of_one_of_several_outputs():
    x = leaf(np.random.default_rng(0).standard_normal((4, 2)))
    _, mean, _ = md.batch_norm_train(x, leaf(np.ones(2)), leaf(np.zeros(2)), eps=1e-3)
    mean.retain_grad()
    (mean * 3).sum().backward()
    assert mean.grad.tolist() == [3.0, 3.0]


def test_what_a_hook_returns_is_copied_into_the_leaf():
    c = md.tensor([1.0, 2.0], dtype="float64")
    x, y = (md.tensor([3.0, 4.0], dtype="float64", requires_grad=True) for _ in range(2))
    for t in (x, y):
        t.register_hook(lambda g: c)
    (x * y).sum().backward()
    assert len({id(x.grad.array), id(y.grad.array), id(c.array)}) == 3
    x.grad.fill_(0.0)
    assert (y.grad.tolist(), c.tolist()) == ([1.0, 2.0], [1.0, 2.0])


def test_a_retained_gradient_is_what_the_hooks_made_of_it():
    x = md.tensor([3.0], dtype="float64", requires_grad=True)
    y = x * 1.0
    y.retain_grad()
    y.register_hook(lambda g: 10 * g)
    y.sum().backward()
    assert (y.grad.item(), x.grad.item()) == (10.0, 10.0)


def test_freezing_and_unfreezing_a_leaf_keeps_its_hooks_and_its_place_in_earlier_graphs():
    seen = []
    x = md.tensor([3.0], dtype="float64", requires_grad=True)
    x.register_hook(lambda g: seen.append(g.item()))
    y = x * x
    x.requires_grad = False
    assert not (x * 2).requires_grad
    x.requires_grad = True
    (g,) = md.autograd.grad(y, x)
    assert (g.item(), seen) == (6.0, [6.0])
    (x * 2).backward()
    assert (x.grad.item(), seen) == (2.0, [6.0, 2.0])
