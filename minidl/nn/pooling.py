"""Pooling as layers, in one and two dimensions: the largest or the mean of each window."""

from __future__ import annotations

from typing import Any

from . import functional as F
from .settings import Described, sizes

Size = int | tuple[int, ...]


class _Pool(Described):
    """What pooling with a window of a given size shares; a subclass says how many axes an image has."""

    axes = 2

    def _set(self, kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool) -> None:
        who = type(self).__name__
        self.kernel_size = sizes(who, "kernel_size", kernel_size, self.axes)
        self.stride = self.kernel_size if stride is None else sizes(who, "stride", stride, self.axes)
        self.padding = sizes(who, "padding", padding, self.axes, least=0)
        self.ceil_mode = bool(ceil_mode)


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        *,
        ceil_mode: bool = False,
    ):
        self._set(kernel_size, stride, padding, ceil_mode)
        self.dilation = sizes(type(self).__name__, "dilation", dilation, self.axes)

    def forward(self, x: Any) -> Any:
        """Pool x."""
        function = F.max_pool2d if self.axes == 2 else F.max_pool1d
        return self._call(function, x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPool1d(_MaxPool):
    """The largest element of each window of a signal (n, c, l) or (c, l): see `MaxPool2d`.

    >>> nn.MaxPool1d(2)(tensor([[1.0, 3.0, 2.0, 0.0]]))
    tensor([[3., 2.]])
    """

    axes = 1


class MaxPool2d(_MaxPool):
    """The largest element of each window of an image.

    Shapes: x (n, c, h, w) or (c, h, w) -> (n, c, oh, ow), oh = 1 + (h + 2 padding - dilation (kernel_size - 1) - 1) //
    stride, rounded up with `ceil_mode`. The stride is the kernel size by default; padding never wins. The first of
    equal elements gets the gradient. ValueError for a window greater than the padded image.

    >>> nn.MaxPool2d(2, stride=1)(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]))
    tensor([[[6., 5.]]])
    """


class AvgPool1d(_Pool):
    """The mean of each window of a signal (n, c, l) or (c, l): see `AvgPool2d`.

    >>> nn.AvgPool1d(2)(tensor([[1.0, 3.0, 2.0, 0.0]]))
    tensor([[2., 1.]])
    """

    axes = 1

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        self._set(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Any) -> Any:
        """Pool x."""
        return self._call(
            F.avg_pool1d, x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AvgPool2d(_Pool):
    """The mean of each window of an image: its sum divided by its number of cells, or by `divisor_override`.

    Shapes as in `MaxPool2d` with dilation 1. Padding is zeros that count among the cells, unless count_include_pad is
    False.

    >>> nn.AvgPool2d(2, stride=1)(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]))
    tensor([[[3.5, 3.5]]])
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        self._set(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        if divisor_override is not None:
            sizes("AvgPool2d", "divisor_override", divisor_override, 1)
        self.divisor_override = divisor_override

    def forward(self, x: Any) -> Any:
        """Pool x."""
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return self._call(F.avg_pool2d, x, *window, self.count_include_pad, self.divisor_override)


class _Adaptive(Described):
    """Pooling whose windows follow from the size of the result; a subclass says how many axes an image has."""

    axes = 2

    def __init__(self, output_size: Any):
        given = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * self.axes
        sizes(type(self).__name__, "output_size", tuple(1 if n is None else n for n in given), self.axes)
        self.output_size = given


class AdaptiveAvgPool1d(_Adaptive):
    """The mean of each of `output_size` windows of a signal (n, c, l) or (c, l): see `AdaptiveAvgPool2d`.

    >>> nn.AdaptiveAvgPool1d(2)(tensor([[1.0, 2.0, 3.0]]))
    tensor([[1.5, 2.5]])
    """

    axes = 1

    def forward(self, x: Any) -> Any:
        """Pool x."""
        return self._call(F.adaptive_avg_pool1d, x, self.output_size[0])


class AdaptiveAvgPool2d(_Adaptive):
    """The mean of each of as many windows of an image as the result shall have cells.

    Shapes: x (n, c, h, w) or (c, h, w) -> (n, c, oh, ow) for output_size (oh, ow), or one integer for both; None keeps
    the image's own. Window i covers the cells from floor(i h / oh) up to ceil((i + 1) h / oh).

    >>> nn.AdaptiveAvgPool2d((1, None))(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]))
    tensor([[[3.5, 3.5, 3.5]]])
    """

    def forward(self, x: Any) -> Any:
        """Pool x."""
        return self._call(F.adaptive_avg_pool2d, x, self.output_size)


class AdaptiveMaxPool1d(_Adaptive):
    """The largest element of each of `output_size` windows of a signal: see `AdaptiveAvgPool2d`.

    >>> nn.AdaptiveMaxPool1d(2)(tensor([[1.0, 2.0, 3.0]]))
    tensor([[2., 3.]])
    """

    axes = 1

    def forward(self, x: Any) -> Any:
        """Pool x."""
        return self._call(F.adaptive_max_pool1d, x, self.output_size[0])


class AdaptiveMaxPool2d(_Adaptive):
    """The largest element of each of as many windows of an image as the result shall have: see `AdaptiveAvgPool2d`.

    >>> nn.AdaptiveMaxPool2d((1, 2))(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]))
    tensor([[[6., 5.]]])
    """

    def forward(self, x: Any) -> Any:
        """Pool x."""
        return self._call(F.adaptive_max_pool2d, x, self.output_size)


__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d",
    "MaxPool1d", "MaxPool2d",
]  # fmt: skip
