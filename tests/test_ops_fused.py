"""Each fused operation equals the composition it replaces, to the third derivative, and is finite far beyond it."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import ops
from minidl.ops import normalization

AXES = {"softmax": (0, 1, -1), "log_softmax": (0, 1, -1), "logsumexp": (0, 1, (0, 1), None)}


def one_hot(target, classes):
    return md.tensor(np.eye(classes)[target])


# The twins: elementary operations only, written as in a textbook.
def softmax(x, axis):
    e = md.exp(x)
    return e / md.sum(e, axis=axis, keepdims=True)


def log_softmax(x, axis):
    return x - md.log(md.sum(md.exp(x), axis=axis, keepdims=True))


def logsumexp(x, axis):
    return md.log(md.sum(md.exp(x), axis=axis))


def cross_entropy(x, target, reduction):
    losses = -md.sum(log_softmax(x, 1) * one_hot(target, x.shape[1]), axis=1)
    return {"none": lambda v: v, "mean": md.mean, "sum": md.sum}[reduction](losses)


def sigmoid(x):
    return 1 / (1 + md.exp(-x))


def linear(x, weight, bias):
    return md.matmul(x, md.transpose(weight)) + bias


def mean(x, axis):
    count = x.size if axis is None else x.shape[axis]
    return md.sum(x, axis=axis) / count


def var(x, axis):
    count = x.size if axis is None else x.shape[axis]
    centred = x - md.sum(x, axis=axis, keepdims=True) / count
    return md.sum(centred * centred, axis=axis) / count


def batch_norm_train(x, weight, bias, eps):
    axes = tuple(i for i in range(x.ndim) if i != 1)
    n = x.size // x.shape[1]
    spread = tuple(-1 if i == 1 else 1 for i in range(x.ndim))
    mean = md.sum(x, axis=axes) / n
    centred = x - mean.reshape(spread)
    var = md.sum(centred * centred, axis=axes) / n
    y = centred / md.sqrt(var.reshape(spread) + eps) * weight.reshape(spread) + bias.reshape(spread)
    return y, mean, var


def standardize(x, centre):
    """Return r (x - mean) and r over the last axis, from their definitions."""
    n = x.shape[-1]
    y = x - md.sum(x, axis=-1, keepdims=True) / n if centre else x
    rate = 1 / md.sqrt(md.sum(y * y, axis=-1, keepdims=True) / n + 1e-3)
    return y * rate, rate


def group_norm(x, weight, bias):
    """Two groups of channels of x (n, c, ...)."""
    spread = (-1,) + (1,) * (x.ndim - 2)
    y = standardize(x.reshape(x.shape[0], 2, -1), True)[0].reshape(x.shape)
    return y * weight.reshape(spread) + bias.reshape(spread)


def gelu(x):
    return x * (1 + md.erf(x * 0.5**0.5)) / 2


TARGET = np.array([2, 0, 1, 1])
TWINS = [
    *[
        (f"{f}-{a}", lambda x, f=f, a=a: getattr(md, f)(x, axis=a), lambda x, f=f, a=a: globals()[f](x, a), [(4, 3)])
        for f in ("softmax", "log_softmax")
        for a in AXES[f]
    ],
    *[
        (f"logsumexp-{a}", lambda x, a=a: md.logsumexp(x, axis=a), lambda x, a=a: logsumexp(x, a), [(4, 3)])
        for a in AXES["logsumexp"]
    ],
    *[
        (
            f"cross_entropy-{r}",
            lambda x, r=r: md.cross_entropy(x, TARGET, reduction=r),
            lambda x, r=r: cross_entropy(x, TARGET, r),
            [(4, 3)],
        )
        for r in ("none", "mean", "sum")
    ],
    ("sigmoid", md.sigmoid, sigmoid, [(4,)]),
    ("linear", md.linear, linear, [(4, 3), (2, 3), (2,)]),
    ("linear of a batch of rows", md.linear, linear, [(5, 4, 3), (2, 3), (2,)]),
    *[(f"mean-{a}", lambda x, a=a: md.mean(x, axis=a), lambda x, a=a: mean(x, a), [(4, 3)]) for a in (0, 1, None)],
    *[(f"var-{a}", lambda x, a=a: md.var(x, axis=a), lambda x, a=a: var(x, a), [(4, 3)]) for a in (0, 1, None)],
    *[
        (
            f"batch_norm_train-{s}",
            lambda *xs: md.batch_norm_train(*xs, eps=1e-3),
            lambda *xs: batch_norm_train(*xs, 1e-3),
            [s, (3,), (3,)],
        )
        for s in ((4, 3), (2, 3, 4))
    ],
    *[
        (
            f"standardize-{c}-{s}",
            lambda x, c=c: normalization._standard(x, eps=1e-3, centre=c),
            lambda x, c=c: standardize(x, c),
            [s],
        )
        for c in (True, False)
        for s in ((4, 3), (2, 3, 4))
    ],
    (
        "layer_norm",
        lambda x, w, b: md.layer_norm(x, (3, 2), w, b, 1e-3),
        lambda x, w, b: standardize(x.reshape(4, 6), True)[0].reshape(x.shape) * w + b,
        [(4, 3, 2), (3, 2), (3, 2)],
    ),
    (
        "layer_norm of a matrix",
        lambda x, w, b: md.layer_norm(x, 3, w, b, 1e-3),
        lambda x, w, b: standardize(x, True)[0] * w + b,
        [(4, 3), (3,), (3,)],
    ),
    (
        "rms_norm",
        lambda x, w: md.rms_norm(x, 3, w, 1e-3),
        lambda x, w: standardize(x, False)[0] * w,
        [(4, 3), (3,)],
    ),
    *[
        (
            f"group_norm-{s}",
            lambda x, w, b: md.group_norm(x, 2, w, b, 1e-3),
            group_norm,
            [s, (4,), (4,)],
        )
        for s in ((2, 4), (2, 4, 3), (3, 4, 2, 1))
    ],
    *[
        (
            f"weight and bias-{y}-{w}",
            normalization._scale_and_shift,
            lambda y, w, b: y * w + b,
            [y, w, w],
        )
        for y, w in (((4, 3), (3,)), ((2, 3, 2), (3, 1)), ((2, 3, 2), (2, 1, 2)), ((2, 3), (2, 3)), ((2, 3, 1), (3, 1)))
    ],
    ("gelu", md.gelu, gelu, [(4,)]),
]


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)


def orders(f, arrays, n):
    """Return the values of f, and its derivatives up to order n along fixed random directions, as arrays."""
    xs = [md.tensor(a, requires_grad=True) for a in arrays]
    current = as_tuple(f(*xs))
    found = [[y.detach().numpy() for y in current]]
    rng = np.random.default_rng(5)
    for _ in range(n):
        seeds = [rng.standard_normal(y.shape) for y in current]
        pairs = [(y, md.tensor(u)) for y, u in zip(current, seeds, strict=True) if y.requires_grad]
        grads = [None] * len(xs)
        if pairs:
            grads = md.autograd.grad(
                [y for y, _ in pairs], xs, [u for _, u in pairs], create_graph=True, allow_unused=True
            )
        current = [md.zeros_like(x) if g is None else g for x, g in zip(xs, grads, strict=True)]
        found.append([g.detach().numpy() for g in current])
    return found


@pytest.mark.parametrize(("fused", "composed", "shapes"), [t[1:] for t in TWINS], ids=[t[0] for t in TWINS])
def test_a_fused_operation_is_its_composition_to_the_third_derivative(fused, composed, shapes, rng):
    arrays = [rng.standard_normal(shape) for shape in shapes]
    for order, (a, b) in enumerate(zip(orders(fused, arrays, 3), orders(composed, arrays, 3), strict=True)):
        for mine, other in zip(a, b, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11, err_msg=f"order {order}")


ONE = [(n, f, s) for n, f, _, s in TWINS if not n.startswith("linear")]


@pytest.mark.parametrize("scale", [1e3, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("fused", "shapes"), [t[1:] for t in ONE], ids=[t[0] for t in ONE])
def test_fused_operations_are_finite_to_second_order_at_the_ends(fused, shapes, scale, dtype, rng):
    arrays = [(scale * np.sign(rng.standard_normal(shape))).astype(dtype) for shape in shapes]
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for found in orders(fused, arrays, 2):
            for a in found:
                assert np.isfinite(a).all()
                assert a.dtype == dtype


def test_saturated_logits_have_the_exact_loss_and_slope():
    x = md.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = md.cross_entropy(x, np.array([1, 1]))
    assert loss.item() == 1e4
    loss.backward()
    assert x.grad.tolist() == [[0.5, -0.5], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_gradients_of_a_norm_over_many_rows_are_float64_rounded(dtype, rng):
    arrays = [rng.standard_normal((3000, 16)), rng.uniform(0.5, 2.0, 16), rng.standard_normal(16)]
    u = rng.standard_normal((3000, 16))
    found = []
    for kind in ("float64", dtype):
        xs = [md.tensor(a.astype(dtype).astype(kind), requires_grad=True) for a in arrays]
        md.layer_norm(xs[0], 16, *xs[1:]).backward(md.tensor(u.astype(dtype).astype(kind)))
        found.append([x.grad.numpy().astype(float) for x in xs[:2]])
    for exact, mine in zip(*found, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=16 * float(np.finfo(dtype).eps) * np.abs(exact).max())


def test_the_hessian_of_cross_entropy_is_diag_p_minus_p_p(rng):
    a = rng.standard_normal(5)
    h = md.func.hessian(lambda x: md.cross_entropy(x, np.array(2)))(a).numpy()
    p = np.exp(a) / np.exp(a).sum()
    np.testing.assert_allclose(h, np.diag(p) - np.outer(p, p), rtol=1e-12, atol=1e-15)


def test_the_unused_statistics_of_batch_norm_cost_no_correctness(rng):
    """y alone, the statistics alone, and all three together give gradients that add up."""
    arrays = [rng.standard_normal((4, 3)), np.ones(3), np.zeros(3)]
    u = [rng.standard_normal(s) for s in ((4, 3), (3,), (3,))]

    def gradient(which):
        xs = [md.tensor(a, requires_grad=True) for a in arrays]
        outs = md.batch_norm_train(*xs, eps=1e-3)
        return md.autograd.grad([outs[i] for i in which], xs[0], [md.tensor(u[i]) for i in which])[0].numpy()

    parts = gradient([0]) + gradient([1]) + gradient([2])
    np.testing.assert_allclose(gradient([0, 1, 2]), parts, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradient([1]), np.broadcast_to(u[1] / 4, (4, 3)), rtol=1e-12)


def test_no_public_operation_stops_at_the_first_derivative():
    assert [name for name in ops.__all__ if getattr(getattr(ops, name), "once", False)] == []
