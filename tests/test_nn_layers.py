"""Layers: a table of them and a battery over it; then what is particular to each.

A layer is tested by one line in CASES. `test_every_layer_is_in_the_table` fails for one that has none.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy


class Case(NamedTuple):
    kind: str
    args: tuple
    shape: tuple[int, ...]  # of the input
    options: Mapping[str, Any] = {}
    smooth: bool = True

    def make(self, device="cpu", dtype="float64"):
        """The layer, its parameters and buffers drawn at random so that nothing is special."""
        md.manual_seed(1)
        layer = getattr(nn, self.kind)(*self.args, **self.options).to(dtype)
        rng = np.random.default_rng(3)
        with md.no_grad():
            for t in (*layer.parameters(), *layer.buffers()):
                if t.dtype.kind == "f":
                    t.copy_(rng.uniform(0.5, 1.5, t.shape))
        return layer.to(device)

    def input(self, device="cpu", dtype="float64"):
        x = np.random.default_rng(2).standard_normal(self.shape)
        return md.tensor(x.astype(dtype), device=device)

    def __str__(self):
        return f"{self.kind}{self.args}{dict(self.options) or ''}-{'x'.join(map(str, self.shape))}"


CASES = [
    Case("Linear", (4, 3), (5, 4)),
    Case("Linear", (4, 3), (2, 5, 4)),
    Case("Linear", (4, 3), (4,)),
    Case("Linear", (4, 3), (5, 4), {"bias": False}),
    Case("Linear", (1, 1), (1, 1)),
    Case("Flatten", (), (2, 3, 4)),
    Case("Flatten", (0, 1), (2, 3, 4)),
    Case("Identity", (), (2, 3)),
    Case("ReLU", (), (3, 4), smooth=False),
    Case("Tanh", (), (3, 4)),
    Case("Sigmoid", (), (3, 4)),
    Case("Softmax", (), (3, 4)),
    Case("Softmax", (0,), (3, 4)),
    Case("LogSoftmax", (1,), (3, 4, 2)),
    Case("Dropout", (0.4,), (3, 40)),
    Case("BatchNorm1d", (3,), (5, 3)),
    Case("BatchNorm1d", (3,), (4, 3, 2)),
    Case("BatchNorm1d", (3,), (5, 3), {"affine": False}),
    Case("BatchNorm1d", (3,), (5, 3), {"track_running_stats": False, "eps": 0.1}),
    Case("BatchNorm1d", (3,), (5, 3), {"momentum": None}),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def pure(layer):
    """The layer as a function of its input and its parameters, the same at every call."""
    owners = [
        (layer.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in layer.parameters().names
    ]
    frozen = nn.frozen_statistics()

    def function(x, *values):
        for (module, name), value in zip(owners, values, strict=True):
            vars(module)[name] = value
        with frozen:
            return layer(x)

    return function


# ---- the battery -------------------------------------------------------------------------------------------------


def test_every_layer_is_in_the_table():
    not_layers = {
        "Module",
        "Sequential",
        "ModuleList",
        "ModuleDict",
        "CrossEntropyLoss",
        "MSELoss",
    }  # tests of their own
    classes = {name for name in nn.__all__ if inspect.isclass(getattr(nn, name))}
    layers = {name for name in classes if issubclass(getattr(nn, name), nn.Module)} - not_layers
    assert layers == {case.kind for case in CASES}


@each_case
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_derivatives_to_the_third_order_agree_with_differences(case, mode):
    layer = case.make().train(mode == "train")
    md.check_grad(pure(layer), [case.input(), *(p.detach() for p in layer.parameters())], order=3 if case.smooth else 2)


@each_case
def test_float32_stays_float32(case):
    layer, x = case.make(dtype="float32"), case.input(dtype="float32").requires_grad_()
    out = layer(x)
    out.sum().backward()
    assert {t.dtype for t in (out, x.grad, *(p.grad for p in layer.parameters()))} == {np.dtype("float32")}
    assert {b.dtype for b in layer.buffers()} <= {np.dtype("float32"), np.dtype("int64")}


@each_case
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_gpu_gives_the_same_without_a_transfer(case, mode, fake_cuda):
    results = []
    for device in ("cpu", "cuda:0"):
        layer, x = case.make(device).train(mode == "train"), case.input(device).requires_grad_()
        md.manual_seed(0)
        with md.transfers(max=case.kind == "Dropout" and mode == "train"):  # the mask is drawn on the host
            out = layer(x)
            (out * out).sum().backward()
        assert out.device == x.grad.device == device
        tensors = [out, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]
        results.append([to_numpy(t.array) for t in tensors])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@each_case
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_computes_the_same(case, copied):
    layer = case.make()
    other = copied(layer)
    results = []
    for one in (layer, other):
        md.manual_seed(5)
        results.append(one(case.input()).detach().numpy())
    assert np.array_equal(*results)
    assert all(map(np.array_equal, [b.data for b in layer.buffers()], [b.data for b in other.buffers()]))


@each_case
def test_an_array_gives_the_same_values_as_a_tensor(case):
    layer = case.make().eval()
    assert np.array_equal(to_numpy(md.tensor(layer(case.input().numpy())).array), layer(case.input()).detach().numpy())


@each_case
def test_the_text_of_a_layer_is_the_call_that_makes_it(case):
    text = repr(case.make()).partition("  #")[0]
    again = eval(f"nn.{text}", {"nn": nn})
    assert repr(again).partition("  #")[0] == text


@pytest.mark.parametrize("case", [case for case in CASES if case.options.get("track_running_stats", True)], ids=str)
def test_in_evaluation_a_batch_of_one_works_and_nothing_is_changed_or_drawn(case):
    layer = case.make().eval()
    before = {name: b.data.copy() for name, b in layer.named_buffers()}
    drawn = md.random.get_state()
    with md.no_grad():
        layer(case.input()[:1] if len(case.shape) > 1 else case.input())
    assert all(np.array_equal(b.data, before[name]) for name, b in layer.named_buffers())
    assert md.random.get_state() == drawn


# ---- Linear ------------------------------------------------------------------------------------------------------


def test_linear_with_the_wrong_number_of_features_names_the_layer_and_both_numbers():
    layer = nn.Linear(784, 10)
    with pytest.raises(
        ValueError, match=r"Linear\(in_features=784, out_features=10, bias=True\): expected 784 .*\(32, 100\)"
    ):
        layer(md.ones(32, 100))
    with pytest.raises(ValueError, match=r"expected 784 input features .* got shape \(\)"):
        layer(md.tensor(1.0))


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_linear_refuses_another_dtype_naming_both_and_the_remedies(dtype):
    x = md.ones(2, 4).astype(dtype)
    with pytest.raises(
        TypeError, match=rf"Linear\(.*the input is {dtype} and the layer float32; use x.astype\('float32'\)"
    ):
        nn.Linear(4, 1)(x)


def test_linear_on_two_devices_names_both(fake_cuda):
    with pytest.raises(TypeError, match="linear.*cpu.*cuda:0|linear.*cuda:0.*cpu"):
        nn.Linear(4, 1, device="cuda")(md.ones(2, 4))
    assert nn.Linear(4, 1).cuda()(md.ones(2, 4, device="cuda")).device == "cuda:0"


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-1, 1), (2.5, 1), (True, 1), ("3", 1), (None, 1)])
def test_sizes_are_positive_integers(sizes):
    with pytest.raises(ValueError, match=r"Linear: (in|out)_features must be an integer of at least 1, got"):
        nn.Linear(*sizes)


def test_linear_takes_a_device_and_a_dtype(fake_cuda):
    layer = nn.Linear(3, 2, device="cuda", dtype="float64")
    assert {(p.device, str(p.dtype)) for p in layer.parameters()} == {("cuda:0", "float64")}


def test_a_float64_layer_starts_from_the_numbers_of_a_float32_one():
    md.manual_seed(3)
    single = nn.Linear(5, 4)
    md.manual_seed(3)
    double = nn.Linear(5, 4, dtype="float64")
    assert np.array_equal(single.weight.data, double.weight.data.astype("float32"))


def test_the_weight_lies_in_memory_as_it_is_read_and_stays_so():
    layer = nn.Linear(6, 4)
    kept = {
        "new": layer,
        "deepcopy": copy.deepcopy(layer),
        "pickle": pickle.loads(pickle.dumps(layer)),
        "copy in a model": copy.deepcopy(nn.Sequential(layer))[0],
        "double": copy.deepcopy(layer).double(),
    }
    loaded = nn.Linear(6, 4)
    loaded.load_state_dict(layer.state_dict())
    kept["loaded"] = loaded
    for how, one in kept.items():
        assert one.weight.shape == (4, 6)
        assert one.weight.data.T.flags.c_contiguous, how
        assert np.array_equal(one.weight.data.astype("float32"), layer.weight.data), how


def test_the_order_of_the_weight_in_memory_survives_a_gpu(fake_cuda):
    layer = nn.Linear(6, 4)
    values = layer.weight.data.copy()
    assert layer.cuda().weight.data.flags.f_contiguous
    assert copy.deepcopy(layer).weight.data.flags.f_contiguous
    assert layer.cpu().weight.data.flags.f_contiguous
    assert np.array_equal(layer.weight.data, values)


def test_training_a_copied_or_reloaded_layer_gives_what_training_the_original_gives():
    x = md.randn(8, 6)
    layer = nn.Linear(6, 4)
    other = copy.deepcopy(layer)
    other.weight.data = np.ascontiguousarray(other.weight.data)  # another order in memory: other speed, same numbers
    for one in (layer, other):
        optimizer = md.optim.Adam(one.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (one(x) ** 2).sum().backward()
            optimizer.step()
    np.testing.assert_allclose(layer.weight.data, other.weight.data, rtol=1e-5, atol=1e-6)


# ---- the others --------------------------------------------------------------------------------------------------


def test_flatten_handles_empty_batches_and_says_what_is_wrong():
    assert nn.Flatten()(md.zeros(0, 2, 3)).shape == (0, 6)
    assert nn.Flatten()(md.zeros(2, 3)).shape == (2, 3)
    with pytest.raises(IndexError, match=r"Flatten\(start_dim=1, end_dim=-1\): axis 1 is out of bounds"):
        nn.Flatten()(md.zeros(3))
    with pytest.raises(ValueError, match=r"Flatten\(start_dim=2, end_dim=1\): start_dim must not come after end_dim"):
        nn.Flatten(2, 1)(md.zeros(3, 3, 3))


@pytest.mark.parametrize("p", [-0.1, 1.5, np.nan, "0.5", None])
def test_dropout_outside_zero_to_one_is_refused(p):
    with pytest.raises(ValueError, match=r"Dropout: p must be in \[0, 1\], got p="):
        nn.Dropout(p)


def test_dropout_is_the_identity_for_p_0_and_in_evaluation_and_zero_for_p_1():
    x = md.randn(50)
    assert nn.Dropout(0.0)(x) is x
    assert nn.Dropout(0.5).eval()(x) is x
    assert not nn.Dropout(1.0)(x).numpy().any()


def test_dropout_keeps_the_mean():
    n, p = 100_000, 0.3
    out = nn.Dropout(p)(md.ones(n)).numpy()
    assert set(np.unique(out)) == {0.0, np.float32(1 / (1 - p))}
    deviation = np.sqrt(p / (1 - p) / n)
    assert abs(out.mean(dtype=np.float64) - 1) < 5 * deviation


def test_dropout_masks_come_from_the_seed():
    layer, x = nn.Dropout(0.5), md.ones(100)
    md.manual_seed(4)
    first = [layer(x).tolist() for _ in range(2)]
    md.manual_seed(4)
    assert [layer(x).tolist() for _ in range(2)] == first
    assert first[0] != first[1]


def test_softmax_of_a_row_of_minus_infinity_is_zero_and_finite_backward():
    x = md.tensor([[-np.inf, -np.inf], [0.0, 1e4]], requires_grad=True)
    out = nn.Softmax()(x)
    out.sum().backward()
    assert out.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert np.isfinite(x.grad.numpy()).all()
