"""Convolution and its transpose as layers, in one and two dimensions; resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ops.padding import pad
from . import functional as F
from . import init
from .layers import new_parameter, size
from .settings import Described, sizes

Size = int | tuple[int, ...]
_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class _Convolution(Described):
    """What convolution and its transpose share; a subclass says how many axes an image has and how weights lie."""

    axes = 2

    def _set(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size, dilation: Size, groups: int
    ) -> None:
        who = type(self).__name__
        self.in_channels = size(who, in_channels=in_channels)
        self.out_channels = size(who, out_channels=out_channels)
        self.kernel_size = sizes(who, "kernel_size", kernel_size, self.axes)
        self.stride = sizes(who, "stride", stride, self.axes)
        self.dilation = sizes(who, "dilation", dilation, self.axes)
        self.groups = size(who, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{who}: groups must divide both numbers of channels, got {in_channels}, {out_channels} and {groups}"
            )

    def _make(self, rows: int, columns: int, bias: bool, device: str | None, dtype: Any) -> None:
        self.weight = new_parameter((rows, columns, *self.kernel_size), device, dtype)
        self.bias = new_parameter((self.out_channels,), device, dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, from U(-s, s)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # bound 1/sqrt(fan_in), as PyTorch writes it
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fans(self.weight)[0])
            init.uniform_(self.bias, -bound, bound)


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ):
        self._set(in_channels, out_channels, kernel_size, stride, dilation, groups)
        who = type(self).__name__
        if padding == "same" and max(self.stride) > 1:
            raise ValueError(f"{who}: padding='same' needs stride 1, got stride={stride}")
        if padding not in ("same", "valid"):
            padding = sizes(who, "padding, unless 'same' or 'valid',", padding, self.axes, least=0)
        if padding_mode not in _MODES:
            raise ValueError(f"{who}: padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}")
        self.padding: tuple[int, ...] | str = padding
        self.padding_mode = padding_mode
        self._make(self.out_channels, self.in_channels // self.groups, bias, device, dtype)

    def forward(self, x: Any) -> Any:
        """Convolve x."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = self._call(self._padded, x), 0
        function = F.conv2d if self.axes == 2 else F.conv1d
        return self._call(function, x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _padded(self, x: Any) -> Any:
        """Return x with its image extended by what it holds itself."""
        if self.padding == "same":
            extra = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            widths = [(n // 2, n - n // 2) for n in extra]
        else:
            widths = [(n, n) for n in (self.padding if isinstance(self.padding, tuple) else (0,) * self.axes)]
        return pad(x, [(0, 0)] * (x.ndim - self.axes) + widths, mode=_MODES[self.padding_mode])


class Conv1d(_Conv):
    """Convolution of signals with learned kernels: see `Conv2d`, with one axis in the place of two.

    Shapes: x (n, in_channels, l) or (in_channels, l) -> (n, out_channels, 1 + (l + 2 padding - span) // stride), with
    the span dilation (kernel_size - 1) + 1; weight (out_channels, in_channels / groups, kernel_size).

    >>> nn.Conv1d(2, 3, 5, stride=2, padding=2)(zeros(7, 2, 10)).shape
    (7, 3, 5)
    """

    axes = 1


class Conv2d(_Conv):
    """Convolution of images with learned kernels: at each place the bias plus the sum of kernel times image under it.

    Shapes: x (n, in_channels, h, w) or (in_channels, h, w) -> (n, out_channels, oh, ow), where oh = 1 + (h + 2 padding
    - span) // stride with the span dilation (kernel_size - 1) + 1; weight (out_channels, in_channels / groups, kh, kw)
    and bias (out_channels,), both drawn from U(-s, s), s = 1/sqrt(in_channels / groups * kh * kw). As in PyTorch the
    kernel is not flipped. Sizes are integers or (along h, along w). padding may be "valid" (none) or "same" (the result
    is as large as x; stride 1); padding_mode what stands there: "zeros", "reflect", "replicate" or "circular".

    ValueError for shapes that do not fit, TypeError for another dtype (LeCun et al. 1989, Neural Computation 1).

    >>> layer = nn.Conv2d(3, 8, 5, padding=2)
    >>> layer.weight.shape, layer(zeros(7, 3, 16, 12)).shape
    ((8, 3, 5, 5), (7, 8, 16, 12))
    """


class _ConvTranspose(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        *,
        device: str | None = None,
        dtype: Any = None,
    ):
        self._set(in_channels, out_channels, kernel_size, stride, dilation, groups)
        who = type(self).__name__
        self.padding = sizes(who, "padding", padding, self.axes, least=0)
        self.output_padding = sizes(who, "output_padding", output_padding, self.axes, least=0)
        limits = map(max, self.stride, self.dilation)
        if any(n >= limit for n, limit in zip(self.output_padding, limits, strict=True)):
            raise ValueError(f"{who}: output_padding must be less than stride or dilation, got {output_padding}")
        self._make(self.in_channels, self.out_channels // self.groups, bias, device, dtype)

    def forward(self, x: Any, output_size: Size | None = None) -> Any:
        """Spread x; `output_size`, the size of the image or the whole shape, takes the place of output_padding."""
        function = F.conv_transpose2d if self.axes == 2 else F.conv_transpose1d
        extra = self.output_padding if output_size is None else self._extra(tuple(getattr(x, "shape", ())), output_size)
        settings = (self.stride, self.padding, extra, self.groups, self.dilation)
        return self._call(function, x, self.weight, self.bias, *settings)

    def _extra(self, shape: tuple[int, ...], output_size: Size) -> tuple[int, ...]:
        """Return the output_padding that gives an image of a size; ValueError if none less than the stride does."""
        if len(shape) - self.axes not in (1, 2):
            return self.output_padding  # x itself will be refused
        whole = isinstance(output_size, Sequence) and len(output_size) == len(shape)
        given = output_size[-self.axes :] if whole else output_size  # type: ignore[index]
        wanted = sizes(self._title(), "output_size", given, self.axes)
        settings = zip(shape[-self.axes :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        least = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in settings)
        extra = tuple(a - b for a, b in zip(wanted, least, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = tuple(a + s - 1 for a, s in zip(least, self.stride, strict=True))
            raise ValueError(
                f"{self._title()}: output_size must lie between {least} and {most} for x {shape}, got {output_size}"
            )
        return extra


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of signals: see `ConvTranspose2d`, with one axis in the place of two.

    Shapes: x (n, in_channels, l) or (in_channels, l) -> (n, out_channels, (l - 1) stride - 2 padding + span +
    output_padding); weight (in_channels, out_channels / groups, kernel_size).

    >>> layer = nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1)
    >>> layer(zeros(7, 2, 10)).shape, layer(zeros(7, 2, 10), output_size=21).shape
    ((7, 3, 20), (7, 3, 21))
    """

    axes = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution: each element of the image is spread as a kernel; overlaps add up, and the bias.

    It takes a result's shape of `Conv2d` with the same settings back to that of its image. Shapes: x (n, in_channels,
    h, w) or (in_channels, h, w) -> (n, out_channels, oh, ow), where oh = (h - 1) stride - 2 padding + dilation
    (kernel_size - 1) + 1 + output_padding, which is less than the stride or the dilation; weight (in_channels,
    out_channels / groups, kh, kw) and bias (out_channels,), both drawn from U(-s, s), s = 1/sqrt(out_channels / groups
    * kh * kw), as in PyTorch (Dumoulin & Visin 2016, arXiv:1603.07285, Sec. 4).

    With stride > 1 several sizes are convolved to one: `layer(x, output_size=(oh, ow))`, or output_size=image.shape,
    chooses among them in place of output_padding. ValueError for a size that is none of them.

    >>> nn.ConvTranspose2d(8, 3, 2, stride=2)(zeros(7, 8, 16, 12)).shape
    (7, 3, 32, 24)
    """


class Upsample(Described):
    """Resample a signal (n, c, l) or an image (n, c, h, w) to a size, or by a factor, as `functional.interpolate` does.

    >>> nn.Upsample(scale_factor=2, mode="linear")(tensor([[[0.0, 4.0]]]))
    tensor([[[0., 1., 3., 4.]]])
    """

    def __init__(
        self,
        size: Size | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ):
        if (size is None) == (scale_factor is None):
            raise ValueError(f"Upsample: needs either size or scale_factor, got {size} and {scale_factor}")
        if mode not in ("nearest", "area", "linear", "bilinear"):
            raise ValueError(f"Upsample: mode must be 'nearest', 'area', 'linear' or 'bilinear', got {mode!r}")
        if align_corners is not None and "linear" not in mode:
            raise ValueError(f"Upsample: align_corners belongs to 'linear' and 'bilinear', got mode={mode!r}")
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x: Any) -> Any:
        """Resample x."""
        return self._call(F.interpolate, x, self.size, self.scale_factor, self.mode, bool(self.align_corners))


class PixelShuffle(Described):
    """Turn channels into finer cells: (..., c r^2, h, w) -> (..., c, h r, w r) (Shi et al. 2016, arXiv:1609.05158).

    >>> nn.PixelShuffle(2)(zeros(5, 12, 3, 3)).shape
    (5, 3, 6, 6)
    """

    def __init__(self, upscale_factor: int):
        self.upscale_factor = size("PixelShuffle", upscale_factor=upscale_factor)

    def forward(self, x: Any) -> Any:
        """Rearrange x."""
        return self._call(F.pixel_shuffle, x, self.upscale_factor)


__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "PixelShuffle", "Upsample"]
