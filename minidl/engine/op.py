"""Op: an operation declared once, and the one choke point that every operation goes through.

    softplus = Op(
        lambda xp, x: xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x))),   # log(1 + e^x), no overflow at either end
        lambda g, out, x: g * sigmoid(x),
        saves="x",
    )

The first argument computes the result on raw arrays. Each further one is a rule, one for each input: given the gradient
`g` that arrives at the result, it returns the gradient that leaves through that input. A rule is ordinary text over
operations and does not know what carries it: with raw arrays it computes and records nothing, with Tensors it is
recorded itself, which is what makes derivatives of every order.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import backend
from .backend import HOST, MODULES, SCALARS, Array, as_array, checked_dtype, device_of, is_array, to_device
from .calls import specialise
from .explain import explain, mixed_devices
from .node import Ghost, MultiNode, Node, ghost, mode, pick, tick
from .tensor import TENSORS, wrap

_VARIADIC = inspect.Parameter.VAR_POSITIONAL
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Op:
    """A differentiable operation: one text for NumPy and CuPy, for every order of derivative.

    Parameters
    ----------
    forward : `forward(xp, *arrays, **static)`, on raw arrays; or the name of the array module's function ("exp").
        Positional parameters are arrays, keyword-only ones are settings. A tuple of results means several outputs.
    *rules : `rule(g, out, *inputs, **static)`, one for each input, returning that input's gradient; None for an input
        that has none. Written with operations, so that the rule can be differentiated in turn.
    joint : instead of rules, one `joint(g, out, *inputs, **static)` returning a tuple with an entry (or None) an input,
        for rules that share work. With several outputs g is a tuple, with zeros for those that were not used.
    saves : the names, separated by blanks, of the inputs whose values the rules read, and "out" for the result.
        Any other input that has a gradient reaches the rules as a ghost: shape, dtype, device, ndim and size.
    into : `into(xp, out, *arrays, **static)`, computing into an existing array; without it the result is copied there.
    samplewise : True if row n of the result depends on row n alone of each input that has the result's rows, or a
        function of the inputs' shapes and the settings that tells so; an input that is broadcast over axis 0 (fewer
        axes, or length 1) is shared by all rows. None: unknown, or samples mix.
    effect : "random" or "buffers" if a call does more than return its result, so that a recorded step repeats it.
    once : True if the rules are exact for first derivatives only; differentiating them raises.

    The engine, not the rules, sums gradients over broadcast axes, casts them to the input's dtype, adds those of
    repeated uses, and skips inputs that need none.

    >>> from minidl.ops import exp
    >>> cube = Op(lambda xp, x: x * x * x, lambda g, out, x: 3 * g * x * x, saves="x", name="cube")
    >>> x = Tensor([2.0], requires_grad=True)
    >>> cube(x).backward()
    >>> x.grad
    tensor([12.])
    """

    def __init__(
        self,
        forward: str | Callable[..., Any],
        *rules: Callable[..., Any] | None,
        joint: Callable[..., Any] | None = None,
        saves: str = "",
        into: Callable[..., Any] | None = None,
        samplewise: bool | Callable[..., bool] | None = None,
        effect: str | None = None,
        once: bool = False,
        name: str | None = None,
        doc: str | None = None,
    ):
        self._name = name
        self.__module__ = sys._getframe(1).f_globals.get("__name__", "__main__")  # where pickle finds it by name
        self.rules, self.joint, self.into = rules, joint, into
        self.samplewise, self.effect, self.once = samplewise, effect, once
        self.__doc__ = doc or (None if isinstance(forward, str) else forward.__doc__)
        if isinstance(forward, str):
            self._name = name or forward
            self.ufunc = getattr(np, forward, None)
            self.inputs: tuple[str, ...] = ("x", "y", "z")[: len(rules) or getattr(self.ufunc, "nin", 1)]
            self.settings: tuple[str, ...] = ()
            self.variadic = False
            self.forward = _module_function(forward)
            self.on_numpy = self.ufunc or partial(self.forward, np)
            self.__signature__ = inspect.Signature([inspect.Parameter(n, _POSITIONAL[0]) for n in self.inputs])
        else:
            self.forward, self.ufunc, self.on_numpy = forward, None, partial(forward, np)
            parameters = list(inspect.signature(forward).parameters.values())[1:]
            self.inputs = tuple(p.name for p in parameters if p.kind in (*_POSITIONAL, _VARIADIC))
            self.variadic = any(p.kind is _VARIADIC for p in parameters)
            self.settings = tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
            self.__signature__ = inspect.Signature(parameters)
        saves = saves if isinstance(saves, str) else " ".join(saves)
        self._check(rules, joint, saves, effect)
        self.saved = frozenset(saves.split())
        self.save_out = "out" in self.saved
        self.keeps = tuple(n in self.saved for n in self.inputs)
        self.differentiable = joint is not None or any(rules)
        self.call = specialise(self)
        self.call.__name__ = self.call.__qualname__ = self._name or "op"
        self.call.__doc__ = self.__doc__
        # A class of its own lets op(x) run the function directly; through Op.__call__ it would cost a tenth more.
        self.__class__ = type("Op", (type(self),), {"__call__": staticmethod(self.call)})

    def _check(self, rules: tuple, joint: Any, saves: str, effect: str | None) -> None:
        if rules and joint:
            raise ValueError(f"{self.name}: give one rule an input, or joint=, not both")
        if rules and (self.variadic or len(rules) != len(self.inputs)):
            raise ValueError(
                f"{self.name}: needs one rule for each input {self.inputs}, got {len(rules)}; "
                "use joint= for a variable number of inputs"
            )
        for rule in rules:
            code = getattr(rule, "__code__", None)
            # A rule that cannot be called shows here and not at the first gradient. 4: takes *args.
            if code is not None and not code.co_flags & 4 and code.co_argcount != len(self.inputs) + 2:
                needs = ", ".join(("g", "out", *self.inputs))
                raise ValueError(
                    f"{self.name}: each rule takes ({needs}) and the settings, one takes {code.co_argcount} arguments"
                )
        unknown = set(saves.split()) - {*self.inputs, "out"}
        if unknown:
            raise ValueError(f"{self.name}: saves names {sorted(unknown)}, but the inputs are {self.inputs} and 'out'")
        if effect not in (None, "random", "buffers"):
            raise ValueError(f"{self.name}: effect must be None, 'random' or 'buffers', got {effect!r}")

    @property
    def name(self) -> str:
        """The name used in messages: as given, else that of the variable which holds the Op, else of the function."""
        if self._name is None:
            variables = getattr(self.forward, "__globals__", {})
            self._name = next((k for k, v in variables.items() if v is self), None) or self.forward.__qualname__
        return self._name

    def __repr__(self) -> str:
        return f"<op {self.name}{self.__signature__}>"

    def __reduce__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **static: Any) -> Any:  # noqa: D102
        return self.call(*args, **static)

    # ---- the choke point -----------------------------------------------------------------------------------------

    def apply(self, args: tuple, static: dict[str, Any]) -> Any:
        """Run the operation on anything: tensors, arrays, numbers, lists. The general form of the hot path."""
        if not self.variadic and len(args) != len(self.inputs):
            args = self._settle(args, static)
        arrays: list[Any] = []
        parents: list[Node | None] = []
        owner: Any = None
        kind: Any = None  # an array that decides the module and the device, and its type
        tracked = wrapped = False
        for x in args:
            node = None
            if type(x) in TENSORS:
                wrapped, node, x = True, x.node, x.array
                tracked = tracked or node is not None
            elif isinstance(x, Ghost):
                raise TypeError(
                    f"{self.name}: got the ghost of an input that was not saved; name it in the rule's saves="
                )
            elif type(x) not in MODULES:
                x = _plain(x, self, args)
            elif wrapped or x.dtype.kind not in "biuf":
                checked_dtype(x.dtype, self.name)
            if type(x) in MODULES:
                if owner is None:
                    owner, kind = x, type(x)
                elif (type(x) is not kind or kind is not np.ndarray) and device_of(x) != device_of(owner):
                    raise mixed_devices(self, args)
                elif kind is np.ndarray:
                    owner, kind = x, type(x)  # a step that is being recorded computes with plain arrays too
            arrays.append(x)
            parents.append(node)
        if owner is None and self.samplewise is not True:
            arrays = [np.asarray(x) for x in arrays]  # sum(1.0): only elementwise texts compute with plain numbers
        try:
            if kind is None or kind is np.ndarray:
                xp = np
                out = self.on_numpy(*arrays, **static)
            else:
                xp = MODULES[kind]
                with owner.device:  # CuPy computes on the current GPU, which need not be the one the arrays are on
                    if self.effect is None or xp not in HOST:
                        out = self.forward(xp, *arrays, **static)
                    else:
                        out = backend.recorder.opaque(self.name, self.forward, arrays, static, self.effect == "buffers")
        except (ValueError, TypeError, IndexError) as error:
            raise explain(self, error, args, static)  # noqa: B904 (often the same error: a cycle)
        if type(out) is tuple:
            return self.several(out, arrays, parents, static, tracked, wrapped)
        if type(out) not in MODULES:
            out = self.returned(xp, out)
        if owner is None:
            return out if out.ndim else out.item()  # numbers in, a number out: still weak
        if not wrapped:
            return out
        if not (tracked and mode.record and self.differentiable and out.dtype.kind == "f"):
            return wrap(out)
        return wrap(out, self.record(Node(), out, arrays, parents, self.kept(len(args)), static))

    def returned(self, xp: Any, out: Any) -> Array:
        """Make the number that a forward returned, as NumPy's reductions do, an array; refuse what is no number."""
        if not isinstance(out, (np.generic, int, float)):
            raise TypeError(
                f"{self.name}: forward must return an array, or a tuple of arrays, got {type(out).__name__}"
            )
        return xp.asarray(out)

    def record(self, node: Any, out: Any, arrays: Any, parents: Any, keeps: tuple, static: dict[str, Any]) -> Any:
        """Fill in the node of a result."""
        node.op = self
        seen = zip(arrays, keeps, parents, strict=True)
        node.args = tuple([a if keep or parent is None else parent for a, keep, parent in seen])
        node.out = out if self.save_out else None
        node.parents = tuple(parents)
        # Lists are the caller's, who may change them before backward.
        node.static = {k: tuple(v) if type(v) is list else v for k, v in static.items()} if static else static
        node.time = tick()
        node.hooks = None
        if type(node) is Node:
            node.shape, node.dtype = out.shape, out.dtype
            if type(out) is not np.ndarray:
                node._device = device_of(out)
        if mode.record == 2:
            mode.watch(node)
        return node

    def several(self, outs: tuple, arrays: list, parents: list, static: dict, tracked: bool, wrapped: bool) -> tuple:
        """Wrap several outputs: each has a Pick node, whose only parent is the node of the operation."""
        outs = tuple(np.asarray(o) if isinstance(o, np.generic) else o for o in outs)
        if not wrapped:
            return outs
        if not (tracked and mode.record and self.differentiable):
            return tuple(wrap(o) for o in outs)
        main = self.record(MultiNode(), outs, arrays, parents, self.kept(len(arrays)), static)
        main.outputs, main.picks = tuple(ghost(o) for o in outs), {}
        main.shape, main.dtype = tuple(o.shape for o in outs), tuple(o.dtype for o in outs)
        return tuple(wrap(o, pick(main, i) if o.dtype.kind == "f" else None) for i, o in enumerate(outs))

    def kept(self, n: int) -> tuple[bool, ...]:
        """Tell for each of n inputs whether its values are saved."""
        return self.keeps[:-1] + self.keeps[-1:] * (n - len(self.keeps) + 1) if self.variadic else self.keeps

    def _settle(self, args: tuple, static: dict[str, Any]) -> tuple:
        """Move positional arguments beyond the arrays into the settings, as in sum(x, 0)."""
        n = len(self.inputs)
        if len(args) < n or len(args) - n > len(self.settings):
            raise TypeError(f"{self.name}{self.__signature__}: got {len(args)} positional arguments")
        for key, value in zip(self.settings, args[n:], strict=False):
            if key in static:
                raise TypeError(f"{self.name}: got two values for {key}=")
            if key == "keepdims" and not isinstance(value, (bool, np.bool_)):
                raise TypeError(
                    f"{self.name}: keepdims must be True or False, got {value!r}; settings are best given by name"
                )
            static[key] = value
        return args[:n]

    def compute_into(self, out: Array, *arrays: Any, **static: Any) -> None:
        """Compute on raw arrays into an existing array: by the `into` kernel, else by copying the result."""
        xp = MODULES[type(out)]
        if self.into is not None:
            self.into(xp, out, *arrays, **static)
        else:
            xp.copyto(out, self.forward(xp, *arrays, **static))

    def is_samplewise(self, shapes: tuple[tuple[int, ...], ...], static: dict[str, Any]) -> bool:
        """Tell whether row n of the result depends on row n of the inputs alone, for inputs of these shapes."""
        return bool(self.samplewise(shapes, **static) if callable(self.samplewise) else self.samplewise)


