"""Reverse mode: gradients by walking the recorded nodes from the latest to the earliest.

    grad(outputs, inputs)     gradients as values; touches nothing
    loss.backward()           gradients into `.grad` of every leaf that the loss depends on

With `create_graph=True` the rules are run on Tensors instead of arrays, so that the gradient is itself a recorded
result and can be differentiated again (double backprop); otherwise they run on raw arrays and nothing is recorded.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from . import node as clock
from .backend import MODULES, as_array, device_of, is_array, nowhere, on_device
from .gradient import aliased, as_tensors, check_unwritten, no_scalar, number, sum_to
from .hooks import run_hooks
from .modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .node import Leaf, MultiNode, Node, Pick, UnsavedError, mode
from .tensor import Tensor, wrap

_by_time = operator.attrgetter("time")
_depositing = threading.Lock()  # adding to `.grad` reads and writes: two threads at one leaf would lose a gradient


# ---- the walk ----------------------------------------------------------------------------------------------------


def history(roots: Iterable[Node]) -> list[Node]:
    """Return every node that the roots depend on, themselves included, latest first. No recursion."""
    found: list[Any] = list(dict.fromkeys(roots))
    seen: set[Node | None] = {None, *found}
    for node in found:  # the list grows while it is walked
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                found.append(parent)
    found.sort(key=_by_time, reverse=True)
    return found


def _leading_to(targets: set[Node], order: list[Node]) -> set[Node]:
    """Return the nodes of `order` from which a target can be reached, the targets included."""
    needed = set(targets)
    for node in reversed(order):
        if any(p in needed for p in node.parents):
            needed.add(node)
    return needed


class _Walk:
    """One backward pass: the pending gradient of each node, and the results."""

    def __init__(
        self, roots: list[Node], seeds: list, targets: set[Node] | None, retain: bool, create: bool, keep: bool
    ):
        self.retain, self.create, self.targets, self.keep = retain, create, targets, keep
        self.pending: dict[Node, Any] = {}  # node -> the sum of what has arrived so far
        self.owned: set[Node] = set()  # nodes whose pending array is ours to add into
        self.results: dict[Node, Any] = {}
        self.node: Any = None  # whose rules are running
        self.order = history(roots)
        self.needed = None if targets is None else _leading_to(targets, self.order)
        for node in self.order:
            if node.args is None and (self.needed is None or node in self.needed):
                raise RuntimeError(
                    f"backward of {node.op.name}: this graph is walked for the second time, and its saved arrays are "
                    "gone; pass retain_graph=True to the first call"
                )
        for root, seed in zip(roots, seeds, strict=True):
            self.arrive(root, seed, None, None)

    def run(self, places: ExitStack | None) -> dict[Node, Any]:
        """Hand each node's gradient on to its parents, the latest node first; return those of leaves and targets."""
        pending, needed, create, retain, watch = self.pending, self.needed, self.create, self.retain, mode.watch
        here = "cpu"
        for node in self.order:
            g = pending.pop(node, None)
            if g is None or (needed is not None and node not in needed):
                continue
            if type(node) is MultiNode:
                g = self.fill(node, g)
            if node.hooks is not None:
                g = run_hooks(node, g, create, self.keep)
            if (needed is not None or node.op is None) and self.ends(node, g):
                continue
            if node.time < clock.last_write:
                check_unwritten(node)
            if watch is not None:
                watch.before(node)
            if places is not None and node.device not in (here, "cpu"):
                here = node.device
                places.enter_context(on_device(here)[1])  # a rule on raw arrays computes on the current GPU
            self.node = node
            op, static = node.op, node.static
            args, out = as_tensors(node) if create else (node.args, node.out)
            if op.joint is not None:
                self.joint(node, g, out, args)
            else:
                for parent, rule in zip(node.parents, op.rules):  # noqa: B905 (as many rules as inputs, checked by Op)
                    if parent is None or rule is None or (needed is not None and parent not in needed):
                        continue
                    r = rule(g, out, *args, **static)
                    if (
                        type(r) is np.ndarray
                        and r.shape == parent.shape
                        and r.dtype is parent.dtype
                        and parent not in pending
                        and (type(parent) is Node or (type(parent) is Leaf and r.base is None and r is not g))
                        and watch is None
                    ):
                        pending[parent] = r  # the common case, by reference; a leaf's must be nobody else's
                    else:
                        self.arrive(parent, r, node, g)
            if not retain:
                node.args = node.out = None
        return self.results

    def ends(self, node: Node, g: Any) -> bool:
        """Keep the gradient of a leaf or target; tell whether the walk has no business beyond this node."""
        if type(node) is Pick:
            if self.targets is not None and node in self.targets:
                self.results[node] = g
            self.into_slot(node, g)
            return True
        if type(node) is Leaf:
            if self.targets is None or node in self.targets:
                self.results[node] = g
            return True
        if self.targets is not None and self.needed is not None and node in self.targets:
            self.results[node] = g
            return not any(p in self.needed for p in node.parents)
        return False

    def joint(self, node: Node, g: Any, out: Any, args: tuple) -> None:
        """Run the one rule that returns the gradients of all inputs."""
        op, parents = node.op, node.parents
        grads = op.joint(g, out, *args, **node.static)
        if type(grads) is not tuple or len(grads) != len(parents):
            got = len(grads) if type(grads) is tuple else type(grads).__name__
            raise RuntimeError(
                f"{op.name}: returned an incorrect number of gradients (expected {len(parents)}, got {got})"
            )
        for parent, gradient in zip(parents, grads, strict=True):
            if parent is not None and (self.needed is None or parent in self.needed):
                self.arrive(parent, gradient, node, None)

    def arrive(self, parent: Node, gradient: Any, node: Node | None, g: Any) -> None:
        """Add a gradient to what is pending for a node, in the node's shape and dtype."""
        if gradient is None:
            return
        if type(gradient) is not Tensor:
            if type(gradient) not in MODULES:
                gradient = number(gradient, parent, node)
            if self.create:
                gradient = wrap(gradient)
        if gradient.shape != parent.shape:
            gradient = sum_to(gradient, parent, node)
        if gradient.dtype != parent.dtype:
            gradient = gradient.astype(parent.dtype)
        if mode.watch is not None and node is not None:
            mode.watch.after(node, parent, gradient)
        pending = self.pending
        old = pending.get(parent)
        if old is None:
            if type(parent) is Leaf and aliased(gradient, node, g):
                gradient = gradient.copy()  # a leaf shares its gradient's memory with nobody
            pending[parent] = gradient
        elif self.create:
            pending[parent] = old + gradient
        elif parent in self.owned:
            old += gradient
        else:
            pending[parent] = no_scalar(old + gradient)
            self.owned.add(parent)

    def into_slot(self, node: Pick, g: Any) -> None:
        """Hand the gradient of one output to the tuple that its operation's rule will receive."""
        main: Any = node.parents[0]
        index = node.static["index"]
        slots = self.pending.setdefault(main, [None] * len(main.outputs))
        slots[index] = g if slots[index] is None else no_scalar(slots[index] + g)

    def fill(self, node: MultiNode, slots: list) -> tuple:
        """Put zeros where an output was not used."""
        filled = []
        for slot, ghost in zip(slots, node.outputs, strict=True):
            if slot is None:
                xp, place = on_device(ghost.device)
                with place:
                    slot = xp.zeros(ghost.shape, ghost.dtype if ghost.dtype.kind == "f" else np.float32)
                slot = wrap(slot) if self.create else slot
            filled.append(slot)
        return tuple(filled)


