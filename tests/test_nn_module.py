"""Module: how parameters, buffers and modules are found and named, hooks, copies, text."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import minidl as md
from minidl import nn


class Net(nn.Module):
    """Has everything in it, and assigns a child before its own parameter; it calls no super().__init__()."""

    def __init__(self):
        self.first = nn.Linear(4, 3)
        self.scale = nn.Parameter(np.ones(3))
        self.blocks = [nn.Linear(3, 3), (nn.Tanh(), nn.Linear(3, 3, bias=False))]
        self.heads = {"a": nn.Linear(3, 1), 7: nn.Parameter([0.5])}
        self.register_buffer("steps", md.tensor([0]))
        self.register_buffer("cache", md.tensor([1.5]), persistent=False)
        self.constant = md.tensor([1.0, 2.0])
        self.history = [0.1, 0.2]

    def forward(self, x, shift=0.0):
        return self.first(x) * self.scale + shift


class Double(nn.Module):
    def forward(self, x):
        return x * 2


NAMES = [
    "scale", "heads.7", "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.1.weight",
    "heads.a.weight", "heads.a.bias",
]  # fmt: skip


# ---- finding -----------------------------------------------------------------------------------------------------


def test_parameters_are_found_in_attributes_lists_tuples_and_dictionaries_in_pytorchs_order():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert net.parameters().names == NAMES
    assert [name for name, _ in net.named_parameters(prefix="net", recurse=False)] == ["net.scale", "net.heads.7"]
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())


def test_parameters_is_a_list_that_keeps_its_names_in_slices_copies_and_pickles():
    params = Net().parameters()
    assert isinstance(params, list)
    assert params[1:4].names == NAMES[1:4]
    assert params[1:4][0] is params[1]
    for again in (copy.deepcopy(params), pickle.loads(pickle.dumps(params))):
        assert again.names == NAMES
        assert [p.shape for p in again] == [p.shape for p in params]


def test_tied_parameters_count_once_under_their_first_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert model.parameters().names == ["0.weight", "0.bias", "1.bias"]
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert every == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_module_used_twice_counts_once():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert model.parameters().names == ["0.weight", "0.bias"]
    assert [name for name, _ in model.named_modules()] == ["", "0", "1"]
    assert [name for name, _ in model.named_children()] == ["0", "1"]
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == ["", "0", "1", "2"]


def test_a_module_that_knows_its_parent_is_walked_once():
    parent, child = Net(), Double()
    parent.child, child.parent = child, parent
    assert len(list(parent.modules())) == 7
    parent.apply(lambda module: None)
    assert [name for name, _ in parent.named_parameters(remove_duplicate=False)] == NAMES
    assert len(parent.state_dict()) == len(NAMES) + 1
    assert "Net(...)" in repr(parent)


def test_buffers_are_those_registered_and_no_other_tensor():
    net = Net()
    assert [name for name, _ in net.named_buffers()] == ["steps", "cache"]
    assert [b.shape for b in net.buffers()] == [(1,), (1,)]
    assert set(net.state_dict()) == {*NAMES, "steps"}


def test_a_set_of_modules_is_refused_for_its_order():
    net = Net()
    net.loose = {nn.Linear(1, 1)}
    with pytest.raises(TypeError, match="loose: a set of Modules has no fixed order.*use a list"):
        net.parameters()


def test_a_module_needs_no_call_of_super_init():
    class Forgetful(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x)

    model = Forgetful()
    assert model.training
    assert model(md.ones(3, 2)).shape == (3, 1)
    assert model.eval().training is False
    assert model.layer.training is False


def test_calling_super_init_does_no_harm():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

    assert Careful().parameters().names == ["layer.weight", "layer.bias"]


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty: a module defines forward"):
        Empty()(1)


ORDER = """
import minidl as md
from minidl import nn
class Net(nn.Module):
    def __init__(self):
        self.parts = {name: nn.Linear(1, 1) for name in ("zeta", "alpha", "mid")}
        self.late, self.early = nn.Parameter([1.0]), nn.BatchNorm1d(2)
