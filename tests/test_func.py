"""minidl.func: derivatives of plain functions, against closed forms, differences, torch.func, and each other."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest

import minidl as md
from minidl import func

A = np.random.default_rng(0).standard_normal((3, 3))
X = np.array([0.3, -1.2, 0.8])


def f(x):
    """Return a number from three: its derivatives by hand are below."""
    return (md.tanh(md.tensor(A) @ x) ** 2).sum()


def gradient_by_hand(x):
    t = np.tanh(A @ x)
    return A.T @ (2 * t * (1 - t**2))


def hessian_by_hand(x):
    t = np.tanh(A @ x)
    return A.T @ np.diag(2 * (1 - t**2) * (1 - 3 * t**2)) @ A


def close(got, expected, rtol=1e-10):
    np.testing.assert_allclose(
        got.detach().numpy() if isinstance(got, md.Tensor) else got, expected, rtol=rtol, atol=1e-12
    )


# ---- grad ------------------------------------------------------------------------------------------------------------


def test_grad_is_the_gradient():
    close(func.grad(f)(X), gradient_by_hand(X))
    h = 1e-5
    differences = [(f(md.tensor(X + h * e)).item() - f(md.tensor(X - h * e)).item()) / (2 * h) for e in np.eye(3)]
    close(func.grad(f)(X), differences, rtol=1e-6)


@pytest.mark.parametrize(
    "kind", [np.asarray, list, md.tensor, lambda x: md.tensor(x, requires_grad=True), md.Parameter]
)
def test_grad_takes_arrays_lists_tensors_and_parameters_and_touches_none(kind):
    x = kind(X)
    g = func.grad(lambda x: (x * x).sum())(x)
    assert type(g) is md.Tensor
    close(g, 2 * X, rtol=1e-6)
    if isinstance(x, md.Tensor):
        assert x.grad is None


def test_grad_of_a_number_is_a_number():
    g = func.grad(lambda x: x**3)(2.0)
    assert (g.item(), g.shape, g.dtype) == (12.0, (), np.float32)


def test_argnums_choose_the_arguments():
    def g(x, y, *, k):
        return (x * x * y * k).sum()

    x, y = np.array([2.0]), np.array([3.0])
    assert func.grad(g)(x, y, k=1.0).item() == 12.0
    assert func.grad(g, argnums=1)(x, y, k=2.0).item() == 8.0
    assert func.grad(g, argnums=-1)(x, y, k=2.0).item() == 8.0
    assert [t.item() for t in func.grad(g, argnums=(1, 0))(x, y, k=1.0)] == [4.0, 12.0]
    assert [t.item() for t in func.grad(g, argnums=(0,))(x, y, k=1.0)] == [12.0]
    for bad in (2, -3, (0, 5)):
        with pytest.raises(ValueError, match=r"argnums.*got 2"):
            func.grad(g, argnums=bad)(x, y, k=1.0)


def test_the_gradient_has_the_structure_of_the_argument():
    Pair = namedtuple("Pair", "w b")

    def g(p, q):
        return (p["w"] * p["list"][0] + p["list"][1]).sum() + (p["pair"].w * p["pair"].b).sum() + q[0].sum()

    one, two = np.array([1.0]), np.array([2.0])
    tree = {"w": one, "list": [two, one], "pair": Pair(one, two), "unused": np.ones((2, 2))}
    d = func.grad(g)(tree, (one,))
    assert list(d) == ["w", "list", "pair", "unused"]
    assert type(d["list"]) is list
    assert type(d["pair"]) is Pair
    assert [d["w"].item(), d["list"][0].item(), d["list"][1].item(), d["pair"].w.item(), d["pair"].b.item()] == [
        2,
        1,
        1,
        2,
        1,
    ]
    assert d["unused"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert type(func.grad(g, argnums=1)(tree, (one,))) is tuple


def test_value_and_grad_returns_both_and_aux_passes_through():
    value, g = func.value_and_grad(lambda x: (x * x).sum())(X)
    close(value, (X * X).sum())
    close(g, 2 * X)
    assert not value.requires_grad
    assert not g.requires_grad
    (value, aux), g = func.value_and_grad(lambda x: ((x * x).sum(), {"x": x * 2, "n": 3}), has_aux=True)(X)
    assert aux["n"] == 3
    close(aux["x"], 2 * X)
    assert not aux["x"].requires_grad
    g, aux = func.grad(lambda x: ((x * x).sum(), "aux"), has_aux=True)(X)
    assert aux == "aux"


def test_an_unreached_argument_gets_zeros():
    for g in (
        func.grad(lambda x: md.tensor(3.0)),
        func.grad(lambda x: x.detach().sum()),
        func.grad(lambda x: (x * 0).sum()),
    ):
        assert g(X).tolist() == [0.0, 0.0, 0.0]
    _, b = func.grad(lambda x, y: (x * x).sum(), argnums=(0, 1))(X, np.ones((2, 2)))
    assert b.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert func.hessian(lambda x: (3 * x).sum())(X).tolist() == np.zeros((3, 3)).tolist()
    assert func.jacobian(lambda x: md.ones(2))(X).shape == (2, 3)
    assert func.hvp(lambda x: (3 * x).sum(), (X,), (X,)).tolist() == [0.0] * 3
    assert func.jvp(lambda x: md.ones(2), (X,), (X,))[1].tolist() == [0.0] * 2
    assert func.vjp(lambda x: md.ones(2), X)[1](np.ones(2))[0].tolist() == [0.0] * 3


def test_gradients_keep_the_dtype_of_their_argument():
    for dtype in (np.float16, np.float32, np.float64):
        x = np.ones(3, dtype)
        assert func.grad(lambda x: (x * x).sum())(x).dtype == dtype
        assert func.hessian(lambda x: (x * x).sum())(x).dtype == dtype
        assert func.jacobian(lambda x: x * x)(x).dtype == dtype


BAD = [
    (lambda: func.grad(lambda x: x * x)(X), ValueError, r"one element.*\(3,\).*jacobian"),
    (lambda: func.grad(lambda x: 2.0)(X), ValueError, r"Tensor.*float"),
    (lambda: func.grad(lambda x: x.sum())(np.array([1, 2])), TypeError, r"floating.*int64.*astype"),
    (lambda: func.grad(lambda x: x)("text"), TypeError, r"grad: .*(str|U4)"),
    (lambda: func.jacobian(lambda x: (x, x))(X), TypeError, r"jacobian: .*one Tensor.*tuple"),
    (lambda: func.jvp(lambda x: x, (X,), (X, X)), ValueError, r"jvp: .*structure"),
    (lambda: func.jvp(lambda x: x, (X,), (X[:2],)), ValueError, r"jvp: .*\(3,\).*\(2,\)"),
    (lambda: func.hvp(f, (X,), (X[:2],)), ValueError, r"hvp: .*\(3,\).*\(2,\)"),
    (lambda: func.hvp(lambda x: x * x, (X,), (X,)), ValueError, r"hvp: .*one element.*\(3,\)"),
    (lambda: func.hessian(lambda x: x * x)(X), ValueError, r"one element.*\(3,\)"),
    (lambda: func.vjp(lambda x: x * x, X)[1](np.ones(2)), (ValueError, RuntimeError), r"\(3,\).*\(2,\)"),
    (lambda: func.vjp(lambda x: (x, x), X)[1]((np.ones(3),)), ValueError, r"vjp: .*2"),
    (lambda: func.vjp(lambda x: x, X)[1]((np.ones(3), np.ones(3))), ValueError, r"vjp: .*1"),
    (lambda: func.vjp(lambda x: 1.0, X), TypeError, r"vjp: .*Tensors.*float"),
    (lambda: func.value_and_grad(lambda x: x.sum(), has_aux=True)(X), (TypeError, ValueError), r"aux"),
]


@pytest.mark.parametrize(("call", "kind", "text"), BAD)
def test_what_does_not_fit_is_named(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
    assert md.is_grad_enabled()


def test_the_wrapped_function_keeps_its_name():
    for wrap in (func.grad, func.value_and_grad, func.jacobian, func.hessian):
        assert wrap(f).__name__ == "f"


# ---- products, jacobians, hessians -----------------------------------------------------------------------------------


def elementwise(x):
    return md.tanh(md.tensor(A) @ x)


def jacobian_by_hand(x):
    return np.diag(1 - np.tanh(A @ x) ** 2) @ A


def test_the_jacobian_is_the_matrix_of_derivatives():
    close(func.jacobian(elementwise)(X), jacobian_by_hand(X))


def test_the_jacobian_has_the_outputs_shape_and_then_the_inputs():
    x = np.random.default_rng(1).standard_normal((2, 3))
    j = func.jacobian(lambda x: md.softmax(x, axis=1)[:, :2])(x)
    assert j.shape == (2, 2, 2, 3)
    assert (j.numpy()[0, :, 1] == 0).all()  # rows do not mix
    assert func.jacobian(lambda x: x.sum())(x).shape == (2, 3)
    assert func.jacobian(lambda x: x * 2)(np.array(1.0)).shape == ()
    assert func.jacobian(lambda x: x * 2)(np.zeros((0, 2))).shape == (0, 2, 0, 2)
    assert func.jacobian(lambda x: x[:0])(X).shape == (0, 3)


def test_jacobians_of_several_arguments_are_a_tuple_and_of_trees_a_tree():
    a, b = func.jacobian(lambda x, y: x * y, argnums=(0, 1))(X, X + 1)
    close(a, np.diag(X + 1))
    close(b, np.diag(X))
    d = func.jacobian(lambda p: p["x"] * p["y"])({"x": X, "y": X + 1})
    close(d["y"], np.diag(X))


def test_vjp_and_jvp_are_products_with_the_jacobian_and_adjoint():
    u, v = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -1.0])
    y, pullback = func.vjp(elementwise, X)
    close(y, np.tanh(A @ X))
    close(pullback(u)[0], u @ jacobian_by_hand(X))
    close(pullback(2 * u)[0], 2 * u @ jacobian_by_hand(X))  # again, with the same graph
    y, pushed = func.jvp(elementwise, (X,), (v,))
    close(y, np.tanh(A @ X))
    close(pushed, jacobian_by_hand(X) @ v)


def test_products_of_trees():
    def g(p, k):
        return {"a": p[0] * k, "b": [p[1].sum()]}

    y, pullback = func.vjp(g, (X, X), np.array(2.0))
    assert list(y) == ["a", "b"]
    dp, dk = pullback({"a": np.ones(3), "b": [np.array(10.0)]})
    close(dp[0], [2.0, 2.0, 2.0])
    close(dp[1], [10.0, 10.0, 10.0])
    close(dk, X.sum())
    _, dy = func.jvp(g, ((X, X), np.array(2.0)), ((np.ones(3), X), np.array(1.0)))
    close(dy["a"], 2 + X)
    close(dy["b"][0], X.sum())


def test_the_hessian_is_exact_and_symmetric():
    h = func.hessian(f)(X).numpy()
    close(h, hessian_by_hand(X))
    assert np.abs(h - h.T).max() < 1e-10


def test_the_hessian_is_the_jacobian_of_the_gradient():
    close(func.hessian(f)(X), func.jacobian(func.grad(f))(X).numpy())


def test_the_hessian_of_a_tree_is_a_tree_of_rows_of_blocks():
    def g(p):
        return (p["x"] ** 2 * p["y"].sum()).sum()

    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    h = func.hessian(g)({"x": x, "y": y})
    close(h["x"]["x"], np.diag([24.0, 24.0]))
    close(h["x"]["y"], np.outer(2 * x, np.ones(3)))
    close(h["y"]["x"], np.outer(np.ones(3), 2 * x))
    close(h["y"]["y"], np.zeros((3, 3)))
    (aa, ab), (ba, bb) = func.hessian(lambda x, y: (x**2 * y).sum(), argnums=(0, 1))(np.array(2.0), np.array(3.0))
    assert [t.item() for t in (aa, ab, ba, bb)] == [6.0, 4.0, 4.0, 0.0]


def test_the_hessian_of_a_matrix_argument_has_four_axes():
    w = np.random.default_rng(2).standard_normal((2, 3))
    h = func.hessian(lambda w: (md.tanh(w) ** 2).sum())(w)
    assert h.shape == (2, 3, 2, 3)
    t = np.tanh(w).ravel()
    close(h.numpy().reshape(6, 6), np.diag(2 * (1 - t**2) * (1 - 3 * t**2)))


def test_hvp_is_the_hessian_times_the_vector():
    v = np.array([1.0, -1.0, 0.5])
    close(func.hvp(f, (X,), (v,)), hessian_by_hand(X) @ v)
    a, b = func.hvp(lambda x, y: (x**2 * y).sum(), (X, X + 1), (v, v))
    close(a, 2 * (X + 1) * v + 2 * X * v)
    close(b, 2 * X * v)


def test_derivatives_on_a_gpu_stay_there(fake_cuda):
    x = md.tensor(X, device="cuda")
    with fake_cuda.devices(1):
        a = md.tensor(A, device="cuda")

        def g(x):
            return (md.tanh(a @ x) ** 2).sum()

        with md.transfers(max=0):
            found = [func.grad(g)(x), func.hessian(g)(x), func.hvp(g, (x,), (x,)), func.jvp(g, (x,), (x,))[1]]
    assert [t.device for t in found] == ["cuda:0"] * 4
    close(found[1].cpu(), hessian_by_hand(X))


# ---- nesting ---------------------------------------------------------------------------------------------------------


def test_grad_of_grad_is_the_second_derivative_and_so_on():
    g, expected = md.exp, np.exp(0.7)
    for _ in range(4):
        g = func.grad(g)
        close(g(np.array(0.7)), expected)
    g, values = (lambda x: x**5), [5 * 2**4, 20 * 2**3, 60 * 2**2, 120 * 2, 120, 0]
    for value in values:
        g = func.grad(g)
        assert g(np.array(2.0)).item() == value


def test_an_inner_derivative_is_differentiated_by_what_its_function_captured():
    """d/dy d/dx (x y) = 1: confusing the two would give 0 or 2."""
    g = func.grad
    assert g(lambda y: g(lambda x: x * y)(np.array(1.0)))(np.array(2.0)).item() == 1.0
    assert g(lambda x: x * g(lambda y: x + y)(np.array(1.0)))(np.array(1.0)).item() == 1.0
    assert g(lambda x: g(lambda y: x * x * y * y)(x))(np.array(3.0)).item() == 54.0  # d/dx 2 x^3
    assert g(lambda x: g(lambda y: y * y)(x.detach()) * x)(np.array(3.0)).item() == 6.0


@pytest.mark.parametrize("inner", ["grad", "value_and_grad", "vjp", "jvp", "jacobian", "hessian", "hvp"])
def test_every_derivative_is_differentiated_by_what_its_function_captured(inner):
    one = np.array(1.5)

    def outer(w):
        def h(x):
            return w * x**3

        return {
            "grad": lambda: func.grad(h)(one),
            "value_and_grad": lambda: func.value_and_grad(h)(one)[1],
            "vjp": lambda: func.vjp(h, one)[1](np.array(1.0))[0],
            "jvp": lambda: func.jvp(h, (one,), (np.array(1.0),))[1],
            "jacobian": lambda: func.jacobian(h)(one),
            "hessian": lambda: func.hessian(h)(one),
            "hvp": lambda: func.hvp(h, (one,), (np.array(1.0),)),
        }[inner]()

    expected = 3 * 1.5**2 if inner in ("grad", "value_and_grad", "vjp", "jvp", "jacobian") else 6 * 1.5
    close(func.grad(outer)(np.array(2.0)), expected)
    w = md.tensor(2.0, dtype="float64", requires_grad=True)
    outer(w).backward()
    close(w.grad, expected)


def test_tangents_and_cotangents_can_be_differentiated_by():
    v = md.tensor([1.0, 2.0, 3.0], dtype="float64", requires_grad=True)
    (func.jvp(elementwise, (X,), (v,))[1] ** 2).sum().backward()
    j = jacobian_by_hand(X)
    close(v.grad, 2 * j.T @ j @ v.detach().numpy())
    v.grad = None
    (func.vjp(elementwise, X)[1](v)[0] ** 2).sum().backward()
    close(v.grad, 2 * j @ j.T @ v.detach().numpy())
    v.grad = None
    (func.hvp(f, (X,), (v,)) ** 2).sum().backward()
    h = hessian_by_hand(X)
    close(v.grad, 2 * h @ h @ v.detach().numpy())


def test_forward_over_reverse_and_reverse_over_forward_agree():
    v = np.array([1.0, -1.0, 0.5])
    close(func.jvp(func.grad(f), (X,), (v,))[1], hessian_by_hand(X) @ v)
    close(func.grad(lambda x: func.jvp(f, (x,), (v,))[1])(X), hessian_by_hand(X) @ v)
    close(func.jacobian(func.grad(f))(X), hessian_by_hand(X))


def test_A18_a_gradient_penalty_inside_a_loss():
    x = np.random.default_rng(3).standard_normal((5, 3))

    def loss(w):
        g = func.grad(lambda x: md.tanh(md.tensor(x) @ w if isinstance(x, np.ndarray) else x @ w).sum())(x)
        return ((g * g).sum(axis=1) ** 0.5).mean()

    md.check_grad(loss, X, order=2)
    t = np.tanh(x @ X)
    close(loss(md.tensor(X)), (np.abs(1 - t**2) * np.linalg.norm(X)).mean())


def test_a_recorded_argument_gives_a_recorded_result():
    x = md.tensor(X, requires_grad=True)
    for y in (
        func.grad(f)(x).sum(),
        func.hvp(f, (x,), (X,)).sum(),
        func.hessian(f)(x).sum(),
        func.value_and_grad(f)(x)[0],
        func.jacobian(elementwise)(x).sum(),
        func.jvp(elementwise, (x,), (X,))[1].sum(),
        func.vjp(f, x)[0],
    ):
        assert y.requires_grad
        (g,) = md.autograd.grad(y, x)
        assert np.isfinite(g.numpy()).all()
    with md.no_grad():
        assert not func.grad(f)(x).requires_grad
        close(func.hessian(f)(x), hessian_by_hand(X))
    assert x.grad is None


def test_under_no_grad_derivatives_are_still_right():
    with md.no_grad():
        close(func.grad(f)(X), gradient_by_hand(X))
        close(func.grad(func.grad(lambda x: x**3))(np.array(2.0)), 12.0)
        assert not md.is_grad_enabled()


def test_an_error_in_the_function_comes_out_and_leaves_the_mode():
    def bad(x):
        raise LookupError("mine")

    for call in (
        lambda: func.grad(bad)(X),
        lambda: func.hessian(bad)(X),
        lambda: func.vjp(bad, X),
        lambda: func.jvp(bad, (X,), (X,)),
    ):
        with md.no_grad():
            with pytest.raises(LookupError, match="mine"):
                call()
            assert not md.is_grad_enabled()
    assert md.is_grad_enabled()


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("what", ["grad", "hessian", "jacobian", "jvp", "vjp", "third"])
def test_derivatives_are_those_of_torch_func(what):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is an optional second opinion")
    ta, tx = torch.tensor(A), torch.tensor(X)

    def tg(x):
        return (torch.softmax(ta @ x, 0) * torch.tanh(x)).sum()

    def g(x):
        return (md.softmax(md.tensor(A) @ x) * md.tanh(x)).sum()

    def th(x):
        return torch.tanh(ta @ x) * x[0]

    def h(x):
        return md.tanh(md.tensor(A) @ x) * x[0]

    tf = torch.func
    mine, theirs = {
        "grad": lambda: (func.grad(g)(X), tf.grad(tg)(tx)),
        "hessian": lambda: (func.hessian(g)(X), tf.hessian(tg)(tx)),
        "jacobian": lambda: (func.jacobian(h)(X), tf.jacrev(th)(tx)),
        "jvp": lambda: (func.jvp(h, (X,), (X + 1,))[1], tf.jvp(th, (tx,), (tx + 1,))[1]),
        "vjp": lambda: (func.vjp(h, X)[1](X + 1)[0], tf.vjp(th, tx)[1](tx + 1)[0]),
        "third": lambda: (func.jacobian(func.hessian(g))(X), tf.jacrev(tf.hessian(tg))(tx)),
    }[what]()
    close(mine, theirs.detach().numpy(), rtol=1e-9)


def test_dictionaries_are_matched_by_key_and_not_by_order():
    def f(p):
        return p["a"] * p["b"]

    point = {"a": 2 * np.ones(2), "b": 3 * np.ones(2)}
    turned = {"b": np.ones(2), "a": np.zeros(2)}
    assert func.jvp(f, (point,), (turned,))[1].tolist() == [2.0, 2.0]
    found = func.hvp(lambda p: f(p).sum(), (point,), (turned,))
    assert (found["a"].tolist(), found["b"].tolist()) == ([1.0, 1.0], [0.0, 0.0])
    pull = func.vjp(lambda x: {"s": x, "d": 2 * x}, np.array([1.0]))[1]
    assert pull({"d": np.array([1.0]), "s": np.array([0.0])})[0].tolist() == [2.0]
    for wrong in ({"a": np.ones(2)}, {"a": np.ones(2), "c": np.ones(2)}, [np.ones(2), np.ones(2)]):
        with pytest.raises(ValueError, match=r"jvp: the structure must match: .*\['a', 'b'\]"):
            func.jvp(f, (point,), (wrong,))


def test_an_argument_is_named_once():
    for argnums in ((0, 0), (0, -2)):
        with pytest.raises(ValueError, match="names an argument twice"):
            func.grad(lambda a, b: (a * b).sum(), argnums=argnums)(np.ones(2), np.ones(2))
    with pytest.raises(TypeError, match="argnums must be an integer"):
        func.grad(lambda a: a.sum(), argnums="a")(np.ones(2))
