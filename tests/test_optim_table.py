"""Every optimizer follows its formula, agrees with the libraries that are right, and keeps what all must keep."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys

import numpy as np
import pytest

import minidl as md
from minidl import optim
from minidl.engine import node
from minidl.engine.backend import to_device
from minidl.optim import segment as segments
from minidl.optim.groups import RULES
from optim_cases import arrays, assert_same, parameter, parameters, set_gradients, train
from optim_table import KINDS, SPECIAL, TABLE, VARIED
from optim_table_free import WRONG as WRONG_FREE

ELEMENTWISE = [case for case in VARIED if case.scope == "element"]


def test_every_optimizer_has_a_case():
    public = {x for x in vars(optim).values() if isinstance(x, type) and issubclass(x, optim.Optimizer)}
    older = {optim.Optimizer, optim.SGD}  # SGD: all of its options are in test_optim.py
    assert public - older - {*KINDS} - {*SPECIAL} == set()
    assert {kind for kind in KINDS if kind.__name__ not in optim.__all__} == set()
    assert [case for case in TABLE if case.hand is None] == []


# ---- trajectories ----------------------------------------------------------------------------------------------------


def by_hand_step(case, x, g, states, t):
    """Advance a parameter and its states by the formula written as loops."""
    if case.scope == "parameter":
        x[...] = np.reshape(case.hand(x, g, states, t, **case.options), x.shape)
        return
    for i in np.ndindex(x.shape):
        x[i] = case.hand(float(x[i]), float(g[i]), states.setdefault(i, {}), t, **case.options)


def collected(case, states, shape):
    """Return the state by slot as arrays of the parameter's shape."""
    if case.scope != "element":
        return states
    slots = {slot for state in states.values() for slot in state}
    return {slot: np.array([states[i][slot] for i in np.ndindex(shape)]).reshape(shape) for slot in slots}


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_fifty_steps_follow_the_formula_written_as_loops(case, rng):
    params = parameters(rng)
    optimizer = case.make(params)
    values, states, times = arrays(params), [{} for _ in params], [0] * len(params)
    found, hidden = {}, {}  # numbers of all parameters together
    for step in range(50):
        skip = (1, 4) if step in (3, 17) else ()  # these fall behind, and keep step counts of their own
        set_gradients(params, rng, skip)
        if step == 5:
            params[0].grad = np.zeros(params[0].shape)
        for k, p in enumerate(params):
            if k not in skip:
                times[k] += 1
                if case.scope != "all":
                    by_hand_step(case, values[k], p.grad.data, states[k], times[k])
        if case.scope == "all":
            gradients = [None if p.grad is None else p.grad.data for p in params]
            case.hand(values, gradients, states, found, hidden, **case.options)
        optimizer.step()
    for k, p in enumerate(params):
        np.testing.assert_allclose(p.data, values[k], rtol=case.rtol, atol=1e-14)
        own, want = optimizer.state[str(k)], collected(case, states[k], p.shape)
        assert own["t"] == times[k]
        assert p.size == 0 or own.keys() - {"t", "mu_product"} == want.keys()
        for slot, x in want.items():
            np.testing.assert_allclose(own[slot], x, rtol=case.rtol, atol=1e-14)
    assert {name: optimizer.param_groups[0][name] for name in found} == pytest.approx(found, rel=case.rtol)


@pytest.mark.parametrize("case", [case for case in TABLE if case.torch], ids=str)
def test_forty_five_steps_equal_pytorch_with_every_entry_of_the_state(case, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # its step counts, products and rates follow the default dtype
    try:
        params = [p for i, p in enumerate(parameters(rng)) if i not in case.leave_out]
        theirs = [torch.nn.Parameter(torch.tensor(p.data.copy("C"))) for p in params]
        optimizer, other = case.make(params), getattr(torch.optim, case.torch)(theirs, **case.options, foreach=False)
        for step in range(45):
            set_gradients(params, rng, (0, 2) if step == 3 else ())
            for p, q in zip(params, theirs, strict=True):
                q.grad = None if p.grad is None else torch.tensor(p.grad.data.copy("C"))
            optimizer.step()
            other.step()
        scalars = {"step", "mu_product", "eta", "mu"}
        for k, (p, q) in enumerate(zip(params, theirs, strict=True)):
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12, atol=1e-14)
            entry = {name: x for name, x in other.state[q].items() if name not in scalars and x is not None}
            names = {"r": "variance"} if case.torch == "Adafactor" and p.ndim < 2 else case.names
            own = {names[slot]: x for slot, x in optimizer.state[str(k)].items() if slot in names}
            assert own.keys() == entry.keys()
            for name, x in own.items():
                np.testing.assert_allclose(x, entry[name].numpy(), rtol=1e-12, atol=1e-14)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jax about itself
