"""Hooks: functions called with a gradient as it arrives, and the wish to keep the gradient of a result."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

from .backend import as_array, device_of
from .node import Leaf, Node
from .tensor import Tensor, wrap

_keys = itertools.count()


class Handle:
    """What registering a hook returns: `remove()` takes the hook away again; removing twice does nothing."""

    def __init__(self, hooks: dict[int, Callable], hook: Callable):
        self._hooks, self._key = hooks, next(_keys)  # not itself as the key: the two would keep each other alive
        hooks[self._key] = hook

    def remove(self) -> None:
        """Take the hook away."""
        self._hooks.pop(self._key, None)


def register_hook(t: Tensor, hook: Callable[[Tensor], Any]) -> Handle:
    """Call `hook(gradient)` whenever the gradient of t has been computed; what it returns, if not None, replaces it.

    Hooks run in the order of registration, once a backward, before the gradient goes on. RuntimeError if t requires no
    gradient, or if a hook returns another shape, dtype or device.
    """
    if t.node is None:
        raise RuntimeError("register_hook: this tensor does not require a gradient, so none will arrive")
    if t.node.hooks is None:
        t.node.hooks = {}
    return Handle(t.node.hooks, hook)


def retain_grad(t: Tensor) -> None:
    """Keep the gradient of a result, not only of a leaf, in `.grad` at the next backward."""
    if t.node is None:
        raise RuntimeError("retain_grad: this tensor does not require a gradient")
    if t.is_leaf:
        return
    hooks = t.node.hooks if t.node.hooks is not None else {}
    t.node.hooks = hooks
    if not any(isinstance(h, _Keep) for h in hooks.values()):
        Handle(hooks, _Keep(t))


class _Keep:
    """The hook of retain_grad: it holds its tensor weakly, or the graph would hold itself."""

    def __init__(self, t: Tensor):
        self.tensor = weakref.ref(t)

    def __call__(self, g: Tensor) -> None:
        t = self.tensor()
        if t is not None:
            t._grad = g.copy() if t._grad is None else t._grad + g


def _is_keep(hook: Any) -> bool:
    return isinstance(hook, _Keep)


def run_hooks(node: Node, g: Any, create: bool, keep: bool) -> Any:
    """Pass the gradient of a node through its hooks, in order of registration; retain_grad's only if `keep`."""
    for hook in sorted(node.hooks.values(), key=_is_keep):  # what is kept is what the other hooks have made of it
        if not keep and isinstance(hook, _Keep):
            continue
        seen = g if create else wrap(g)
        new = hook(seen)
        if new is None:
            continue
        array = new.array if isinstance(new, Tensor) else as_array(new, who="hook")
        got, expected = (array.shape, array.dtype, device_of(array)), (node.shape, node.dtype, node.device)
        if got != expected:
            raise RuntimeError(f"hook: must return a gradient of shape, dtype and device {expected}, got {got}")
        if type(node) is Leaf and not create and array is not g:
            array = array.copy()  # a leaf shares its gradient's memory with nobody, the hook's own tensor neither
        g = (new if isinstance(new, Tensor) else wrap(array)) if create else array
    return g


Tensor.register_hook = register_hook  # type: ignore[attr-defined]
Tensor.retain_grad = retain_grad  # type: ignore[attr-defined]