net = Net()
print(net.parameters().names, list(net.state_dict()), [n for n, _ in net.named_modules()])
"""


def test_the_order_does_not_depend_on_the_hash_seed():
    runs = {
        subprocess.run(
            [sys.executable, "-c", ORDER],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(runs) == 1
    assert runs.pop().startswith("['late', 'parts.zeta.weight', 'parts.zeta.bias', 'parts.alpha.weight'")


# ---- attributes --------------------------------------------------------------------------------------------------


def test_reading_an_attribute_is_a_look_up_in_the_instance():
    net = Net()
    assert vars(net)["scale"] is net.scale
    assert "__getattr__" not in vars(nn.Module)
    assert "__getattribute__" not in vars(nn.Module)


def test_a_parameter_cannot_become_a_constant_by_accident():
    layer = nn.Linear(2, 1)
    before = layer.weight
    with pytest.raises(
        TypeError, match=r"Linear.weight: a Parameter can only be replaced by another or by None, got Te"
    ):
        layer.weight = layer.weight - 0.1
    with pytest.raises(TypeError, match="got ndarray"):
        layer.weight = np.ones((1, 2))
    assert layer.weight is before
    layer.weight = nn.Parameter(np.ones((1, 2), np.float32))
    layer.bias = None
    assert layer.parameters().names == ["weight"]


def test_an_update_in_place_keeps_the_parameter():
    layer = nn.Linear(2, 1)
    before = layer.weight
    with md.no_grad():
        layer.weight -= 0.5
    assert layer.weight is before


def test_a_buffer_can_be_replaced_by_a_tensor_only():
    net = Net()
    net.cache = md.tensor([3.0])
    assert dict(net.named_buffers())["cache"].item() == 3.0
    with pytest.raises(TypeError, match=r"Net.cache: a Tensor can only be replaced"):
        net.cache = np.ones(1)
    net.cache = None
    assert [name for name, _ in net.named_buffers()] == ["steps"]
    net.constant = "anything"  # no buffer, no parameter: an ordinary attribute


@pytest.mark.parametrize("name", ["", "a.b", 3])
def test_names_are_strings_without_dots(name):
    for register in (nn.Module().register_parameter, nn.Module().register_buffer, nn.Module().add_module):
        with pytest.raises(ValueError, match="must be a str without dots"):
            register(name, None)


@pytest.mark.parametrize("name", ["forward", "training", "history"])
def test_a_name_that_is_taken_is_refused(name):
    net = Net()
    before = getattr(net, name)
    for register, value in (
        (net.register_parameter, nn.Parameter([1.0])),
        (net.register_buffer, md.tensor([1.0])),
        (net.add_module, Double()),
    ):
        with pytest.raises(ValueError, match=f"Net: '{name}' is taken"):
            register(name, value)
    assert getattr(net, name) == before


def test_registering_the_wrong_thing_names_it():
    module = nn.Module()
    with pytest.raises(TypeError, match="'w' must be a Parameter, got Tensor"):
        module.register_parameter("w", md.ones(2))
    with pytest.raises(TypeError, match="'b' must be a Tensor, got ndarray"):
        module.register_buffer("b", np.ones(2))
    with pytest.raises(TypeError, match="buffer 'b' must not be a Parameter"):
        module.register_buffer("b", nn.Parameter([1.0]))
    with pytest.raises(TypeError, match=r"'m' must be a Module, got the class ReLU; add \(\)"):
        module.add_module("m", nn.ReLU)
    assert vars(module) == {}


def test_registered_parameters_and_modules_are_attributes():
    module = nn.Module()
    module.register_parameter("w", nn.Parameter([1.0]))
    module.register_parameter("off", None)
    module.add_module("inner", nn.Linear(1, 1))
    module.register_parameter("off", nn.Parameter([2.0]))
    assert module.parameters().names == ["w", "off", "inner.weight", "inner.bias"]


def test_modules_parameters_and_buffers_are_got_by_dotted_name():
    net = Net()
    assert net.get_submodule("") is net
    assert net.get_submodule("blocks.1.1") is net.blocks[1][1]
    assert net.get_parameter("blocks.1.1.weight") is net.blocks[1][1].weight
    assert net.get_buffer("cache") is net.cache
    with pytest.raises(
        AttributeError, match=r"Net: has no parameter 'first.wieght'; there are scale, heads.7, first.wei"
    ):
        net.get_parameter("first.wieght")
    with pytest.raises(AttributeError, match="Double: has no module 'x'; there are none"):
        Double().get_submodule("x")


# ---- doing something to all --------------------------------------------------------------------------------------


def test_train_and_eval_reach_every_module_and_return_the_module():
    net = Net()
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert net.train() is net
    assert all(m.training for m in net.modules())
    with pytest.raises(ValueError, match="mode must be True or False, got 'yes'"):
        net.train("yes")


def test_apply_calls_inner_modules_first():
    model, seen = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())), []
    assert model.apply(lambda m: seen.append(m)) is model
    assert seen == [model[0], model[1][0], model[1], model]


def test_requires_grad_freezes_and_thaws():
    net = Net()
    assert net.requires_grad_(False) is net
    assert not net(md.ones(1, 4).double().astype("float32")).requires_grad
    assert net.parameters().names == NAMES  # frozen parameters are parameters still
    net.requires_grad_()
    assert all(p.requires_grad for p in net.parameters())


def test_zero_grad_forgets_or_fills():
    layer = nn.Linear(2, 1)
    layer(md.ones(1, 2)).sum().backward()
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad.tolist() == [[0.0, 0.0]]
    layer.zero_grad()
    assert layer.weight.grad is None


# ---- hooks -------------------------------------------------------------------------------------------------------


def test_forward_hooks_see_and_replace_in_the_order_of_registration():
    layer, seen = Double(), []
    one = layer.register_forward_hook(lambda module, args, out: seen.append((module, args, out)))
    two = layer.register_forward_hook(lambda module, args, out: out + 1)
    three = layer.register_forward_hook(lambda module, args, out: out * 10)
    assert layer(3) == 70
    assert seen == [(layer, (3,), 6)]
    two.remove()
    assert layer(3) == 60
    one.remove()
    three.remove()
    three.remove()
    assert layer(3) == 6
    assert len(seen) == 2


def test_forward_pre_hooks_replace_the_arguments():
    net = Net()
    x = md.ones(2, 4)
    plain = net(x, shift=1.0)
    handle = net.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    assert np.array_equal(net(x, shift=1.0).detach().numpy(), net.forward(x * 0, shift=1.0).detach().numpy())
    handle.remove()
    assert np.array_equal(net(x, shift=1.0).detach().numpy(), plain.detach().numpy())
    single = net.register_forward_pre_hook(lambda module, args: args[0])
    assert np.array_equal(net(x, shift=1.0).detach().numpy(), plain.detach().numpy())
    single.remove()


def test_a_hook_may_remove_itself_and_an_error_in_one_leaves_the_module_usable():
    layer = Double()
    handle = layer.register_forward_hook(lambda module, args, out: handle.remove())
    assert (layer(1), layer(1)) == (2, 2)

    def fail(module, args, out):
        raise KeyError("mine")

    bad = layer.register_forward_hook(fail)
    with pytest.raises(KeyError, match="mine"):
        layer(1)
    bad.remove()
    assert layer(1) == 2


def test_a_hook_must_be_callable():
    with pytest.raises(TypeError, match="Double: a hook must be callable, got int"):
        Double().register_forward_hook(3)


def test_hooks_on_modules_are_not_submodules():
    layer = Double()
    layer.register_forward_hook(lambda *a: None)
    layer._hooks[1][next(iter(layer._hooks[1]))] = Double()
    assert list(layer.children()) == []


# ---- copies and text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_independent_and_equal(copied):
    net = Net()
    net.tied = net.first
    net.eval()
    other = copied(net)
    assert other.parameters().names == net.parameters().names
    assert other.tied is other.first
    assert not other.blocks[0].training
    x = md.ones(2, 4)
    assert np.array_equal(other(x).detach().numpy(), net(x).detach().numpy())
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert type(q) is nn.Parameter
        assert q.requires_grad
        assert not np.shares_memory(p.data, q.data)
    before = net.state_dict()
    with md.no_grad():
        for q in other.parameters():
            q.fill_(9.0)
        other.steps.fill_(9)
    assert all(np.array_equal(before[k].numpy(), v.numpy()) for k, v in net.state_dict().items())


def test_a_copied_hook_belongs_to_the_copy():
    layer = Double()
    handle = layer.register_forward_hook(lambda module, args, out: out + 1)
    other = copy.deepcopy(layer)
    handle.remove()
    assert (layer(1), other(1)) == (2, 3)


def test_the_text_shows_the_nesting_the_shapes_and_the_counts():
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Sequential(nn.Linear(128, 10, bias=False)))
    first = "weight (128, 784), bias (128,): 100,480 parameters"
    assert repr(model).splitlines() == [
        "Sequential(",
        "  (0): Linear(in_features=784, out_features=128, bias=True)  # " + first,
        "  (1): ReLU()",
        "  (2): Sequential(",
        "    (0): Linear(in_features=128, out_features=10, bias=False)  # weight (10, 128): 1,280 parameters",
        "  )",
        ")  # 101,760 parameters in all",
    ]
    model[0].requires_grad_(False)
    assert repr(model).endswith(")  # 101,760 parameters in all, 1,280 of them trained")
    title = "Linear(in_features=2, out_features=1, bias=True)"
    assert repr(nn.Linear(2, 1)) == f"{title}  # weight (1, 2), bias (1,): 3 parameters"


def test_tied_parameters_count_once_in_the_total():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert repr(model).endswith("# 9 parameters in all")


def test_the_text_of_a_module_with_its_own_parameters_and_children_shows_both():
    assert "Net(  # scale (3,), heads.7 (1,): 4 parameters" in repr(Net())


def test_a_module_is_freed_without_the_collector():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU())
    gc.collect()
    gc.disable()
    try:
        model(md.ones(4, 3)).sum().backward()
        alive = weakref.ref(model)
        del model
        assert alive() is None
    finally:
        gc.enable()
