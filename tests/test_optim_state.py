"""State is saved by name and loaded whole or not at all; optimizers of the user's own get the same base."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

import minidl as md
from minidl.compiler import segment_norm, total_dot
from minidl.engine.backend import to_numpy
from minidl.optim import Adam, Optimizer
from optim_cases import VARIED, Halving, arrays, assert_same, leaf, parameter, parameters, set_gradients, train

# ---- saving and loading ----------------------------------------------------------------------------------------------


def through_json(state):
    """Return (arrays, text): what would go into a safetensors file and its metadata."""
    tensors, plain = {}, {}
    for name, entry in state["state"].items():
        tensors |= {f"{name}/{slot}": x.data for slot, x in entry.items() if slot != "t"}
        plain[name] = entry["t"]
    return tensors, json.dumps({"steps": state["steps"], "t": plain, "param_groups": state["param_groups"]})


def from_json(tensors, text):
    plain = json.loads(text)
    state = {name: {"t": t} for name, t in plain["t"].items()}
    for key, x in tensors.items():
        name, slot = key.split("/")
        state[name][slot] = x
    return {"steps": plain["steps"], "state": state, "param_groups": plain["param_groups"]}


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_save_and_continue_is_bitwise_as_if_nothing_had_happened(case, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    optimizer, first = case.make(params), case.make(others)
    train(optimizer, params, 4, skip=(1,))
    whole = train(optimizer, params, 4, seed=2)
    train(first, others, 4, skip=(1,))
    second = case.kind(others, lr=0.5)
    second.load_state_dict(from_json(*through_json(first.state_dict())))
    assert_same(train(second, others, 4, seed=2), whole)
    assert second.param_groups[0]["lr"] == 0.1
    assert [e["t"] for e in second.state.values()] == [8, 4, 8, 8, 8, 8, 8]


SCRIPT = """
import json, sys
import numpy as np
import minidl as md
from minidl import optim

folder = sys.argv[1]
tensors = dict(np.load(folder + "/tensors.npz"))
saved = json.load(open(folder + "/plain.json"))
params = [md.Parameter(tensors.pop(f"p{i}")) for i in range(saved["count"])]
state = {name: {"t": t} for name, t in saved["t"].items()}
for key, x in tensors.items():
    name, slot = key.split("/")
    state[name][slot] = x
optimizer = getattr(optim, saved["kind"])(params)
optimizer.load_state_dict({"steps": saved["steps"], "state": state, "param_groups": saved["param_groups"]})
generator = np.random.default_rng(7)
for _ in range(4):
    for p in params:
        p.grad = p.data * p.dtype.type(0.3) + generator.standard_normal(p.shape).astype(p.dtype)
    optimizer.step()
