"""The same layers in PyTorch: names of the state, values, first and second derivatives, a training run."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import minidl as md
from minidl import nn
from test_nn_layers import CASES

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
DETERMINISTIC = [case for case in CASES if case.kind != "Dropout"]


def to_torch(state):
    return {name: torch.from_numpy(t.numpy().copy()) for name, t in state.items()}


def theirs_of(case, layer):
    """PyTorch's layer with the state of ours; Softmax has no default axis there."""
    args = case.args or ((-1,) if case.kind == "Softmax" else ())
    theirs = getattr(torch.nn, case.kind)(*args, **case.options).double()
    theirs.load_state_dict(to_torch(layer.state_dict()))
    return theirs


def derivatives(module, x, v, grad):
    """The output, the gradient of sum(v out^2) by input and parameters, and the gradient of its squared norm."""
    inputs = [x, *module.parameters()]
    out = module(x)
    gradient = grad((v * out * out).sum(), inputs, create_graph=True)
    square = sum((g * g).sum() for g in gradient)
    return out, gradient, grad(square, inputs)


def arrays(xs):
    return [x.detach().numpy() for x in xs]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", DETERMINISTIC, ids=str)
def test_values_and_two_derivatives_agree(case, mode):
    ours = case.make().train(mode == "train")
    theirs = theirs_of(case, ours).train(mode == "train")
    x = np.random.default_rng(0).standard_normal(case.shape)
    a = md.tensor(x, requires_grad=True)
    b = torch.tensor(x, requires_grad=True)
    v = np.random.default_rng(1).standard_normal(ours(a).shape)
    ours.load_state_dict({k: t.numpy() for k, t in theirs.state_dict().items()})
    one = derivatives(ours, a, md.tensor(v), md.autograd.grad)
    two = derivatives(theirs, b, torch.tensor(v), torch.autograd.grad)
    np.testing.assert_allclose(one[0].detach().numpy(), two[0].detach().numpy(), rtol=1e-12, atol=1e-12)
    for mine, their in zip(arrays(one[1]) + arrays(one[2]), arrays(two[1]) + arrays(two[2]), strict=True):
        np.testing.assert_allclose(mine, their, rtol=1e-9, atol=1e-10)
    for name, t in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name].numpy(), t.numpy(), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_arguments_names_order_and_defaults_are_pytorchs(case):
    mine = inspect.signature(getattr(nn, case.kind)).parameters
    their = inspect.signature(getattr(torch.nn, case.kind)).parameters
    common = [name for name in their if name in mine]
    assert list(mine) == common  # nothing of our own, and in their order
    not_offered = {"inplace", "args", "kwargs", *(["bias"] if case.kind == "BatchNorm1d" else [])}
    assert set(their) - set(mine) <= not_offered
    for name in mine:
        if (case.kind, name) not in {("Softmax", "dim"), ("LogSoftmax", "dim")}:  # theirs guesses the axis, deprecated
            assert mine[name].default == their[name].default, name


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
def test_ten_steps_of_running_statistics_agree(momentum, shape):
    ours, theirs = nn.BatchNorm1d(3, momentum=momentum), torch.nn.BatchNorm1d(3, momentum=momentum)
    rng = np.random.default_rng(5)
    for _ in range(10):
        x = (rng.standard_normal(shape) * 3 + 1).astype(np.float32)
        ours(md.tensor(x))
        theirs(torch.from_numpy(x))
    for name, t in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name].numpy(), t.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    x = rng.standard_normal(shape).astype(np.float32)
    mine, their = ours.eval()(md.tensor(x)), theirs.eval()(torch.from_numpy(x))
    np.testing.assert_allclose(mine.detach().numpy(), their.detach().numpy(), rtol=1e-5, atol=1e-5)


def build(lib):
    """A network with everything, in either library."""
    inner = lib.Sequential(lib.Linear(8, 6), lib.BatchNorm1d(6), lib.Sigmoid())
    model = lib.Sequential(lib.Flatten(), lib.Linear(12, 8), lib.BatchNorm1d(8), lib.Tanh(), inner, lib.Linear(6, 3))
    model.extra = lib.ModuleDict({"b": lib.Linear(3, 3), "a": lib.ModuleList([lib.ReLU(), lib.Identity()])})["b"]
    return model


