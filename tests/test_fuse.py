"""Fused kernels compute bitwise what the formula says, in little memory, and say clearly what they cannot read."""

from __future__ import annotations

import inspect
import math
from functools import partial

import numpy as np
import pytest

from minidl.compiler import fuse, segment_dot, segment_norm, total_dot
from minidl.engine.backend import to_device, to_numpy
from minidl.optim import segment as segments
from minidl.optim.segment import Segment, run_together

DTYPES = [np.float32, np.float64]


def adam(xp, theta, g, m, v, *, b1, b2, lr_hat, c2, eps):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    return theta - lr_hat * m / (xp.sqrt(v / c2) + eps), m, v


def swapped(xp, theta, g, p, q):
    return theta + g, q, p


def rotated(xp, theta, g, p, q):
    return q, theta, p


def previous(xp, theta, g, old):
    return theta - (g - old), g


def overwritten(xp, theta, g, p):
    chosen = xp.where(g > 0, theta, p)  # theta and p both stay needed: neither may be the place of the result
    return xp.where(p > theta, theta, chosen * 2.0), xp.where(g < 0.5, p, theta)


def clipped(xp, theta, g, m):
    m = xp.clip(xp.maximum(m, 0.9 * g), -0.5, 2)
    return theta - 0.1 * xp.sign(m) * xp.minimum(abs(m), 1.0), m


def early(xp, theta, g, s):
    new = s + g
    late = theta * s  # reads the old s after the new one has been computed
    return theta - late / (1 + new * new), new


def powers(xp, theta, g, s):
    return theta**2 - g**-1 + abs(s) ** 0.5 + abs(s) ** 3 + s**1 + 2**g, -s


def functions(xp, theta, g, s):
    a = xp.exp(-xp.square(g)) + xp.log(xp.abs(s) + 1) + xp.tanh(theta) + xp.expm1(g) - xp.log1p(abs(g))
    return a + xp.cbrt(s) + xp.reciprocal(1 + abs(s)) + xp.copysign(0.5, g), xp.negative(s)


def masks(xp, theta, g, s):
    agree = ((g > 0) & (s > 0)) | (~(g > 0) & (s <= 0)) | (g == s)
    return theta - xp.where(agree & xp.isfinite(g) & (g != 0), 1.0, 0.1) * g, xp.where(xp.isnan(g), s, g)


def unchanged(xp, theta, g, s):
    return theta, s


def constant(xp, theta, g, s):
    return xp.where(g > 0, 1.0, 2.0), 0.25


def same(xp, theta, g, p, q):
    total = p + q + g
    return theta - total, total, total


def with_numbers(xp, theta, g, s, *, lr, t):
    decay = xp.sqrt(xp.maximum(t, 2) / (t + 1)) * (1 - lr) ** 2
    return theta - lr / t * g, decay * s + (1 - decay) * g


NUMBERS = {"b1": 0.9, "b2": 0.999, "lr_hat": 0.01, "c2": 0.5, "eps": 1e-8, "lr": 0.1, "t": 7}
CASES = [
    (adam, 2), (swapped, 2), (rotated, 2), (previous, 1), (overwritten, 1), (clipped, 1), (early, 1), (powers, 1),
    (functions, 1), (masks, 1), (unchanged, 1), (constant, 1), (same, 2), (with_numbers, 1),
]  # fmt: skip


def keywords(formula):
    return [name for name, x in inspect.signature(formula).parameters.items() if x.kind is x.KEYWORD_ONLY]


def arguments(formula):
    return [name for name, x in inspect.signature(formula).parameters.items() if x.kind is not x.KEYWORD_ONLY][1:]


def program_of(formula):
    arrays = arguments(formula)
    return fuse(formula, arrays, keywords(formula), [arrays[0], *arrays[2:]])


def run(program, arrays, slots, gradients, numbers, device="cpu"):
    """Run a program on arrays; the slots are a list for each parameter. Return (parameters, slots) on the host."""
    here = [to_device(x.copy(), device) for x in arrays]
    names = program.arrays[2:]
    store = Segment(here, {name: [to_device(own[k], device) for own in slots] for k, name in enumerate(names)})
    grads = [to_device(g, device) for g in gradients]
    copies = [to_numpy(g).copy() for g in grads]
    run_together([(store, store.start(program, grads, numbers))])
    for g, copy in zip(grads, copies, strict=True):
        np.testing.assert_array_equal(to_numpy(g), copy)  # gradients are read, never written
    after = [[to_numpy(x).copy() for x in store.slot(name)] for name in names]
    return [to_numpy(x) for x in here], [list(own) for own in zip(*after, strict=True)] if names else [[] for _ in here]


