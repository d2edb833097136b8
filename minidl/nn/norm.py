"""Normalization layers. Statistics of the batch are part of the function: every derivative goes through them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine.backend import default_device, device_of, get_default_dtype, on_device
from ..engine.node import stamp
from ..engine.op import Op
from ..engine.tensor import Tensor, wrap
from ..ops.batch import batch_norm, batch_norm_train
from . import functional as F
from . import init
from .frozen import is_frozen
from .layers import dtypes_differ, new_parameter, size
from .module import Module
from .settings import Described, number
from .state import write


def _update(
    xp: Any, mean: Any, var: Any, running_mean: Any, running_var: Any, count: Any, *, momentum: float | None, n: int
) -> Any:
    """Move running averages towards the statistics of a batch with n elements a channel, in place."""
    count += 1
    share = momentum if momentum is not None else 1.0 / count  # on the device: reading the count would wait for a GPU
    running_mean[...] = (1 - share) * running_mean + share * mean
    running_var[...] = (1 - share) * running_var + share * (n / (n - 1)) * var  # the unbiased variance
    for array in (running_mean, running_var, count):
        stamp(array)
    return count


_update_statistics = Op(_update, effect="buffers", name="update_statistics")


class _BatchNorm(Module):
    """Batch normalization of x (n, c, ...) by channel; a subclass says which numbers of axes it takes."""

    ndims: tuple[int, ...] = ()
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _made: Any = None  # of a layer with affine=False, at its first call

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ):
        who = type(self).__name__
        self.num_features = size(who, num_features=num_features)
        if not 0 <= eps < math.inf:
            raise ValueError(f"{who}: eps must be a finite number >= 0, got eps={eps!r}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"{who}: momentum must be in [0, 1], or None to average all batches, got {momentum!r}")
        self.eps, self.momentum = float(eps), momentum
        self.affine, self.track_running_stats = bool(affine), bool(track_running_stats)
        self.weight = new_parameter((num_features,), device, dtype) if affine else None
        self.bias = new_parameter((num_features,), device, dtype) if affine else None
        for name, kind in (("running_mean", dtype), ("running_var", dtype), ("num_batches_tracked", np.int64)):
            shape = () if name == "num_batches_tracked" else (num_features,)
            self.register_buffer(name, _full(shape, 0, device, kind) if track_running_stats else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0, and forget the running averages."""
        for p, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if p is not None:
                init.constant_(p, value)
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the count of batches to 0."""
        for t, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if t is not None:
                write(t, value)

    def forward(self, x: Any) -> Any:
        """Normalize by the batch in training, by the running averages (if there are any) in evaluation."""
        self._check(x)
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if weight is None:
            weight, bias = self._constants(x)
        if not self.training and self.running_mean is not None:
            return batch_norm(x, self.running_mean, self.running_var, weight, bias, self.eps)
        n = x.size // self.num_features
        if n < 2:
            rule = "expected more than 1 value per channel when training"
            raise ValueError(f"{self._title()}: {rule}, got {n} (shape {tuple(x.shape)}); a batch of one needs eval()")
        out, mean, var = batch_norm_train(x, weight, bias, eps=self.eps)
        if self.running_mean is not None and not is_frozen():  # then this is training
            averages = (self.running_mean, self.running_var, self.num_batches_tracked)
            _update_statistics(mean, var, *averages, momentum=self.momentum, n=n)
        return out

    def _constants(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return the weight 1 and the bias 0 beside x: the same tensors at each call, which may be recorded."""
        device = device_of(getattr(x, "array", x))
        if self._made is None or (self._made[0].device, self._made[0].dtype) != (device, x.dtype):
            self._made = tuple(_full((self.num_features,), value, device, x.dtype) for value in (1, 0))
        return self._made

    def _check(self, x: Any) -> None:
        shape = getattr(x, "shape", None)
        if shape is None:
            raise TypeError(f"{self._title()}: needs a Tensor or an array, got {type(x).__name__}")
        if len(shape) not in self.ndims or shape[1] != self.num_features:
            axes = " or ".join(map(str, self.ndims))
            rule = f"expected {axes} axes with {self.num_features} channels on axis 1"
            raise ValueError(f"{self._title()}: {rule}, got shape {tuple(shape)}")
        like = self.weight if self.weight is not None else self.running_mean
        if x.dtype.kind != "f" or (like is not None and x.dtype != like.dtype):
            raise TypeError(
                f"{self._title()}: {dtypes_differ(x.dtype, get_default_dtype() if like is None else like.dtype)}"
            )

    def extra_repr(self) -> str:
        """Return the settings."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _full(shape: tuple[int, ...], value: float, device: str | None, dtype: Any) -> Tensor:
    xp, place = on_device(device or default_device())
    with place:
        return wrap(xp.full(shape, value, dtype or get_default_dtype()))


class BatchNorm1d(_BatchNorm):
    """Normalize each channel over the batch: y = weight (x - mean) / sqrt(var + eps) + bias.

    Shapes: x (n, c) or (n, c, l) -> the same; weight, bias, running_mean, running_var (c,), num_batches_tracked ().
    In training mean and var (divisor n) are those of the batch, and running = (1 - momentum) running + momentum batch,
    with the unbiased variance (divisor n - 1); momentum=None averages over all batches alike. In evaluation the running
    averages take their place. ValueError in training with a single value per channel, whose variance would be 0
    (Ioffe & Szegedy 2015, arXiv:1502.03167, Alg. 1 and 2; defaults as in PyTorch).

    >>> layer = nn.BatchNorm1d(1, affine=False)
    >>> layer(tensor([[1.0], [3.0]])).numpy().round(4).tolist(), layer.running_var.tolist()
    ([[-1.0], [1.0]], [1.100000023841858])
    """

    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalize each channel over the batch and the image, x (n, c, h, w): see `BatchNorm1d`.

    >>> layer = nn.BatchNorm2d(2)
    >>> y = layer(md.arange(16.0).reshape(2, 2, 2, 2))
    >>> abs(y.mean(axis=(0, 2, 3))).max().item() < 1e-6, layer.num_batches_tracked.item()
    (True, 1)
    """

    ndims = (4,)