np.savez(folder + "/end.npz", *[p.data for p in params])
"""


@pytest.mark.parametrize("case", [VARIED[0], VARIED[2], VARIED[3]], ids=str)
def test_a_new_process_continues_bitwise(case, rng, tmp_path):
    params = [parameter(rng.standard_normal(shape).astype(np.float32)) for shape in [(30, 40), (7,), ()]]
    optimizer = case.make(params)
    for _ in range(5):
        set_gradients(params, rng)
        optimizer.step()
    tensors, text = through_json(optimizer.state_dict())
    np.savez(tmp_path / "tensors.npz", **tensors, **{f"p{i}": p.data for i, p in enumerate(params)})
    plain = {**json.loads(text), "kind": case.kind.__name__, "count": len(params)}
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    generator = np.random.default_rng(7)
    for _ in range(4):
        for p in params:
            p.grad = p.data * p.dtype.type(0.3) + np.asarray(generator.standard_normal(p.shape)).astype(p.dtype)
        optimizer.step()
    end = np.load(tmp_path / "end.npz")
    assert_same(arrays(params), [end[name] for name in end.files])


def test_a_saved_state_is_a_copy(rng):
    params = parameters(rng)
    optimizer = Adam(params)
    train(optimizer, params, 2)
    saved = optimizer.state_dict()
    before = saved["state"]["0"]["m"].data.copy()
    train(optimizer, params, 2)
    assert_same([saved["state"]["0"]["m"].data], [before])
    optimizer.load_state_dict(saved)
    train(optimizer, params, 2)
    assert_same([saved["state"]["0"]["m"].data], [before])


def spoiled(change):
    def make(state):
        state = copy.deepcopy(state)
        change(state)
        return state

    return make


SPOILED = [
    (spoiled(lambda s: s.pop("state")), "steps, state and param_groups"),
    (spoiled(lambda s: s["param_groups"].append({})), "it has 2 parameter groups and the optimizer 1"),
    (spoiled(lambda s: s["param_groups"][0]["names"].pop()), r"doesn't match the size .*missing \['b'\]"),
    (spoiled(lambda s: s["param_groups"][0].update(names=["w", "c"])), r"missing \['b'\], unexpected \['c'\]"),
    (spoiled(lambda s: s["state"].update(z={"t": 1})), r"state of unknown parameters \['z'\]"),
    (spoiled(lambda s: s["state"].update(w=3)), "w: must be a dictionary, got int"),
    (spoiled(lambda s: s["state"]["w"].pop("m")), r"w: missing \['m'\], unexpected \[\]"),
    (spoiled(lambda s: s["state"]["w"].update(x=1)), r"w: missing \[\], unexpected \['x'\]"),
    (spoiled(lambda s: s["state"]["w"].update(m=np.ones(3))), r"w\.m: shape \(3,\), must be \(2, 2\)"),
    (spoiled(lambda s: s["state"]["b"].update(v=np.ones(2, "f4"))), "b.v: dtype float32, the parameter has float64"),
    (spoiled(lambda s: s["state"]["b"].update(v=[1.0, 2.0])), "b.v: must be an array, got list"),
    (spoiled(lambda s: s["state"]["b"].update(t=0)), "b: t must be an int >= 1, got 0"),
    (spoiled(lambda s: s.update(steps=-1)), "steps must be an int >= 0"),
    (spoiled(lambda s: s["param_groups"][0].update(lr=-1.0)), "lr must be a finite number >= 0, got lr=-1.0"),
    (spoiled(lambda s: s["param_groups"][0].pop("betas")), r"options missing \['betas'\]"),
    (spoiled(lambda s: s["param_groups"][0].update(rho=1)), r"unexpected options \['rho'\]"),
    (spoiled(lambda s: s["param_groups"][0].update(schedules={"lr": "OneCycle"})), "schedules .*hyper='current'"),
    (spoiled(lambda s: (s["state"]["w"].update(t=0), s["state"]["b"].update(m=1.0))), "w: t must .*; b.m: must be"),
]


@pytest.mark.parametrize(("spoil", "match"), SPOILED, ids=range(len(SPOILED)))
def test_a_state_that_does_not_fit_is_refused_whole(spoil, match, rng):
    params = [("w", leaf(2, 2)), ("b", leaf(2))]
    optimizer = Adam(params, lr=0.1)
    train(optimizer, [p for _, p in params], 2)
    saved = spoil(optimizer.state_dict())
    train(optimizer, [p for _, p in params], 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert (after["steps"], after["param_groups"]) == (before["steps"], before["param_groups"])
    for name, entry in before["state"].items():
        for slot, x in entry.items():
            np.testing.assert_array_equal(getattr(after["state"][name][slot], "data", None) if slot != "t" else None,
                                          x.data if slot != "t" else None)  # fmt: skip


def test_state_goes_by_name_whatever_the_order(rng):
    w, b = leaf(2, 2), leaf(2)
    optimizer = Adam([("w", w), ("b", b)])
    train(optimizer, [w, b], 2)
    saved = optimizer.state_dict()
    other = Adam([("b", b), ("w", w)])
    other.load_state_dict(saved)
    for name in ("w", "b"):
        assert_same([other.state[name]["m"]], [optimizer.state[name]["m"]])


def test_loading_can_keep_the_options_of_this_optimizer(rng):
    w = leaf(2)
    optimizer = Adam([w], lr=0.1)
    train(optimizer, [w], 2)
    other = Adam([w], lr=0.5)
    other.load_state_dict(optimizer.state_dict(), hyper="current")
    assert (other.param_groups[0]["lr"], other.state["0"]["t"]) == (0.5, 2)
    with pytest.raises(ValueError, match="hyper must be 'saved' or 'current', got hyper='mine'"):
        other.load_state_dict(optimizer.state_dict(), hyper="mine")


def test_a_state_saved_on_the_cpu_continues_on_the_gpu(rng, fake_cuda):
    w = leaf(3)
    optimizer = Adam([w], lr=0.1)
    train(optimizer, [w], 2)
    u = parameter(w.data.copy(), "cuda:0")
    other = Adam([u])
    other.load_state_dict(optimizer.state_dict())
    w.grad = np.ones(3)
    u.grad = md.engine.backend.to_device(np.ones(3), "cuda:0")
    optimizer.step()
    other.step()
    assert_same([to_numpy(u.data)], [w.data])


def pickled(x):
    return pickle.loads(pickle.dumps(x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("case", VARIED, ids=str)
def test_a_copied_optimizer_goes_its_own_way(case, duplicate, rng):
    params = parameters(rng)
    optimizer = case.kind(params, **{**case.options, "lr": Halving(0.1)})
    train(optimizer, params, 3)
    other, others = duplicate((optimizer, params))
    assert other.param_groups[0]["params"][0] is others[0]
    before = arrays(params)
    whole = train(other, others, 3, seed=2)
    assert_same(arrays(params), before)
    assert_same(train(optimizer, params, 3, seed=2), whole)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


# ---- optimizers of the user's own ------------------------------------------------------------------------------------


class Lars(Optimizer):
    """Layer-wise steps: the size of a step is a fraction of the norm of its parameter."""

    slots = ("b",)

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update(self, xp, theta, g, b, *, lr):
        b = 0.9 * b + segment_norm(theta) / (segment_norm(g) + 1e-9) * g
        return theta - lr * b, b


class Normalized(Optimizer):
    """One step size for all: divided by the norm of the whole gradient."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update(self, xp, theta, g, *, lr):
        return theta - lr * g / total_dot(g, g) ** 0.5


