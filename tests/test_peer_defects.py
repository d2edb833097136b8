"""What other libraries of this kind were found to get wrong (names H1 to H17), each a test that is passed here.

Not here, because it concerns what other tests cover: H14, the order of parameters and moving weights on saving (nn),
H17, a NumPy backend that cannot train (the training tests run on it), H16, linear algebra without gradients (its
entries in the table of cases).
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

import minidl as md


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


def test_H1_the_hessian_vector_product_of_batch_norm_sees_the_statistics_move(rng):
    x, v = rng.standard_normal((6, 3)), rng.standard_normal((6, 3))

    def loss(x):
        y, _, _ = md.batch_norm_train(
            x, md.tensor([1.0, 2.0, 0.5], dtype="float64"), md.zeros(3, dtype="float64"), eps=1e-5
        )
        return (y**3).sum()

    exact = md.func.hvp(loss, (x,), (v,)).numpy()
    h = 1e-5
    g = md.func.grad(loss)
    differences = (g(x + h * v).numpy() - g(x - h * v).numpy()) / (2 * h)
    np.testing.assert_allclose(exact, differences, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x + 1.0,
        lambda x: 2.0 * x,
        lambda x: x / 2.0,
        lambda x: 1 - x,
        lambda x: x**2,
        lambda x: 2**x,
        lambda x: np.float64(2) * x,
        lambda x: x * np.float64(2),
        lambda x: np.int64(2) * x,
        lambda x: x.mean() * x,
        lambda x: md.where(x > 0, x, 0.0),
        lambda x: md.maximum(x, 0.5),
        lambda x: x.var() + x.sum() / x.size,
    ],
)
def test_H2_float32_with_python_numbers_stays_float32(f):
    x = leaf([1.0, 2.0], "float32")
    y = f(x)
    assert y.dtype == np.float32
    (g,) = md.autograd.grad(y.sum(), x, create_graph=True)
    assert g.dtype == np.float32


def test_H3_gradients_of_float32_are_float32():
    x = leaf([1.0, 2.0, 3.0], "float32")
    for f in (lambda x: (x.max() * x).sum(), lambda x: (x.mean() * x / 3).sum(), lambda x: (x * np.ones(3)).sum()):
        (g,) = md.autograd.grad(f(x), x)
        assert g.dtype == np.float32


def test_H4_diamonds_cost_no_more_than_chains():
    runs = []
    count = md.Op(lambda xp, x: x * 1.0, lambda g, out, x: (runs.append(1), g)[1], name="count")
    x = leaf(1.0)
    y = x
    for _ in range(30):
        y = count(y)
        y = y * 0.5 + y * 0.5
    y.backward()
    assert x.grad.item() == 1.0
    assert len(runs) == 30


def test_H5_a_gradient_wrong_by_123_does_not_pass():
    wrong = md.Op(lambda xp, x: x * x, lambda g, out, x: 123 * 2 * g * x, saves="x", name="wrong")
    with pytest.raises(AssertionError):
        md.check_grad(wrong, np.array([1.0, 2.0]))


def test_H6_writing_into_an_array_gives_the_values_written_their_gradients():
    x, v = leaf([1.0, 2.0, 3.0]), leaf([5.0, 6.0])
    weights = md.tensor([10.0, 20.0, 40.0], dtype="float64")
    mask = md.tensor([False, True, True])
    y = md.where(mask, md.concatenate([md.zeros(1, dtype="float64"), v]), x)
    (y * weights).sum().backward()
    assert (x.grad.tolist(), v.grad.tolist()) == ([10.0, 0.0, 0.0], [20.0, 40.0])


def test_H6_index_set_gives_both_their_gradients():
    x, v = leaf([1.0, 2.0, 3.0]), leaf([5.0, 6.0])
    y = md.index_set(x, np.array([1, 2]), v)
    (y * md.tensor([10.0, 20.0, 40.0], dtype="float64")).sum().backward()
    assert (x.grad.tolist(), v.grad.tolist()) == ([10.0, 0.0, 0.0], [20.0, 40.0])
    md.check_grad(lambda x, v: md.index_set(x, [0, 2], v) ** 2, [np.ones(3), np.array([2.0, 3.0])], order=3)


def test_H7_each_row_has_its_own_shift():
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        x = md.tensor([[0.0, 0.0], [1000.0, 1000.0]])
        assert md.softmax(x, axis=1).tolist() == [[0.5, 0.5], [0.5, 0.5]]
        assert md.cross_entropy(x, np.array([0, 1]), reduction="none").tolist() == [np.float32(np.log(2))] * 2


def test_H8_depth_is_not_limited_by_the_recursion_limit():
    limit = sys.getrecursionlimit()
    x = leaf(1.0)
    y = x
    for _ in range(20 * limit):
        y = y + 0.0
    y.backward()
    assert x.grad.item() == 1.0


def test_H9_a_second_backward_adds_the_same_again():
    x = leaf(1.0)
    inner = x * x
    y = inner * 0.5
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 2.0


def test_H10_array_times_tensor_is_a_tensor():
    for y in (np.ones(3) * leaf([1.0, 2.0, 3.0]), np.ones(3) + leaf([1.0, 2.0, 3.0]), np.float32(2) * leaf([1.0])):
        assert type(y) is md.Tensor
        assert y.dtype == np.float64
        assert y.requires_grad


def test_H11_a_saved_array_that_is_overwritten_is_never_a_wrong_gradient():
    x, c = leaf([1.0]), md.tensor([1.0], dtype="float64")
    y = x * c
    with md.no_grad():
        c[0] = 100.0
    with pytest.raises(RuntimeError, match="in-place"):
        y.backward()
    raw = np.array([1.0])
    z = x * md.tensor(raw)  # a copy: what happens to the array afterwards changes nothing
    raw[0] = 100.0
    z.backward()
    assert x.grad.tolist() == [1.0]


def test_H11_an_array_used_as_it_is_and_overwritten_is_found_in_anomaly_mode():
    x, raw = leaf([1.0]), np.array([1.0])
    with md.detect_anomaly():
        y = x * raw
        raw[0] = 100.0
        with pytest.raises(RuntimeError, match="modified outside"):
            y.backward()


def test_H12_forward_mode_exists_wherever_reverse_mode_does(rng):
    """J v is two reverse passes, so no operation can lack it."""
    x, v = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    h = 1e-6
    for f in (
        lambda x: md.logsumexp(x, axis=1),
        lambda x: x @ x.T,
        lambda x: x[[0, 0, 2]],
        lambda x: md.var(x, axis=0),
        lambda x: md.batch_norm_train(x, md.ones(3, dtype="float64"), md.zeros(3, dtype="float64"), eps=1e-2)[0],
    ):
        exact = md.func.jvp(f, (x,), (v,))[1].numpy()
        differences = (f(md.tensor(x + h * v)).numpy() - f(md.tensor(x - h * v)).numpy()) / (2 * h)
        np.testing.assert_allclose(exact, differences, rtol=1e-5, atol=1e-7)


def test_H13_the_gradient_of_an_index_works_on_a_gpu(fake_cuda):
    x = md.tensor([1.0, 2.0, 3.0], device="cuda", requires_grad=True)
    x[md.tensor([0, 0, 2], device="cuda")].sum().backward()
    assert x.grad.tolist() == [2.0, 0.0, 1.0]


def test_H15_what_is_exact_for_first_derivatives_only_says_so():
    op = md.Op(lambda xp, x: x * x, lambda g, out, x: 2 * g * x, saves="x", once=True, name="old_style")
    x = leaf([3.0])
    with pytest.raises(RuntimeError, match="old_style"):
        md.autograd.grad(op(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="old_style"):
        md.func.hessian(lambda x: op(x).sum())(np.array([3.0]))