def takes(x: Any) -> bool:
    """Tell whether x can be an operand; if not, Python asks the other operand's class."""
    return type(x) in TENSORS or isinstance(x, (*SCALARS, list, tuple)) or is_array(x)


def _plain(x: Any, op: Op, args: tuple) -> Any:
    """Make an argument that is no array weak or an array: numbers stay Python numbers, lists become arrays."""
    if type(x) in (float, int, bool):
        return x
    who = op.name
    if isinstance(x, np.generic):
        checked_dtype(x.dtype, who)
        return x.item()  # a NumPy scalar would turn float32 into float64 (NEP 50)
    if isinstance(x, (list, tuple)):
        return _listed(x, op, next((a for a in args if type(a) in TENSORS or is_array(a)), None))
    if is_array(x):
        return as_array(x, who=who)
    if isinstance(x, SCALARS):
        return x
    raise TypeError(f"{who}: needs tensors, arrays or real numbers, got {type(x).__name__}")


def _listed(x: Any, op: Op, like: Any) -> Array:
    """Make a list an array: beside another operand, Python numbers in it are as weak as a single one would be."""
    host = np.asarray(x)
    checked_dtype(host.dtype, op.name)
    if like is None:
        return host
    number = "fi" if op.samplewise is True else "f"  # of an elementwise operation; elsewhere integers may be indices
    if like.dtype.kind == "f" and host.dtype.kind in number:
        host = host.astype(like.dtype)
    return to_device(host, like.device if type(like) in TENSORS else device_of(like))


def _module_function(name: str) -> Callable[..., Any]:
    def forward(xp: Any, *arrays: Any) -> Any:
        return getattr(xp, name)(*arrays)

    return forward