class RowScaled(Optimizer):
    """A method for matrices with a slot of another shape: Adagrad with one sum for each row."""

    slots = ("rows",)

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def initial(self, slot, group, theta):
        return np.zeros(theta.shape[:1])

    def update_tensor(self, xp, theta, g, rows, *, lr):
        rows = rows + (g * g).reshape(len(g), -1).sum(1)
        return theta - lr * g / xp.sqrt(rows)[(...,) + (None,) * (g.ndim - 1)], rows


class FromStart(Optimizer):
    """A slot that starts as the parameter itself."""

    slots = ("start",)

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def initial(self, slot, group, theta):
        return theta

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update(self, xp, theta, g, start, *, lr):
        return theta - lr * (g + theta - start), start


def test_norms_of_parameters_and_of_everything_work_across_groups_and_dtypes(rng):
    params = [leaf(3, 2), leaf(4), parameter(rng.standard_normal((2, 2)).astype(np.float32).T)]
    grads = [rng.standard_normal(p.shape).astype(p.dtype) for p in params]
    before = arrays(params)
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    Lars(params).step()
    for p, x, g in zip(params, before, grads, strict=True):
        want = x - 0.1 * np.linalg.norm(x) / np.linalg.norm(g) * g
        np.testing.assert_allclose(p.data, want, rtol=1e-5 if p.dtype == np.float32 else 1e-8)
    before = arrays(params)
    Normalized([{"params": params[:1]}, {"params": params[1:], "lr": 0.2}]).step()
    size = math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in grads))
    for p, x, g, lr in zip(params, before, grads, (0.1, 0.2, 0.2), strict=True):
        np.testing.assert_allclose(p.data, x - lr * g / size, rtol=1e-6)  # the sum over float32 is one of float32


def test_a_matrix_method_keeps_slots_of_its_own_shape_and_can_be_resumed(rng):
    params = [parameter(rng.standard_normal((4, 3)).T), leaf(5)]
    others = copy.deepcopy(params)
    optimizer, first = RowScaled(params), RowScaled(others)
    x, rows = arrays(params), [np.zeros(3), np.zeros(5)]
    generator = np.random.default_rng(1)
    for _ in range(4):
        set_gradients(params, generator)
        for k, p in enumerate(params):
            g = p.grad.data
            rows[k] += (g * g).reshape(len(g), -1).sum(1)
            x[k] = x[k] - 0.1 * g / np.sqrt(rows[k]).reshape(-1, *[1] * (g.ndim - 1))
        optimizer.step()
    for p, want, r, entry in zip(params, x, rows, optimizer.state.values(), strict=True):
        np.testing.assert_allclose(p.data, want, rtol=1e-12)
        np.testing.assert_allclose(entry["rows"], r, rtol=1e-12)
    train(first, others, 2)
    second = RowScaled(others)
    second.load_state_dict(first.state_dict())
    assert second.state["0"]["rows"].shape == (3,)
    state = first.state_dict()
    state["state"]["0"]["rows"] = np.ones(4)
    with pytest.raises(ValueError, match=r"0\.rows: shape \(4,\), must be \(3,\)"):
        second.load_state_dict(state)
    with pytest.raises(TypeError, match="update_tensor runs as it is written"):
        second.program()


def test_a_matrix_method_that_returns_other_shapes_is_refused_and_nothing_moves():
    class Wrong(RowScaled):
        def update_tensor(self, xp, theta, g, rows, *, lr):
            return theta[:1], rows

    w = leaf(3, 2)
    w.grad = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"shapes \[\(3, 2\), \(3,\)\], got \[\(1, 2\), \(3,\)\]"):
        Wrong([w]).step()
    np.testing.assert_array_equal(w.data, 1.0)


def test_a_slot_may_start_as_the_parameter_at_its_first_step(rng):
    w = leaf(3)
    optimizer = FromStart([w])
    w.data[...] = 2.0  # after the optimizer was made, before it moves
    w.grad = np.ones(3)
    optimizer.program()
    w.data[...] = 3.0
    optimizer.step()
    np.testing.assert_array_equal(optimizer.state["0"]["start"], 3.0)
    np.testing.assert_allclose(w.data, 2.9)


def test_a_formula_that_branches_on_a_number_is_refused_at_the_first_step():
    class Wrong(FromStart):
        def update(self, xp, theta, g, start, *, lr):
            return (theta - g, start) if lr > 0.5 else (theta, start)

    w = leaf(2)
    w.grad = np.ones(2)
    with pytest.raises(TypeError, match=r"Wrong\.update: greater compares only numbers; compare them in scalars\(\)"):
        Wrong([w]).step()


def test_an_optimizer_without_scalars_says_so():
    w = leaf(2)
    w.grad = np.ones(2)
    with pytest.raises(NotImplementedError, match=r"Optimizer: an optimizer defines scalars\(group, t\)"):
        Optimizer([w]).step()
