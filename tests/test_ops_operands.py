"""What operations take: dtypes, lists, indices, operators with anything, NumPy's functions, settings."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import minidl as md


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


# ---- dtypes (T1, T2, T3, T27) ----------------------------------------------------------------------------------------


def test_T1_only_floats_can_want_a_gradient():
    for data in ([1, 2], [True], np.zeros(2, np.int8)):
        with pytest.raises(TypeError, match=r"floating.*(int64|bool|int8)"):
            md.tensor(data, requires_grad=True)
        with pytest.raises(TypeError, match=r"floating"):
            md.tensor(data).requires_grad_()


@pytest.mark.parametrize(
    "data", [[[1, 2], [3]], [1, "x"], "text", [None], object(), [object()], 1j, [1j], np.array([1j]), {}]
)
def test_T2_what_is_no_number_is_refused_and_never_becomes_an_object_array(data):
    with pytest.raises((TypeError, ValueError), match=r"tensor: "):
        md.tensor(data)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, "int64"),
        (True, "bool"),
        (1.0, "float32"),
        ([1, 2.0], "float32"),
        ([[True]], "bool"),
        (np.float64(1), "float64"),
        (np.int8(1), "int8"),
        (np.zeros(2, np.float16), "float16"),
        ([np.zeros(2)], "float64"),
        ([], "float32"),
    ],
)
def test_python_numbers_take_the_default_dtype_and_arrays_keep_their_own(data, dtype):
    assert md.tensor(data).dtype == dtype


def test_T3_float32_stays_float32_through_a_chain_with_numbers():
    x = leaf([[1.0, 2.0], [3.0, 4.0]], "float32")
    y = md.softmax((2 * x + 1.0) ** 2 / np.float64(3.0) - np.float64(2.0) * x, axis=-1) @ x
    loss = (y.mean() + y.var() + np.float64(1.0)) * np.int64(2)
    assert loss.dtype == np.float32
    loss.backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize(("a", "b"), [("float32", "float64"), ("float16", "float32"), ("float64", "float16")])
def test_two_float_arrays_promote_as_numpy_and_each_gradient_is_cast_back(a, b):
    x, y = leaf([1.0, 2.0], a), leaf([3.0, 4.0], b)
    out = x * y
    assert out.dtype == np.promote_types(a, b)
    out.sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (a, b)
    (gx,) = md.autograd.grad((x * x * y).sum(), x, create_graph=True)
    (gxy,) = md.autograd.grad(gx.sum(), y)
    assert gxy.dtype == b


def test_a_list_beside_a_tensor_is_as_exact_as_the_tensor():
    x = md.tensor(np.array([1.0, 2.0]))
    assert (x + [0.1, 0.2]).tolist() == [1.1, 2.2]
    assert ([0.1, 0.2] + x).tolist() == [1.1, 2.2]
    assert (x @ [0.1, 0.2]).item() == 1.0 * 0.1 + 2.0 * 0.2
    assert (md.tensor([1.0]) + [0.1]).dtype == np.float32


@pytest.mark.parametrize(
    "name", ["sigmoid", "softmax", "log_softmax", "logsumexp", "mean", "var", "tanh", "exp", "sqrt", "divide"]
)
def test_integers_give_floats_where_the_result_is_no_integer(name):
    x = np.array([1, 2, 4])
    op = getattr(md, name)
    arguments = (x, 2) if name == "divide" else (x,)
    out = op(*map(md.tensor, arguments))
    assert out.dtype == np.float64
    np.testing.assert_allclose(out.numpy(), op(*(np.asarray(a, float) for a in arguments)), rtol=1e-12)
    assert not out.requires_grad


@pytest.mark.parametrize("other", [np.array([1j]), np.array([1], object), 1j, "x", None, {}, np.array(["a"])])
def test_no_result_is_complex_or_made_of_objects(other):
    x = leaf([1.0])
    for op in (md.add, md.multiply, md.maximum, lambda a, b: md.where(True, a, b), lambda a, b: md.concatenate([a, b])):
        with pytest.raises(TypeError):
            op(x, other)


def test_a_cast_to_integers_cuts_the_gradient_and_to_another_float_passes_it():
    x = leaf([1.5, 2.5])
    assert not x.astype("int64").requires_grad
    assert not (x > 2).requires_grad
    x.astype("float32").sum().backward()
    assert x.grad.dtype == np.float64


def test_T27_products_of_two_dtypes_name_both_and_the_remedy():
    for op in (md.matmul, md.linear):
        with pytest.raises(TypeError, match=r"float32.*float64.*astype"):
            op(md.ones(2, 2), md.ones(2, 2, dtype="float64"))


# ---- indexing (T13, T14) ---------------------------------------------------------------------------------------------


def test_T13_repeated_indices_add_their_gradients():
    x = leaf([1.0, 2.0, 3.0])
    x[[0, 0, 2]].sum().backward()
    assert x.grad.tolist() == [2.0, 0.0, 1.0]
    y = leaf(np.ones((2, 3)))
    md.take_along_axis(y, np.array([[0, 0, 2], [1, 1, 1]]), axis=1).sum().backward()
    assert y.grad.tolist() == [[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]


def test_T13_the_second_derivative_through_repeats_is_exact():
    x = leaf([1.0, 2.0, 3.0])
    (g,) = md.autograd.grad((x[[0, 0, 2]] ** 3).sum(), x, create_graph=True)
    assert g.tolist() == [6.0, 0.0, 27.0]
    assert md.autograd.grad(g.sum(), x)[0].tolist() == [12.0, 0.0, 18.0]


@pytest.mark.parametrize(
    "index",
    [
        [0, 2],
        (0, 2),
        np.array([0, 2]),
        md.tensor([0, 2]),
        range(0, 3, 2),
        np.array([0, 2], np.uint8),
        [True, False, True],
        md.tensor([True, False, True]),
        slice(0, 3, 2),
        slice(md.tensor(0), np.int64(3), 2),
    ],
    ids=str,
)
def test_T13_every_kind_of_index_takes_what_it_takes_of_an_array(index):
    a = np.arange(9.0).reshape(3, 3)
    plain = index.numpy() if isinstance(index, md.Tensor) else slice(0, 3, 2) if isinstance(index, slice) else index
    assert leaf(a)[index].tolist() == a[plain].tolist()


def test_T13_a_bool_is_a_mask_and_none_a_new_axis():
    x = leaf([1.0, 2.0])
    assert x[True].shape == (1, 2)
    assert x[False].shape == (0, 2)
    assert x[None, ..., None].shape == (1, 2, 1)
    x[True].sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("index", [3, -4, [3], (0, 3), np.array([[-4]])])
def test_T14_an_index_out_of_range_is_an_error(index):
    with pytest.raises(IndexError, match=r"getitem: .*out of bounds"):
        leaf(np.ones((3, 3)))[index]


def test_T14_on_a_gpu_an_index_out_of_range_is_found_in_anomaly_mode(fake_cuda):
    x = md.ones(3, device="cuda")
    with pytest.raises(IndexError):
        x[3]
    index = md.tensor([5], device="cuda")
    assert x[index].shape == (1,)  # wraps round, as documented
    with md.detect_anomaly(), pytest.raises(IndexError, match=r"5.*out of bounds"):
        x[index]


def test_a_class_out_of_range_is_nan_on_a_gpu_and_an_error_in_anomaly_mode(fake_cuda):
    x, target = md.zeros(2, 3, device="cuda"), md.tensor([0, 7], device="cuda")
    assert np.isnan(md.cross_entropy(x, target).item())
    losses = md.cross_entropy(x, target, reduction="none").cpu().numpy()
    assert np.isnan(losses).tolist() == [False, True]
    with md.detect_anomaly(), pytest.raises(IndexError, match=r"7 at index 1"):
        md.cross_entropy(x, target)


def test_iterating_and_unpacking_give_rows_with_their_gradients():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    a, b = x
    (a * 2 + b * 3).sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0], [3.0, 3.0]]
    with pytest.raises(TypeError, match="0-d"):
        list(leaf(1.0))


# ---- operators (T26 and what Python expects) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [np.array([2.0, 3.0]), np.float32(2), np.float64(2), 2, 2.0, [2.0, 3.0], np.array(2.0)]
)
def test_T26_an_operator_with_anything_numeric_gives_a_tensor(other):
    x = leaf([1.0, 4.0])
    a, b = np.array([1.0, 4.0]), np.asarray(other)
    for got, expected in (
        (x + other, a + b),
        (other + x, b + a),
        (x - other, a - b),
        (other - x, b - a),
        (x * other, a * b),
        (other * x, b * a),
        (x / other, a / b),
        (other / x, b / a),
        (x**other, a**b),
        (other**x, b**a),
    ):
        assert type(got) is md.Tensor
        assert got.requires_grad
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12)
    for got, expected in (
        (x < other, a < b),
        (other < x, b < a),
        (x == other, a == b),
        (other != x, b != a),
        (x >= other, a >= b),
    ):
        assert type(got) is md.Tensor
        assert got.dtype == bool
        assert got.tolist() == expected.tolist()


def test_array_matmul_tensor_is_a_tensor():
    a, x = np.ones((2, 3)), leaf(np.ones((3, 2)))
    assert type(a @ x) is md.Tensor
    (a @ x).sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0]] * 3


def test_T25_comparing_with_what_is_no_number_is_false():
    x = md.tensor([1.0, 2.0])
    for other in (None, "x", b"x", object(), {}, ValueError):
        assert (x == other) is False
        assert (x != other) is True
    assert x in [None, "x", object(), x]
    assert len({x, x}) == 1
    assert hash(x) == hash(x)


def test_an_operand_of_another_library_is_asked_too():
    class Other:
        def __radd__(self, x):
            return "asked"

        def __rmul__(self, x):
            return "asked"

        def __eq__(self, x):
            return "asked"

        __hash__ = None

    x = md.tensor([1.0])
    assert (x + Other(), x * Other(), x == Other()) == ("asked", "asked", "asked")
    with pytest.raises(TypeError, match=r"(add|unsupported operand).*object"):
        x + object()


def test_logic_of_bool_tensors():
    a, b = md.tensor([True, True, False]), md.tensor([True, False, False])
    assert ((a & b).tolist(), (a | b).tolist(), (~a).tolist()) == (
        [True, False, False],
        [True, True, False],
        [False, False, True],
    )
    assert (np.array([True, True, True]) & b).tolist() == [True, False, False]


def test_a_function_named_dim_points_to_axis():
    x = md.ones(2, 3)
    calls = [
        lambda: md.sum(x, dim=0),
        lambda: x.mean(dim=0),
        lambda: x.max(dim=0, keepdim=True),
        lambda: md.softmax(x, dim=1),
        lambda: md.concatenate([x, x], dim=0),
        lambda: md.stack([x, x], dim=0),
        lambda: x.squeeze(dim=0),
        lambda: md.expand_dims(x, dim=0),
        lambda: md.take_along_axis(x, x.astype(int), dim=0),
        lambda: md.log_softmax(x, dim=1),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"axis="):
            call()


def test_settings_can_be_given_by_place_and_not_twice():
    x = md.ones(2, 3)
    assert md.sum(x, 0).shape == (3,)
    assert x.sum(1, True).shape == (2, 1)
    assert md.mean(x, 0, True).shape == (1, 3)
    with pytest.raises(TypeError, match=r"sum.*axis"):
        md.sum(x, 0, axis=1)
    with pytest.raises(TypeError, match=r"sum.*3|sum.*4|positional"):
        md.sum(x, 0, True, 7)


def test_axes_may_be_numpy_integers():
    x = md.ones(2, 3)
    i = np.int64(1)
    assert md.sum(x, axis=i).shape == (2,)
    assert md.sum(x, axis=(i,)).shape == (2,)
    assert md.expand_dims(x, i).shape == (2, 1, 3)
    assert md.stack([x, x], axis=i).shape == (2, 2, 3)
    assert md.concatenate([x, x], axis=i).shape == (2, 6)
    assert md.softmax(x, axis=i).shape == (2, 3)
    assert md.reshape(x, (np.int64(3), i * 2)).shape == (3, 2)
    assert md.squeeze(md.ones(2, 1), i).shape == (2,)


def test_numpy_functions_without_a_derivative_here_say_so():
    x = leaf([1.0, 2.0])
    for f in (np.fft.fft, np.unwrap, np.add.reduce, np.modf, np.array_equal):
        with pytest.raises(TypeError, match=r"numpy\.\S+: .*minidl"):
            f(*((x, x) if f is np.array_equal else (x,)))


def test_numpys_functions_that_write_in_place_are_refused():
    x = leaf([1.0, 2.0])
    for f in (
        lambda: np.put_along_axis(x, np.array([0]), 9.0, 0),
        lambda: np.copyto(x, 1.0),
        lambda: np.put(x, 0, 1.0),
        lambda: np.fill_diagonal(x, 1.0),
        lambda: np.add.at(x, 0, 1.0),
        lambda: np.place(x, [True, False], 1.0),
    ):
        with pytest.raises(TypeError, match=r"numpy\.\S+: "):
            f()
    assert x.tolist() == [1.0, 2.0]


def test_an_array_cannot_take_a_tensor_in_place():
    a = np.ones(2)
    with pytest.raises(TypeError, match=r"array = array \+ tensor"):
        a += leaf([1.0, 2.0])
    with pytest.raises(TypeError, match=r"out="):
        np.exp(leaf([1.0]), out=a)
    assert a.tolist() == [1.0, 1.0]


def test_an_operation_survives_copy_and_pickle_as_itself():
    for op in (md.relu, md.add, md.softmax, md.matmul):
        assert copy.copy(op) is op
        assert copy.deepcopy(op) is op
        assert pickle.loads(pickle.dumps(op)) is op


def test_numbers_in_give_a_number_out_that_is_still_weak():
    assert type(md.exp(0.0)) is float
    assert md.maximum(1.0, 2) == 2.0
    assert (md.tensor([1.0]) * md.exp(np.float64(0.0))).dtype == np.float32


A = np.ones((2, 3))
WRONG_AXES = {
    "expand_dims": lambda: md.expand_dims(A, 1.5),
    "squeeze": lambda: md.squeeze(A, 0.5),
    "concatenate": lambda: md.concatenate([A, A], axis=1.5),
    "stack": lambda: md.stack([A, A], axis=1.5),
    "unstack": lambda: md.unstack(A, axis="x"),
    "moveaxis": lambda: md.moveaxis(A, 0.5, 1),
    "swapaxes": lambda: md.swapaxes(A, 0, 1.5),
    "flip": lambda: md.flip(A, 1.5),
    "roll": lambda: md.roll(A, 1, axis=1.5),
    "repeat": lambda: md.repeat(A, 2, axis=1.5),
    "split": lambda: md.split(A, 1, axis=1.5),
    "take": lambda: md.take(A, [0], axis=1.5),
    "sort": lambda: md.sort(A, axis=1.5),
    "std": lambda: md.std(A, axis=1.5),
    "diagonal": lambda: md.diagonal(A, 0, 0, 1.5),
    "diagonal: offset": lambda: md.diagonal(A, 0.5),
    "diag: k": lambda: md.diag(A, 1.5),
    "tril: k": lambda: md.tril(A, 0.5),
    "triu: k": lambda: md.triu(A, 0.5),
    "glu": lambda: md.glu(A, axis=1.5),
}


@pytest.mark.parametrize("who", WRONG_AXES)
def test_an_axis_that_is_no_integer_is_named(who):
    with pytest.raises(TypeError, match=rf"{who}.*\b(0\.5|1\.5|x)\b"):
        WRONG_AXES[who]()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: md.one_hot(np.array([0]), 2.5), r"one_hot: num_classes: needs integers, got 2\.5"),
        (lambda: md.cosine_similarity(A, A[:, :2]), r"cosine_similarity: x1 \(2, 3\) and x2 \(2, 2\) must broadcast"),
        (lambda: md.std(A, ddof=np.nan), r"std: needs more than ddof=nan elements"),
        (lambda: md.var(A, ddof=np.nan), r"var: needs more than ddof=nan elements"),
        (lambda: md.embedding(np.array([-1]), A), r"embedding: .*got -1 at index 0$"),
        (lambda: md.one_hot(np.array([-1]), 2), r"one_hot: .*got -1 at index 0$"),
        (lambda: md.cross_entropy(A, np.array([0, -1])), r"cross_entropy: .*got -1 at index 1; ignore_index="),
    ],
)
def test_a_wrong_setting_is_named(call, text):
    with pytest.raises((TypeError, ValueError, IndexError), match=text):
        call()


def test_integers_beside_floats_are_told_to_become_floats():
    with pytest.raises(TypeError, match=r"linear: x is int64 and weight is float32; convert one with .*float32"):
        md.linear(md.tensor([[1, 2]]), md.ones(3, 2))
