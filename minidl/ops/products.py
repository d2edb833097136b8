"""Products of arrays along any axes: einsum and its special cases.

All contractions are one operation on two arrays, whose rules are the same operation: in "ab,bc->ac" the gradient of the
first is "ac,bc->ab" of g and the second. It is computed as a product of matrices.
"""

from __future__ import annotations

import functools
import math
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from ..engine.backend import HOST
from ..engine.op import Op
from . import reduce
from .elementwise import multiply
from .linalg import matmul, operands
from .rearrange import moveaxis, roll
from .shape import numpy_signature, reshape, transpose

# ---- two operands ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _roles(subscripts: str) -> tuple:
    """Return the axes of both operands, sorted: those of both that stay, of one alone, and those summed over."""
    left, right, out = re.split(",|->", subscripts)
    both = [i for i in out if i in left and i in right]
    rows, columns, summed = ([i for i in x if i not in y] for x, y in ((out, right), (out, left), (left, out)))
    orders = (left, both + rows + summed), (right, both + summed + columns), (both + rows + columns, out)
    return len(both), len(rows), len(summed), *(tuple(map(given.index, wanted)) for given, wanted in orders)


def _product(xp: Any, a: Any, b: Any, *, subscripts: str) -> Any:
    n, m, k, left, right, order = _roles(subscripts)
    a, b = a.transpose(left), b.transpose(right)
    both, rows, columns = a.shape[:n], a.shape[n : n + m], b.shape[n + k :]
    if k:
        summed = math.prod(a.shape[n + m :])
        a = _for_blas(xp, a.reshape((*both, math.prod(rows), summed)))
        b = _for_blas(xp, b.reshape((*both, summed, math.prod(columns))))
        out = xp.matmul(a, b) if n else xp.dot(a, b)
    else:
        out = a.reshape(both + rows + (1,) * len(columns)) * b.reshape(both + (1,) * m + columns)
    return out.reshape(both + rows + columns).transpose(order)


def _for_blas(xp: Any, x: Any) -> Any:
    """Copy stacked matrices that lie across memory: NumPy multiplies those number by number."""
    return x if xp not in HOST or x.itemsize in x.strides[-2:] else xp.ascontiguousarray(x)


def _rows_apart(shapes: tuple, *, subscripts: str) -> bool:
    a, b, out = re.split(",|->", subscripts)
    return a[:1] == out[:1] != "" and (a[0] not in b or a[0] == b[0])


def _turned(subscripts: str, which: int) -> str:
    """Return the subscripts of a rule: g and the other operand give this one."""
    a, b, out = re.split(",|->", subscripts)
    return f"{out},{b}->{a}" if which == 0 else f"{out},{a}->{b}"


product = Op(
    _product,
    lambda g, out, a, b, *, subscripts: product(g, b, subscripts=_turned(subscripts, 0)),
    lambda g, out, a, b, *, subscripts: product(g, a, subscripts=_turned(subscripts, 1)),
    saves="a b",
    samplewise=_rows_apart,
    name="einsum",
)

# ---- any number of operands --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _plan(subscripts: str, shapes: tuple, optimize: str | bool) -> tuple[list[str], str, list, dict[str, int]]:
    """Return a letter for each axis of the operands and of the result, the order of contraction, and the lengths."""
    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"einsum: {subscripts!r} names {len(terms)} operands, got {len(shapes)}")
    spare = [i for i in string.ascii_letters if i not in subscripts]
    most = 0
    for at, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        named = term.replace("...", "", 1)
        more = len(shape) - len(named)
        if not re.fullmatch("[a-zA-Z]*", named) or more < 0 or (more > 0 and named == term):
            raise ValueError(
                f"einsum: {term!r} in {subscripts!r} must have a letter for each axis (or an ellipsis ... for several) "
                f"of operand {at}, of shape {shape}"
            )
        terms[at], most = term.replace("...", "".join(spare[:more][::-1])), max(most, more)
    together = "".join(terms)
    dots = "".join(spare[:most][::-1])
    out = out.replace("...", dots, 1) if arrow else dots + "".join(
        sorted(i for i in set(together) - set(dots) if together.count(i) == 1)
    )  # fmt: skip
    if len(set(out)) < len(out) or not set(dots) <= set(out) <= set(together):
        raise ValueError(
            f"einsum: the result of {subscripts!r} must name letters of the operands, each once, and ... if they do"
        )
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for i, n in zip(term, shape, strict=True):
            if sizes.setdefault(i, n) != n and 1 not in (n, sizes[i]):
                raise ValueError(
                    f"einsum: axis {i!r} of {subscripts!r} has length {sizes[i]} in one place and {n} in another "
                    f"(shapes {', '.join(map(str, shapes))})"
                )
            sizes[i] = n if sizes[i] == 1 else sizes[i]
    path: list = [range(len(terms))]
    if len(terms) > 2:
        hosts = [np.broadcast_to(np.float32(0), [sizes[i] for i in term]) for term in terms]
        search = ("optimal" if len(terms) < 6 else "greedy") if optimize is True else optimize  # n! paths
        limit = (search, 2**60) if search else False  # how large an intermediate may get
        path = np.einsum_path(f"{','.join(terms)}->{out}", *hosts, optimize=limit)[0][1:]
    return terms, out, path, sizes