def test_the_keys_shapes_and_order_of_a_state_are_pytorchs_both_ways():
    ours, theirs = build(nn), build(torch.nn)
    mine = {name: (t.shape, str(t.dtype)) for name, t in ours.state_dict().items()}
    their = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in theirs.state_dict().items()}
    assert list(mine.items()) == list(their.items())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    theirs.load_state_dict(to_torch(ours.state_dict()))
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})


def test_tied_weights_have_the_names_they_have_in_pytorch():
    states = []
    for lib in (nn, torch.nn):
        model = lib.Sequential(lib.Linear(3, 3), lib.Linear(3, 3))
        model[1].weight = model[0].weight
        layer = lib.BatchNorm1d(2)
        for one in (model, lib.Sequential(layer, lib.ReLU(), layer)):
            states.append((list(one.state_dict()), [name for name, _ in one.named_parameters()]))
    assert states[:2] == states[2:]


def test_a_slice_of_a_container_has_the_names_it_has_in_pytorch():
    for kind in ("Sequential", "ModuleList"):
        names = []
        for lib in (nn, torch.nn):
            layers = [lib.Linear(1, 1) for _ in range(4)]
            container = lib.Sequential(*layers) if kind == "Sequential" else lib.ModuleList(layers)
            del container[0]
            names.append([name for name, _ in container[1:].named_parameters()])
        assert names[0] == names[1]


def test_a_safetensors_file_moves_between_the_two_unchanged(tmp_path):
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed", exc_type=ImportError)
    ours, theirs = build(nn), build(torch.nn)
    ours(md.randn(5, 3, 4))
    md.save(ours.state_dict(), tmp_path / "ours.safetensors")
    theirs.load_state_dict(files.load_file(tmp_path / "ours.safetensors"))
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    mine, their = ours.eval()(md.tensor(x)), theirs.eval()(torch.from_numpy(x))
    np.testing.assert_allclose(mine.detach().numpy(), their.detach().numpy(), rtol=1e-5, atol=1e-6)
    files.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    again = build(nn)
    again.load_state_dict(md.load(tmp_path / "theirs.safetensors"))
    assert all(np.array_equal(t.numpy(), again.state_dict()[k].numpy()) for k, t in ours.state_dict().items())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_agree(reduction):
    rng = np.random.default_rng(0)
    x, y, target = rng.standard_normal((5, 4)), rng.standard_normal((5, 4)), rng.integers(0, 4, 5)
    mine = nn.MSELoss(reduction=reduction)(md.tensor(x), md.tensor(y)).numpy()
    np.testing.assert_allclose(
        mine, torch.nn.MSELoss(reduction=reduction)(torch.tensor(x), torch.tensor(y)), rtol=1e-14
    )
    mine = nn.CrossEntropyLoss(reduction=reduction)(md.tensor(x), md.tensor(target)).numpy()
    their = torch.nn.CrossEntropyLoss(reduction=reduction)(torch.tensor(x), torch.tensor(target))
    np.testing.assert_allclose(mine, their, rtol=1e-12)


@pytest.mark.parametrize(
    "nonlinearity", ["linear", "conv1d", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gains_agree(nonlinearity):
    assert nn.init.calculate_gain(nonlinearity) == pytest.approx(torch.nn.init.calculate_gain(nonlinearity), rel=1e-15)


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 2), (4, 3, 2, 5)])
def test_fans_agree(shape):
    assert nn.init.fans(md.zeros(shape)) == torch.nn.init._calculate_fan_in_and_fan_out(torch.zeros(shape))


def test_a_training_run_with_batch_norm_and_adam_agrees():
    ours, theirs = build(nn).double(), build(torch.nn).double()
    theirs.load_state_dict(to_torch(ours.state_dict()))
    a, b = md.optim.Adam(ours.parameters(), lr=0.01), torch.optim.Adam(theirs.parameters(), lr=0.01)
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = rng.standard_normal((16, 3, 4)), rng.integers(0, 3, 16)
        a.zero_grad()
        mine = nn.CrossEntropyLoss()(ours(md.tensor(x)), md.tensor(y))
        mine.backward()
        a.step()
        b.zero_grad()
        their = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(y))
        their.backward()
        b.step()
        assert mine.item() == pytest.approx(their.item(), rel=1e-8)
    for name, t in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name].numpy(), t.numpy(), rtol=1e-6, atol=1e-8, err_msg=name)
