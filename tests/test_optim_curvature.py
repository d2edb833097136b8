"""AdaHessian and Sophia: formulas as loops with a Hessian known in full, the graph they ask for, and exact facts."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref

import numpy as np
import pytest

import minidl as md
from minidl.engine import node
from minidl.engine.backend import to_device
from minidl.engine.tensor import live_tensors
from minidl.optim import SGD, AdaHessian, AdaptiveClip, GradientAccumulation, GradientNoise, Sophia
from optim_cases import arrays, assert_same, parameter, parameters

OPTIONS = [
    (AdaHessian, {"lr": 0.1}),
    (AdaHessian, {"lr": 0.1, "weight_decay": 0.1, "hessian_power": 0.5, "averaging": "paper", "seed": 7}),
    (AdaHessian, {"lr": 0.1, "betas": (0.5, 0.75), "averaging": "none", "maximize": True, "eps": 0.1}),
    (AdaHessian, {"lr": 0.1, "hessian_power": 0.0}),
    (Sophia, {"lr": 0.1, "gamma": 0.5, "update_period": 3}),
    (Sophia, {"lr": 0.1, "gamma": 1.0, "betas": (0.5, 0.75), "weight_decay": 0.0, "update_period": 1, "seed": 7}),
    (Sophia, {"lr": 0.1, "gamma": 0.5, "eps": 0.1, "maximize": True, "update_period": 2}),
    (Sophia, {}),
]
VARIED = [OPTIONS[1], OPTIONS[4]]
each = pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
varied = pytest.mark.parametrize(("kind", "options"), VARIED, ids=str)


class Problem:
    """f = sum of a x^2 / 2 + n x + x^4 / 12 over all elements + (sum of w x)^2 / 2, with other n at every step."""

    def __init__(self, params, rng, sign=1.0):
        self.params, self.sign = params, sign
        self.a, self.w = ([np.asarray(scale * rng.standard_normal(p.shape), p.dtype) for p in params]
                          for scale in (1.0, 0.3))  # fmt: skip
        self.n = []

    def backward(self, rng, skip=(), graph=True):
        """Leave the gradients of f in the parameters, but of those in `skip`; return the loss."""
        self.n = [np.asarray(rng.standard_normal(p.shape), p.dtype) for p in self.params]
        loss, inner = 0.0, 0.0
        for i, (p, a, w, n) in enumerate(zip(self.params, self.a, self.w, self.n, strict=True)):
            p.grad = None
            if i not in skip:
                a, w, n = (md.tensor(to_device(x, p.device)) for x in (a, w, n))
                loss = loss + (0.5 * a * p * p + n * p + p**4 / 12).sum()
                inner = inner + (w * p).sum()
        loss = self.sign * (loss + 0.5 * inner * inner)
        loss.backward(create_graph=graph)
        return loss

    def run(self, optimizer, count, seed=1, skip=()):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            self.backward(rng, skip)
            optimizer.step()
        return arrays(self.params)

    def by_hand(self, values, skip, signs):
        """Return for each parameter the gradient and the Hessian times signs, as lists."""
        rows = [
            [[float(v) for v in x.flat] for x in (value, a, w, n, z)]
            for value, a, w, n, z in zip(values, self.a, self.w, self.n, signs, strict=True)
        ]
        used = [row for i, row in enumerate(rows) if i not in skip]
        inner = math.fsum(w * x for xs, _, ws, _, _ in used for x, w in zip(xs, ws, strict=True))
        turned = math.fsum(w * z for _, _, ws, _, zs in used for z, w in zip(zs, ws, strict=True))
        gradients, products = [], []
        for row in rows:
            elements = list(zip(*row, strict=True))
            gradients.append([self.sign * (a * x + n + x**3 / 3 + w * inner) for x, a, w, n, _ in elements])
            products.append([self.sign * ((a + x * x) * z + w * turned) for x, a, w, _, z in elements])
        return gradients, products


def signs_of(params, seed, step):
    """Return the signs of a step: the bits of bytes drawn for (seed, step, place of the parameter), 0 for -1."""
    signs = []
    for place, p in enumerate(params):
        drawn = np.random.default_rng((seed, step, place)).integers(0, 256, (p.size + 7) // 8, np.uint8)
        bits = [byte >> shift & 1 for byte in drawn.tolist() for shift in range(7, -1, -1)]
        signs.append(np.reshape([1.0 if bit else -1.0 for bit in bits[: p.size]], p.shape))
    return signs


def adahessian(x, g, d, s, t, lr=0.15, betas=(0.9, 0.999), eps=1e-4, weight_decay=0.0, hessian_power=1.0,
               averaging="official", maximize=False, seed=0, measured=True):  # fmt: skip
    d = -d if maximize else d
    if x.ndim > 2 and averaging != "none":
        for i, j in np.ndindex(x.shape[:2]):
            values = [abs(v) if averaging == "official" else v for v in d[i, j].ravel().tolist()]
            d[i, j] = math.fsum(values) / len(values)
    s["d"] = d
    for name in "mv":
        s.setdefault(name, np.zeros(x.shape))
    for i in np.ndindex(x.shape):
        s["m"][i] = betas[0] * s["m"][i] + (1 - betas[0]) * (-g[i] if maximize else g[i])
        s["v"][i] = betas[1] * s["v"][i] + (1 - betas[1]) * d[i] ** 2
        size = math.sqrt(s["v"][i] / (1 - betas[1] ** t)) ** hessian_power
        x[i] = x[i] * (1 - lr * weight_decay) - lr * s["m"][i] / (1 - betas[0] ** t) / (size + eps)


def sophia(x, g, d, s, t, lr=1e-3, betas=(0.96, 0.99), gamma=0.01, eps=1e-12, weight_decay=0.1, update_period=10,
           maximize=False, seed=0, measured=True):  # fmt: skip
    for name in "mhd":
        s.setdefault(name, np.zeros(x.shape))
    for i in np.ndindex(x.shape):
        s["m"][i] = betas[0] * s["m"][i] + (1 - betas[0]) * (-g[i] if maximize else g[i])
        if measured:
            s["d"][i] = -d[i] if maximize else d[i]
            s["h"][i] = betas[1] * s["h"][i] + (1 - betas[1]) * s["d"][i]
        x[i] = x[i] * (1 - lr * weight_decay) - lr * min(max(s["m"][i] / max(gamma * s["h"][i], eps), -1.0), 1.0)


@each
def test_forty_five_steps_follow_the_formula_with_the_whole_hessian(kind, options, rng):
    params = parameters(rng)
    problem, optimizer = Problem(params, rng), kind(params, **options)
    formula = adahessian if kind is AdaHessian else sophia
    values, states, times = arrays(params), [{} for _ in params], [0] * len(params)
    period, seed = options.get("update_period", 10 if kind is Sophia else 1), options.get("seed", 0)
    for step in range(45):
        skip = (1, 4) if step in (0, 5, 17) else ()
        problem.backward(rng, skip, graph=optimizer.wants_graph)
        assert optimizer.wants_graph == (step % period == 0)
        signs = signs_of(params, seed, step)
        gradients, products = problem.by_hand(values, skip, signs)
        for k, p in enumerate(params):
            if k not in skip:
                times[k] += 1
                g, hz = (np.reshape(x, p.shape) for x in (gradients[k], products[k]))
                formula(values[k], g, signs[k] * hz, states[k], times[k], measured=step % period == 0, **options)
        optimizer.step()
    for k, p in enumerate(params):
        np.testing.assert_allclose(p.data, values[k], rtol=1e-9, atol=1e-14)
        own = optimizer.state[str(k)]
        assert own.keys() == {"t", *states[k]}
        assert own["t"] == times[k]
        for slot, x in states[k].items():
            np.testing.assert_allclose(own[slot], x, rtol=1e-9, atol=1e-13)


# ---- what is measured ------------------------------------------------------------------------------------------------


@varied
def test_a_diagonal_hessian_is_measured_exactly_whatever_the_seed(kind, options, rng):
    curvature = rng.standard_normal((3, 4))
    for seed in range(5):
        w = parameter(rng.standard_normal((3, 4)))
        optimizer = kind([w], **{**options, "seed": seed})
        (0.5 * md.tensor(curvature) * w * w).sum().backward(create_graph=True)
        optimizer.step()
        np.testing.assert_allclose(optimizer.state["0"]["d"], curvature, rtol=1e-15)


def test_the_mean_over_seeds_is_the_diagonal_and_the_variance_the_rest_of_the_row(rng):
    root = rng.standard_normal((4, 4))
    h = root + root.T
    seen = []
    for seed in range(2000):
        w = parameter(np.zeros(4))
        optimizer = AdaHessian([w], seed=seed)
        (0.5 * w @ (md.tensor(h) @ w)).backward(create_graph=True)
        optimizer.step()
        seen.append(optimizer.state["0"]["d"].copy())
    variance = (h**2).sum(axis=1) - np.diag(h) ** 2
    assert (abs(np.mean(seen, axis=0) - np.diag(h)) < 4 * np.sqrt(variance / 2000)).all()
    np.testing.assert_allclose(np.var(seen, axis=0), variance, rtol=0.15)


def test_d_is_the_product_with_the_hessian_of_a_network(rng):
    model = md.nn.Sequential(md.nn.Linear(3, 4), md.nn.Tanh(), md.nn.Linear(4, 2))
    model.to(dtype=np.float64)
    x, y = md.tensor(rng.standard_normal((5, 3))), md.tensor(np.array([0, 1, 1, 0, 1]))
    optimizer = AdaHessian(model, lr=0.0, seed=3)
    md.nn.functional.cross_entropy(model(x), y).backward(create_graph=True)
    optimizer.step()
    params = list(model.parameters())
    signs = signs_of(params, 3, 0)

    def gradient(shift):  # central differences of the gradient along z: no second derivative takes part
        for p, z in zip(params, signs, strict=True):
            p.data = p.data + shift * z
        for p in params:
            p.grad = None
        md.nn.functional.cross_entropy(model(x), y).backward()
        found = [p.grad.data.copy() for p in params]
        for p, z in zip(params, signs, strict=True):
            p.data = p.data - shift * z
        return found

    for name, z, up, down in zip(optimizer.state, signs, gradient(1e-4), gradient(-1e-4), strict=True):
        np.testing.assert_allclose(optimizer.state[name]["d"], z * (up - down) / 2e-4, atol=1e-7)


def test_averaging_over_a_filter_is_of_estimates_or_of_their_sizes(rng):
    h = np.array([[1.0, 4.0], [4.0, -3.0]])  # a filter of two places
    for averaging, wanted in (("paper", {3.0, -5.0}), ("official", {3.0, 5.0}), ("none", {5.0, 1.0, -3.0, -7.0})):
        seen = set()
        for seed in range(8):
            w = parameter(np.zeros((1, 1, 2)))
            optimizer = AdaHessian([w], averaging=averaging, seed=seed)
            (0.5 * w.reshape(2) @ (md.tensor(h) @ w.reshape(2))).backward(create_graph=True)
            optimizer.step()
            seen |= set(optimizer.state["0"]["d"].ravel().tolist())
        assert seen == wanted


def test_a_constant_gradient_counts_as_no_curvature():
    for kind in (AdaHessian, Sophia):
        w, u = (md.tensor([2.0], requires_grad=True) for _ in range(2))
        optimizer = kind([w, u], **({"update_period": 1} if kind is Sophia else {}))
        for f in (lambda w, u: w * w + u * u, lambda w, u: w * w + 3 * u):
            optimizer.zero_grad()
            f(w, u).sum().backward(create_graph=True)
            optimizer.step()
        assert [optimizer.state[name]["d"].tolist() for name in "01"] == [[2.0], [0.0]]


@varied
def test_the_curvature_is_that_before_hooks_change_the_gradient(kind, options, rng):
    ends = []
    for hook, closed in [(None, False), (None, True), (AdaptiveClip(0.01), False), (AdaptiveClip(0.01), True)]:
        params = parameters(np.random.default_rng(0))
        problem, optimizer = Problem(params, np.random.default_rng(1)), kind(params, **options)
        if hook:
            optimizer.register_step_pre_hook(hook)
            optimizer.register_step_pre_hook(GradientNoise())
        generator = np.random.default_rng(2)
        if closed:
            loss = optimizer.step(lambda problem=problem, generator=generator: problem.backward(generator))
            assert loss.shape == ()
        else:
            problem.backward(generator)
            assert optimizer.step() is None
        ends.append(([own["d"] for own in optimizer.state.values()], arrays(params)))
    (plain, start), (_, closed_end), (clipped, end), (_, closed_clipped) = ends
    assert_same(plain, clipped)
    assert_same(start, closed_end)
    assert_same(end, closed_clipped)
    assert not np.array_equal(start[0], end[0])


# ---- the graph -------------------------------------------------------------------------------------------------------


@varied
def test_gradients_without_a_graph_are_refused_and_nothing_has_changed(kind, options, rng):
    params = parameters(rng)
    problem, optimizer = Problem(params, rng), kind(params, **options)
    problem.run(optimizer, 3)
    before, state = arrays(params), copy.deepcopy(optimizer.state_dict())
    problem.backward(rng, graph=False)
    with pytest.raises(RuntimeError, match=rf"{kind.__name__}.step: .*loss.backward\(create_graph=True\)"):
        optimizer.step()
    with pytest.raises(TypeError, match=f"a step of {kind.__name__} needs gradients with a graph"):
        GradientAccumulation(optimizer, every=1)
    assert_same(arrays(params), before)
    after = optimizer.state_dict()
    assert after["steps"] == state["steps"] == 3
    for name, own in after["state"].items():
        assert_same([own["d"].data, own["m"].data], [state["state"][name]["d"].data, state["state"][name]["m"].data])


@varied
def test_a_graph_from_before_the_last_step_is_refused(kind, options, rng):
    params = parameters(rng)
    problem, optimizer = Problem(params, rng), kind(params, **{**options, "lr": 0.1})
    problem.backward(rng)
    SGD(params, lr=0.1).step()
    before = arrays(params)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        optimizer.step()
    assert_same(arrays(params), before)


@varied
@pytest.mark.parametrize("closed", [False, True])
def test_a_step_leaves_no_graph_behind_and_no_cycle(kind, options, closed, rng):
    params = parameters(rng)
    problem, optimizer = Problem(params, rng), kind(params, **options)
    problem.run(optimizer, 3)
    optimizer.zero_grad()
    gc.collect()
    gc.disable()  # what is not freed by reference counts stays
    try:
        before, nodes = live_tensors(), []

        def closure():
            loss = problem.backward(rng)
            nodes.extend(weakref.ref(x.node) for x in (loss, *(p.grad for p in params)))
            return loss

        loss = optimizer.step(closure) if closed else closure()
        if not closed:
            optimizer.step()
        assert all(p.grad.is_leaf and not p.grad.requires_grad for p in params)
        assert nodes[0]() is not None  # the loss is still held, but not what it was computed from
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
        del loss
        assert [x for x in nodes if x() is not None] == []
        optimizer.zero_grad()
        assert live_tensors() == before
    finally:
        gc.enable()


@varied
def test_a_step_records_no_graph_and_tells_the_mutation_clock(kind, options, rng):
    w = md.tensor([[1.0, 2.0]], requires_grad=True)
    optimizer = kind([w], **options)
    (w**3).sum().backward(create_graph=True)
    before = node.written(w.array)
    optimizer.step()
    assert w.is_leaf
    assert w.requires_grad
    assert node.written(w.array) > before


# ---- exact facts -----------------------------------------------------------------------------------------------------


def test_adahessian_without_memory_is_newtons_step_times_the_sign_of_the_curvature(rng):
    curvature, start = np.array([100.0, 1.0, 0.01, -4.0]), rng.standard_normal(4)
    w = parameter(start.copy())
    (0.5 * md.tensor(curvature) * w * w).sum().backward(create_graph=True)
    AdaHessian([w], lr=1.0, eps=0.0, betas=(0.0, 0.0)).step()
    np.testing.assert_allclose(w.data, [0, 0, 0, 2 * start[3]], atol=1e-15)


def test_sophia_flees_a_saddle_by_lr_where_newtons_step_is_drawn_to_it():
    w = parameter(np.array([0.5, 0.1]))
    optimizer = Sophia([w], lr=0.25, betas=(0.0, 0.0), gamma=1.0, weight_decay=0.0, update_period=1)
    for _ in range(4):
        optimizer.zero_grad()
        (0.5 * md.tensor([1.0, -1.0]) * w * w).sum().backward(create_graph=True)
        optimizer.step()
    np.testing.assert_allclose(w.data, [0.5 * 0.75**4, 0.1 + 4 * 0.25], rtol=1e-12)


def test_a_parameter_that_joins_sophia_late_moves_by_lr_until_its_curvature_is_measured():
    first, late = parameter(np.array([1.0])), parameter(np.array([1.0]))
    optimizer = Sophia([first, late], lr=0.1, betas=(0.0, 0.0), gamma=1.0, weight_decay=0.0, update_period=3)
    path = []
    for step in range(4):
        optimizer.zero_grad()
        loss = 2 * first * first + (2 * late * late if step else 0)
        loss.sum().backward(create_graph=optimizer.wants_graph)
        optimizer.step()
        path.append(late.item())
    np.testing.assert_allclose(path, [1.0, 0.9, 0.8, 0.8 - 0.1 * 0.8], rtol=1e-12)


def test_groups_of_sophia_may_measure_at_periods_of_their_own(rng):
    params = parameters(rng)
    problem = Problem(params, rng)
    optimizer = Sophia([{"params": params[:3], "update_period": 2}, {"params": params[3:], "update_period": 3}])
    wanted, measured = [], []
    for _ in range(7):
        wanted.append(optimizer.wants_graph)
        old = {name: own["h"].copy() for name, own in optimizer.state.items()}
        problem.run(optimizer, 1, seed=len(wanted))
        measured.append([name not in old or not np.array_equal(optimizer.state[name]["h"], old[name]) for name in "04"])
    assert wanted == [True, False, True, True, True, False, True]
    assert measured == [[t % 2 == 0, t % 3 == 0] for t in range(7)]


# ---- what holds for all ----------------------------------------------------------------------------------------------


@varied
@pytest.mark.parametrize("when", range(1, 6))
def test_a_run_is_resumed_bitwise_between_any_two_steps_random_signs_included(kind, options, when, rng):
    params = parameters(rng)
    problem = Problem(params, np.random.default_rng(5))
    others = copy.deepcopy(params)
    other = Problem(others, np.random.default_rng(5))
    whole, first, second = kind(params, **options), kind(others, **options), kind(others, seed=99)
    problem.run(whole, when)
    other.run(first, when)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    md.manual_seed(123)
    assert_same(other.run(second, 5, seed=2), problem.run(whole, 5, seed=2))


@varied
def test_a_copied_optimizer_goes_its_own_way(kind, options, rng):
    params = parameters(rng)
    problem, optimizer = Problem(params, rng), kind(params, **options)
    problem.run(optimizer, 3)
    twin = copy.deepcopy(optimizer)
    other = copy.copy(problem)
    other.params = [p for group in twin.param_groups for p in group["params"]]
    middle = arrays(params)
    end = other.run(twin, 3, seed=5)
    assert_same(arrays(params), middle)
    assert_same(problem.run(optimizer, 3, seed=5), end)


@varied
def test_maximizing_minus_f_is_minimizing_f_bitwise(kind, options, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    up = Problem(params, np.random.default_rng(5), sign=-1.0).run(kind(params, **options, maximize=True), 8)
    assert_same(up, Problem(others, np.random.default_rng(5)).run(kind(others, **options), 8))


@varied
def test_lr_zero_moves_nothing(kind, options, rng):
    params = parameters(rng)
    before = arrays(params)
    assert_same(Problem(params, rng).run(kind(params, **{**options, "lr": 0.0}), 4), before)


@varied
def test_without_a_gradient_a_parameter_neither_moves_nor_decays_nor_gets_state(kind, options, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = kind(params, **options)
    optimizer.step()
    assert_same(arrays(params), before)
    assert (optimizer.state, optimizer.steps) == ({}, 0)
    after = Problem(params, rng).run(optimizer, 3, skip=(0, 5))
    assert_same([after[0], after[5]], [before[0], before[5]])
    assert optimizer.state.keys() == {"1", "2", "3", "4", "6"}
    optimizer.zero_grad()
    optimizer.step()
    assert_same(arrays(params), after)
    assert optimizer.steps == 3


@varied
def test_float32_stays_float32_in_place_and_close_to_float64(kind, options, rng):
    params = parameters(rng, np.float32)
    others = [parameter(p.data.astype(np.float64)) for p in params]
    buffers = [p.data for p in params]
    optimizer, other = kind(params, **options), kind(others, **options)
    Problem(params, np.random.default_rng(5)).run(optimizer, 20)
    Problem(others, np.random.default_rng(5)).run(other, 20)
    for p, q, buffer in zip(params, others, buffers, strict=True):
        assert p.data is buffer
        np.testing.assert_allclose(p.data, q.data, rtol=1e-5 * math.sqrt(20), atol=2e-5)
    for own in optimizer.state.values():
        assert all(x.dtype == np.float32 for slot, x in own.items() if slot != "t")


@varied
def test_numpy_and_the_gpu_text_agree(kind, options, rng, fake_cuda):
    params = parameters(rng)
    others = [parameter(p.data.copy(), "cuda:0") for p in params]
    one, two = kind(params, **options), kind(others, **options)
    ends = [Problem(x, np.random.default_rng(5)).run(optimizer, 4) for x, optimizer in ((params, one), (others, two))]
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
