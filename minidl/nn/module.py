"""Module: a function with parameters. What a network is made of, and how its parameters are found.

A module is an ordinary object. Parameters, buffers and submodules are its attributes, found by looking at them in the
order of assignment, inside plain lists, tuples and dictionaries too; reading `self.weight` is an ordinary look-up, and
there is no constructor that a subclass could forget to call. Names, order and state keys are PyTorch's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..engine.hooks import Handle
from ..engine.modes import no_grad
from ..engine.tensor import Parameter, Tensor
from . import state
from .state import IncompatibleKeys

Self = TypeVar("Self", bound="Module")


class Parameters(list[Parameter]):
    """The parameters of a module: a list that carries their `names`, by which an optimizer keeps its state.

    >>> Linear(2, 3).parameters().names
    ['weight', 'bias']
    """

    names: list[str]

    def __init__(self, named: Any = ()):
        pairs = list(named)
        super().__init__(p for _, p in pairs)
        self.names = [name for name, _ in pairs]

    def __getitem__(self, index: Any) -> Any:
        chosen = super().__getitem__(index)
        return Parameters(zip(self.names[index], chosen, strict=True)) if isinstance(index, slice) else chosen


class Module:
    """The base of all layers and networks: assign parameters and modules as attributes and define `forward`.

    Lists, tuples and dictionaries of parameters or modules are looked into; "blocks.0.weight" is the weight of the first
    module in the list `blocks`. A set is refused: it has no fixed order. A Tensor that is not a Parameter is neither
    trained nor saved, unless `register_buffer` names it. A parameter with two names (tied weights) counts once, under
    the first one.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factors = [Parameter([2.0]), Parameter([3.0])]
    ...     def forward(self, x):
    ...         return x * self.factors[0] * self.factors[1]
    >>> scale = Scale()
    >>> scale(tensor([1.0, 10.0])).tolist(), scale.parameters().names
    ([6.0, 60.0], ['factors.0', 'factors.1'])
    """

    training: bool = True
    _buffers: Mapping[str, bool] = {}  # name -> persistent; replaced by a dictionary of the instance, never written to
    _hooks: tuple[dict[Handle, Callable], dict[Handle, Callable]] | None = None  # before and after forward

    # ---- the call ------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result: what a subclass defines."""
        raise NotImplementedError(f"{type(self).__name__}: a module defines forward(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        before, after = self._hooks
        for hook in tuple(before.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        out = self.forward(*args, **kwargs)
        for hook in tuple(after.values()):
            changed = hook(self, args, out)
            out = out if changed is None else changed
        return out

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple], Any]) -> Handle:
        """Call `hook(module, args)` before each forward; what it returns, if not None, replaces the arguments.

        >>> layer = Identity()
        >>> handle = layer.register_forward_pre_hook(lambda module, args: args[0] * 2)
        >>> layer(tensor([1.0]))
        tensor([2.])
        >>> handle.remove()
        >>> layer(tensor([1.0]))
        tensor([1.])
        """
        return self._register(0, hook)

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> Handle:
        """Call `hook(module, args, result)` after each forward; what it returns, if not None, replaces the result.

        >>> seen = []
        >>> handle = Identity().register_forward_hook(lambda module, args, out: seen.append(out))
        """
        return self._register(1, hook)

    def _register(self, when: int, hook: Callable) -> Handle:
        if not callable(hook):
            raise TypeError(f"{type(self).__name__}: a hook must be callable, got {type(hook).__name__}")
        if self._hooks is None:
            self._hooks = ({}, {})
        return Handle(self._hooks[when], hook)

    # ---- attributes ----------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        # `layer.weight = layer.weight - lr * g` would make a constant of a parameter that no optimizer finds any more.
        old = self.__dict__.get(name)
        if isinstance(old, Tensor) and value is not None:
            kind = Parameter if isinstance(old, Parameter) else Tensor if name in self._buffers else object
            if not isinstance(value, kind):
                raise TypeError(
                    f"{type(self).__name__}.{name}: a {kind.__name__} can only be replaced by another or by None, got "
                    f"{type(value).__name__}; to change its values write .data = ..., or .copy_(...) under no_grad()"
                )
        object.__setattr__(self, name, value)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make `param` the attribute `name`; None keeps the name for a parameter that is switched off."""
        self._add(name, param, Parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make `tensor` the attribute `name` and a buffer: it moves with `to` and, if persistent, is part of the state.

        >>> module = Module()
        >>> module.register_buffer("mean", tensor([0.5]))
        >>> module.state_dict()
        {'mean': tensor([0.5])}
        """
        if isinstance(tensor, Parameter):
            raise TypeError(f"{type(self).__name__}: buffer {name!r} must not be a Parameter, which is trained; pass .detach()")
        self._add(name, tensor, Tensor)
        self._buffers = {**self._buffers, name: bool(persistent)}

    def add_module(self, name: str, module: Module | None) -> None:
        """Make `module` the attribute `name`, for names that are computed."""
        self._add(name, module, Module)

    def _add(self, name: str, value: Any, kind: type) -> None:
        """Set an attribute under a name that state keys can carry and that hides nothing."""
        who = type(self).__name__
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"{who}: the name of a {kind.__name__} must be a str without dots, got {name!r}")
        if not isinstance(value, (kind, type(None))):
            hint = f"; did you mean {value.__name__}()?" if isinstance(value, type) else ""
            raise TypeError(f"{who}: {name!r} must be a {kind.__name__}, got {getattr(value, '__name__', type(value).__name__)}{hint}")
        if hasattr(self, name) and not isinstance(self.__dict__.get(name, self), (kind, type(None))):
            raise ValueError(f"{who}: {name!r} is taken by an attribute or method; choose another name")
        setattr(self, name, value)

    def own(self, kind: type) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of the attributes of a kind, Parameter or Module, those in lists and dictionaries included."""
        for name, value in tuple(self.__dict__.items()):
            if name != "_hooks":
                yield from _search(name, value, kind)

    # ---- walks ---------------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the modules directly inside, each once."""
        seen = set()
        for name, child in self.own(Module):
            if id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """Yield the modules directly inside."""
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of this module, called `prefix`, and of all inside, outer before inner.

        >>> [name for name, _ in Sequential(Linear(2, 2), Sequential(ReLU())).named_modules()]
        ['', '0', '1', '1.0']
        """
        return _walk(self, prefix, set() if remove_duplicate else None, ())

    def modules(self) -> Iterator[Module]:
        """Yield this module and all inside, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter): each module's own ones in the order of assignment, then those of its children.

        >>> [(name, p.shape) for name, p in Sequential(Linear(2, 3), Linear(3, 1, bias=False)).named_parameters()]
        [('0.weight', (3, 2)), ('0.bias', (3,)), ('1.weight', (1, 3))]
        """
        return self._named(lambda module: module.own(Parameter), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Parameters:
        """Return the parameters, each once, as a list that carries their `names`."""
        return Parameters(self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yield (dotted name, tensor) of the buffers, those that are not persistent included."""
        return self._named(lambda module: module.own_buffers(), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        return (tensor for _, tensor in self.named_buffers(recurse=recurse))

    def own_buffers(self, persistent: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of this module's own buffers; of the persistent ones only, if asked."""
        for name, kept in self._buffers.items():
            tensor = self.__dict__.get(name)
            if tensor is not None and (kept or not persistent):
                yield name, tensor

    def _named(self, find: Callable[[Module], Any], prefix: str, recurse: bool, once: bool) -> Iterator[tuple[str, Any]]:
        seen = set()
        for path, module in self.named_modules(prefix, remove_duplicate=once) if recurse else [(prefix, self)]:
            for name, tensor in find(module):
                if not once or id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield _join(path, name), tensor

    def get_submodule(self, target: str) -> Module:
        """Return the module with a dotted name ("" is this one); AttributeError if there is none."""
        return self._find(target, self.named_modules(remove_duplicate=False), "module")

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter with a dotted name; AttributeError if there is none.

        >>> Sequential(Linear(2, 3)).get_parameter("0.bias").shape
        (3,)
        """
        return self._find(target, self.named_parameters(remove_duplicate=False), "parameter")

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer with a dotted name; AttributeError if there is none."""
        return self._find(target, self.named_buffers(remove_duplicate=False), "buffer")

    def _find(self, target: str, named: Iterator[tuple[str, Any]], what: str) -> Any:
        found = dict(named)
        if target not in found:
            raise AttributeError(f"{type(self).__name__}: has no {what} {target!r}; there are {', '.join(filter(None, found)) or 'none'}")
        return found[target]

    # ---- what is done to all of it -------------------------------------------------------------------------------

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn(module)` on every module inside, inner before outer, and on this one; return it."""
        for module in reversed(list(self.modules())):
            fn(module)
        return self

    def train(self: Self, mode: bool = True) -> Self:
        """Put this module and all inside into training mode (dropout drops, batch norm uses the batch); return it."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: mode must be True or False, got {mode!r}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """Put this module and all inside into evaluation mode; return it."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Let the parameters take part in training, or freeze them; return the module."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the parameters, or fill them with zeros."""
        for p in self.parameters():
            if set_to_none or p.grad is None:
                p.grad = None
            else:
                with no_grad():
                    p.grad = p.grad.detach().zero_()

    def to(self: Self, *target: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Convert parameters, their gradients and floating buffers to a dtype, all of them to a device; return the module.

        The Parameter objects stay the same, so an optimizer made before goes on. If anything raises, nothing changed.

        >>> Linear(2, 3).to("float64").weight.dtype
        dtype('float64')
        """
        for value in target:
            if isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"):
                device = value
            else:
                dtype = value
        state.convert(type(self).__name__, [*self.parameters(), *self.buffers()], device, dtype)
        return self

    def cpu(self: Self) -> Self:
        """Move to the CPU."""
        return self.to(device="cpu")

    def cuda(self: Self, index: int = 0) -> Self:
        """Move to a GPU; RuntimeError with the reason if there is none that CuPy can use."""
        return self.to(device=f"cuda:{operator.index(index)}")

    def float(self: Self) -> Self:
        """Convert to float32."""
        return self.to(dtype="float32")

    def double(self: Self) -> Self:
        """Convert to float64."""
        return self.to(dtype="float64")

    # ---- state ---------------------------------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Return copies of the parameters and persistent buffers by dotted name: training goes on without changing them.

        Tied parameters appear under each of their names, as in PyTorch, and are copied once.

        >>> {name: t.shape for name, t in Linear(2, 3).state_dict().items()}
        {'weight': (3, 2), 'bias': (3,)}
        """
        return state.save(self, prefix)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy the values of a state (tensors or arrays by dotted name) into the parameters and buffers.

        Shapes and dtypes must be equal; devices may differ. ValueError lists everything that does not fit at once, and
        then nothing has changed. `strict=False` puts up with missing and unexpected names, and returns them. Of tied
        parameters one name is enough; under several they must be equal.

        >>> layer = Linear(1, 1)
        >>> layer.load_state_dict({"weight": np.ones((1, 1), "float32")}, strict=False)
        IncompatibleKeys(missing_keys=['bias'], unexpected_keys=[])
        """
        return state.load(self, state_dict, strict)

    # ---- text ----------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of the module's text: its settings."""
        return ""

    def title(self) -> str:
        """Return the module in one line, without what is inside: its class and settings."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def __repr__(self) -> str:
        params = self.parameters()
        text = "\n".join(_lines(self, ()))
        if not any(True for _ in self.children()):
            return text
        count, trained = sum(p.size for p in params), sum(p.size for p in params if p.requires_grad)
        return f"{text}  # {count:,} parameters in all" + (f", {trained:,} of them trained" if trained < count else "")


# ---- helpers -----------------------------------------------------------------------------------------------------


def _search(name: str, value: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """Yield (name, x) for a value of the kind looked for, and for those inside lists, tuples and dictionaries."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _search(f"{name}.{i}", item, kind)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _search(f"{name}.{key}", item, kind)
    elif isinstance(value, (set, frozenset)) and any(isinstance(item, (Parameter, Module)) for item in value):
        raise TypeError(f"{name}: a set of modules or parameters has no fixed order, so it cannot be saved; use a list")


def _walk(module: Module, prefix: str, seen: set[int] | None, path: tuple[Module, ...]) -> Iterator[tuple[str, Module]]:
    """Yield modules with their names: each once if there is a `seen`, else under every name, circles left out."""
    if (id(module) in seen) if seen is not None else any(module is outer for outer in path):
        return
    if seen is not None:
        seen.add(id(module))
    yield prefix, module
    for name, child in module.own(Module):
        yield from _walk(child, _join(prefix, name), seen, (*path, module))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _lines(module: Module, path: tuple[Module, ...]) -> list[str]:
    """Return the lines of a module's text: its title, the shapes of its own parameters, its children indented."""
    own = dict(module.own(Parameter))
    note = ", ".join(f"{name} {p.shape}" for name, p in own.items())
    note = f"  # {note}: {sum(p.size for p in own.values()):,} parameters" if own else ""
    if any(module is outer for outer in path):
        return [f"{type(module).__name__}(...)"]
    inner = []
    for name, child in module.own(Module):
        first, *rest = _lines(child, (*path, module))
        inner += [f"  ({name}): {first}", *(f"  {line}" for line in rest)]
    return [module.title() + note] if not inner else [f"{module.title()[:-1]}{note}", *inner, ")"]
