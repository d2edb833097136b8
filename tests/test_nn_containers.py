"""Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

import copy
import itertools

import pytest

import minidl as md
from minidl import nn


class Add(nn.Module):
    def __init__(self, number):
        self.number = number

    def forward(self, x):
        return x * 10 + self.number


def numbers(container):
    return [module.number for module in container]


@pytest.fixture
def four():
    return nn.Sequential(*(Add(i) for i in range(4)))


def names(container):
    return [name for name, _ in container.named_children()]


def test_sequential_runs_its_modules_in_order(four):
    assert four(0) == 123
    assert nn.Sequential()(5) == 5


def test_sequential_takes_names_from_a_dictionary():
    model = nn.Sequential({"last": nn.Linear(2, 2), "first": nn.Linear(2, 1)})
    assert model.parameters().names == ["last.weight", "last.bias", "first.weight", "first.bias"]
    assert model.first is model[1]


def test_sequential_indexes_like_a_list(four):
    assert len(four) == 4
    assert numbers(four) == [0, 1, 2, 3]
    assert (four[0].number, four[-1].number) == (0, 3)
    assert four[2] in four
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"Sequential: index {index} is out of range for 4 modules"):
            four[index]
    with pytest.raises(TypeError):
        four["0"]


def test_a_slice_of_a_sequential_shares_the_modules_and_keeps_their_names(four):
    part = four.eval()[1:3]
    assert type(part) is nn.Sequential
    assert numbers(part) == [1, 2]
    assert part[0] is four[1]
    assert names(part) == ["1", "2"]
    assert not part.training
    assert names(part.append(Add(9))) == ["1", "2", "3"]
    assert len(four) == 4


def test_a_slice_of_a_module_list_counts_from_zero():
    layers = nn.ModuleList(Add(i) for i in range(4))[1:3]
    assert type(layers) is nn.ModuleList
    assert names(layers) == ["0", "1"]


@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList])
def test_modules_are_added_replaced_and_removed(kind):
    container = kind()
    assert container.append(Add(0)) is container
    container.extend([Add(1), Add(3)])
    container.insert(2, Add(2))
    assert (numbers(container), names(container)) == ([0, 1, 2, 3], ["0", "1", "2", "3"])
    container.insert(-1, Add(25))
    container.insert(5, Add(4))
    assert numbers(container) == [0, 1, 2, 25, 3, 4]
    container[3] = Add(26)
    del container[0]
    assert (numbers(container), names(container)) == ([1, 2, 26, 3, 4], ["0", "1", "2", "3", "4"])
    del container[1:3]
    assert (numbers(container), names(container)) == ([1, 3, 4], ["0", "1", "2"])
    with pytest.raises(IndexError, match="out of range for 3 modules"):
        container.insert(7, Add(7))
    with pytest.raises(IndexError, match="out of range for 3 modules"):
        del container[3]


def test_removing_from_named_modules_keeps_the_other_names():
    model = nn.Sequential({"a": Add(0), "b": Add(1), "c": Add(2)})
    del model[0]
    assert names(model) == ["b", "c"]


def test_appending_never_replaces_a_module_of_that_name():
    model = nn.Sequential({"1": Add(0), "2": Add(1)})
    model.append(Add(2))
    assert numbers(model) == [0, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [(None, "got NoneType"), (nn.ReLU, r"got the class ReLU; add \(\)"), (abs, "got builtin_function")],
)
def test_containers_hold_modules_only(wrong, text):
    for make in (
        lambda: nn.Sequential(nn.ReLU(), wrong),
        lambda: nn.ModuleList([wrong]),
        lambda: nn.ModuleDict({"a": wrong}),
        lambda: nn.Sequential().append(wrong),
        lambda: nn.Sequential(nn.ReLU()).__setitem__(0, wrong),
    ):
        with pytest.raises(TypeError, match=f"holds Modules, {text}"):
            make()


def test_a_module_set_as_an_attribute_of_a_sequential_is_run_too(four):
    four.extra = Add(5)
    assert four(0) == 1235


def test_a_hook_may_set_attributes_of_the_sequential_it_is_in(four):
    four[0].register_forward_hook(lambda module, args, out: setattr(four, "seen", out))
    assert four(1) == 10123
    assert four.seen == 10


def test_a_module_list_has_no_forward():
    with pytest.raises(NotImplementedError, match="ModuleList: a module defines forward"):
        nn.ModuleList([nn.ReLU()])(1)


def test_module_dict_is_an_ordered_dictionary():
    heads = nn.ModuleDict({"b": Add(1), "a": Add(2)})
    heads["c"] = Add(3)
    heads.update([("d", Add(4)), ("a", Add(5))])
    assert list(heads) == list(heads.keys()) == ["b", "a", "c", "d"]
    assert [m.number for m in heads.values()] == [1, 5, 3, 4]
    assert dict(heads.items())["c"] is heads["c"]
    assert "a" in heads
    assert "training" not in heads
    assert heads.pop("a").number == 5
    del heads["b"]
    assert len(heads) == 2
    for missing in (lambda: heads["a"], lambda: heads.pop("a"), lambda: heads.__delitem__("a")):
        with pytest.raises(KeyError, match="ModuleDict: has no module 'a'; there are c, d"):
            missing()


@pytest.mark.parametrize("key", ["keys", "training", "forward", "a.b", ""])
def test_module_dict_refuses_keys_that_would_hide_something(key):
    with pytest.raises(ValueError, match=r"is taken by|must be a str without dots"):
        nn.ModuleDict({key: nn.ReLU()})


def test_containers_of_a_subclass_with_another_constructor_slice_and_copy():
    class Mlp(nn.Sequential):
        def __init__(self, *widths):
            super().__init__(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))

    model = Mlp(4, 3, 2, 1)
    assert type(model[:2]) is Mlp
    assert model[:2](md.ones(1, 4)).shape == (1, 2)
    assert copy.deepcopy(model)(md.ones(1, 4)).shape == (1, 1)
