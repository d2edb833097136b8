"""How a module is searched and walked: what its attributes hold, what its modules hold, and how that is printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..engine.tensor import Parameter, Tensor

if TYPE_CHECKING:
    from .module import Module


def search(name: str, value: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, x) for a value of a kind, or for those inside lists, tuples and dictionaries.

    >>> list(search("a", [1, {"b": 2.5}, (3,)], int))
    [('a.0', 1), ('a.2.0', 3)]
    """
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from search(f"{name}.{i}", item, kind)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from search(f"{name}.{key}", item, kind)
    elif isinstance(value, (set, frozenset)) and any(isinstance(item, kind) for item in value):
        raise TypeError(f"{name}: a set of {kind.__name__}s has no fixed order, so it cannot be saved; use a list")


def own(module: Module, kind: type) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of a module's own attributes of a kind, Parameter or Module, in the order of assignment."""
    for name, value in tuple(vars(module).items()):
        if name != "_hooks":
            yield from search(name, value, kind)


def own_buffers(module: Module, persistent: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of a module's own buffers; of the persistent ones only, if asked."""
    for name, kept in module._buffers.items():
        tensor = vars(module).get(name)
        if tensor is not None and (kept or not persistent):
            yield name, tensor


def walk(module: Module, kind: type, prefix: str, once: bool) -> Iterator[tuple[str, Module]]:
    """Yield a module and all modules inside with their names, outer before inner; each once, or under every name."""
    seen: set[int] = set()

    def visit(module: Module, prefix: str, path: tuple[Module, ...]) -> Iterator[tuple[str, Module]]:
        if id(module) in seen if once else any(module is outer for outer in path):  # a circle has no last name
            return
        seen.add(id(module))
        yield prefix, module
        for name, child in own(module, kind):
            yield from visit(child, join(prefix, name), (*path, module))

    return visit(module, prefix, ())


def join(prefix: str, name: str) -> str:
    """Return "prefix.name", or the name alone if the prefix is empty."""
    return f"{prefix}.{name}" if prefix else name


def lines(module: Module, kind: type, path: tuple[Module, ...] = ()) -> list[str]:
    """Return the lines of a module's text: its title, the shapes of its own parameters, its children indented."""
    parameters = dict(own(module, Parameter))
    note = ", ".join(f"{name} {p.shape}" for name, p in parameters.items())
    note = f"  # {note}: {sum(p.size for p in parameters.values()):,} parameters" if parameters else ""
    if any(module is outer for outer in path):
        return [f"{type(module).__name__}(...)"]
    inner = []
    for name, child in own(module, kind):
        first, *rest = lines(child, kind, (*path, module))
        inner += [f"  ({name}): {first}", *(f"  {line}" for line in rest)]
    title = module._title()
    return [title + note] if not inner else [title[:-1] + note, *inner, ")"]