@pytest.mark.parametrize("case", [case for case in TABLE if case.optax], ids=str)
def test_forty_five_steps_equal_optax(case, rng):
    optax = pytest.importorskip("optax", reason="optax is not installed (pip install optax)")
    jax = pytest.importorskip("jax", reason="jax is not installed (pip install jax)")
    transformation = case.optax(optax, case.options)
    with jax.enable_x64(True):
        params = [p for i, p in enumerate(parameters(rng)) if i not in case.leave_out]
        optimizer = case.make(params)
        theirs = [jax.numpy.asarray(p.data.copy()) for p in params]
        state = transformation.init(theirs)
        advance = jax.jit(transformation.update)
        for _ in range(45):
            set_gradients(params, rng)
            gradients = [jax.numpy.asarray(p.grad.data.copy()) for p in params]
            optimizer.step()
            updates, state = advance(gradients, state, theirs)
            theirs = optax.apply_updates(theirs, updates)
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p.data, np.asarray(q), rtol=case.optax_rtol, atol=1e-13)


# ---- what holds for all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_maximizing_minus_f_is_minimizing_f_bitwise(case, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    up, down = case.make(params, maximize=True), case.make(others, maximize=False)
    for _ in range(8):
        set_gradients(others, rng)
        for p, q in zip(params, others, strict=True):
            p.grad = -q.grad.data
        up.step()
        down.step()
    assert_same(arrays(params), arrays(others))


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_lr_zero_moves_nothing_or_is_refused(case, rng):
    params = parameters(rng)
    before = arrays(params)
    if case.kind in (optim.Rprop, optim.FTRL):  # the first step, which then changes by factors; divided by
        with pytest.raises(ValueError, match="lr must be a finite number > 0"):
            case.make(params, lr=0.0)
    elif case.options.get("decay") == "schedule":
        with pytest.raises(ValueError, match="initial lr, which was 0"):
            train(case.make([{"params": params, "initial_lr": 0.0}]), params, 1)
    else:
        assert_same(train(case.make(params, lr=0.0), params, 5), before)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_without_a_gradient_a_parameter_neither_moves_nor_decays_nor_gets_state(case, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = case.make(params)
    optimizer.step()
    assert_same(arrays(params), before)
    assert (optimizer.state, optimizer.steps) == ({}, 0)
    after = train(optimizer, params, 3, skip=(0, 5))
    assert_same([after[0], after[5]], [before[0], before[5]])
    assert optimizer.state.keys() == {"1", "2", "3", "4", "6"}
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for p in params:
        p.grad = None
    optimizer.step()
    assert_same(arrays(params), after)
    assert optimizer.steps == 3
    for name, entry in optimizer.state.items():
        for slot, x in entry.items():
            np.testing.assert_array_equal(x, getattr(state[name][slot], "data", state[name][slot]))


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_a_zero_gradient_without_decay_moves_nothing_at_first(case, rng):
    params = parameters(rng)
    before = arrays(params)
    scale = {optim.FTRL: 0.0, optim.Fromage: 1 / math.sqrt(1.01)}.get(case.kind, 1.0)  # from 0; shrinks at every step
    none = {name: 0.0 for name in ("weight_decay", "lambd") if name in case.make(params).defaults}
    optimizer = case.make(params, **none)
    for p in params:
        p.grad = np.zeros(p.shape)
    optimizer.step()
    assert_same(arrays(params), [scale * x for x in before])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_one_by_one_together_and_in_any_order_are_bitwise_the_same(case, dtype, rng, monkeypatch):
    params = parameters(rng, dtype)
    one, order, small = (copy.deepcopy(params) for _ in range(3))
    for p, q, r, s in zip(params, one, order, small, strict=True):
        q.data, r.data, s.data = p.data.copy("K"), p.data.copy("C"), p.data.copy("F")
    together = train(case.make(params), params, 6)
    singles = [case.make([p]) for p in one]
    generator = np.random.default_rng(1)
    for _ in range(6):
        set_gradients(one, generator)
        for optimizer in singles:
            optimizer.step()
    assert_same(arrays(one), together)
    assert_same(train(case.make(order[::-1]), order, 6), together)
    monkeypatch.setattr(segments, "BLOCK_BYTES", 32)
    monkeypatch.setattr(segments, "PACK_BYTES", 3)
    assert_same(train(case.make(small), small, 6), together)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_float32_stays_float32_in_place_and_close_to_float64(case, rng):
    params = parameters(rng, np.float32)
    others = [parameter(p.data.astype(np.float64)) for p in params]
    buffers = [p.data for p in params]
    optimizer, other = case.make(params), case.make(others)
    generator = np.random.default_rng(1)
    for _ in range(20):
        set_gradients(params, generator)
        for p, q in zip(params, others, strict=True):
            q.grad = p.grad.data.astype(np.float64)
        optimizer.step()
        other.step()
    for p, q, buffer in zip(params, others, buffers, strict=True):
        assert p.data is buffer
        assert p.dtype == np.float32
        np.testing.assert_allclose(p.data, q.data, rtol=1e-5 * math.sqrt(20), atol=2e-5)
    for entry in optimizer.state.values():
        assert all(x.dtype == np.float32 for slot, x in entry.items() if slot not in ("t", "mu_product"))


@pytest.mark.parametrize("case", [case for case in VARIED if case.scope != "all"], ids=str)  # these see all parameters
def test_float32_and_float64_may_be_mixed_in_one_optimizer(case, rng):
    params = [*parameters(rng, np.float32), *parameters(rng, np.float64)]
    alone32, alone64 = copy.deepcopy(params[:7]), copy.deepcopy(params[7:])
    optimizer, a, b = case.make(params), case.make(alone32), case.make(alone64)
    for _ in range(3):
        set_gradients(params, rng)
        for p, q in zip(params, alone32 + alone64, strict=True):
            q.grad = p.grad.data.copy()
        for each in (optimizer, a, b):
            each.step()
    # A sum over a parameter depends on the order of the gradient's memory, which a copy changes.
    for p, q in zip(params, alone32 + alone64, strict=True):
        tolerance = 0 if case.scope == "element" else 1e-5 if p.dtype == np.float32 else 1e-13
        np.testing.assert_allclose(p.data, q.data, rtol=tolerance)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_a_step_records_no_graph_and_tells_the_mutation_clock(case):
    w = md.tensor([[1.0, 2.0]], requires_grad=True)
    optimizer = case.make([w])
    (w**3).sum().backward(create_graph=True)
    before = node.written(w.array)
    optimizer.step()
    assert w.is_leaf
    assert w.requires_grad
    assert node.written(w.array) > before


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_numpy_and_the_gpu_text_agree(case, rng, fake_cuda):
    params = parameters(rng)
    others = [parameter(p.data.copy(), "cuda:0") for p in params]
    one, two = case.make(params), case.make(others)
    for _ in range(3):
        set_gradients(params, rng)
        for p, q in zip(params, others, strict=True):
            q.grad = to_device(p.grad.data.copy("C"), "cuda:0")
        one.step()
        with md.transfers(max=2 * (case.scope == "all")):  # numbers of all parameters are made on the host
            two.step()
    for a, b in zip(arrays(others), arrays(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0 if case.scope == "element" else 1e-12)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_a_copied_optimizer_goes_its_own_way(case, rng):
    params = parameters(rng)
    optimizer = case.make(params)
    train(optimizer, params, 3)
    twin = copy.deepcopy(optimizer)
    theirs = [p for group in twin.param_groups for p in group["params"]]
    middle = arrays(params)
    end = train(twin, theirs, 3, seed=5)
    assert_same(arrays(params), middle)
    assert_same(train(optimizer, params, 3, seed=5), end)


SCRIPT = """
import json, sys
import numpy as np
import minidl as md
from minidl import optim

folder = sys.argv[1]
tensors = np.load(folder + "/tensors.npz")
ends = {}
for number, plain in enumerate(json.load(open(folder + "/plain.json"))):
    params = [md.Parameter(tensors[f"{number}/p{i}"]) for i in range(3)]
    state = plain["numbers"]
    for key in tensors.files:
        first, *rest = key.split("/")
        if int(first) == number and len(rest) == 2:
            state[rest[0]][rest[1]] = tensors[key]
    optimizer = getattr(optim, plain["kind"])(params)
    optimizer.load_state_dict({"steps": plain["steps"], "state": state, "param_groups": plain["param_groups"]})
    generator = np.random.default_rng(7)
    for _ in range(4):
        for p in params:
            p.grad = p.data * p.dtype.type(0.3) + generator.standard_normal(p.shape).astype(p.dtype)
        optimizer.step()
    ends |= {f"{number}/{i}": p.data for i, p in enumerate(params)}
np.savez(folder + "/end.npz", **ends)
"""


def test_a_new_process_continues_every_optimizer_bitwise(rng, tmp_path):
    tensors, plain, ends = {}, [], {}
    for number, case in enumerate(VARIED):
        params = [parameter(rng.standard_normal(shape).astype(np.float32)) for shape in [(6, 4), (7,), (1, 2, 3)]]
        optimizer = case.make(params)
        train(optimizer, params, 5)
        saved = optimizer.state_dict()
        tensors |= {f"{number}/p{i}": p.data.copy() for i, p in enumerate(params)}
        for name, entry in saved["state"].items():
            tensors |= {f"{number}/{name}/{slot}": x.data for slot, x in entry.items() if hasattr(x, "data")}
        numbers = {
            name: {slot: x for slot, x in entry.items() if not hasattr(x, "data")}
            for name, entry in saved["state"].items()
        }
        rest = {"kind": case.kind.__name__, "steps": saved["steps"], "param_groups": saved["param_groups"]}
        plain.append({**rest, "numbers": numbers})
        generator = np.random.default_rng(7)
        for _ in range(4):
            for p in params:
                p.grad = p.data * p.dtype.type(0.3) + generator.standard_normal(p.shape).astype(p.dtype)
            optimizer.step()
        ends |= {f"{number}/{i}": p.data for i, p in enumerate(params)}
    np.savez(tmp_path / "tensors.npz", **tensors)
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    found = np.load(tmp_path / "end.npz")
    assert {*found.files} == ends.keys()
    for name, x in ends.items():
        np.testing.assert_array_equal(found[name], x, err_msg=str(VARIED[int(name.split("/")[0])]))


# ---- bad options -----------------------------------------------------------------------------------------------------

NUMBER = [math.nan, math.inf, "0.1", None, True]
WRONG = {
    "a finite number >= 0": [*NUMBER, -1e-3],
    "a finite number > 0": [*NUMBER, 0.0, -1.0],
    "a finite number <= 0": [*NUMBER, 0.1],
    "a finite number": NUMBER,
    "a number in [0, 1)": [*NUMBER, 1.0, -0.1],
    "a number in [0, 1]": [*NUMBER, 1.1, -0.1],
    "two numbers in [0, 1)": [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan), (0.9,), 0.9, None, (0.9, "0.9")],
    "two numbers in [0, 1]": [(1.1, 0.9), (0.9, -0.1), (0.9, math.nan), (0.9,), (0.9, 0.9, 0.9), 0.9, None, (0.9, "1")],
    "three numbers in [0, 1)": [(0.9, 0.9), (0.9, 0.9, 1.0), (-0.1, 0.9, 0.9), (0.9, math.nan, 0.9), 0.9, None, "abc"],
    "one or more numbers in [0, 1)": [(), (1.0,), (0.9, -0.1), (math.nan,), 0.9, None, "0.9"],
    "a number in [0, 0.5]": [*NUMBER, 0.6, -0.1],
    "a number in [0, 1], or None": [math.nan, math.inf, "0.1", True, -0.1, 1.1],
    "True or False": [1, 0, "yes", None],
    "a finite number >= 1": [*NUMBER, 0.5],
    "a finite number >= 0, or None": [math.nan, math.inf, "0.1", True, -1e-3],
    "two numbers >= 0, the first perhaps None": [(None, None), (None, -1.0), (-1.0, 0.1), (0.1,), 0.1, None],
    "three finite numbers": [(1.0, 2.0), (1.0, 2.0, math.nan), 1.0, None, "abc"],
    "'strong_wolfe' or None": ["other", 1, True],
    "an int >= 1, or None": [0, 1.0, "1", True],
    "an int >= 1": [0, 1.0, "1", None, True],
    "an int >= 0": [-1, 1.0, "1", None, True],
    "two numbers, 0 < shrink < 1 < grow": [(0.5,), (1.2, 0.5), (0.0, 1.2), (0.5, math.inf), 0.5, None],
    "two numbers > 0, the least and the largest step": [(1.0, 0.5), (0.0, 1.0), (1e-6, math.nan), 1.0, None],
    **WRONG_FREE,
}
ALL = [*KINDS, *SPECIAL]


@pytest.mark.parametrize("kind", ALL)
def test_every_option_has_a_rule_and_a_bad_value_is_named(kind):
    def leaf():
        return md.tensor(np.ones((2, 2)), requires_grad=True)

    optimizer = kind([leaf()])
    rules = {**RULES, **kind.rules}
    for name in optimizer.defaults:
        rule = rules[name].__doc__
        for value in WRONG.get(rule, ["other", None, 1, True]):
            with pytest.raises(ValueError, match=rf"^{kind.__name__}: {name} must be .*, got {name}=") as error:
                kind([{"params": [leaf()], name: value}])
            assert str(error.value).endswith(repr(value))
            before = dict(optimizer.param_groups[0])
            with pytest.raises(ValueError, match=f"got {name}="):
                optimizer.param_groups[0][name] = value
            assert dict(optimizer.param_groups[0]) == before
