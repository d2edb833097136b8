"""Modules that hold modules: Sequential, ModuleList, ModuleDict. What they hold are their attributes "0", "1", ..."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .module import Module


class _Listed(Module):
    """Modules in a row, by number; a slice is a container of the same class."""

    def _items(self) -> list[tuple[str, Module]]:
        return [(name, x) for name, x in vars(self).items() if isinstance(x, Module)]

    def _rebuild(self, named: list[tuple[str, Module]]) -> None:
        """Hold these modules instead. Names that are all numbers count again from 0."""
        numbered = all(name.isdecimal() for name, _ in named)
        for name, _ in self._items():
            delattr(self, name)
        for i, (name, module) in enumerate(named):
            self.add_module(str(i) if numbered else name, module)

    def _free_name(self) -> str:
        return next(str(i) for i in itertools.count(len(self)) if str(i) not in vars(self))

    def _index(self, index: Any, count: int, end: bool = False) -> int:
        """Return an index into `count` modules; IndexError beyond them, or beyond the place after the last one."""
        i = operator.index(index)
        if not -count <= i < count + end:
            raise IndexError(f"{type(self).__name__}: index {i} is out of range for {count} modules")
        return i + count if i < 0 else i

    def __getitem__(self, index: Any) -> Any:
        items = self._items()
        if not isinstance(index, slice):
            return items[self._index(index, len(items))][1]
        part = type(self).__new__(type(self))  # the constructor of a subclass may want other arguments
        for name, module in items[index]:
            part.add_module(name, module)
        part.training = self.training
        return part

    def __setitem__(self, index: int, module: Module) -> None:
        items = self._items()
        self.add_module(items[self._index(index, len(items))][0], _given(self, module))

    def __delitem__(self, index: int | slice) -> None:
        items = self._items()
        del items[index if isinstance(index, slice) else self._index(index, len(items))]
        self._rebuild(items)

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Module]:
        return iter([module for _, module in self._items()])

    def append(self, module: Module) -> Any:
        """Add a module at the end; return the container."""
        self.add_module(self._free_name(), _given(self, module))
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end; return the container."""
        for module in list(modules):
            self.append(module)
        return self

    def __iadd__(self, modules: Iterable[Module]) -> Any:
        return self.extend(modules)

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at `index`; return the container."""
        items = self._items()
        items.insert(self._index(index, len(items), end=True), (self._free_name(), _given(self, module)))
        self._rebuild(items)
        return self


def _given(container: Module, module: Any) -> Module:
    """Return the module; TypeError for anything else, the class of one and None included."""
    if not isinstance(module, Module):
        got = f"the class {module.__name__}; add ()" if isinstance(module, type) else type(module).__name__
        raise TypeError(f"{type(container).__name__}: holds Modules, got {got}")
    return module


class Sequential(_Listed):
    """Modules one after another: the result of each is the input of the next.

    `Sequential(a, b)` names them "0", "1"; `Sequential({"first": a, "second": b})`, a dictionary, gives names. A slice
    keeps the names.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> model[1], len(model[:2]), model(tensor([[1.0, 2.0]])).shape
    (ReLU(), 2, (1, 1))
    """

    def __init__(self, *modules: Any):
        named = modules[0].items() if len(modules) == 1 and isinstance(modules[0], Mapping) else enumerate(modules)
        for name, module in named:
            self.add_module(str(name), _given(self, module))

    def forward(self, x: Any) -> Any:
        """Run the modules in order."""
        for module in tuple(self.__dict__.values()):
            if isinstance(module, Module):
                x = module(x)
        return x


class ModuleList(_Listed):
    """A list of modules; it has no forward of its own. A plain list works too; this one is a module itself.

    >>> layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    >>> layers.append(nn.Linear(2, 1)).parameters().names[-2:]
    ['3.weight', '3.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()):
        self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(index, slice):
            part._rebuild(part._items())
        return part


class ModuleDict(Module):
    """A dictionary of modules, in the order of insertion; keys are strings without dots that name no attribute.

    >>> heads = nn.ModuleDict({"digit": nn.Linear(4, 10), "parity": nn.Linear(4, 2)})
    >>> list(heads), heads["parity"](ones(1, 4)).shape
    (['digit', 'parity'], (1, 2))
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()):
        self.update(modules)

    def _held(self) -> dict[str, Module]:
        return {name: x for name, x in vars(self).items() if isinstance(x, Module)}

    def __getitem__(self, key: str) -> Module:
        held = self._held()
        if key not in held:
            raise KeyError(f"{type(self).__name__}: has no module {key!r}; there are {', '.join(held) or 'none'}")
        return held[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, _given(self, module))

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def __contains__(self, key: object) -> bool:
        return key in self._held()

    def __len__(self) -> int:
        return len(self._held())

    def __iter__(self) -> Iterator[str]:
        return iter(self._held())

    def keys(self) -> Iterable[str]:
        """Return the keys."""
        return self._held().keys()

    def values(self) -> Iterable[Module]:
        """Return the modules."""
        return self._held().values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Return the (key, module) pairs."""
        return self._held().items()

    def pop(self, key: str) -> Module:
        """Remove a module and return it; KeyError if there is none."""
        module = self[key]
        delattr(self, key)
        return module

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules from a dictionary or from pairs, replacing those with the same key."""
        for key, module in dict(modules).items():
            self[key] = module
