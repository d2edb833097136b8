"""Weights that are computed from other parameters at every call: weight normalization and spectral normalization.

The weight is a function of its parts, so derivatives of every order reach these; before each forward a hook of the
module computes it. After the call the module's attribute shows the last value, as a constant.
"""

from __future__ import annotations

from typing import Any

from ..engine.node import stamp
from ..engine.op import Op
from ..engine.tensor import Parameter, Tensor
from ..ops.linalg import matmul
from ..ops.norms import euclidean
from ..ops.rearrange import moveaxis
from ..ops.reduce import sum
from ..ops.shape import reshape
from ..random import generator
from .frozen import frozen_statistics, is_frozen
from .module import Module
from .settings import number, sizes


class _Computed:
    """A hook that computes a module's attribute `name` from its other tensors; a subclass says how."""

    def __init__(self, name: str):
        self.name = name

    def compute(self, module: Module) -> Any:
        raise NotImplementedError

    def __call__(self, module: Module, args: tuple) -> None:
        vars(module)[self.name] = self.compute(module)

    def attach(self, module: Module, weight: Tensor) -> None:
        """Compute the attribute before each call from now on; after it, cut it from the graph."""
        module.register_forward_pre_hook(self)
        module.register_forward_hook(_Detached(self.name))
        vars(module)[self.name] = weight.detach()


class _Detached:
    def __init__(self, name: str):
        self.name = name

    def __call__(self, module: Module, args: tuple, out: Any) -> None:
        vars(module)[self.name] = vars(module)[self.name].detach()


def _take(who: str, module: Module, name: str, dim: int | None) -> Parameter:
    """Return a module's parameter and remove it; ValueError if there is none of that name, or it has no axis `dim`."""
    found = vars(module).get(name)
    if not isinstance(found, Parameter):
        raise ValueError(f"{who}: {type(module).__name__} has no parameter {name!r}, or it is computed already")
    if dim is not None and dim not in range(found.ndim):
        raise ValueError(f"{who}: dim must be an axis of {name} {found.shape}, counted from 0, got {dim!r}")
    delattr(module, name)
    return found


def _remove(who: str, kind: type[_Computed], module: Any, name: str, parts: tuple[str, ...]) -> Any:
    """Take the hooks and the parts away and make the computed value a parameter again; return the module."""
    before, after = module._hooks or ({}, {})
    mine = [key for key, hook in before.items() if isinstance(hook, kind) and hook.name == name]
    if not mine:
        raise ValueError(f"{who}: {type(module).__name__}.{name} is not computed by it")
    with frozen_statistics():
        value = before[mine[0]].compute(module)
    for key in mine:
        del before[key]
    for key in [key for key, hook in after.items() if isinstance(hook, _Detached) and hook.name == name]:
        del after[key]
    for part in (name, *parts):
        vars(module).pop(part)
    module._buffers = {k: v for k, v in module._buffers.items() if k not in parts}
    setattr(module, name, Parameter(value.detach()))
    return module


# ---- weight normalization ----------------------------------------------------------------------------------------