# ---- by the statistics of each sample ----------------------------------------------------------------------------


class _Affine(Described):
    """A layer with a weight of 1 and a bias of 0 at the start, or without."""

    weight: Tensor | None
    bias: Tensor | None

    def _make(self, shape: tuple[int, ...], weight: bool, bias: bool, device: str | None, dtype: Any) -> None:
        self.weight = new_parameter(shape, device, dtype) if weight else None
        self.bias = new_parameter(shape, device, dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0."""
        for p, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if p is not None:
                init.constant_(p, value)


def _shape(who: str, normalized_shape: Any) -> tuple[int, ...]:
    given = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not given:
        raise ValueError(f"{who}: normalized_shape must name at least one axis, got {normalized_shape!r}")
    return tuple(size(who, normalized_shape=n) for n in given)


class LayerNorm(_Affine):
    """Normalize each sample over its last axes: y = weight (x - mean) / sqrt(var + eps) + bias.

    Shapes: x (..., *normalized_shape) -> the same; weight and bias normalized_shape, unless elementwise_affine or bias
    is False. var has the divisor n (Ba et al. 2016, arXiv:1607.06450, eq. 4).

    >>> nn.LayerNorm(2, eps=0.0)(tensor([[1.0, 3.0], [-5.0, 5.0]])).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ):
        self.normalized_shape = _shape("LayerNorm", normalized_shape)
        self.eps, self.elementwise_affine = number("LayerNorm", "eps", eps, low=0), bool(elementwise_affine)
        self._make(self.normalized_shape, elementwise_affine, elementwise_affine and bias, device, dtype)

    def forward(self, x: Any) -> Any:
        """Normalize x."""
        return self._call(F.layer_norm, x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(_Affine):
    """Divide each sample by the root of its mean square over the last axes: y = weight x / sqrt(mean(x^2) + eps).

    Shapes: x (..., *normalized_shape) -> the same; weight normalized_shape, unless elementwise_affine is False. By
    default eps is the spacing of numbers at 1 (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).

    >>> nn.RMSNorm(2, eps=0.0, elementwise_affine=False)(tensor([[1.0, 7.0]]))
    tensor([[0.2, 1.4]])
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ):
        self.normalized_shape = _shape("RMSNorm", normalized_shape)
        self.eps = None if eps is None else number("RMSNorm", "eps", eps, low=0)
        self.elementwise_affine = bool(elementwise_affine)
        self._make(self.normalized_shape, elementwise_affine, False, device, dtype)

    def forward(self, x: Any) -> Any:
        """Divide x by its size."""
        return self._call(F.rms_norm, x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(_Affine):
    """Normalize each group of channels of each sample by its own mean and variance.

    Shapes: x (n, num_channels, ...) -> the same; weight and bias (num_channels,) unless affine is False. ValueError
    unless num_groups divides num_channels (Wu & He 2018, arXiv:1803.08494, eq. 1 and 7).

    >>> nn.GroupNorm(2, 4, eps=0.0)(tensor([[1.0, 3.0, 10.0, 30.0]])).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ):
        self.num_groups = size("GroupNorm", num_groups=num_groups)
        self.num_channels = size("GroupNorm", num_channels=num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups must divide num_channels, got {num_groups} and {num_channels}")
        self.eps, self.affine = number("GroupNorm", "eps", eps, low=0), bool(affine)
        self._make((self.num_channels,), affine, affine, device, dtype)

    def forward(self, x: Any) -> Any:
        """Normalize x."""
        shape = getattr(x, "shape", (0, 0))
        if len(shape) < 2 or shape[1] != self.num_channels:
            rule = f"expected (n, c, ...) with {self.num_channels} channels"
            raise ValueError(f"{self._title()}: {rule}, got shape {tuple(shape)}")
        return self._call(F.group_norm, x, self.num_groups, self.weight, self.bias, self.eps)


class _InstanceNorm(_Affine):
    axes = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        affine: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ):
        who = type(self).__name__
        self.num_features = size(who, num_features=num_features)
        self.eps, self.affine = number(who, "eps", eps, low=0), bool(affine)
        self._make((self.num_features,), affine, affine, device, dtype)

    def forward(self, x: Any) -> Any:
        """Normalize x."""
        shape = tuple(getattr(x, "shape", ()))
        alone = len(shape) == self.axes + 1
        if len(shape) - self.axes not in (1, 2) or shape[1 - alone] != self.num_features:
            axes = "(n, c, h, w) or (c, h, w)" if self.axes == 2 else "(n, c, l) or (c, l)"
            raise ValueError(f"{self._title()}: expected {axes} with {self.num_features} channels, got shape {shape}")
        out = self._call(F.instance_norm, x[None] if alone else x, self.weight, self.bias, self.eps)
        return out[0] if alone else out


class InstanceNorm1d(_InstanceNorm):
    """Normalize each channel of each signal, (n, c, l) or (c, l), by its own mean and variance: see `InstanceNorm2d`.

    >>> nn.InstanceNorm1d(2, eps=0.0)(tensor([[1.0, 3.0], [10.0, 30.0]]))
    tensor([[-1.,  1.],
            [-1.,  1.]])
    """

    axes = 1


class InstanceNorm2d(_InstanceNorm):
    """Normalize each channel of each image by its own mean and variance, in training and in evaluation.

    Shapes: x (n, num_features, h, w) or (num_features, h, w) -> the same; with affine=True a weight and a bias
    (num_features,). Running averages, which PyTorch offers, are not. ValueError for a single element a channel, whose
    variance would be 0 (Ulyanov et al. 2016, arXiv:1607.08022, eq. 1).

    >>> nn.InstanceNorm2d(1, eps=0.0)(tensor([[[[1.0, 3.0]]], [[[10.0, 30.0]]]])).tolist()
    [[[[-1.0, 1.0]]], [[[-1.0, 1.0]]]]
    """

    axes = 2