# ---- what users call ---------------------------------------------------------------------------------------------


def _tuple(x: Any) -> tuple:
    return tuple(x) if isinstance(x, (list, tuple)) else (x,)


def _seeds(outputs: tuple, gradients: Any, who: str, create: bool) -> tuple[list[Node], list]:
    """Check the outputs of a backward and the gradients it starts from; return nodes and seeds."""
    if not outputs:
        raise ValueError(f"{who}: needs at least one output to differentiate, got an empty sequence")
    several = isinstance(gradients, (list, tuple)) and any(isinstance(g, Tensor) or g is None for g in gradients)
    several = several or (isinstance(gradients, (list, tuple)) and any(map(is_array, gradients)))
    given = (None,) * len(outputs) if gradients is None else tuple(gradients) if several else (gradients,)
    if len(given) != len(outputs):
        raise ValueError(f"{who}: needs one gradient for each of {len(outputs)} outputs, got {len(given)}")
    nodes, seeds = [], []
    for t, gradient in zip(outputs, given, strict=True):
        if not isinstance(t, Tensor):
            raise TypeError(f"{who}: outputs must be Tensors, got {type(t).__name__}")
        if t.node is None:
            raise RuntimeError(
                f"{who}: this tensor (shape {t.shape}) does not require a gradient: nothing recorded made it; "
                "set requires_grad=True on an input and compute outside no_grad()"
            )
        if gradient is None:
            if t.size != 1:
                raise RuntimeError(
                    f"{who}: a gradient is created implicitly for scalar outputs only, got shape {t.shape}; "
                    "pass gradient=, or reduce with sum() or mean()"
                )
            xp, place = on_device(t.device) if type(t.array) is not np.ndarray else (np, nowhere)
            with place:
                seed: Any = xp.ones(t.shape, t.dtype)
        else:
            seed = gradient.array if isinstance(gradient, Tensor) else as_array(gradient, device=t.device, who=who)
            if seed.shape != t.shape:
                raise RuntimeError(f"{who}: the gradient must have the output's shape {t.shape}, got {seed.shape}")
            if device_of(seed) != t.device:
                raise RuntimeError(f"{who}: the gradient is on {device_of(seed)}, the output on {t.device}; use .to()")
            if create and isinstance(gradient, Tensor):
                seed = gradient
        nodes.append(t.node)
        seeds.append(seed)
    return nodes, seeds