class _WeightNorm(_Computed):
    def __init__(self, name: str, dim: int | None):
        super().__init__(name)
        self.dim = dim

    def axes(self, v: Tensor) -> tuple[int, ...] | None:
        """Return the axes that a length runs over: all, or all but one."""
        return None if self.dim is None else tuple(i for i in range(v.ndim) if i != self.dim)

    def length(self, v: Any) -> Any:
        return euclidean(v, axis=self.axes(v), keepdims=self.dim is not None)

    def compute(self, module: Module) -> Any:
        g, v = vars(module)[f"{self.name}_g"], vars(module)[f"{self.name}_v"]
        return v * (g / self.length(v))


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Make a weight the product of its lengths and its directions, w = g v / |v|; return the module.

    The parameter `name` gives way to two: name_g, the lengths, and name_v. A length is that of the elements with one
    index on axis `dim`, counted from 0, which keeps its place in name_g; dim=None: of all elements. The layer computes
    what it did. An optimizer must be made anew. `load_state_dict` also takes PyTorch's newer names,
    parametrizations.weight.original0 for weight_g and original1 for weight_v. ValueError if the module has no such
    parameter or axis (Salimans & Kingma 2016, arXiv:1602.07868, eq. 2).

    >>> layer = nn.utils.weight_norm(nn.Linear(2, 3))
    >>> {name: t.shape for name, t in layer.state_dict().items()}
    {'bias': (3,), 'weight_g': (3, 1), 'weight_v': (3, 2)}
    """
    hook = _WeightNorm(name, dim)
    weight = _take("weight_norm", module, name, dim)
    setattr(module, f"{name}_g", Parameter(hook.length(weight).detach()))
    setattr(module, f"{name}_v", Parameter(weight.detach()))
    hook.attach(module, weight)
    return module


def remove_weight_norm(module: Any, name: str = "weight") -> Any:
    """Make the weight that `weight_norm` parted one parameter again; return the module.

    >>> nn.utils.remove_weight_norm(nn.utils.weight_norm(nn.Linear(2, 3))).parameters().names
    ['bias', 'weight']
    """
    return _remove("remove_weight_norm", _WeightNorm, module, name, (f"{name}_g", f"{name}_v"))


# ---- spectral normalization ----------------------------------------------------------------------------------------


def _iterate(xp: Any, matrix: Any, u: Any, v: Any, *, steps: int, eps: float) -> Any:
    """Turn u and v, in place, towards the first singular vectors: v = W'u / |W'u|, u = W v / |W v|."""
    for _ in range(steps):
        for target, w, source in ((v, matrix.T, u), (u, matrix, v)):
            new = xp.dot(w, source)
            target[...] = new / xp.maximum(xp.sqrt((new * new).sum()), eps)
            stamp(target)
    return u


_power_iteration = Op(_iterate, effect="buffers", name="spectral_norm")


class _SpectralNorm(_Computed):
    def __init__(self, name: str, steps: int, eps: float, dim: int):
        super().__init__(name)
        self.steps, self.eps, self.dim = steps, eps, dim

    def matrix(self, weight: Any) -> Any:
        """Show the weight as a matrix whose rows are the outputs."""
        return reshape(moveaxis(weight, self.dim, 0), (weight.shape[self.dim], -1))

    def compute(self, module: Module) -> Any:
        weight, u, v = (vars(module)[f"{self.name}_{part}"] for part in ("orig", "u", "v"))
        matrix = self.matrix(weight)
        if module.training and not is_frozen():
            _power_iteration(matrix.detach(), u, v, steps=self.steps, eps=self.eps)
        # The vectors are constants: where they have converged, the derivative of u'Wv is that of the singular value.
        sigma = sum(u.copy() * matmul(matrix, v.copy()))
        return weight / sigma


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:
    """Divide a weight by an estimate of its largest singular value, so that the layer lengthens no input; return it.

    The parameter `name` gives way to name_orig; w = name_orig / (u' W v), where the rows of the matrix W are the
    indices on axis `dim` (1 for transposed convolution, else 0), and the buffers name_u and name_v follow its first
    singular vectors by `n_power_iterations` steps of the power method at each call in training mode, none in
    `frozen_statistics()`. To derivatives they are constants. `load_state_dict` also takes PyTorch's newer names,
    parametrizations.weight.original, .0._u and .0._v. ValueError if the module has no such parameter (Miyato et al.
    2018, arXiv:1802.05957, Alg. 1).

    >>> layer = nn.utils.spectral_norm(nn.Linear(2, 3))
    >>> for _ in range(100): _ = layer(ones(1, 2))
    >>> round(float(np.linalg.norm(layer.weight.numpy(), 2)), 4), list(layer.state_dict())
    (1.0, ['bias', 'weight_orig', 'weight_u', 'weight_v'])
    """
    who = "spectral_norm"
    steps = sizes(who, "n_power_iterations", n_power_iterations, 1)[0]
    axis = int(type(module).__name__.startswith("ConvTranspose")) if dim is None else dim
    hook = _SpectralNorm(name, steps, number(who, "eps", eps, low=0), axis)
    weight = _take(who, module, name, axis)
    setattr(module, f"{name}_orig", weight)
    matrix, rng = hook.matrix(weight.detach()), generator()
    u, v = (Tensor(rng.standard_normal(n).astype(weight.dtype), device=weight.device) for n in matrix.shape)
    _power_iteration(matrix, u, v, steps=15, eps=hook.eps)  # or evaluation before any training would divide by noise
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    hook.attach(module, weight)
    return module


def remove_spectral_norm(module: Any, name: str = "weight") -> Any:
    """Make the weight that `spectral_norm` divides a parameter again, with its present value; return the module.

    >>> nn.utils.remove_spectral_norm(nn.utils.spectral_norm(nn.Linear(2, 3))).parameters().names
    ['bias', 'weight']
    """
    return _remove(
        "remove_spectral_norm", _SpectralNorm, module, name, tuple(f"{name}_{p}" for p in ("orig", "u", "v"))
    )


__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]