def _shortened(x: Any, term: str, sizes: dict[str, int]) -> tuple[Any, str]:
    """Take diagonals of letters that repeat, and drop axes of length 1 that broadcast against longer ones."""
    for i in dict.fromkeys(term):
        while term.count(i) > 1:
            first = term.index(i)
            second = term.index(i, first + 1)
            if x.shape[first] != x.shape[second]:
                raise ValueError(f"einsum: axis {i!r} repeats in an operand with lengths that differ (shape {x.shape})")
            x = diagonal_of(moveaxis(x, (first, second), (-2, -1)))
            term = "".join(j for at, j in enumerate(term) if at not in (first, second)) + i
    if any(n != sizes[i] for i, n in zip(term, x.shape, strict=True)):
        term = "".join(i for i, n in zip(term, x.shape, strict=True) if n == sizes[i])
        x = reshape(x, tuple(sizes[i] for i in term))
    return x, term


def _summed(x: Any, term: str, wanted: set[str]) -> tuple[Any, str]:
    """Sum over the axes that nothing else names."""
    lost = tuple(at for at, i in enumerate(term) if i not in wanted)
    return (reduce.sum(x, axis=lost), "".join(i for i in term if i in wanted)) if lost else (x, term)


def einsum(subscripts: str, *arrays: Any, optimize: str | bool = True) -> Any:
    """Sum products over named axes: einsum("ij,jk->ik", a, b)[i, k] = sum_j a[i, j] b[j, k].

    A letter for each axis; letters missing after "->" are summed over, letters that repeat in one operand take its
    diagonal, "..." stands for leading axes that broadcast. Without "->" the result has the letters that occur once, in
    alphabetical order. Two operands are multiplied as matrices; more of them two at a time, in the order that needs the
    fewest multiplications ("optimal", up to five), one found quickly ("greedy", for more), or from the left (False).

    ValueError for letters that do not fit the shapes, TypeError for two dtypes.

    >>> einsum("ij,kj->ik", tensor([[1.0, 2.0]]), tensor([[3.0, 4.0], [5.0, 6.0]]))
    tensor([[11., 17.]])
    >>> einsum("ii", tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    if not isinstance(subscripts, str) or not arrays:
        raise TypeError("einsum: needs a string of subscripts and at least one operand, as in einsum('ij,j->i', a, b)")
    if optimize not in (True, False, "greedy", "optimal"):
        raise ValueError(f"einsum: optimize must be True, False, 'greedy' or 'optimal', got {optimize!r}")
    xs = operands("einsum", *arrays)
    terms, out, path, sizes = _plan(subscripts, tuple(tuple(x.shape) for x in xs), optimize)
    todo = [_shortened(x, term, sizes) for x, term in zip(xs, terms, strict=True)]
    for step in path:
        chosen = [todo.pop(i) for i in sorted(step, reverse=True)][::-1]
        (x, term), *others = chosen
        for at, (y, other) in enumerate(others):
            wanted = set(out).union(*(t for _, t in todo), *(t for _, t in others[at + 1 :]))
            (x, term), (y, other) = _summed(x, term, wanted | set(other)), _summed(y, other, wanted | set(term))
            alone = [i for i in term if i in wanted and i not in other] + [i for i in other if i not in term]
            result = "".join([i for i in term if i in wanted and i in other] + alone)
            result = out if set(result) == set(out) else result
            x, term = product(x, y, subscripts=f"{term},{other}->{result}"), result
        todo.append((x, term))
    x, term = _summed(*todo[0], set(out))
    return x if term == out else transpose(x, axes=tuple(map(term.index, out)))


# ---- special cases -----------------------------------------------------------------------------------------------


def tensordot(a: Any, b: Any, axes: int | Sequence[Any] = 2) -> Any:
    """Sum products over pairs of axes: the last `axes` of a with the first of b, or axes=(those of a, those of b).

    The result has the other axes of a, then those of b. ValueError for axes of different lengths.

    >>> tensordot(tensor([[1.0, 2.0]]), tensor([[3.0, 4.0]]), axes=(1, 1))
    tensor([[11.]])
    """
    a, b = operands("tensordot", a, b)
    last = (range(a.ndim - axes, a.ndim), range(axes)) if isinstance(axes, int) else axes
    left, right = (
        normalize_axis_tuple(tuple(i) if isinstance(i, (Sequence, range)) else i, x.ndim, f"tensordot: axes of {name}")
        for i, x, name in zip(last, (a, b), "ab", strict=True)
    )
    if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise ValueError(
            f"tensordot: axes {left} of a and {right} of b must have the same lengths (a {a.shape}, b {b.shape})"
        )
    first = string.ascii_lowercase[: a.ndim]
    second = list(string.ascii_uppercase[: b.ndim])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    out = "".join(i for i in first if i not in second) + "".join(i for i in second if i not in first)
    return product(a, b, subscripts=f"{first},{''.join(second)}->{out}")


def dot(a: Any, b: Any) -> Any:
    """Sum products over the last axis of a and the last but one of b (the only one of a vector); numbers multiply.

    Shapes: (n,), (n,) -> (); (m, n), (n, k) -> (m, k); (..., n), (.., n, k) -> (..., .., k): `matmul` broadcasts
    leading axes instead.

    >>> dot(tensor([1.0, 2.0]), tensor([3.0, 4.0]))
    tensor(11.)
    """
    a, b = operands("dot", a, b)
    if not a.ndim or not b.ndim:
        return multiply(a, b)
    return matmul(a, b) if b.ndim < 3 else tensordot(a, b, axes=(-1, -2))


def inner(a: Any, b: Any) -> Any:
    """Sum products over the last axes: (..., n), (.., n) -> (..., ..); numbers multiply.

    >>> inner(tensor([[1.0, 2.0], [0.0, 1.0]]), tensor([3.0, 4.0]))
    tensor([11.,  4.])
    """
    a, b = operands("inner", a, b)
    return tensordot(a, b, axes=(-1, -1)) if a.ndim and b.ndim else multiply(a, b)


def outer(a: Any, b: Any) -> Any:
    """Multiply each element of a with each of b: out[i, j] = a[i] b[j], of the flattened arrays.

    >>> outer(tensor([1.0, 2.0]), tensor([3.0, 4.0]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    a, b = operands("outer", a, b)
    return multiply(reshape(a, (a.size, 1)), reshape(b, (1, b.size)))


@numpy_signature
def vecdot(a: Any, b: Any, axis: int = -1) -> Any:
    """Sum products over one axis; the others broadcast: sum_i a[..., i] b[..., i].

    >>> vecdot(tensor([[1.0, 2.0], [0.0, 1.0]]), tensor([3.0, 4.0]))
    tensor([11.,  4.])
    """
    a, b = (_last("vecdot", x, axis) for x in operands("vecdot", a, b))
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"vecdot: the axes must have the same length, got {a.shape[-1]} and {b.shape[-1]}")
    return reduce.sum(multiply(a, b), axis=-1)


def _last(who: str, x: Any, axis: int) -> Any:
    """Move an axis to the end."""
    return moveaxis(x, normalize_axis_index(axis, x.ndim, who), -1)


def kron(a: Any, b: Any) -> Any:
    """Multiply each element of a by all of b (Kronecker): out[i n + k, j m + l] = a[i, j] b[k, l].

    Shapes: (p, q), (n, m) -> (p n, q m); an array with fewer axes gets leading ones of length 1.

    >>> kron(tensor([1.0, 10.0]), tensor([1.0, 2.0]))
    tensor([ 1.,  2., 10., 20.])
    """
    a, b = operands("kron", a, b)
    n = max(a.ndim, b.ndim)
    left, right = ((1,) * (n - x.ndim) + tuple(x.shape) for x in (a, b))
    spread = multiply(
        reshape(a, tuple(i for length in left for i in (length, 1))),
        reshape(b, tuple(i for length in right for i in (1, length))),
    )
    return reshape(spread, tuple(i * j for i, j in zip(left, right, strict=True)))


@numpy_signature
def cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Any:
    """Take the cross product of vectors of three components, which lie along axisa and axisb, or both along axis.

    ValueError for another number of components; for two, write a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0].

    >>> cross(tensor([1.0, 0.0, 0.0]), tensor([0.0, 1.0, 0.0]))
    tensor([0., 0., 1.])
    """
    axisa, axisb, axisc = (axisa, axisb, axisc) if axis is None else (axis, axis, axis)
    a, b = operands("cross", a, b)
    a, b = _last("cross", a, axisa), _last("cross", b, axisb)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise ValueError(f"cross: vectors must have 3 components, got {a.shape[-1]} and {b.shape[-1]}")
    turned = a * roll(b, -1, axis=-1) - roll(a, -1, axis=-1) * b  # component k of the product stands at k + 1
    return moveaxis(roll(turned, -1, axis=-1), -1, axisc)


def diagonal_of(x: Any, offset: int = 0) -> Any:
    """Return the diagonal of the last two axes: a slice of them laid end to end."""
    *lead, m, n = x.shape
    length = max(0, min(m + min(offset, 0), n - max(offset, 0)))
    start = max(offset, 0) + max(-offset, 0) * n
    return reshape(x, (*lead, m * n))[..., start : start + length * (n + 1) : n + 1]


def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Sum the diagonal of two axes, `offset` places above the main one: sum_i a[i, i + offset].

    >>> trace(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    (a,) = operands("trace", a)
    return reduce.sum(diagonal_of(moveaxis(a, (axis1, axis2), (-2, -1)), offset), axis=-1)


__all__ = ["cross", "dot", "einsum", "inner", "kron", "outer", "tensordot", "trace", "vecdot"]
