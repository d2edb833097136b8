"""Modules that hold modules: Sequential, ModuleList, ModuleDict. What they hold are their attributes "0", "1", ..."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .module import Module


class _Listed(Module):
    """Modules in a row, by number; a slice is a container of the same class."""

    def _items(self) -> list[tuple[str, Module]]:
        return [(name, x) for name, x in vars(self).items() if isinstance(x, Module)]

    def _rebuild(self, named: Iterable[tuple[str, Module]]) -> None:
        """Hold these modules instead. Names that are numbers count again from 0."""
        named = list(named)
        numbered = all(name.isdecimal() for name, _ in named)
        for name, _ in self._items():
            delattr(self, name)
        for i, (name, module) in enumerate(named):
            self.add_module(str(i) if numbered else name, module)

    def _index(self, index: Any, most: int) -> int:
        i = operator.index(index)
        if not -most <= i < most:
            raise IndexError(f"{type(self).__name__}: index {i} is out of range for {len(self)} modules")
        return i % most

    def __getitem__(self, index: Any) -> Any:
        items = self._items()
        if not isinstance(index, slice):
            return items[self._index(index, len(items))][1]
        part = type(self).__new__(type(self))  # a subclass may want other arguments
        part._rebuild(items[index])
        part.training = self.training
        return part

    def __setitem__(self, index: int, module: Module) -> None:
        items = self._items()
        self.add_module(items[self._index(index, len(items))][0], module)

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
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end; return the container."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at `index`; return the container."""
        items = self._items()
        items.insert(self._index(index, len(items) + 1), (str(len(items)), module))
        self._rebuild(items)
        return self


class Sequential(_Listed):
    """Modules one after another: the result of each is the input of the next.

    `Sequential(a, b)` names them "0", "1"; `Sequential({"first": a, "second": b})`, a dictionary, gives names.

    >>> model = Sequential(Linear(2, 3), ReLU(), Linear(3, 1))
    >>> model[1], len(model[:2]), model(tensor([[1.0, 2.0]])).shape
    (ReLU(), 2, (1, 1))
    """

    def __init__(self, *modules: Any):
        named = modules[0].items() if len(modules) == 1 and isinstance(modules[0], Mapping) else enumerate(modules)
        for name, module in named:
            if module is None:
                raise TypeError(f"{type(self).__name__}: {name!r} must be a Module, got None")
            self.add_module(str(name), module)

    def forward(self, x: Any) -> Any:
        """Run the modules in order."""
        for module in self.__dict__.values():
            if isinstance(module, Module):
                x = module(x)
        return x


class ModuleList(_Listed):
    """A list of modules; it has no forward of its own. A plain list works too; this one prints and indexes as a module.

    >>> layers = ModuleList([Linear(2, 2) for _ in range(3)])
    >>> layers.append(Linear(2, 1)).parameters().names[-2:]
    ['3.weight', '3.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()):
        self.extend(modules)


class ModuleDict(Module):
    """A dictionary of modules, in the order of insertion; keys are strings without dots that name no attribute.

    >>> heads = ModuleDict({"digit": Linear(4, 10), "parity": Linear(4, 2)})
    >>> list(heads), heads["parity"](ones(1, 4)).shape
    (['digit', 'parity'], (1, 2))
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()):
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules from a dictionary or from pairs, replacing those with the same key."""
        for key, module in dict(modules).items():
            self[key] = module

    def __getitem__(self, key: str) -> Module:
        held = self._held()
        if key not in held:
            raise KeyError(f"ModuleDict: has no module {key!r}; there are {', '.join(held) or 'none'}")
        return held[key]

    def __setitem__(self, key: str, module: Module) -> None:
        if module is None:
            raise TypeError(f"ModuleDict: {key!r} must be a Module, got None")
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        _ = self[key]
        delattr(self, key)

    def _held(self) -> dict[str, Module]:
        return {name: x for name, x in vars(self).items() if isinstance(x, Module)}

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
        del self[key]
        return module
