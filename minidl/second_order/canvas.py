"""Canvas: what is kept of a Hessian, be it the whole matrix, blocks on its diagonal, or the diagonal alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..engine.backend import Array, on_device, to_device
from .contraction import own_block
from .parameters import ParameterVector
from .samples import Mixed
from .sites import Site

TILE = 256  # rows and columns of a matrix that are transposed together


class Canvas:
    """Square matrices, one for each group of parameters; what lies between groups is not kept.

    groups : for each group the places in theta that belong to it, in the order of its matrix. One group with all of
        them is the whole Hessian.
    """

    def __init__(self, parameters: ParameterVector, groups: Sequence[np.ndarray]):
        self.parameters, self.xp = parameters, parameters.xp
        self.arrays: list[Array] = []
        self.groups = list(groups)
        self.group = np.zeros(parameters.size, int)  # of each place in theta
        self.local = np.zeros(parameters.size, int)  # and its row in the matrix of its group
        for i, places in enumerate(groups):
            self.group[places] = i
            self.local[places] = np.arange(len(places))
        self.auxiliary: Any = None  # the rows of further parameters (statistics, functions), for all columns
        self.fresh = True  # nothing has been written yet
        self.even = True  # what has been written is symmetric, bit by bit

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the arrays that are kept."""
        return [(len(places), len(places)) for places in self.groups]

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays that are kept."""
        return sum(math.prod(shape) for shape in self.shapes) * self.parameters.dtype.itemsize

    def allocate(self) -> None:
        """Make the arrays, all zero."""
        with on_device(self.parameters.device)[1]:
            self.arrays = [self.xp.zeros(shape, self.parameters.dtype) for shape in self.shapes]

    def begin(self, sites: Sequence[Site], size: int) -> None:
        """Prepare for the blocks of some sites; `size` counts parameters and further ones."""
        extra = size - self.parameters.size
        self.auxiliary = self.xp.zeros((extra, size), self.parameters.dtype) if extra else None
        places = [part.reshape(-1) for site in sites for part in site.places]
        everywhere = np.concatenate(places) if places else np.zeros(0, int)
        self.overlapping = len(np.unique(everywhere)) < len(everywhere)
        self.adding = not self.fresh or self.overlapping
        self.fresh, self.even = False, self.even and not self.overlapping

    def wants(self, row: Site, column: Site) -> bool:
        """Tell whether any of the blocks of two sites is kept."""
        pairs = [(int(a[0, 0]), int(b[0, 0])) for a in row.places for b in column.places]
        return any(self._target(a, b) is not None or self._target(b, a) is not None for a, b in pairs)

    def own(self, site: Site, curvature: Array, us: slice) -> None:
        """Write the block of a site and itself, given G (u, v, n) for u in a range."""
        own_block(self, site, curvature[:, us.start :], us)

    def _target(self, row: int, column: int) -> int | None:
        """Return where a pair of places belongs: the number of a group, -1 for further parameters, None for nowhere."""
        if row >= self.parameters.size:
            return -1
        if column >= self.parameters.size or self.group[row] != self.group[column]:
            return None
        return int(self.group[row])

    def put(
        self, row: Site, us: slice, ds: slice, column: Site, vs: slice, es: slice, block: Array, add: bool = False
    ) -> None:
        """Write a block (u, d, v, e), for ranges of the elements and inputs of two sites; or add it."""
        for d, rows in _parts(row, us, ds):
            for e, columns in _parts(column, vs, es):
                which = self._target(int(rows[0, 0]), int(columns[0, 0]))
                if which == -1:
                    self._write(self.auxiliary, rows - self.parameters.size, columns, block[:, d, :, e], add)
                elif which is not None:
                    self._write(self.arrays[which], self.local[rows], self.local[columns], block[:, d, :, e], add)

    def _write(self, matrix: Array, rows: np.ndarray, columns: np.ndarray, block: Array, add: bool) -> None:
        xp, first, second = self.xp, _progression(rows), _progression(columns)
        if first is None or second is None:
            target = (xp.asarray(rows.reshape(-1))[:, None], xp.asarray(columns.reshape(-1))[None])
            flat = block.reshape(rows.size, columns.size)
            matrix[target] = matrix[target] + flat if add or self.adding else flat
            return
        (start, *down), (begin, *right) = first, second
        stride, each = matrix.shape[1], matrix.itemsize
        window = xp.lib.stride_tricks.as_strided(
            matrix.reshape(-1)[start * stride + begin :],
            (*rows.shape, *columns.shape),
            tuple(each * step for step in (down[0] * stride, down[1] * stride, *right)),
        )
        if add or self.adding:
            window += block
        else:
            window[...] = block

    def add_diagonal(self, where: slice, values: Array) -> None:
        """Add to the diagonal, at a range of theta."""
        places = np.arange(where.start, where.stop)
        for i, matrix in enumerate(self.arrays):
            mine = self.group[places] == i
            rows = self.xp.asarray(self.local[places[mine]])
            matrix[rows, rows] += values[self.xp.asarray(mine)]
        self.fresh = False

    def add_row(self, row: int, where: slice, values: Array) -> None:
        """Add to a row of the Hessian, at a range of theta; what is of another group is dropped."""
        places = np.arange(where.start, where.stop)
        mine = self.group[places] == self.group[row]
        columns = self.xp.asarray(self.local[places[mine]])
        self.arrays[self.group[row]][self.local[row], columns] += values[self.xp.asarray(mine)]
        self.fresh, self.even = False, False

    def finish(self, slopes: Array) -> None:
        """Eliminate further parameters s: of H = [[A, B'], [B, C]], with S = ds/dtheta, make A + S'B + B'S + S'CS."""
        size, half = self.parameters.size, self._half(slopes)
        for matrix, places in zip(self.arrays, self.groups, strict=True):
            some = slice(None) if len(places) == size else self.xp.asarray(places)
            product = self.xp.dot(slopes[:, some].T, half[:, some])
            matrix += product + product.T

    def symmetrize(self) -> float:
        """Replace each matrix A by (A + A') / 2 and return the largest max |A - A'| / max |A|."""
        errors = []
        for matrix in self.arrays:
            difference = scale = 0.0
            tiles = [slice(start, start + TILE) for start in range(0, len(matrix), TILE)]
            for i, j in itertools.combinations_with_replacement(tiles, 2):
                upper, lower = matrix[i, j].copy(), matrix[j, i].T
                scale = max(scale, largest(upper), largest(lower))
                difference = max(difference, largest(upper - lower))
                upper = 0.5 * (upper + lower)
                matrix[i, j] = upper
                matrix[j, i] = upper.T
            errors.append(difference / scale if scale else 0.0)
        return max(errors, default=0.0)

    def compare(self, operator: Any) -> float:
        """Return how far products with random vectors are from those of an operator, relative to the largest element.

        For each group one vector that is 0 outside of it.
        """
        error = 0.0
        for matrix, places in zip(self.arrays, self.groups, strict=True):
            v, where = np.zeros(self.parameters.size), self.xp.asarray(places)
            v[places] = np.random.default_rng(0).standard_normal(len(places))
            v = to_device(v.astype(self.parameters.dtype), self.parameters.device)
            expected = operator.matvec(v)[where]
            error = max(error, _difference(self.xp.dot(matrix, v[where]), expected))
        return error

    def _half(self, slopes: Array) -> Array:
        """Return B + C S / 2: then S'B + B'S + S'CS = S'(B + C S / 2) and its transpose."""
        size = self.parameters.size
        half: Array = self.auxiliary[:, :size] + 0.5 * self.xp.dot(self.auxiliary[:, size:], slopes)
        return half


class DiagonalCanvas(Canvas):
    """The diagonal alone, `values` (P,)."""

    def __init__(self, parameters: ParameterVector):
        super().__init__(parameters, [])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of the diagonal."""
        return [(self.parameters.size,)]

    @property
    def values(self) -> Array:
        """The diagonal (P,)."""
        return self.arrays[0]

    def begin(self, sites: Sequence[Site], size: int) -> None:
        """Prepare for the blocks of some sites; Mixed if one parameter enters at several."""
        super().begin(sites, size)
        if self.overlapping:
            raise Mixed("a parameter enters at several places")

    def _target(self, row: int, column: int) -> int | None:
        return -1 if row >= self.parameters.size else None

    def wants(self, row: Site, column: Site) -> bool:
        """Tell whether the site meets itself, or a further parameter."""
        return row is column or super().wants(row, column)

    def own(self, site: Site, curvature: Array, us: slice) -> None:
        """Write sum_n a_d^2 G_uu; what belongs to further parameters, as a block."""
        size, each = self.parameters.size, self.xp.arange(us.stop - us.start)
        if any(int(places[0, 0]) >= size for places in site.places):
            super().own(site, curvature, us)
        block = self.xp.dot(curvature[each, each + us.start], (site.a * site.a).T)
        for d, places in _parts(site, us, slice(0, site.depth)):
            if int(places[0, 0]) < size:
                self.values[self.xp.asarray(places.reshape(-1))] += block[:, d].reshape(-1)

    def add_diagonal(self, where: slice, values: Array) -> None:
        """Add to the diagonal, at a range of theta."""
        self.values[where] += values

    def add_row(self, row: int, where: slice, values: Array) -> None:
        """Add to a row, at a range of theta: of which the element on the diagonal is kept."""
        if where.start <= row < where.stop:
            self.values[row] += values[row - where.start]

    def finish(self, slopes: Array) -> None:
        """Eliminate further parameters."""
        values = self.values
        values += 2.0 * (slopes * self._half(slopes)).sum(axis=0)

    def symmetrize(self) -> float:
        """Return 0: a diagonal has nothing to compare."""
        return 0.0

    def compare(self, operator: Any) -> float:
        """Return how far elements are from those of products with unit vectors, one a parameter, relative."""
        error, scale, rng = 0.0, largest(self.values), np.random.default_rng(0)
        for s in self.parameters.slices.values():
            if s.start == s.stop:
                continue
            k = int(rng.integers(s.start, s.stop))
            unit = self.xp.zeros(self.parameters.size, self.parameters.dtype)
            unit[k] = 1
            difference = abs(float(operator.matvec(unit)[k]) - float(self.values[k]))
            error = max(error, difference / scale if scale else difference)
        return error


def largest(array: Array) -> float:
    """Return max |x|, 0 of nothing, without an array of the absolute values."""
    return max(float(array.max()), -float(array.min())) if array.size else 0.0


def _difference(found: Array, expected: Array) -> float:
    scale, difference = largest(expected), largest(found - expected)
    return difference / scale if scale else difference


def _parts(site: Site, us: slice, ds: slice) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield, for the parts of a site that a range of inputs meets, where they are in the range and in theta."""
    start = 0
    for places in site.places:
        end = start + places.shape[1]
        low, high = max(start, ds.start), min(end, ds.stop)
        if low < high:
            yield slice(low - ds.start, high - ds.start), places[us, low - start : high - start]
        start = end


def _progression(places: np.ndarray) -> tuple[int, int, int] | None:
    """Return (start, step of rows, step of columns) of places that are evenly spaced; None if they are not."""
    start = int(places[0, 0])
    down = int(places[1, 0]) - start if len(places) > 1 else 0
    right = int(places[0, 1]) - start if places.shape[1] > 1 else 0
    even = start + down * np.arange(len(places))[:, None] + right * np.arange(places.shape[1])
    return (start, down, right) if (places == even).all() else None
