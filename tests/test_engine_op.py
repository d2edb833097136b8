"""A user's own operations: what the contract of Op allows, and what it refuses at once or at the first gradient."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import Op


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


cube = Op(lambda xp, x: x * x * x, lambda g, out, x: 3 * g * x * x, saves="x")
polar = Op(
    lambda xp, r, a: (r * xp.cos(a), r * xp.sin(a)),
    joint=lambda gs, outs, r, a: ((gs[0] * outs[0] + gs[1] * outs[1]) / r, gs[1] * outs[0] - gs[0] * outs[1]),
    saves="r out",
)


# ---- one output ------------------------------------------------------------------------------------------------------


def test_an_operation_is_a_function_of_tensors_arrays_and_numbers():
    assert type(cube(leaf([2.0]))) is md.Tensor
    assert type(cube(np.array([2.0]))) is np.ndarray
    assert cube(2.0) == 8.0
    md.check_grad(cube, np.array([0.5, -1.0]), order=4)


def test_an_operation_is_named_after_its_variable_its_argument_or_its_function():
    def forward(xp, x):
        """Double."""
        return x * 2

    assert cube.name == "cube"
    assert Op(lambda xp, x: x, name="given").name == "given"
    local = Op(forward)
    assert "forward" in local.name
    assert local.__doc__ == "Double."
    assert Op(forward, doc="Twice.").__doc__ == "Twice."
    assert "cube" in repr(cube)
    with pytest.raises(TypeError, match="cube: .*str"):
        cube("x")


def test_an_operation_by_the_name_of_the_array_modules_function():
    sine = Op("sin", lambda g, out, x: g * cosine(x), saves="x")
    cosine = Op("cos", lambda g, out, x: -g * sine(x), saves="x")
    md.check_grad(sine, np.array([0.3, 1.0]), order=4)
    assert sine.name == "sin"


def test_settings_come_by_name_or_after_the_arrays_and_reach_the_rules():
    scaled = Op(lambda xp, x, *, by, plus=0.0: x * by + plus, lambda g, out, x, *, by, plus=0.0: g * by, name="scaled")
    assert scaled(leaf([1.0]), by=3.0).item() == 3.0
    assert scaled(leaf([1.0]), 3.0, 1.0).item() == 4.0
    assert scaled(np.ones(1), 3.0, plus=1.0).tolist() == [4.0]
    x = leaf([1.0])
    scaled(x, 3.0).backward()
    assert x.grad.item() == 3.0
    for bad in (lambda: scaled(x, 1.0, 2.0, 3.0), lambda: scaled(x, 1.0, by=2.0), lambda: scaled(x, by=1.0, size=2)):
        with pytest.raises(TypeError, match="scaled"):
            bad()
    with pytest.raises(TypeError, match="by"):
        scaled(x)


def test_a_rule_that_is_none_stops_the_gradient():
    picked = Op(lambda xp, x, i: x * i, lambda g, out, x, i: g * i, None, saves="i", name="picked")
    x, i = leaf([2.0]), leaf([3.0])
    picked(x, i).backward()
    assert (x.grad.item(), i.grad) == (3.0, None)
    with pytest.raises(RuntimeError, match="allow_unused"):
        md.autograd.grad(picked(x, i), i)


def test_a_rule_may_return_none_or_a_number():
    x, y = leaf([2.0, 3.0]), leaf(1.0)
    op = Op(lambda xp, x, y: x + y, joint=lambda g, out, x, y: (None, 7.0), name="op")
    md.sum(op(x, y)).backward()
    assert x.grad is None
    assert y.grad.item() == 7.0


def test_without_rules_an_operation_is_a_constant():
    floor = Op(lambda xp, x: xp.floor(x), name="floor")
    assert not floor(leaf([1.5])).requires_grad
    assert not floor.differentiable


def test_an_operation_used_twice_keeps_its_uses_apart():
    x, y = leaf([2.0]), leaf([3.0])
    (cube(x) * cube(y)).backward()
    assert (x.grad.item(), y.grad.item()) == (12 * 27.0, 27 * 8.0)
    assert md.autograd.grad(cube(cube(x)), x)[0].item() == 9 * 2.0**8


def test_a_forward_that_returns_a_numpy_scalar_gives_an_array():
    total = Op(lambda xp, x: x.sum(), lambda g, out, x: g * xp_ones(x), name="total")
    x = leaf([1.0, 2.0])
    y = total(x)
    assert type(y.array) is np.ndarray
    assert type(total(x.array)) is np.ndarray
    y.backward()
    assert x.grad.tolist() == [1.0, 1.0]


def xp_ones(ghost):
    return np.ones(ghost.shape, ghost.dtype)


def test_a_forward_that_returns_its_input_is_an_identity():
    same = Op(lambda xp, x: x, lambda g, out, x: g, name="same")
    x = leaf([1.0, 2.0])
    y = same(x)
    assert y is not x
    assert not y.is_leaf
    (y * y).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_the_engine_sums_casts_and_adds_not_the_rule():
    op = Op(lambda xp, x, y: x * 1.0 + y, lambda g, out, x, y: g, lambda g, out, x, y: g, name="op")
    x, y = leaf(np.ones((1, 3)), "float32"), leaf(np.ones((2, 1)))
    (op(x, y) + op(x, y)).sum().backward()
    assert (x.grad.tolist(), x.grad.dtype) == ([[4.0] * 3], np.float32)
    assert y.grad.tolist() == [[6.0]] * 2


def test_a_rule_is_not_run_for_an_input_that_wants_nothing():
    ran = []

    def rule(name):
        return lambda g, out, x, y: (ran.append(name), g)[1]

    op = Op(lambda xp, x, y: x + y, rule("x"), rule("y"), name="op")
    op(leaf([1.0]), md.tensor([1.0])).backward()
    assert ran == ["x"]
    a, b = leaf([1.0]), leaf([1.0])
    md.autograd.grad(op(a, b), b)
    assert ran == ["x", "y"]


# ---- what is refused at once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Op(lambda xp, x, y: x, lambda g, out, x, y: g, name="op"), r"op: .*one rule for each input.*got 1"),
        (lambda: Op(lambda xp, x: x, lambda *a: 0, joint=lambda *a: 0, name="op"), r"op: .*joint"),
        (lambda: Op(lambda xp, *xs: xs[0], lambda *a: 0, name="op"), r"op: .*joint"),
        (lambda: Op(lambda xp, x: x, lambda *a: 0, saves="z", name="op"), r"op: .*\['z'\].*\('x',\)"),
        (lambda: Op(lambda xp, x: x, effect="magic", name="op"), r"op: .*'magic'"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused_at_once(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_keyword_arrays_are_no_arrays():
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        cube()
    with pytest.raises(TypeError):
        cube(leaf([1.0]), leaf([1.0]))


# ---- what is found at the first gradient (A20, A21) ------------------------------------------------------------------


def test_A21_a_joint_rule_with_the_wrong_number_of_gradients_says_how_many():
    for given, got in (((1.0, 2.0), "got 2"), ((), "got 0"), ([1.0], "got list"), (None, "got NoneType")):
        op = Op(lambda xp, x: x * 1.0, joint=lambda g, out, x, v=given: v, name="op")
        with pytest.raises(RuntimeError, match=rf"op: returned an incorrect number of gradients \(expected 1, {got}\)"):
            op(leaf([1.0])).backward()


@pytest.mark.parametrize("shape", [(7,), (2, 2), (3, 1), ()])
def test_A21_a_gradient_of_the_wrong_shape_names_its_place_and_both_shapes(shape):
    op = Op(lambda xp, x, y: x + y, lambda g, out, x, y: g, lambda g, out, x, y: np.ones(shape), name="op")
    expected = rf"op: invalid gradient at index 1.*{shape}.*\(3,\)".replace("(7,)", r"\(7,\)").replace(
        "(2, 2)", r"\(2, 2\)"
    )
    expected = expected.replace("(3, 1)", r"\(3, 1\)").replace("()", r"\(\)")
    with pytest.raises(RuntimeError, match=expected):
        op(leaf(np.ones(3)), leaf(np.ones(3))).sum().backward()


@pytest.mark.parametrize("bad", ["text", object(), {}, [1.0]])
def test_A21_a_rule_that_returns_no_array_is_a_type_error(bad):
    op = Op(lambda xp, x: x * 1.0, lambda g, out, x: bad, name="op")
    with pytest.raises(TypeError, match=r"rule.*(str|object|dict|list)"):
        op(leaf([1.0])).backward()


FORGETFUL = {
    "multiply": lambda g, out, x: g * x,
    "tensor op": lambda g, out, x: md.exp(x) * g,
    "compare": lambda g, out, x: md.where(x == 2, 0.0, g),
    "compare by <": lambda g, out, x: md.where(x < 2, 0.0, g),
    "not equal": lambda g, out, x: g * (x != 0),
    "truth": lambda g, out, x: g if x else g * 0,
    "method": lambda g, out, x: g * x.sum(),
    "attribute": lambda g, out, x: g @ x.T,
    "index": lambda g, out, x: g * x[0],
    "power": lambda g, out, x: g * 2**x,
    "negative": lambda g, out, x: g * -x,
    "numpy": lambda g, out, x: g * np.exp(x),
    "matmul": lambda g, out, x: g @ x,
    "length": lambda g, out, x: g * len(x),
    "iterate": lambda g, out, x: g * sum(x),
    "float": lambda g, out, x: g * float(x),
    "abs": lambda g, out, x: g * abs(x),
    "asarray": lambda g, out, x: g * np.asarray(x),
    "in": lambda g, out, x: g * (1.0 in x),
    "floor division": lambda g, out, x: g * (x // 2),
    "and": lambda g, out, x: g * (x & 1),
    "where": lambda g, out, x: md.where(x, g, 0.0),
    "astype": lambda g, out, x: g * x.astype("float64"),
}


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("name", FORGETFUL)
def test_a_rule_that_reads_what_is_not_saved_fails_and_is_never_wrong(name, create):
    op = Op(lambda xp, x: x * 1.0, FORGETFUL[name], name="forgetful")
    with pytest.raises((TypeError, AttributeError)):
        op(leaf([2.0, 3.0])).sum().backward(create_graph=create)


@pytest.mark.parametrize("name", ["multiply", "tensor op", "compare", "truth", "method", "index"])
def test_the_error_for_what_is_not_saved_names_the_remedy(name):
    op = Op(lambda xp, x: x * 1.0, FORGETFUL[name], name="forgetful")
    with pytest.raises(TypeError, match=r"saves="):
        op(leaf([2.0, 3.0])).sum().backward()


def test_a_rule_may_read_shape_dtype_and_device_of_what_is_not_saved():
    seen = {}

    def rule(g, out, x):
        seen.update(shape=x.shape, dtype=x.dtype, device=x.device, ndim=x.ndim, size=x.size)
        return g

    Op(lambda xp, x: x * 1.0, rule, name="op")(leaf(np.ones((2, 3)))).sum().backward()
    assert seen == {"shape": (2, 3), "dtype": np.float64, "device": "cpu", "ndim": 2, "size": 6}


def test_the_result_that_is_not_saved_is_not_there():
    op = Op(lambda xp, x: x * 1.0, lambda g, out, x: g * out, name="op")
    with pytest.raises(TypeError):
        op(leaf([2.0])).backward()


def test_once_is_exact_for_first_derivatives_and_refuses_the_second():
    op = Op(lambda xp, x: x**2, lambda g, out, x: g * 2 * np.asarray(x), saves="x", once=True, name="fast")
    x = leaf([3.0])
    op(x).backward()
    assert x.grad.item() == 6.0
    with pytest.raises(RuntimeError, match=r"fast: .*first derivatives only.*create_graph"):
        md.autograd.grad(op(x), x, create_graph=True)
    y = x * x
    (g,) = md.autograd.grad(y + op(leaf([1.0])), x, create_graph=True)  # beside the way, it does no harm
    assert g.item() == 6.0


# ---- several outputs (A25) -------------------------------------------------------------------------------------------


def test_A25_a_users_operation_with_two_outputs_is_exact_to_third_order():
    md.check_grad(polar, [np.array([1.0, 2.0]), np.array([0.3, -1.2])], order=3)
    md.check_grad(lambda r, a: polar(r, a)[1], [np.array([1.0, 2.0]), np.array([0.3, -1.2])], order=3)
    md.check_grad(lambda r, a: polar(r, a)[0] * polar(r, a)[1], [np.array([1.5]), np.array([0.3])], order=3)


def test_A25_unused_outputs_contribute_zeros():
    r, a = leaf([2.0]), leaf([0.5])
    x, _ = polar(r, a)
    x.backward()
    np.testing.assert_allclose([r.grad.item(), a.grad.item()], [np.cos(0.5), -2 * np.sin(0.5)])


def test_A25_outputs_may_have_different_shapes_and_are_no_stack():
    op = Op(lambda xp, x: (x * 2, x.sum()), joint=lambda gs, outs, x: (gs[0] * 2 + gs[1],), name="op")
    x = leaf([1.0, 2.0])
    for outs in (op(x), op(x.array), op(md.tensor(x))):
        assert type(outs) is tuple
        assert [o.shape for o in outs] == [(2,), ()]
    y, z = op(x)
    (y.sum() + 3 * z).backward()
    assert x.grad.tolist() == [5.0, 5.0]
    assert type(op(x.array)[1]) is np.ndarray


def test_A25_outputs_are_arrays_tensors_and_constants_as_the_inputs_say():
    assert type(polar(leaf([1.0]), 1.0)) is tuple
    assert all(type(v) is np.ndarray for v in polar(np.ones(2), np.ones(2)))
    assert all(type(v) is md.Tensor and v.node is None for v in polar(md.ones(2), md.ones(2)))
    assert all(v.requires_grad and not v.is_leaf for v in polar(leaf([1.0]), np.array([1.0])))


def test_A25_integer_outputs_require_no_gradient():
    top = Op(
        lambda xp, x: (x.max(axis=-1), x.argmax(axis=-1)),
        joint=lambda gs, outs, x: (gs[0][..., None] * (np.arange(x.shape[-1]) == outs[1][..., None]),),
        saves="out",
        name="top",
    )
    x = leaf([[1.0, 5.0, 2.0], [7.0, 0.0, 1.0]])
    value, index = top(x)
    assert (value.requires_grad, index.requires_grad, index.tolist()) == (True, False, [1, 0])
    (value * md.tensor([1.0, 10.0], dtype="float64") + index).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 0.0], [10.0, 0.0, 0.0]]


def test_A25_an_output_may_be_used_many_times_and_asked_for_as_an_input():
    r, a = leaf([2.0]), leaf([0.5])
    x, y = polar(r, a)
    z = x * x + y * y + x
    gx, gr = md.autograd.grad(z, [x, r], retain_graph=True)
    np.testing.assert_allclose([gx.item(), gr.item()], [4 * np.cos(0.5) + 1, 4 + np.cos(0.5)])
    _, _, gr, _ = md.autograd.grad(z, [x, y, r, a], create_graph=True)
    np.testing.assert_allclose(md.autograd.grad(gr, r)[0].item(), 2.0)


def test_A25_the_statistics_of_a_batch_are_outputs_like_any_other(rng):
    def f(x, w, b):
        y, mean, var = md.batch_norm_train(x, w, b, eps=1e-2)
        return y * mean + var

    md.check_grad(f, [rng.standard_normal((4, 3)), np.ones(3), np.zeros(3)], order=3)


def test_one_output_in_a_tuple_is_several():
    only = Op(lambda xp, x: (x * 2,), joint=lambda gs, outs, x: (gs[0] * 2,), name="only")
    x = leaf([3.0])
    (y,) = only(x)
    y.backward()
    assert x.grad.item() == 2.0


# ---- any number of inputs --------------------------------------------------------------------------------------------

weighted = Op(
    lambda xp, w, *xs: sum(x * w for x in xs),
    joint=lambda g, out, w, *xs: ((g * sum(xs[1:], xs[0])), *[g * w for _ in xs]),
    saves="w xs",
    name="weighted",
)


def test_any_number_of_inputs():
    md.check_grad(weighted, [np.array([0.5, 2.0]), *(np.array([1.0 * i, -1.0]) for i in range(4))], order=3)
    only_tail = Op(
        lambda xp, x, *rest: x * 1.0 + sum(rest), joint=lambda g, out, x, *rest: (g, *[g for _ in rest]), saves="rest"
    )
    assert only_tail.kept(4) == (False, True, True, True)
    assert only_tail.kept(1) == (False,)


def test_into_computes_where_it_is_told_or_copies():
    ran = []
    plain = Op(lambda xp, x: x * 2, lambda g, out, x: g * 2, name="plain")
    ready = Op(
        lambda xp, x: x * 2,
        lambda g, out, x: g * 2,
        into=lambda xp, out, x: (ran.append(1), xp.multiply(x, 2, out=out)),
        name="ready",
    )
    for op in (plain, ready):
        out = np.zeros(2)
        op.compute_into(out, np.array([1.0, 2.0]))
        assert out.tolist() == [2.0, 4.0]
    assert ran == [1]


def test_samplewise_may_depend_on_shapes_and_settings():
    assert md.exp.is_samplewise(((4, 3),), {})
    assert md.sum.is_samplewise(((4, 3),), {"axis": 1})
    assert md.sum.is_samplewise(((4, 3),), {"axis": (-1,)})
    assert not md.sum.is_samplewise(((4, 3),), {"axis": 0})
    assert not md.sum.is_samplewise(((4, 3),), {"axis": (0, 1)})
    assert not md.sum.is_samplewise(((4, 3),), {"axis": -2})
    assert not md.sum.is_samplewise(((4, 3),), {})
    assert not md.transpose.is_samplewise(((4, 3),), {})
    assert md.transpose.is_samplewise(((4, 3, 2),), {"axes": (0, 2, 1)})
    assert md.softmax.is_samplewise(((4, 3),), {})
    assert not md.softmax.is_samplewise(((4, 3),), {"axis": 0})
    assert not md.softmax.is_samplewise(((4, 3),), {"axis": -2})
    assert md.matmul.is_samplewise(((4, 3), (3, 2)), {})
    assert not md.matmul.is_samplewise(((3,), (3, 2)), {})
    assert not md.batch_norm_train.is_samplewise(((4, 3), (3,), (3,)), {"eps": 1e-5})
    assert not cube.is_samplewise(((4,),), {})


@pytest.mark.parametrize("shapes", [((),), ((0,),), ((1,),)])
def test_samplewise_can_be_asked_of_any_shape(shapes):
    for op, static in (
        (md.sum, {"axis": None}),
        (md.softmax, {}),
        (md.reshape, {"shape": (1,)}),
        (md.broadcast_to, {"shape": ()}),
        (md.transpose, {}),
        (md.exp, {}),
        (md.max, {}),
    ):
        assert op.is_samplewise(shapes, static) in (True, False)


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_mixing_devices_names_the_operation_the_devices_and_the_remedy(fake_cuda):
    here, there = md.ones(2), md.ones(2, device="cuda")
    for f in (
        md.add,
        lambda a, b: a * b,
        md.maximum,
        lambda a, b: md.where(True, a, b),
        lambda a, b: md.concatenate([a, b]),
        lambda a, b: md.cross_entropy(b, a.astype(int)[0]),
        md.matmul,
    ):
        with pytest.raises(TypeError, match=r"\w+: .*one device.*(cpu.*cuda:0|cuda:0.*cpu).*\.to\('cuda:0'\)"):
            f(here, there)
    with pytest.raises((TypeError, ValueError), match=r"one device.*cpu.*cuda:0|cuda:0.*cpu"):
        np.ones(2) + there
    with fake_cuda.devices(2), pytest.raises(TypeError, match=r"one device.*cuda:0.*cuda:1"):
        _ = md.ones(2, device="cuda:0") + md.ones(2, device="cuda:1")


def test_a_users_operation_runs_on_a_gpu_as_it_is(fake_cuda):
    x = md.tensor([2.0, 3.0], device="cuda", requires_grad=True)
    (g,) = md.autograd.grad(cube(x).sum(), x, create_graph=True)
    (h,) = md.autograd.grad(g.sum(), x)
    assert (h.device, h.tolist()) == ("cuda:0", [12.0, 18.0])
    out = polar(md.ones(2, device="cuda"), md.zeros(2, device="cuda"))
    assert [o.device for o in out] == ["cuda:0"] * 2
