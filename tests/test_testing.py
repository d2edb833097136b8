"""The batteries for users: each truth finds what breaks it, and what is right passes."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import Op, nn
from minidl.testing import assert_close, check_module, check_op, modules, operations

X = np.array([0.5, -2.0, 1.5])

# ---- assert_close ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (md.tensor([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf], "f")),
        (md.tensor([1.0], requires_grad=True), [1.0]),
        (2, md.tensor(2)),
        (0.1 + 0.2, 0.3),
        (np.array([True, False]), md.tensor([True, False])),
        ({"a": (1.0, [md.zeros(2)])}, {"a": [1.0, (np.zeros(2, "f"),)]}),
        (md.zeros(0, 3), np.zeros((0, 3), "f")),
    ],
)
def test_equal_things_are_close(actual, expected):
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected", "text"),
    [
        (md.tensor([1.0, 2.0]), md.tensor([1.0, 2.1]), r"value: 2.0, expected 2.09.* 1 of 2 .* at \(1,\)"),
        (md.zeros(2), md.zeros(2, 1), r"shape \(2,\), expected \(2, 1\)"),
        (md.zeros(2), np.zeros(2), "dtype float32, expected float64"),
        (md.tensor(np.nan), md.tensor(1.0), "nan, expected 1.0"),
        (md.tensor(np.inf), md.tensor(-np.inf), "inf, expected -inf"),
        (np.array([2**53]), np.array([2**53 + 1]), "9007199254740992, expected 9007199254740993"),
        ((1.0, 2.0), (1.0, 3.0), r"value\[1\]: 2.0, expected 3.0"),
        ({"a": 1.0}, {"b": 1.0}, r"has the parts \['a'\], expected \['b'\]"),
        (md.zeros(2), {"a": 0.0}, "Tensor, expected several"),
    ],
)
def test_what_differs_is_told_and_where(actual, expected, text):
    with pytest.raises(AssertionError, match=text):
        assert_close(actual, expected)


def test_tolerances_follow_the_dtype_and_can_be_given():
    for dtype, near, far in (("float16", 1e-4, 1e-2), ("float32", 1e-7, 1e-4), ("float64", 1e-8, 1e-6)):
        one = np.ones(1, dtype)
        assert_close(one + np.asarray(near, dtype), one)
        with pytest.raises(AssertionError, match="rtol"):
            assert_close(one + np.asarray(far, dtype), one)
        assert_close(one + np.asarray(far, dtype), one, rtol=0.1)


# ---- check_op ----------------------------------------------------------------------------------------------------


def cube(forward=lambda xp, x: x * x * x, rule=lambda g, out, x: 3 * g * x * x, saves="x", **more):
    return Op(forward, rule, saves=saves, name="cube", **more)


def test_a_right_operation_passes():
    check_op(cube(), X, reference=lambda x: x**3)
    check_op(cube(samplewise=True, into=lambda xp, out, x: xp.multiply(x * x, x, out=out)), X)
    check_op(md.matmul, np.ones((2, 3)), np.arange(6.0).reshape(3, 2), reference=np.matmul)
    check_op(lambda x, axis: md.softmax(x, axis=axis) * 2, np.ones((2, 3)), axis=0, float16=False)
    check_op(md.argmax, X, order=0, reference=np.argmax)
    check_op(lambda x, i: x[i], X, np.array([0, 2, 2]))


kept = []


def keep(x):
    kept.append(x)
    return x * x


def record(x):
    with md.enable_grad():
        return x * x


def write(xp, x):
    out = x * x * x
    x[:1] = 0
    return out


BROKEN = {
    "derivative": (cube(rule=lambda g, out, x: 3 * g * x), "order 1: derivative"),
    "second derivative": (cube(rule=lambda g, out, x: 3 * g * getattr(x, "array", x) ** 2), "order 2: derivative"),
    "dtype": (cube(lambda xp, x: x * x * x * xp.ones(1)), "float16 gave float64"),
    "input": (cube(write), "an input was written into"),
    "kind of the result": (lambda x: [1.0, 2.0] if isinstance(x, np.ndarray) else x * x, "2 results for arrays"),
    "value": (cube(lambda xp, x: x * x * abs(x)), "value: 8.0, expected -8.0"),
    "layout": (cube(lambda xp, x: np.frombuffer(x.tobytes("A"), x.dtype).reshape(x.shape) ** 3), "that is F-ordered"),
    "memory": (keep, "the graph outlived its result"),
    "samples": (
        Op(lambda xp, x: x - x.mean(), lambda g, out, x: g - md.mean(g), samplewise=True, name="centred"),
        "rows beyond the changed one of input 0",
    ),
    "into": (cube(into=lambda xp, out, x: xp.multiply(x, x, out=out)), "Computing into an existing array"),
    "constants": (record, "something was recorded under no_grad"),
    "ownership": (Op(lambda xp, x: x + 0, lambda g, out, x: np.broadcast_to(g.ravel()[0], g.shape)), "order 1"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_operation_is_found(what):
    op, message = BROKEN[what]
    reference = (lambda x: x**3) if what == "value" else None
    with pytest.raises(AssertionError, match=message):
        check_op(op, np.array([[0.5, -2.0], [1.5, 0.25]]), reference=reference)
    kept.clear()


def test_the_message_says_which_truth_fails():
    with pytest.raises(AssertionError, match="^The derivatives are those of central differences.*order 1: derivative"):
        check_op(BROKEN["derivative"][0], X)
    with pytest.raises(AssertionError, match="^Computing into an existing array gives the same numbers: "):
        check_op(BROKEN["into"][0], X)


def test_every_truth_of_operations_is_asked_or_left_to_the_library():
    named = {
        f for name, f in vars(operations).items() if name.startswith("check_") and f.__module__.endswith("operations")
    }
    ours = {operations.check_op, operations.check_finite, operations.check_repeated}  # at chosen inputs
    asked = {*operations.TRUTHS, operations.check_into, operations.check_device}
    assert asked | ours == named


# ---- check_module ------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """y = factor x, right; its children each break one truth."""

    def __init__(self):
        self.factor = nn.Parameter([2.0, 3.0])
        self.register_buffer("seen", md.zeros(1))

    def forward(self, x):
        return x * self.factor


class Idle(Scale):
    def forward(self, x):
        return x * 2.0


class Detached(Scale):
    def forward(self, x):
        return x * self.factor + x.detach() * 3.0


class Wide(Scale):
    def forward(self, x):
        return x * self.factor * md.ones(2, dtype="float64")


class Writing(Scale):
    def forward(self, x):
        with md.no_grad():
            x.array[...] = x.array + 1
        return x * self.factor


class Counting(Scale):
    def forward(self, x):
        with md.no_grad():
            self.seen += 1
        return x * self.factor


class Drawing(Scale):
    def forward(self, x):
        return nn.functional.dropout(x * self.factor, 0.5, training=True)


class Keeping(Scale):
    def forward(self, x):
        self.last = [x * self.factor]
        return self.last[0]


class Sharing(Scale):
    def __deepcopy__(self, memo):
        return self


class Unsaved(Scale):
    """Its buffer of values that count is not part of the state."""

    def __init__(self):
        super().__init__()
        self.hidden = [0.0]

    def forward(self, x):
        self.hidden = [self.hidden[0] + 1]
        return x * self.factor * self.hidden[0]


class Local(Scale):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x

    def forward(self, x):
        return self.function(x * self.factor)


BROKEN_MODULES = {
    Idle: "takes part in the result: no gradient reaches factor",
    Detached: "central differences",
    Wide: "float32 gave float64",
    Writing: "(written|gradient of input 1)",
    Counting: "a buffer changed",
    Drawing: "random numbers are drawn",
    Keeping: "A deep copy and a pickled copy .*operation made this tensor",
    Sharing: "(a copy shares memory|float32)",
    Unsaved: "differs between two runs",
    Local: "A deep copy and a pickled copy .*local object",
}


@pytest.mark.parametrize("kind", BROKEN_MODULES, ids=lambda kind: kind.__name__)
def test_a_broken_module_is_found(kind):
    x = np.random.default_rng(0).standard_normal((3, 2))
    with pytest.raises(AssertionError, match=BROKEN_MODULES[kind]):
        check_module(kind(), x)


def test_a_right_module_passes_and_is_not_touched():
    x = np.random.default_rng(0).standard_normal((3, 2))
    model = nn.Sequential(Scale(), nn.BatchNorm1d(2), nn.Dropout(0.3))
    before, drawn = {k: t.tolist() for k, t in model.state_dict().items()}, md.random.get_state()
    check_module(model, x, order=3)
    assert {k: t.tolist() for k, t in model.state_dict().items()} == before
    assert model[0].factor.dtype == np.float32
    assert model.training
    assert md.random.get_state() == drawn


def test_modules_of_several_inputs_and_results_integers_and_lists_of_parameters_pass():
    class Mixed(nn.Module):
        def __init__(self):
            self.parts = {"a": [nn.Parameter([1.0, 2.0])], "b": nn.Embedding(4, 2)}

        def forward(self, x, i):
            y = x * self.parts["a"][0] + self.parts["b"](i)
            return {"y": y, "more": (y * y, None, i)}

    rng = np.random.default_rng(0)
    for truth in modules.TRUTHS:
        if truth is not modules.check_copies:  # a class inside a function cannot be pickled
            truth(Mixed().double(), [rng.standard_normal((3, 2)), rng.integers(0, 4, 3)])
    check_module(nn.Flatten(), rng.integers(0, 4, (3, 2, 2)))


def test_a_module_is_asked_on_the_device_too(fake_cuda):
    modules.check_device(nn.Linear(2, 3).double(), [np.ones((4, 2))])


def test_testing_is_not_loaded_with_the_library():
    import subprocess
    import sys

    code = "import minidl, sys; sys.exit('minidl.testing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_inputs_of_single_precision_are_refused_and_not_called_a_wrong_derivative():
    with pytest.raises(TypeError, match="check_module: floating inputs must be float64, got float32"):
        check_module(md.nn.Linear(3, 2), np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="check_op: floating inputs must be float64, got float32"):
        check_op(md.exp, np.ones(3, np.float32))
