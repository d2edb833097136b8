"""What a loader loads from: arrays that belong together row by row, and parts of a data set."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..engine.backend import Array, Device, checked_dtype, default_device, device_of, is_array, to_device, to_numpy
from ..engine.tensor import Tensor, wrap


class TensorDataset:
    """Arrays or tensors with the same length along axis 0; sample i is row i of each.

    The arrays are shared, not copied, and never written to. A tensor counts as its values: no gradient reaches it.

    >>> pairs = TensorDataset(np.arange(6.0).reshape(3, 2), np.array([0, 1, 0]))
    >>> len(pairs), pairs[1]
    (3, (tensor([2., 3.], dtype=float64), tensor(1)))
    """

    def __init__(self, *arrays: Any):
        if not arrays:
            raise ValueError("TensorDataset: needs at least one array or tensor")
        self.arrays = tuple(_values(i, x) for i, x in enumerate(arrays))
        lengths = [len(x) for x in self.arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"TensorDataset: all arrays must have the same length along axis 0, got {lengths}")
        self._placed: dict[str, tuple[Array, ...]] = {}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        """Return a sample (or, for a slice, samples) as tensors that share memory with the arrays."""
        if not isinstance(index, slice):
            index = checked_index(index, len(self), "TensorDataset")
        return tuple(wrap(_as_array(x[index])) for x in self.arrays)

    def on_device(self, device: str | None) -> tuple[Array, ...]:
        """Return the arrays on a device, contiguous, copied there once however many loaders ask.

        None means where they are, and for arrays on the host the default device. ValueError if they are on several.
        """
        if device is None:
            places = sorted({device_of(x) for x in self.arrays})
            if len(places) > 1:
                raise ValueError(f"DataLoader: the arrays are on {' and '.join(places)}; give device=")
            device = default_device() if places == ["cpu"] else places[0]
        device = Device(device)
        if device not in self._placed:
            self._placed[device] = tuple(_contiguous(to_device(x, device)) for x in self.arrays)
        return self._placed[device]


class Subset:
    """The samples of a data set at given indices, in that order.

    >>> part = Subset(TensorDataset(np.array([10, 20, 30])), [2, 0])
    >>> len(part), part[0]
    (2, (tensor(30),))
    """

    def __init__(self, dataset: Any, indices: Any):
        dataset = as_dataset(dataset)
        rows = np.asarray(to_numpy(indices) if is_array(indices) else indices)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise TypeError(f"Subset: indices must be one axis of integers, got shape {rows.shape} of {rows.dtype}")
        rows = rows.astype(np.int64)
        n = len(dataset)
        wrong = np.flatnonzero((rows < -n) | (rows >= n))
        if wrong.size:
            raise IndexError(f"Subset: indices must be in 0 ... {n - 1}, got {rows[wrong[0]]} at position {wrong[0]}")
        rows = np.where(rows < 0, rows + n, rows)
        if isinstance(dataset, Subset):  # a part of a part looks straight into the whole
            dataset, rows = dataset.dataset, dataset.indices[rows]
        self.dataset: Any = dataset
        self.indices: np.ndarray = rows

    def __len__(self) -> int:
        """Return the number of samples of the part."""
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        """Return the sample at a position of the subset."""
        return self.dataset[int(self.indices[checked_index(index, len(self), "Subset")])]


def as_dataset(data: Any) -> Any:
    """Return data as something with a length and samples: arrays and tuples of arrays become a TensorDataset."""
    if is_array(data) or isinstance(data, Tensor):
        return TensorDataset(data)
    if isinstance(data, tuple) and data and all(is_array(x) or isinstance(x, Tensor) for x in data):
        return TensorDataset(*data)
    if isinstance(data, (Mapping, str, bytes)) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(
            "dataset: must be a TensorDataset, a tuple of arrays, or have __len__ and __getitem__ by position,"
            f" got {type(data).__name__}"
        )
    return data


def checked_index(index: Any, n: int, who: str) -> int:
    """Return an index into n samples as an int in 0 ... n - 1; IndexError beyond (a GPU array would wrap around)."""
    try:
        i = operator.index(index)
    except TypeError:
        raise TypeError(f"{who}: an index must be an integer, got {type(index).__name__}") from None
    if not -n <= i < n:
        raise IndexError(f"{who}: index {i} is out of range for {n} samples")
    return i + n if i < 0 else i


def _values(position: int, x: Any) -> Array:
    x = x.array if isinstance(x, Tensor) else x
    if not is_array(x):
        raise TypeError(
            f"TensorDataset: argument {position} must be an array or a Tensor, got {type(x).__name__}"
            "; use numpy.asarray"
        )
    if not x.ndim:
        raise ValueError(f"TensorDataset: argument {position} is 0-d and has no samples")
    checked_dtype(x.dtype, f"TensorDataset: argument {position}")
    return np.asarray(x) if isinstance(x, np.ndarray) else x  # of a memmap only the class is dropped


def _as_array(x: Any) -> Array:
    return np.asarray(x) if isinstance(x, np.generic) else x  # NumPy makes a scalar of a single element


def _contiguous(x: Array) -> Array:
    """Return x with rows that lie in one piece, which is what makes taking them fast."""
    return x if x.flags.c_contiguous else x.copy(order="C")
