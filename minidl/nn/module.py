"""Module: a function with parameters. What a network is made of, and how its parameters are found.

A module is an ordinary object. Parameters, buffers and submodules are its attributes, found by looking at them in the
order of assignment, inside plain lists, tuples and dictionaries too; reading `self.weight` is an ordinary look-up, and
there is no constructor that a subclass could forget to call. Names, order and state keys are PyTorch's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..engine import backend
from ..engine.hooks import Handle
from ..engine.modes import no_grad
from ..engine.tensor import Parameter, Tensor
from . import state, tree
from .state import IncompatibleKeys

Self = TypeVar("Self", bound="Module")
Named = Iterator[tuple[str, Any]]


class Parameters(list[Parameter]):
    """The parameters of a module: a list that carries their `names`, by which an optimizer keeps its state.

    >>> layer = nn.Sequential(nn.Linear(2, 3))
    >>> layer.parameters().names, layer.parameters()[1:].names
    (['0.weight', '0.bias'], ['0.bias'])
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

    Lists, tuples and dictionaries of parameters or modules are looked into: "blocks.0.weight" is the weight of the
    first module in the list `blocks`. A set is refused: it has no fixed order. A Tensor that is not a Parameter is
    neither trained nor saved, unless `register_buffer` names it. A parameter with two names (tied weights) counts once,
    under the first one.

    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         self.factors = [nn.Parameter([2.0]), nn.Parameter([3.0])]
    ...     def forward(self, x):
    ...         return x * self.factors[0] * self.factors[1]
    >>> scale = Scale()
    >>> scale(tensor([1.0, 10.0])).tolist(), scale.parameters().names
    ([6.0, 60.0], ['factors.0', 'factors.1'])
    """

    training: bool = True
    _buffers: Mapping[str, bool] = {}  # name -> persistent; replaced by a dictionary of the instance, never written to
    _hooks: tuple[dict[int, Callable], dict[int, Callable]] | None = None  # before and after forward

    # ---- the call ------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result: what a subclass defines."""
        raise NotImplementedError(f"{type(self).__name__}: a module defines forward(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`, with the hooks if there are any."""
        if backend.recorder is not None:
            backend.recorder.watch(self)
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

    def register_forward_pre_hook(self, hook: Callable[[Any, tuple], Any]) -> Handle:
        """Call `hook(module, args)` before each forward; what it returns, if not None, replaces the arguments.

        >>> layer = nn.Identity()
        >>> handle = layer.register_forward_pre_hook(lambda module, args: args[0] * 2)
        >>> layer(tensor([1.0]))
        tensor([2.])
        >>> handle.remove()
        >>> layer(tensor([1.0]))
        tensor([1.])
        """
        return self._register(0, hook)

    def register_forward_hook(self, hook: Callable[[Any, tuple, Any], Any]) -> Handle:
        """Call `hook(module, args, result)` after each forward; what it returns, if not None, replaces the result.

        >>> layer, seen = nn.Identity(), []
        >>> handle = layer.register_forward_hook(lambda module, args, out: seen.append(out))
        >>> _ = layer(7)
        >>> seen
        [7]
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

        >>> module = nn.Module()
        >>> module.register_buffer("mean", tensor([0.5]))
        >>> module.state_dict()
        {'mean': tensor([0.5])}
        """
        if isinstance(tensor, Parameter):
            raise TypeError(f"{type(self).__name__}: buffer {name!r} must not be a Parameter, which is trained")
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
            got = f"the class {value.__name__}; add ()" if isinstance(value, type) else type(value).__name__
            raise TypeError(f"{who}: {name!r} must be a {kind.__name__}, got {got}")
        if hasattr(self, name) and not isinstance(self.__dict__.get(name, ...), (kind, type(None))):
            raise ValueError(f"{who}: {name!r} is taken by an attribute or method; choose another name")
        setattr(self, name, value)

    # ---- walks ---------------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the modules directly inside, each once."""
        seen: set[int] = set()
        for name, child in tree.own(self, Module):
            if id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """Yield the modules directly inside, each once."""
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of this module, called `prefix`, and of all inside, outer before inner.

        >>> [name for name, _ in nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU())).named_modules()]
        ['', '0', '1', '1.0']
        """
        return tree.walk(self, Module, prefix, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all inside, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Named:
        """Yield (dotted name, Parameter): a module's own in the order of assignment, then those of its children.

        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
        >>> [(name, p.shape) for name, p in model.named_parameters()]
        [('0.weight', (3, 2)), ('0.bias', (3,)), ('1.weight', (1, 3))]
        """
        return self._named(lambda module: tree.own(module, Parameter), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Parameters:
        """Return the parameters, each once, as a list that carries their `names`."""
        return Parameters(self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Named:
        """Yield (dotted name, Tensor) of the buffers, those that are not persistent included."""
        return self._named(tree.own_buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        return (tensor for _, tensor in self.named_buffers(recurse=recurse))

    def _named(self, find: Callable[[Module], Named], prefix: str, recurse: bool, once: bool) -> Named:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix, once) if recurse else [(prefix, self)]:
            for name, tensor in find(module):
                if not once or id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tree.join(path, name), tensor

    def get_submodule(self, target: str) -> Module:
        """Return the module with a dotted name ("" is this one); AttributeError if there is none."""
        return self._find(target, self.named_modules(remove_duplicate=False), "module")

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter with a dotted name; AttributeError if there is none.

        >>> nn.Sequential(nn.Linear(2, 3)).get_parameter("0.bias").shape
        (3,)
        """
        return self._find(target, self.named_parameters(remove_duplicate=False), "parameter")

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer with a dotted name; AttributeError if there is none."""
        return self._find(target, self.named_buffers(remove_duplicate=False), "buffer")

    def _find(self, target: str, named: Named, what: str) -> Any:
        found = dict(named)
        if target not in found:
            known = ", ".join(filter(None, found)) or "none"
            raise AttributeError(f"{type(self).__name__}: has no {what} {target!r}; there are {known}")
        return found[target]

    # ---- what is done to all of it -------------------------------------------------------------------------------

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn(module)` on every module inside, inner before outer, and on this one, each once; return it.

        >>> seen = []
        >>> _ = nn.Sequential(nn.ReLU(), nn.Tanh()).apply(lambda module: seen.append(type(module).__name__))
        >>> seen
        ['ReLU', 'Tanh', 'Sequential']
        """
        seen: set[int] = set()

        def visit(module: Module) -> None:
            seen.add(id(module))
            for child in module.children():
                if id(child) not in seen:
                    visit(child)
            fn(module)

        visit(self)
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
        """Convert parameters, gradients and floating buffers to a dtype, and everything to a device; return the module.

        The Parameter objects stay the same, so an optimizer made before goes on. If anything raises, nothing changed.

        >>> nn.Linear(2, 3).to("float64").weight.dtype
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
        """Return copies of the parameters and persistent buffers by dotted name; training goes on without them.

        Tied parameters appear under each of their names, as in PyTorch, and are copied once.

        >>> {name: t.shape for name, t in nn.Linear(2, 3).state_dict().items()}
        {'weight': (3, 2), 'bias': (3,)}
        """
        return state.save(self, prefix)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy the values of a state (tensors or arrays by dotted name) into the parameters and buffers.

        Shapes and dtypes must be equal; devices may differ. ValueError lists everything that does not fit at once, and
        then nothing has changed. `strict=False` puts up with missing and unexpected names, and returns them. Of tied
        parameters one name is enough; under several they must be equal. The parts of a weight under `weight_norm` or
        `spectral_norm` may have the names of `torch.nn.utils.parametrizations`.

        >>> layer = nn.Linear(1, 1)
        >>> layer.load_state_dict({"weight": np.ones((1, 1), "float32")}, strict=False)
        IncompatibleKeys(missing_keys=['bias'], unexpected_keys=[])
        """
        return state.load(self, state_dict, strict)

    # ---- text ----------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the module's settings, which stand in the parentheses of its text."""
        return ""

    def _title(self) -> str:
        """Return the module in one line, without what is inside: its class and settings."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def __repr__(self) -> str:
        text = "\n".join(tree.lines(self, Module))
        if not any(True for _ in self.children()):
            return text
        params = self.parameters()
        count, trained = sum(p.size for p in params), sum(p.size for p in params if p.requires_grad)
        return f"{text}  # {count:,} parameters in all" + (f", {trained:,} of them trained" if trained < count else "")