def _walk(
    nodes: list[Node], seeds: list, targets: set[Node] | None, retain: bool | None, create: bool, keep: bool
) -> dict[Node, Any]:
    walk = _Walk(nodes, seeds, targets, create if retain is None else retain, create, keep)
    before, mode.record = mode.record, (2 if mode.watch else 1) if create else 0
    try:
        if len(MODULES) == 1:  # NumPy alone: there is no GPU to be on
            return walk.run(None)
        with ExitStack() as places:
            return walk.run(places)
    except UnsavedError as error:
        raise UnsavedError(f"{walk.node.op.name}: {error}") from None
    except Exception as error:
        if mode.watch is not None:
            mode.watch.explain(error, walk.node)
        raise
    finally:
        mode.record = before


def backward(
    tensors: Tensor | Sequence[Tensor],
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of tensors to `.grad` of every leaf they depend on (of `inputs` only, if given).

    `gradient` is dL/dtensor, of the tensor's shape; for one element it defaults to 1. Afterwards the graph is freed
    unless `retain_graph` (default: `create_graph`). Nothing is deposited in leaves if anything raises. Threads may walk
    graphs of their own at the same time, and deposit into the same leaves: one waits for the other.
    RuntimeError: no gradient wanted, more than one element without `gradient`, another shape, a graph already freed.

    >>> x = Tensor([3.0], requires_grad=True)
    >>> (x**2).backward()
    >>> x.grad
    tensor([6.])
    """
    nodes, seeds = _seeds(_tuple(tensors), gradient, "backward", create_graph)
    targets = None if inputs is None else _wanted(_tuple(inputs), "backward")
    if targets is not None and not all(type(n) is Leaf for n in targets):
        raise RuntimeError("backward: inputs must be leaves; use autograd.grad for the gradient of a result")
    found = _walk(nodes, seeds, targets, retain_graph, create_graph, True)
    pairs = [(node.tensor(), g if create_graph else wrap(g)) for node, g in found.items() if type(node) is Leaf]
    for t, g in pairs:
        if t is not None and type(g.array) is not type(t.array):
            raise RuntimeError(
                f"backward: a leaf was moved to {t.device} after the forward, its gradient is on {g.device}"
            )
    with _depositing:
        for t, g in pairs:
            if t is not None and t._grad is None:
                t._grad = g
            elif t is not None:
                with set_grad_enabled(create_graph):
                    t._grad = t._grad + g


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the sum of outputs with respect to inputs, a tuple with one entry an input.

    Inputs may be leaves or results inside the graph. No `.grad` changes. An input that the outputs do not depend on
    raises RuntimeError, or gives None with `allow_unused=True`. `create_graph=True` records the gradient for another
    derivative.

    >>> x = Tensor([3.0], requires_grad=True)
    >>> (first,) = grad(x**3, x, create_graph=True)
    >>> grad(first, x)
    (tensor([18.]),)
    """
    nodes, seeds = _seeds(_tuple(outputs), grad_outputs, "grad", create_graph)
    wanted = _tuple(inputs)
    results = _walk(nodes, seeds, _wanted(wanted, "grad"), retain_graph, create_graph, False)
    missing = [i for i, t in enumerate(wanted) if t.node not in results]
    if missing and not allow_unused:
        raise RuntimeError(
            f"grad: the outputs do not depend on input {missing[0]} (shape {wanted[missing[0]].shape}); "
            "pass allow_unused=True to get None for it"
        )
    found = (results.get(t.node) for t in wanted)
    return tuple(g if g is None or type(g) is Tensor else wrap(g) for g in found)


def _wanted(inputs: tuple, who: str) -> set[Node]:
    for i, t in enumerate(inputs):
        if not isinstance(t, Tensor):
            raise TypeError(f"{who}: inputs must be Tensors, got {type(t).__name__}")
        if t.node is None:
            raise RuntimeError(
                f"{who}: input {i} (shape {t.shape}) does not require a gradient; "
                "set requires_grad=True before computing the outputs"
            )
    return {t.node for t in inputs}


def vjp(outputs: Any, inputs: Any, cotangents: Any = None, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Return u' J, cotangents u times the Jacobian of outputs by inputs: `grad`, with zeros for what is not reached.

    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> vjp(x * x, x, Tensor([1.0, 10.0]))
    (tensor([ 2., 40.]),)
    """
    wanted = _tuple(inputs)
    found = grad(outputs, inputs, cotangents, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return tuple(_zeros(t) if g is None else g for t, g in zip(wanted, found, strict=True))


def jvp(outputs: Any, inputs: Any, tangents: Any, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Return J v, the product of the Jacobian of outputs by inputs with tangents v, by two reverse passes.

    u' J is linear in u, so its derivative by u in the direction v is J v, for any u (here 0).

    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> jvp(x * x, x, Tensor([1.0, 10.0]))
    (tensor([ 2., 40.]),)
    """
    ys, vs = _tuple(outputs), _tuple(tangents)
    us = tuple(_zeros(y).requires_grad_() for y in ys)
    with set_grad_enabled(True):
        pulled = grad(ys, inputs, us, create_graph=True, allow_unused=True)
        reached = [(p, v) for p, v in zip(pulled, vs, strict=True) if p is not None and p.requires_grad]
        if not reached:
            return tuple(map(_zeros, ys))
        found = grad([p for p, _ in reached], us, [v for _, v in reached], create_graph=create_graph, allow_unused=True)
    return tuple(_zeros(y) if g is None else g for y, g in zip(ys, found, strict=True))


def _zeros(t: Tensor) -> Tensor:
    return wrap(MODULES[type(t.array)].zeros_like(t.array))


Tensor.backward = backward  # type: ignore[attr-defined]

__all__ = ["backward", "enable_grad", "grad", "is_grad_enabled", "jvp", "no_grad", "set_grad_enabled", "vjp"]
