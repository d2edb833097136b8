"""Layers: a table of them and a battery over it; then what is particular to each.

A layer is tested by one line in CASES. `test_every_layer_is_in_the_table` fails for one that has none.
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.testing import modules as truths
from minidl.testing.values import results


class Case(NamedTuple):
    kind: str
    args: tuple
    shape: tuple  # of the input, or of each input
    options: Mapping[str, Any] = {}
    smooth: bool = True
    below: int | None = None  # inputs are integers below it

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

    def arrays(self):
        """The inputs: distinct numbers, further apart than a step of check_grad, and away from the integers."""
        rng = np.random.default_rng(2)
        shapes = self.shape if self.shape and isinstance(self.shape[0], tuple) else (self.shape,)
        if self.below is not None:
            return [rng.integers(0, self.below, shape) for shape in shapes]
        if self.smooth:
            return [rng.standard_normal(shape) for shape in shapes]
        return [np.asarray((rng.permutation(n := math.prod(s)).reshape(s) - n // 2) * 0.13 + 0.05) for s in shapes]

    def inputs(self, device="cpu", dtype="float64"):
        return [md.tensor(a.astype(dtype) if a.dtype.kind == "f" else a, device=device) for a in self.arrays()]

    def __str__(self):
        shapes = self.shape if self.shape and isinstance(self.shape[0], tuple) else (self.shape,)
        return f"{self.kind}{self.args}{dict(self.options) or ''}-{'-'.join('x'.join(map(str, s)) for s in shapes)}"


def attention(*shapes, **options):
    return Case("MultiheadAttention", (4, 2), shapes, options)


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
    Case("BatchNorm2d", (3,), (2, 3, 2, 2)),
    Case("BatchNorm2d", (1,), (3, 1, 1, 2), {"affine": False, "momentum": None}),
    # ---- activations
    Case("LeakyReLU", (), (3, 4), smooth=False),
    Case("LeakyReLU", (0.3,), (), smooth=False),
    Case("PReLU", (), (3, 4), smooth=False),
    Case("PReLU", (3,), (2, 3, 2), smooth=False),
    Case("PReLU", (3, 0.5), (2, 3), smooth=False),
    Case("ELU", (0.7,), (3, 4), smooth=False),
    Case("SELU", (), (3, 4), smooth=False),
    Case("CELU", (0.7,), (3, 4), smooth=False),
    Case("ReLU6", (), (3, 40), smooth=False),
    Case("Threshold", (0.25, 7.0), (3, 4), smooth=False),
    Case("Hardtanh", (), (3, 8), smooth=False),
    Case("Hardtanh", (-0.7, 0.9), (3, 8), smooth=False),
    Case("Hardsigmoid", (), (3, 20), smooth=False),
    Case("Hardswish", (), (3, 20), smooth=False),
    Case("Softplus", (), (3, 4)),
    Case("Softplus", (2.0, 1.5), (3, 4), smooth=False),
    Case("LogSigmoid", (), (3, 4)),
    Case("SiLU", (), (3, 4)),
    Case("Mish", (), (3, 4)),
    Case("GELU", (), (3, 4)),
    Case("GELU", ("tanh",), (3, 4)),
    Case("Softsign", (), (3, 4), smooth=False),
    Case("Softmin", (), (3, 4)),
    Case("Softmin", (0,), (3, 4)),
    Case("GLU", (), (3, 4)),
    Case("GLU", (0,), (4, 3)),
    # ---- convolution and pooling
    Case("Conv1d", (2, 3, 3), (2, 2, 6)),
    Case("Conv1d", (4, 6, 2), (4, 6), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False}),
    Case("Conv1d", (2, 2, 4), (2, 2, 5), {"padding": "same", "padding_mode": "circular"}),
    Case("Conv2d", (2, 3, 3), (2, 2, 5, 4)),
    Case("Conv2d", (2, 3, (3, 2)), (2, 5, 4), {"stride": (1, 2), "padding": (1, 0)}),
    Case("Conv2d", (4, 2, 2), (2, 4, 5, 4), {"groups": 2, "dilation": (2, 1), "padding": 1}),
    Case("Conv2d", (2, 2, (3, 2)), (1, 2, 3, 4), {"padding": "same"}),
    Case("Conv2d", (2, 2, 2), (1, 2, 3, 4), {"padding": "valid", "padding_mode": "reflect"}),
    Case("Conv2d", (2, 2, 3), (2, 2, 3, 4), {"padding": (1, 2), "padding_mode": "reflect"}),
    Case("Conv2d", (2, 2, 3), (2, 3, 4), {"padding": 1, "padding_mode": "replicate"}),
    Case("ConvTranspose1d", (2, 3, 3), (2, 2, 4)),
    Case("ConvTranspose1d", (4, 6, 3), (4, 4), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    Case("ConvTranspose2d", (2, 3, 2), (2, 2, 3, 2)),
    Case("ConvTranspose2d", (2, 2, (3, 2)), (2, 3, 2), {"stride": (2, 1), "dilation": (1, 2), "bias": False}),
    Case("Upsample", (), (2, 3, 2, 3), {"scale_factor": 2}),
    Case("Upsample", (), (2, 3, 3), {"size": 5, "mode": "linear"}),
    Case("Upsample", (), (2, 1, 2, 3), {"scale_factor": (1.5, 2.0), "mode": "bilinear"}),
    Case("Upsample", ((5, 4),), (2, 1, 2, 3), {"mode": "bilinear", "align_corners": True}),
    Case("PixelShuffle", (2,), (2, 8, 2, 3)),
    Case("MaxPool1d", (2,), (2, 3, 6), smooth=False),
    Case("MaxPool1d", (3, 1, 1), (3, 6), {"ceil_mode": True}, smooth=False),
    Case("MaxPool2d", (2,), (2, 3, 5, 4), smooth=False),
    Case("MaxPool2d", (3, 2, 1), (3, 5, 4), {"dilation": (1, 2), "ceil_mode": True}, smooth=False),
    Case("AvgPool1d", (2,), (2, 3, 6)),
    Case("AvgPool1d", (3, 2, 1), (3, 6), {"count_include_pad": False}),
    Case("AvgPool2d", (2,), (2, 3, 5, 4)),
    Case("AvgPool2d", ((3, 2), 2, 1), (3, 6, 5), {"ceil_mode": True}),
    Case("AvgPool2d", (2,), (2, 3, 5, 4), {"divisor_override": 3}),
    Case("AdaptiveAvgPool1d", (3,), (2, 3, 5)),
    Case("AdaptiveAvgPool2d", ((2, None),), (2, 3, 5, 4)),
    Case("AdaptiveAvgPool2d", (1,), (2, 3, 5, 4)),
    Case("AdaptiveMaxPool1d", (3,), (2, 3, 5), smooth=False),
    Case("AdaptiveMaxPool2d", ((2, 3),), (2, 3, 5, 4), smooth=False),
    # ---- norms of each sample
    Case("LayerNorm", (4,), (3, 4)),
    Case("LayerNorm", ((2, 4),), (3, 2, 4), {"eps": 0.1}),
    Case("LayerNorm", (4,), (3, 4), {"elementwise_affine": False}),
    Case("LayerNorm", (4,), (2, 3, 4), {"bias": False}),
    Case("RMSNorm", (4,), (3, 4)),
    Case("RMSNorm", ((2, 4),), (3, 2, 4), {"eps": 0.1, "elementwise_affine": False}),
    Case("GroupNorm", (2, 4), (3, 4)),
    Case("GroupNorm", (2, 4), (2, 4, 2, 3), {"eps": 0.1}),
    Case("GroupNorm", (4, 4), (2, 4, 3), {"affine": False, "eps": 0.1}),
    Case("InstanceNorm1d", (3,), (2, 3, 4)),
    Case("InstanceNorm1d", (3,), (3, 4), {"affine": True}),
    Case("InstanceNorm2d", (3,), (2, 3, 2, 2), {"affine": True, "eps": 0.1}),
    Case("InstanceNorm2d", (3,), (3, 2, 2)),
    # ---- sequences
    Case("Embedding", (5, 3), (2, 4), below=5),
    Case("Embedding", (5, 3, -2), (4,), below=5),
    Case("PositionalEncoding", (4,), (3, 2, 4), {"max_len": 6}),
    Case("PositionalEncoding", (3, 4, True), (2, 4, 3)),
    Case("PositionalEncoding", (4,), (3, 4), {"max_len": 3}),
    Case("RNN", (3, 2), (4, 2, 3)),
    Case("RNN", (3, 2, 2, "relu"), (4, 2, 3)),  # positive weights and a step towards the positive: no kink is near
    Case("RNN", (2, 3), (4, 2), {"bidirectional": True, "bias": False}),
    Case("RNN", (3, 2), ((4, 2, 3), (1, 2, 2))),
    Case("LSTM", (3, 2), (3, 2, 3)),
    Case("LSTM", (3, 2), (2, 3, 3), {"batch_first": True, "num_layers": 2, "bidirectional": True}),
    Case("LSTM", (3, 2), (3, 3), {"bias": False}),
    Case("GRU", (3, 2), (3, 2, 3)),
    Case("GRU", (3, 2), (2, 3, 3), {"batch_first": True, "num_layers": 2, "bidirectional": True, "bias": False}),
    Case("GRU", (3, 2), ((3, 3), (1, 2))),
    Case("GRU", (3, 2), (3, 2, 3), {"num_layers": 2, "dropout": 0.4}),
    attention((3, 2, 4), (5, 2, 4), (5, 2, 4)),
    attention((2, 3, 4), (2, 5, 4), (2, 5, 4), batch_first=True, bias=False),
    attention((2, 4), (3, 3), (3, 5), kdim=3, vdim=5),
    attention((3, 2, 4), (3, 2, 4), (3, 2, 4), dropout=0.4),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
RANDOM = [case for case in CASES if case.kind == "Dropout" or case.options.get("dropout")]


# ---- the battery -------------------------------------------------------------------------------------------------


def test_every_layer_is_in_the_table():
    not_layers = {"Module", "Sequential", "ModuleList", "ModuleDict", "Residual"}  # tests of their own
    classes = {name for name in nn.__all__ if inspect.isclass(getattr(nn, name)) and not name.endswith("Loss")}
    layers = {name for name in classes if issubclass(getattr(nn, name), nn.Module)} - not_layers
    assert layers == {case.kind for case in CASES}


@each_case
@pytest.mark.parametrize("truth", truths.TRUTHS[1:], ids=lambda truth: truth.__name__)
def test_every_layer_passes_the_battery_for_users_layers(truth, case):
    truth(case.make(), case.arrays())


@each_case
def test_derivatives_agree_with_differences(case):
    large = case.kind in ("RNN", "LSTM", "GRU", "MultiheadAttention") or not case.smooth
    truths.check_orders(case.make(), case.arrays(), order=2 if large else 3)


@each_case
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_gpu_gives_the_same_without_a_transfer(case, mode, fake_cuda):
    found = []
    for device in ("cpu", "cuda:0"):
        layer, xs = case.make(device).train(mode == "train"), case.inputs(device)
        for x in xs:
            x.requires_grad = x.dtype.kind == "f"
        md.manual_seed(0)
        with md.transfers(max=case in RANDOM and mode == "train"):  # the mask is drawn on the host
            outs = results(layer(*xs))
            sum((out * out).sum() for out in outs).backward()
        tensors = [*outs, *(t.grad for t in (*xs, *layer.parameters()) if t.requires_grad), *layer.buffers()]
        assert {t.device for t in tensors} == {device}
        found.append([to_numpy(t.array) for t in tensors])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@each_case
def test_an_array_gives_the_same_values_as_a_tensor(case):
    layer = case.make().eval()
    for a, b in zip(results(layer(*case.arrays())), results(layer(*case.inputs())), strict=True):
        assert np.array_equal(to_numpy(md.tensor(a).array), b.detach().numpy())


@each_case
def test_the_text_of_a_layer_is_the_call_that_makes_it(case):
    text = repr(case.make()).partition("  #")[0]
    text += ")" * (text.count("(") - text.count(")"))  # what is inside begins on the next line
    again = eval(f"nn.{text}", {"nn": nn})
    assert repr(again).partition("  #")[0] + ")" * (case.kind == "MultiheadAttention") == text


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