class Plain:
    """NumPy, except that numbers stay Python's: np.sqrt(2.0) and np.where(mask, 1.0, 0.1) would be float64 arrays."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __getattr__(self, name):
        def function(*operands):
            result = getattr(np, name)(*operands)
            return result if any(isinstance(x, np.ndarray) for x in operands) else float(result)

        return function

    def where(self, condition, x, y):
        return np.where(condition, x, y).astype(self.dtype)


def by_the_text(formula, x, g, own):
    """Evaluate a formula as it is written, with NumPy, whole arrays at a time."""
    with np.errstate(all="ignore"):
        new = formula(Plain(x.dtype), x, g, *own, **{name: NUMBERS[name] for name in keywords(formula)})
    return [np.broadcast_to(np.asarray(y, x.dtype), x.shape) for y in new]


def draw(rng, shape, dtype, count):
    return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("formula", "slots"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_kernel_computes_bitwise_what_the_formula_says(formula, slots, dtype, rng, device):
    x, g, *own = draw(rng, (3, 37), dtype, 2 + slots)
    g[0, :5] = own[0][0, :5]
    expected = by_the_text(formula, x, g, own)
    with np.errstate(all="ignore"):
        (theta,), (new,) = run(program_of(formula), [x], [own], [g], NUMBERS, device)
    assert theta.dtype == dtype
    for got, want in zip([theta, *new], expected, strict=True):
        np.testing.assert_array_equal(got, want)


def random_formula(seed, measures):
    """Return a formula of random operations on theta, g and two slots; with `measures`, of several passes."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 14))
    kinds = 8 if measures else 6
    plan = [(int(generator.integers(kinds)), *generator.integers(0, 4 + i, 3).tolist()) for i in range(count)]
    results = generator.integers(0, 4 + count, 3).tolist()

    def formula(xp, theta, g, p, q):
        values = [theta, g, p, q]
        for kind, i, j, k in plan:
            a, b, c = values[i], values[j], values[k]
            made = [a + b, a - b, 0.5 * a * b, xp.maximum(a, b), xp.where(a > b, b, c), xp.where(a <= c, c, 2.0)]
            if measures:
                made += [a + segment_norm(b), xp.where(a < c, segment_dot(b, c) * 0.1, a)]
            values.append(made[kind])
        return tuple(values[i] for i in results)

    return formula


@pytest.mark.parametrize("measures", [False, True])
@pytest.mark.parametrize("block", range(10))
def test_no_value_is_overwritten_before_it_is_read_in_random_formulas(block, measures, rng):
    x, g, p, q = draw(rng, (50,), np.float64, 4)
    tolerance = 1e-9 if measures else 0  # sums in another order round differently
    for seed in range(60 * block, 60 * block + 60):
        formula = random_formula(seed, measures)
        (theta,), (new,) = run(fuse(formula, ["theta", "g", "p", "q"], [], ["theta", "p", "q"]), [x], [[p, q]], [g], {})
        for got, want in zip([theta, *new], formula(np, x, g, p, q), strict=True):
            np.testing.assert_allclose(got, want, rtol=tolerance, err_msg=f"seed {seed}")


