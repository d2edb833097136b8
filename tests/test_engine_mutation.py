"""Writing in place: where it is allowed, and that a gradient of overwritten values is an error and never wrong."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import minidl as md


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


WRITES = {
    "setitem": lambda t: operator.setitem(t, 0, 7.0),
    "setitem of a slice": lambda t: operator.setitem(t, slice(None), 7.0),
    "setitem by a mask": lambda t: operator.setitem(t, t > 0, 7.0),
    "setitem by a list": lambda t: operator.setitem(t, [0, 1], md.ones(2, dtype=t.dtype)),
    "copy_": lambda t: t.copy_(np.full(t.shape, 7.0)),
    "fill_": lambda t: t.fill_(7.0),
    "zero_": lambda t: t.zero_(),
}


# ---- where it is allowed (T15) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_T15_writing_into_a_recorded_tensor_is_refused_outside_no_grad(write):
    t = leaf([1.0, 2.0])
    with pytest.raises(RuntimeError, match=r"in place.*no_grad\(\)"):
        write(t)
    assert t.tolist() == [1.0, 2.0]
    with md.no_grad():
        write(t)
    assert t.tolist() != [1.0, 2.0]
    assert t.requires_grad


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_T15_a_constant_may_be_written_to_and_the_clock_sees_who_had_saved_it(write):
    t, x = md.tensor([1.0, 2.0], dtype="float64"), leaf([3.0, 4.0])
    y = (x * t).sum()
    write(t)
    assert t.tolist() != [1.0, 2.0]
    with pytest.raises(RuntimeError, match=r"multiply.*in-place"):
        y.backward()
    (x * t).sum().backward()
    assert x.grad.tolist() == t.tolist()


def test_T15_a_recorded_value_is_not_written_into_a_constant():
    t = md.zeros(2, dtype="float64")
    for write in (lambda: operator.setitem(t, 0, leaf([1.0, 2.0])[0]), lambda: t.copy_(leaf([1.0, 2.0]))):
        with pytest.raises(RuntimeError, match=r"in place.*no_grad\(\)"):
            write()
    assert t.tolist() == [0.0, 0.0]


def test_numbers_are_formatted_and_missing_names_point_to_numpys():
    assert f"{md.tensor(1.23456):.2f} {md.tensor([1.0])}" == "1.23 tensor([1.])"
    with pytest.raises(ValueError, match="format: .*exactly one element, got 2"):
        f"{md.ones(2):.2f}"
    with pytest.raises(AttributeError, match="no attribute 'view'; here it is reshape"):
        _ = md.ones(2).view
    with pytest.raises(AttributeError, match="no attribute 'cat'; here it is concatenate"):
        _ = md.cat
    assert not hasattr(md.ones(2), "nonsense")


def test_T15_the_error_shows_the_functional_way():
    with pytest.raises(RuntimeError, match=r"where.*index_set"):
        leaf([1.0])[0] = 2.0


@pytest.mark.parametrize("op", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_T15_an_augmented_assignment_rebinds_and_under_no_grad_updates_the_leaf(op):
    x = leaf([2.0, 4.0])
    old = x
    x = op(x, 2.0)
    assert x is not old
    assert old.tolist() == [2.0, 4.0]
    assert x.requires_grad
    p = leaf([2.0, 4.0])
    same, array = p, p.array
    with md.no_grad():
        p = op(p, md.tensor([2.0, 2.0]))
    assert p is same
    assert p.array is array
    assert p.is_leaf
    assert p.tolist() == x.tolist()


def test_T15_a_write_casts_to_the_tensors_dtype_and_refuses_another_device(fake_cuda):
    t = md.zeros(2, requires_grad=True)
    with md.no_grad():
        t.copy_(np.array([1.5, 2.5]))
        t += np.array([1.0, 1.0])
        assert (t.dtype, t.tolist()) == (np.float32, [2.5, 3.5])
        for write in (lambda v: t.copy_(v), lambda v: operator.setitem(t, 0, v), lambda v: operator.iadd(t, v)):
            with pytest.raises((ValueError, TypeError), match=r"cpu.*cuda:0|cuda:0.*cpu"):
                write(md.ones(1, device="cuda"))
        with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)|broadcast"):
            t.copy_(np.ones(3))
    assert t.tolist() == [2.5, 3.5]


# ---- what is caught (A12) --------------------------------------------------------------------------------------------

SAVING = {
    "multiply": lambda x: x * x,
    "divide": lambda x: 1.0 / x,
    "power": lambda x: x**3,
    "log": md.log,
    "absolute": md.abs,
    "maximum": lambda x: md.maximum(x, 0.5),
    "var": md.var,
    "matmul": lambda x: x @ x,
    "logsumexp": md.logsumexp,
    "cross_entropy": lambda x: md.cross_entropy(x, np.array(0)),
    "linear": lambda x: md.linear(x, x.reshape((1, 2))),
}


@pytest.mark.parametrize("name", SAVING)
def test_A12_overwriting_a_saved_input_is_an_error_that_names_the_operation(name):
    x = leaf([1.0, 2.0])
    y = SAVING[name](x).sum()
    with md.no_grad():
        x[0] = 5.0
    with pytest.raises(
        RuntimeError, match=rf"{name}: .*\(.*2.*\).*in-place operation.*version of time \d+, found.*time \d+.*copy"
    ):
        y.backward()
    assert x.grad is None


@pytest.mark.parametrize("op", [md.exp, md.sqrt, md.tanh, md.sigmoid, md.softmax, md.relu], ids=lambda op: op.name)
def test_A12_overwriting_a_saved_result_is_an_error(op):
    x = leaf([1.0, 2.0])
    y = op(x)
    z = y.sum()
    with md.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match=rf"{op.name}: its result .*in-place operation"):
        z.backward()


NOT_SAVING = {
    "add": lambda x: x + 1.0,
    "subtract": lambda x: 2.0 - x,
    "negative": lambda x: -x,
    "exp": md.exp,  # keeps its result
    "tanh": md.tanh,
    "sum": lambda x: x.sum() * 1.0,
    "mean": lambda x: x.mean() * 1.0,
    "slice": lambda x: x[:1] + 0.0,
    "index": lambda x: x[[0, 1, 1]],
    "stack": lambda x: md.stack([x, x]),
    "concatenate": lambda x: md.concatenate([x, x]),
    "where": lambda x: md.where(md.tensor([True, False]), x, 0.0),
    "take_along_axis": lambda x: md.take_along_axis(x, np.array([1, 1]), axis=0),
}


@pytest.mark.parametrize("name", NOT_SAVING)
def test_A12_overwriting_what_nobody_saved_is_allowed_and_right(name):
    expected = leaf([1.0, 2.0])
    NOT_SAVING[name](expected).sum().backward()
    x = leaf([1.0, 2.0])
    y = NOT_SAVING[name](x).sum()
    with md.no_grad():
        x.fill_(9.0)
    y.backward()
    assert x.grad.tolist() == expected.grad.tolist()


def test_A12_a_write_before_the_operation_does_no_harm():
    x = leaf([1.0, 2.0])
    with md.no_grad():
        x[0] = 3.0
    y = (x * x).sum()
    other = md.zeros(2)
    with md.no_grad():
        other += 1.0
    y.backward()
    assert x.grad.tolist() == [6.0, 4.0]


@pytest.mark.parametrize(
    "view",
    [lambda x: x.detach(), lambda x: x.detach()[1:], lambda x: x.detach().reshape((2, 1)), lambda x: x.detach().T],
)
def test_A14_a_write_through_a_view_of_the_memory_is_seen(view):
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    with md.no_grad():
        view(x)[0] = 7.0
    with pytest.raises(RuntimeError, match=r"multiply: .*in-place"):
        y.backward()


def test_a_write_to_a_result_is_seen_by_who_saved_a_view_of_it():
    x = leaf([[1.0, 2.0]])
    y = x * 1.0
    z = (y.reshape((2,)) ** 2).sum()
    with md.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match=r"power: .*in-place"):
        z.backward()


def test_a_saved_constant_that_is_overwritten_is_seen():
    x, c = leaf([1.0, 2.0]), md.tensor([3.0, 4.0])
    y = (x * c).sum()
    with md.no_grad():
        c[0] = 1.0
    with pytest.raises(RuntimeError, match=r"multiply: .*in-place"):
        y.backward()


def test_an_index_that_is_overwritten_is_seen():
    x, i = leaf([1.0, 2.0]), md.tensor([0, 0])
    y = x[i].sum()
    with md.no_grad():
        i[0] = 1
    with pytest.raises(RuntimeError, match=r"getitem: .*in-place"):
        y.backward()


def test_a_write_after_the_backward_does_no_harm():
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    with md.no_grad():
        x -= 0.1 * x.grad
    (x * x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [2 + 1.6, 4 + 3.2])


def test_the_second_derivative_sees_writes_too():
    x = leaf([1.0, 2.0])
    (g,) = md.autograd.grad((x * x * x).sum(), x, create_graph=True)
    with md.no_grad():
        x[0] = 7.0
    with pytest.raises(RuntimeError, match=r"in-place"):
        md.autograd.grad(g.sum(), x)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_writes_are_seen_on_every_device(where, fake_cuda):
    x = md.tensor([1.0, 2.0], device=where, requires_grad=True)
    y = (x * x).sum()
    with md.no_grad():
        x.detach()[1:].fill_(5.0)
    with pytest.raises(RuntimeError, match=r"multiply: .*in-place"):
        y.backward()


def test_the_mark_of_a_dead_array_does_not_pass_to_the_next_at_its_address():
    for _ in range(200):
        t = md.zeros(4)
        with md.no_grad():
            t.fill_(1.0)
        del t
        x = leaf(np.ones(4))
        (x * x).sum().backward()


# ---- rebinding: p.data = x -------------------------------------------------------------------------------------------


def test_rebinding_data_adopts_dtype_and_device_and_keeps_the_shape(fake_cuda):
    p = md.Parameter(np.ones(2, np.float32))
    p.data = np.array([3.0, 4.0])
    assert (p.dtype, p.tolist(), p.requires_grad) == (np.float64, [3.0, 4.0], True)
    p.data = md.ones(2, device="cuda")
    assert p.device == "cuda:0"
    with pytest.raises(ValueError, match=r"data: .*\(2,\).*\(3,\)"):
        p.data = np.ones(3)
    with pytest.raises(TypeError, match=r"floating.*int64"):
        p.data = np.ones(2, int)
    with pytest.raises(RuntimeError, match=r"data: .*leaf.*detach"):
        (p * 2).data = np.ones(2)
    assert p.device == "cuda:0"


def test_rebinding_is_no_write_so_the_old_graph_stays_right():
    p = leaf([3.0])
    y = p * p
    p.data = np.array([100.0])
    y.backward()
    assert p.grad.tolist() == [6.0]


def test_the_gradient_of_an_old_graph_has_todays_dtype():
    p = md.tensor([3.0], requires_grad=True)
    y = (p * p).sum()
    p.data = np.array([100.0])
    y.backward()
    assert (p.grad.dtype, p.grad.tolist()) == (np.float64, [6.0])


def test_a_gradient_that_no_longer_fits_is_dropped_by_rebinding():
    p = md.tensor([3.0], requires_grad=True)
    (p * p).backward()
    p.data = np.array([1.0], np.float32)
    assert p.grad is not None
    p.data = np.array([1.0])
    assert p.grad is None or p.grad.dtype == p.dtype


def test_hooks_stay_with_a_rebound_parameter():
    seen = []
    p = leaf([3.0])
    p.register_hook(lambda g: seen.append(g.item()))
    p.data = np.array([5.0])
    (p * p).backward()
    assert seen == [10.0]


# ---- behind the library's back (A13) ---------------------------------------------------------------------------------


def test_A13_a_raw_write_is_found_by_its_checksum_in_anomaly_mode():
    x = leaf([1.0, 2.0])
    with md.detect_anomaly():
        y = (x * x).sum()
        x.data[0] = 7.0
        with pytest.raises(RuntimeError, match=r"multiply: .*modified outside.*y = \(x \* x\)\.sum\(\)"):
            y.backward()


def test_A13_a_raw_write_is_found_by_a_read_only_flag():
    x = leaf([1.0, 2.0])
    x.data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 7.0
    with md.no_grad(), pytest.raises(ValueError, match="read-only"):
        x[0] = 7.0
