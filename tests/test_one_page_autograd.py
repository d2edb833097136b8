"""The one-page example: right by closed forms, and a second, independent reference for the engine."""

from __future__ import annotations

import importlib.util
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

import minidl as md

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "one_page_autograd.py"


def load_example():
    """Import the example from its file: the examples are scripts, not a package."""
    spec = importlib.util.spec_from_file_location("one_page_autograd", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


page = load_example()
Value = page.Value


# ---- against closed forms ----------------------------------------------------------------------------------------


CLOSED_FORMS = [
    ("x + x", lambda x: x + x, lambda x: 2.0),
    ("3 - x", lambda x: 3.0 - x, lambda x: -1.0),
    ("x * x * x", lambda x: x * x * x, lambda x: 3 * x**2),
    ("x ** 2.5", lambda x: x**2.5, lambda x: 2.5 * x**1.5),
    ("x ** 0", lambda x: x**0, lambda x: 0.0),
    ("1 / x", lambda x: 1.0 / x, lambda x: -1 / x**2),
    ("x / (x + 1)", lambda x: x / (x + 1.0), lambda x: 1 / (x + 1) ** 2),
    ("exp", lambda x: x.exp(), math.exp),
    ("log", lambda x: x.log(), lambda x: 1 / x),
    ("tanh", lambda x: x.tanh(), lambda x: 1 / math.cosh(x) ** 2),
    ("relu", lambda x: x.relu(), lambda x: 1.0),
    ("relu(-x)", lambda x: (-x).relu(), lambda x: 0.0),
    ("log(1 + exp(x))", lambda x: (1.0 + x.exp()).log(), lambda x: 1 / (1 + math.exp(-x))),
]


@pytest.mark.parametrize(("f", "derivative"), [c[1:] for c in CLOSED_FORMS], ids=[c[0] for c in CLOSED_FORMS])
@pytest.mark.parametrize("x", [0.3, 1.0, 2.7])
def test_each_rule_gives_the_derivative_known_in_closed_form(f, derivative, x):
    leaf = Value(x)
    f(leaf).backward()
    assert leaf.grad == pytest.approx(derivative(x), rel=1e-14, abs=1e-15)


def test_a_gradient_is_the_sum_over_all_paths_also_when_they_have_different_lengths():
    x = Value(2.0)
    square = x * x
    (square * square + square * x + x).backward()  # x^4 + x^3 + x
    assert x.grad == 4 * 8 + 3 * 4 + 1
    assert square.grad == 2 * 4 + 2


def test_backward_starts_from_zero_each_time():
    x = Value(3.0)
    y = x * x
    y.backward()
    y.backward()
    assert x.grad == 6.0


def test_powers_and_relu_have_a_derivative_at_zero():
    for f, expected in ((lambda x: x**0, 0.0), (lambda x: x**1, 1.0), (lambda x: x**2, 0.0), (Value.relu, 0.0)):
        x = Value(0.0)
        f(x).backward()
        assert x.grad == expected


def test_a_chain_of_100_000_values_needs_no_recursion():
    x = Value(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert (y.data, x.grad) == (100_001.0, 1.0)


def test_a_shared_value_is_visited_once_however_many_paths_lead_to_it():
    x = Value(1.0)
    y = x
    for _ in range(60):
        y = y + y  # 2^60 paths from y to x
    y.backward()
    assert x.grad == 2.0**60


def test_the_network_gradient_agrees_with_central_differences():
    draw = random.Random(1)
    numbers = [draw.uniform(-1, 1) for _ in range(13)]
    weights = [Value(n) for n in numbers]
    page.xor_loss(*weights).backward()
    for i, weight in enumerate(weights):
        assert weight.grad == pytest.approx(page.central_difference(page.xor_loss, numbers, i), rel=1e-8, abs=1e-9)


def test_training_learns_exclusive_or():
    weights, losses = page.train()
    assert losses[0] > 0.5
    assert page.xor_loss(*weights).data < 1e-6
    assert all(round(page.network(weights, case).data) == target for case, target in page.XOR)


def test_the_script_prints_numbers_that_agree():
    run = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=60, check=True)
    lines = [line for line in run.stdout.splitlines() if "central difference " in line]
    assert len(lines) == 2
    for line in lines:
        backward, difference = line.partition("backward ")[2].split(", central difference ")
        assert float(backward) == pytest.approx(float(difference), abs=2e-9)
    assert run.stderr == ""


# ---- as a second reference for the engine ------------------------------------------------------------------------

# One text for both: a Value has these as methods, a Tensor through minidl's functions.
UNARY = {
    "exp": (Value.exp, lambda t: md.exp(t)),
    "log": (Value.log, lambda t: md.log(t)),
    "tanh": (Value.tanh, lambda t: md.tanh(t)),
    "relu": (Value.relu, lambda t: md.nn.functional.relu(t)),
    "square": (lambda v: v**2, lambda t: t**2),
    "negate": (lambda v: -v, lambda t: -t),
    "reciprocal": (lambda v: 1.0 / v, lambda t: 1.0 / t),
    "shift": (lambda v: 0.5 - v, lambda t: 0.5 - t),
}
BINARY = ("+", "-", "*", "/")


def random_graph(seed: int, leaves: int = 3, size: int = 25) -> tuple[list[float], list[tuple]]:
    """Draw leaf numbers and a list of steps (operation, operands) whose values stay of moderate size.

    Operands are drawn among all earlier values, so values are shared, and some lead nowhere.
    """
    draw = random.Random(seed)
    numbers = [draw.uniform(-2.0, 2.0) for _ in range(leaves)]
    values = [Value(n) for n in numbers]
    steps: list[tuple] = []
    while len(steps) < size:
        if draw.random() < 0.5:
            step = (draw.choice(list(UNARY)), draw.randrange(len(values)))
        else:
            step = (draw.choice(BINARY), draw.randrange(len(values)), draw.randrange(len(values)))
        first, last = values[step[1]].data, values[step[-1]].data
        if (step[0] == "log" and first < 0.05) or (step[0] in ("/", "reciprocal") and abs(last) < 0.05):
            continue  # outside the domain, or so near its edge that rounding grows
        result = apply_step(step, values, of_page=True)
        if 1e-3 < abs(result.data) < 20.0:
            steps.append(step)
            values.append(result)
    return numbers, steps


def apply_step(step: tuple, values: list, of_page: bool):
    """Apply one step of a random graph to Values or to Tensors."""
    name, a, b = step[0], values[step[1]], values[step[-1]]
    if name in UNARY:
        return UNARY[name][0 if of_page else 1](a)
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[name]()


def run_graph(leaves: list, steps: list[tuple], of_page: bool):
    """Return all values of a random graph; the last is the sum of its five newest."""
    values = list(leaves)
    for step in steps:
        values.append(apply_step(step, values, of_page))
    newest = values[-5:]
    return [*values, newest[0] + newest[1] + newest[2] + newest[3] + newest[4]]


@pytest.mark.parametrize("seed", range(60))
def test_the_engine_and_the_page_agree_on_random_scalar_graphs(seed):
    numbers, steps = random_graph(seed)
    ours = [Value(n) for n in numbers]
    values = run_graph(ours, steps, of_page=True)
    values[-1].backward()

    leaves = [md.tensor(n, dtype="float64", requires_grad=True) for n in numbers]
    tensors = run_graph(leaves, steps, of_page=False)
    tensors[-1].backward()

    for value, tensor in zip(values, tensors, strict=True):
        assert tensor.item() == pytest.approx(value.data, rel=1e-12, abs=1e-12)
    # Gradients are sums of products that may cancel: compare to the size of the largest gradient on the page.
    scale = max(1.0, *(abs(v.grad) for v in values))
    for value, leaf in zip(ours, leaves, strict=True):
        found = 0.0 if leaf.grad is None else leaf.grad.item()
        assert found == pytest.approx(value.grad, rel=1e-12, abs=1e-12 * scale)


def test_the_random_graphs_use_every_operation_and_share_values():
    names: set[str] = set()
    shared = 0
    for seed in range(60):
        _, steps = random_graph(seed)
        names.update(step[0] for step in steps)
        operands = [i for step in steps for i in set(step[1:])]
        shared += len(operands) != len(set(operands))
    assert names == {*UNARY, *BINARY}
    assert shared == 60


def test_the_engine_and_the_page_agree_on_the_network_and_its_loss():
    draw = random.Random(3)
    numbers = [draw.uniform(-1, 1) for _ in range(13)]
    weights = [Value(n) for n in numbers]
    page.xor_loss(*weights).backward()

    w = md.tensor(numbers, dtype="float64", requires_grad=True)
    inputs = md.tensor([case for case, _ in page.XOR], dtype="float64")
    targets = md.tensor([target for _, target in page.XOR], dtype="float64")
    units = w[1:].reshape(3, 4)  # rows a, b, c, v
    out = w[0] + md.tanh(inputs @ units[:, :2].T + units[:, 2]) @ units[:, 3]
    loss = ((out - targets) ** 2).sum()
    loss.backward()
    assert loss.item() == pytest.approx(page.xor_loss(*weights).data, rel=1e-12)
    assert w.grad.numpy().tolist() == pytest.approx([v.grad for v in weights], rel=1e-12, abs=1e-13)