def shapes_of_all_kinds(rng, dtype):
    """Return arrays that are empty, 0-d, small, large, transposed and with gaps, in one dtype."""

    def draw(*shape):
        return np.asarray(rng.standard_normal(shape), dtype=dtype)

    plain = [draw(), draw(0, 3), draw(5), draw(4, 3), draw(700), draw(90, 1000), draw(3), draw(2, 5000)]
    return [*plain, draw(3, 40).T, draw(6, 8)[::2, 1::3], draw(2, 3, 4).transpose(2, 0, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("block", "pack"), [(256, 0), (256, 10), (4096, 40), (65536, 2000), (1 << 20, 1 << 20)])
def test_blocks_and_packs_change_no_bit(block, pack, dtype, rng, monkeypatch):
    monkeypatch.setattr(segments, "BLOCK_BYTES", block)
    monkeypatch.setattr(segments, "PACK_BYTES", pack)
    x = shapes_of_all_kinds(rng, dtype)
    g, m, v = ([np.asarray(rng.standard_normal(a.shape)).astype(dtype) for a in x] for _ in range(3))
    v = [np.asarray(abs(a)) for a in v]
    got, slots = run(program_of(adam), x, [list(own) for own in zip(m, v, strict=True)], g, NUMBERS)
    for i, a in enumerate(x):
        want = by_the_text(adam, a, g[i], [m[i], v[i]])
        for new, expected in zip([got[i], *slots[i]], want, strict=True):
            np.testing.assert_array_equal(new, expected)


def test_numbers_are_computed_in_float64_and_rounded_once():
    seen = []

    def typed(*numbers):
        seen.extend(numbers)
        return numbers

    def formula(xp, theta, g, *, b2, t):
        return theta - (1 - b2**t) * g

    kernel = fuse(formula, ["theta", "g"], ["b2", "t"], ["theta"]).function(np)
    kernel(lambda: [], typed, 0.999, 3)
    assert seen == [1 - 0.999**3]
    x = np.ones(1, np.float32)
    (theta,), _ = run(fuse(formula, ["theta", "g"], ["b2", "t"], ["theta"]), [x], [[]], [x], {"b2": 0.999, "t": 1})
    assert theta[0] == np.float32(1) - np.float32(1 - 0.999)  # in float32, 1 - 0.999 is wrong by 5e-5 of itself


def test_float32_stays_float32_although_numbers_are_python_floats(rng):
    x, g, m, v = draw(rng, (8,), np.float32, 4)
    (theta,), (new,) = run(program_of(adam), [x], [[m, abs(v)]], [g], NUMBERS)
    assert {a.dtype for a in (theta, *new)} == {np.dtype(np.float32)}


def test_a_common_subexpression_is_computed_once_and_a_useless_one_never():
    def formula(xp, theta, g):
        xp.exp(theta)
        return theta - (g * g + 1.0) / xp.sqrt(g * g + 1.0)

    assert program_of(formula).operations == 5


def test_adam_needs_two_scratch_blocks_and_no_array_of_full_size():
    places = program_of(adam).places
    assert (places.scratch, places.masks, places.spills) == (["r0", "r1"], [], [])


def test_a_printed_program_reads_like_the_formula():
    def heavy_ball(xp, theta, g, b, *, lr, mu):
        b = mu * b + g
        return theta - lr * xp.where(abs(b) > 1, xp.sign(b), b), b

    program = fuse(heavy_ball, ["theta", "g", "b"], ["lr", "mu"], ["theta", "b"], name="SGD.update")
    assert str(program).splitlines() == [
        "def SGD_update(blocks, typed, lr, mu):",
        "    # numbers: once a step, in float64, then rounded once to the arrays' dtype",
        "    c0 = 1",
        "    mu, c0, lr = typed(mu, c0, lr)",
        "    # arrays: block by block; scratch: r0, r1, k0",
        "    for theta, g, b, r0, r1, k0 in blocks():",
        "        multiply(mu, b, b)                         # b = mu * b",
        "        add(b, g, b)                               # b = b + g",
        "        absolute(b, r0)                            # r0 = absolute(b)",
        "        greater(r0, c0, k0)                        # k0 = r0 > c0",
        "        sign(b, r0)                                # r0 = sign(b)",
        "        copyto(r1, b); copyto(r1, r0, where=k0)    # r1 = r0 where k0 else b",
        "        multiply(lr, r1, r1)                       # r1 = lr * r1",
        "        subtract(theta, r1, theta)                 # theta = theta - r1",
    ]
    assert repr(program) == "<Program SGD_update(theta, g, b): 8 operations a block>"


def test_a_setting_may_be_branched_on_and_costs_nothing():
    def formula(xp, theta, g, *, lr, decay, nesterov):
        if decay is not None:
            g = g + decay * theta
        return theta - lr * (2.0 * g if nesterov else g)

    plain = fuse(formula, ["theta", "g"], ["lr"], ["theta"], {"decay": None, "nesterov": False})
    rich = fuse(formula, ["theta", "g"], ["lr", "decay"], ["theta"], {"nesterov": True})
    assert (plain.operations, rich.operations) == (2, 5)


def test_numpy_functions_and_numpy_numbers_may_stand_in_a_formula(rng):
    def formula(xp, theta, g):
        return np.float64(2.0) * theta - np.sqrt(np.maximum(g, np.int64(0)))

    x, g = draw(rng, (9,), np.float32, 2)
    (theta,), _ = run(program_of(formula), [x], [[]], [g], {})
    np.testing.assert_array_equal(theta, 2 * x - np.sqrt(np.maximum(g, 0)))


def test_nan_and_infinity_pass_through(rng):
    x, g, m = draw(rng, (6,), np.float64, 3)
    g[:3] = [math.nan, math.inf, -math.inf]

    def formula(xp, theta, g, m):
        bounded = xp.where(xp.isfinite(g), g, float("inf"))
        return xp.minimum(theta, bounded), xp.where(g > float("-inf"), m, float("nan"))

    (theta,), ((new,),) = run(program_of(formula), [x], [[m]], [g], {})
    np.testing.assert_array_equal(theta, formula(np, x, g, m)[0])
    np.testing.assert_array_equal(new, formula(np, x, g, m)[1])


# ---- numbers of a whole parameter ------------------------------------------------------------------------------------


def lamb(xp, theta, g, m, *, b1, lr):
    m = b1 * m + (1 - b1) * g
    r = m + 0.1 * theta
    norm, size = segment_norm(theta), segment_norm(r)
    ratio = xp.where((norm > 0) & (size > 0), norm / (size + 1e-300), 1.0)
    return theta - lr * ratio * r, m


def lars(xp, theta, g, b, *, lr):
    q = segment_norm(theta) / (segment_norm(g) + 1e-9)
    b = 0.9 * b + q * g
    return theta - lr * b, b


def normalized_twice(xp, theta, g, s, *, lr):
    u = g / segment_norm(g)
    w = u + theta
    return theta - lr * w / segment_norm(w) * segment_dot(u, theta), xp.where(u > 0, u, segment_norm(w))


def novograd(xp, theta, g, v, *, lr):
    v = 0.9 * v + 0.1 * segment_dot(g, g)
    return theta - lr * g / xp.sqrt(v), v


@pytest.mark.parametrize("block", [256, 1 << 17])
@pytest.mark.parametrize("formula", [lamb, lars, normalized_twice, novograd], ids=lambda f: f.__name__)
def test_what_is_measured_is_measured_for_each_parameter(formula, block, rng, monkeypatch, device):
    monkeypatch.setattr(segments, "BLOCK_BYTES", block)
    x = [a for a in shapes_of_all_kinds(rng, np.float64) if a.size]
    g, s = ([np.asarray(rng.standard_normal(a.shape)) for a in x] for _ in range(2))
    s = [np.asarray(abs(a)) for a in s]
    got, slots = run(program_of(formula), x, [[a] for a in s], g, NUMBERS, device)
    for i, a in enumerate(x):
        want = by_the_text(formula, a, g[i], [s[i]])
        for new, expected in zip([got[i], *slots[i]], want, strict=True):
            np.testing.assert_allclose(new, expected, rtol=1e-12, atol=1e-14)


def test_a_slot_of_a_formula_that_measures_may_be_called_n(rng):
    def formula(xp, theta, g, n, *, lr):
        n = n + g * g
        return theta - lr * g / segment_norm(n), n

    program = fuse(formula, ["theta", "g", "n"], ["lr"], ["theta", "n"])
    x, g = ([rng.standard_normal(size) for size in (3, 4)] for _ in range(2))
    theta = [a.copy() for a in x]
    store = Segment(theta, {"n": [1.0, 2.0]})
    run_together([(store, store.start(program, g, {"lr": 0.1}))])
    for k in range(2):
        n = k + 1.0 + g[k] * g[k]
        np.testing.assert_allclose(store.slot("n")[k], n, rtol=1e-14)
        np.testing.assert_allclose(theta[k], x[k] - 0.1 * g[k] / np.linalg.norm(n), rtol=1e-13)


def test_a_total_is_taken_over_all_parameters_of_all_segments(rng):
    def formula(xp, theta, g, s, *, lr):
        s = s + g
        return theta - lr * g / total_dot(s, g) ** 0.5 * segment_norm(g), s

    program = fuse(formula, ["theta", "g", "s"], ["lr"], ["theta", "s"])
    x = [rng.standard_normal(n) for n in (3, 20, 5)]
    g = [rng.standard_normal(a.shape) for a in x]
    x32, g32 = [a.astype(np.float32) for a in x], [a.astype(np.float32) for a in g]
    here, there = [a.copy() for a in x], [a.copy() for a in x32]
    stores = [Segment(arrays, {"s": [0.0] * 3}) for arrays in (here, there)]
    pairs = zip(stores, (g, g32), strict=True)
    run_together([(store, store.start(program, grads, {"lr": 0.1})) for store, grads in pairs])
    total = sum(float(a @ a) for a in [*g, *g32])
    for new, old, grad in zip(here, x, g, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * grad / math.sqrt(total) * np.linalg.norm(grad), rtol=1e-6)
    for new, old, grad in zip(there, x32, g32, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * grad / math.sqrt(total) * np.linalg.norm(grad), rtol=1e-5)


# ---- what cannot be read ---------------------------------------------------------------------------------------------


def refused(body, match, error=TypeError, numbers=(), writes=("theta", "s")):
    def formula(xp, theta, g, s, **numbers):
        return body(xp, theta, g, s, **numbers)

    with pytest.raises(error, match=match):
        fuse(formula, ["theta", "g", "s"], numbers, writes, name="Mine.update")


def branch(xp, theta, g, s):
    return (theta if s > 0 else g), s


def chained(xp, theta, g, s):
    return xp.where((s > 0) and (s < 1), theta, g), s


REFUSED = [
    (branch, r"Mine\.update: .*`if`.*use xp\.where", TypeError),
    (chained, r"use xp\.where", TypeError),
    (lambda xp, theta, g, s: (theta - max(g, s), s), r"use xp\.where", TypeError),
    (lambda xp, theta, g, s: (theta * float(g), s), "no value while the formula is read", TypeError),
    (lambda xp, theta, g, s: (theta * math.sqrt(g), s), "use functions of xp", TypeError),
    (lambda xp, theta, g, s: (theta[0], s), "no value", TypeError),
    (lambda xp, theta, g, s: (theta * g.sum(), s), r"`g`\.sum is not elementwise; .*update_tensor", AttributeError),
    (lambda xp, theta, g, s: (xp.linalg.inv(theta), s), r"xp\.linalg is not among", AttributeError),
    (lambda xp, theta, g, s: (xp.sqrt(theta, g), s), r"xp\.sqrt takes 1 argument\(s\), got 2", TypeError),
    (lambda xp, theta, g, s: (np.add.reduce(theta), s), r"np\.add\.reduce .*not elementwise", TypeError),
    (lambda xp, theta, g, s: (theta + np.ones(3), s), "not elementwise|ndarray", TypeError),
    (lambda xp, theta, g, s: (theta * True, s), "got bool", TypeError),
    (lambda xp, theta, g, s: (theta * "2", s), "got str", TypeError),
    (lambda xp, theta, g, s: (theta - (g > 0), s), r"become numbers by xp\.where", TypeError),
    (lambda xp, theta, g, s: (theta & g, s), "logical_and of array and array", TypeError),
    (lambda xp, theta, g, s: (xp.where(g, theta, s), s), "where of array", TypeError),
    (lambda xp, theta, g, s: (theta, s > 0), "the new s is a condition", TypeError),
    (lambda xp, theta, g, s: (theta * segment_dot(g, 2.0), s), "segment_dot of array and number", TypeError),
    (lambda xp, theta, g, s: theta, r"must return 2 value\(s\), the new theta, s; got 1", ValueError),
]


@pytest.mark.parametrize(("body", "match", "error"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_elementwise_is_refused_by_name(body, match, error):
    refused(body, match, error)


def test_a_python_if_on_a_number_is_refused_with_the_remedy():
    refused(lambda xp, theta, g, s, lr: (theta - g if lr else theta, s), r"`lr` is true.*scalars\(\)", numbers=["lr"])
    compare = lambda xp, theta, g, s, lr: (theta - xp.where(lr > 1, g, s), s)  # noqa: E731
    refused(compare, r"compare them in scalars\(\)", numbers=["lr"])


def test_an_argument_cannot_have_the_name_of_a_function():
    with pytest.raises(ValueError, match="'sqrt' is the name of a function"):
        fuse(lambda xp, theta, g, *, sqrt: theta, ["theta", "g"], ["sqrt"], ["theta"])


def test_names_of_the_formula_and_of_scratch_do_not_collide(rng):
    def formula(xp, r0, g, k0, *, c0):
        u = xp.where(g > k0, r0, 1.0)
        return r0 * u - (1 - c0) * g, k0 / (u + 3.0) + c0 * u

    program = fuse(formula, ["r0", "g", "k0"], ["c0"], ["r0", "k0"])
    x, g, s = draw(rng, (11,), np.float64, 3)
    (theta,), ((new,),) = run(program, [x], [[s]], [g], {"c0": 0.3})
    want = partial(formula, np, c0=0.3)(x, g, s)
    np.testing.assert_array_equal(theta, want[0])
    np.testing.assert_array_equal(new, want[1])
