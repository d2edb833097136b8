"""Finding the samples in a recorded loss: which results have a row for each sample, and whether rows stay apart.

Every node of the graph, from the leaves to the loss, gets one of four marks:

    CONSTANT   does not depend on the parameters
    SHARED     depends on the parameters alone: the same for all samples
    ROWS       has a row for each sample on axis 0, which depends on that sample's data and on parameters
    TOTAL      a linear function of a sum of ROWS over axis 0: a sum over samples

`Op.samplewise` tells how axis 0 passes through an operation. What fits no mark is `Mixed`: samples meet there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.autograd import history
from ..engine.node import Leaf, MultiNode, Node, Pick
from ..ops.batch import batch_norm_train
from ..ops.elementwise import add, divide, multiply, negative, subtract
from ..ops.index import _getitem
from ..ops.linalg import matmul
from ..ops.network import _linear_alone, _linear_with_bias
from ..ops.reduce import mean, sum
from ..ops.shape import broadcast_to, reshape, transpose
from .parameters import ParameterVector

CONSTANT, SHARED, ROWS, TOTAL = "constant", "shared", "rows", "total"
AFFINE = {_linear_with_bias, _linear_alone, matmul}  # x W' + b: the rows are those of the first input
VIEWS = {reshape, transpose, _getitem}  # the same elements elsewhere
LINEAR = {sum, mean, reshape, transpose, negative}
Shape = tuple[int, ...]


class Mixed(Exception):
    """Samples do not stay apart, or a parameter enters where it cannot be followed; the text says where."""


def terms(loss: Node) -> dict[Node, float]:
    """Return the terms of a loss that is sum_i c_i T_i, each a node T_i of one element, with its number c_i."""
    found: dict[Node, float] = {}
    waiting = [(1.0, loss)]
    while waiting:
        factor, node = waiting.pop()
        inner = _addends(node)
        if inner is None:
            found[node] = found.get(node, 0.0) + factor
        else:
            waiting += [(factor * share, parent) for share, parent in inner if parent is not None]
    return found


def _addends(node: Node) -> list[tuple[float, Node | None]] | None:
    """Return the (factor, node) pairs whose sum a node is, up to a constant; None if it is a term by itself."""
    if not node.parents or type(node) is Pick or type(node) is MultiNode:
        return None
    op, parents = node.op, node.parents
    if op is add:
        return [(1.0, parents[0]), (1.0, parents[1])]
    if op is subtract:
        return [(1.0, parents[0]), (-1.0, parents[1])]
    if op is negative:
        return [(-1.0, parents[0])]
    constant = [i for i, parent in enumerate(parents) if parent is None]
    if (op is multiply and constant) or (op is divide and constant == [1]):
        (which,) = constant
        number = float(getattr(node.args[which], "item", lambda: node.args[which])())
        return [(number if op is multiply else 1 / number, parents[1 - which])]
    if op in (sum, mean, reshape) and parents[0] is not None and parents[0].size == 1:
        return [(1.0, parents[0])]
    return None


class Reading:
    """The marks of all nodes that a term depends on.

    order     : the nodes, each after those it depends on.
    marks     : node -> mark.
    rows      : the number of samples, None while there are none.
    views     : a SHARED node that is a parameter, or a view of one -> the place in theta of each of its elements.
    functions : SHARED nodes that are not, but meet rows: they become variables beside theta, which `size` counts too.
    kind      : the mark of the term itself.

    Mixed if samples meet.
    """

    def __init__(self, term: Node, parameters: ParameterVector):
        self.order = history([term])[::-1]
        self.marks: dict[Node | None, str] = {None: CONSTANT}
        self.views: dict[Node | None, np.ndarray] = {}
        self.functions: dict[Node, None] = {}
        self.size = parameters.size
        self.rows: int | None = None
        places = np.arange(parameters.size)
        for t, piece in zip(parameters.tensors, parameters.pieces(places), strict=True):
            if t.node is not None:
                self.views[t.node] = piece
        for node in self.order:
            self.marks[node] = self._mark(node)
        self.term, self.kind = term, self.marks[term]
        if self.kind == ROWS and self.rows == 1:
            self.kind = TOTAL  # the sum of a single row
        if self.kind == ROWS:
            raise Mixed("the loss is not a sum over samples")
        if self.size > 1.5 * parameters.size:
            raise Mixed("functions of parameters have more elements than half of the parameters")

    @property
    def separable(self) -> bool:
        """True if the term is a sum over the elements of one parameter: its Hessian is diagonal."""
        leaves = [node for node in self.order if type(node) is Leaf and self.marks[node] == SHARED]
        inner = [node for node in self.order if type(node) is not Leaf and node is not self.term]
        elementwise = all(
            node.op is not None and node.op.samplewise is True and node.shape == leaves[0].shape for node in inner
        )
        return len(leaves) == 1 and self.term.op in (sum, mean) and self.term.size == 1 and elementwise

    def _mark(self, node: Node) -> str:
        if type(node) is Leaf:
            return SHARED if node in self.views else CONSTANT
        marks = [self.marks[parent] for parent in node.parents]
        if type(node) is Pick:
            if node.parents[0].op is batch_norm_train and node.static["index"]:  # type: ignore[union-attr]
                raise Mixed("the statistics of a batch are used beyond batch normalization")
            return marks[0]
        if TOTAL in marks:
            return self._of_totals(node, marks)
        if ROWS in marks:
            return self._of_rows(node, marks)
        return self._of_shared(node, marks) if SHARED in marks else CONSTANT

    def _of_totals(self, node: Node, marks: list[str]) -> str:
        op, others = node.op, {*marks} - {TOTAL}
        linear = op in LINEAR or op in (add, subtract, multiply) or (op is divide and marks[0] == TOTAL)
        if not linear or others - {CONSTANT} or (op in (multiply, divide) and marks.count(TOTAL) > 1):
            raise Mixed(f"{op.name} is applied to a sum over samples, and is not linear in it")
        return TOTAL

    def _of_shared(self, node: Node, marks: list[str]) -> str:
        """Mark a result of parameters alone, which may meet data with rows here."""
        op, shapes = node.op, [_shape(a) for a in node.args]
        if op in AFFINE and marks[0] == CONSTANT and len(shapes[0]) > 1:
            return self._affine(node, shapes, marks)
        if op is batch_norm_train and marks[0] == CONSTANT:
            return self._meet(node, marks, shapes[0][0])
        if _broadcasts(op):
            used = [shape for shape, mark in zip(shapes, marks, strict=True) if mark == SHARED]
            if node.ndim and node.shape[0] > 1 and all(_leading(shape, node.ndim) == 1 for shape in used):
                return self._meet(node, marks, node.shape[0])
        elif marks[0] == CONSTANT and len(shapes[0]) > 1 and op.is_samplewise(tuple(shapes), node.static):
            raise Mixed(f"{op.name} uses a parameter for many places of a sample")
        parent = self.views.get(node.parents[0])
        if op in VIEWS and parent is not None and len(node.parents) == 1:
            self.views[node] = op.forward(np, parent, **node.static)
        return SHARED

    def _of_rows(self, node: Node, marks: list[str]) -> str:
        """Mark a result of rows, and perhaps parameters, if the rows stay apart."""
        op, shapes = node.op, tuple(_shape(a) for a in node.args)
        outs = node.shape if type(node) is MultiNode else (node.shape,)
        if _broadcasts(op):
            for mark, shape in zip(marks, shapes, strict=True):
                leading = _leading(shape, node.ndim)
                if (mark == ROWS and leading != self.rows) or (mark == SHARED and leading != 1):
                    raise Mixed(f"{op.name} meets rows in an operand of shape {shape} that has none, or not these")
            return self._meet(node, marks, node.shape[0])
        if op is batch_norm_train and set(marks[1:]) <= {CONSTANT, SHARED}:
            return self._meet(node, marks, shapes[0][0])
        if op in AFFINE and marks[0] == ROWS:
            return self._affine(node, list(shapes), marks)
        carried = marks if op.variadic else marks[:1]  # the inputs whose axis 0 is the result's
        apart = {*carried} <= {ROWS, CONSTANT} and {*marks[len(carried) :]} <= {CONSTANT} and carried[0] == ROWS
        if apart and op.is_samplewise(shapes, node.static) and all(s[:1] == (self.rows,) for s in (*outs, shapes[0])):
            return ROWS
        if apart and _sums_rows(op, shapes, node.static):
            return TOTAL
        raise Mixed(f"{op.name} mixes samples, or uses a parameter for many places of a sample")

    def _affine(self, node: Node, shapes: list[Shape], marks: list[str]) -> str:
        """x W' + b with rows in x, and W and b data or parameters."""
        if not node.op.is_samplewise(tuple(shapes), node.static):
            raise Mixed(f"{node.op.name} mixes samples")
        if SHARED in marks and (len(shapes[0]) != 2 or len(shapes[1]) > 2):
            raise Mixed(f"{node.op.name} uses its weight for many places of a sample (its input is {shapes[0]})")
        if not {*marks[1:]} <= {CONSTANT, SHARED}:
            raise Mixed(f"{node.op.name} takes its weight from samples")
        return self._meet(node, marks, shapes[0][0])

    def _meet(self, node: Node, marks: list[str], rows: int) -> str:
        """Note how many rows a result has, and the functions of parameters that meet them here."""
        if self.rows not in (None, rows):
            raise Mixed(f"there are results with {self.rows} rows and with {rows}")
        self.rows = rows
        for parent, mark in zip(node.parents, marks, strict=True):
            if parent is not None and mark == SHARED and parent not in self.views:
                self.views[parent] = np.arange(self.size, self.size + parent.size).reshape(parent.shape)
                self.functions[parent] = None
                self.size += parent.size
        return ROWS


def _shape(x: Any) -> Shape:
    return getattr(x, "shape", ())


def _leading(shape: Shape, ndim: int) -> int:
    """Return the length of axis 0 of an operand, once broadcasting has given it ndim axes."""
    return shape[0] if shape and len(shape) == ndim else 1


def _broadcasts(op: Any) -> bool:
    """Tell whether an operation is elementwise, so that its operands broadcast against each other."""
    return op.samplewise is True or op is broadcast_to


def _sums_rows(op: Any, shapes: tuple[Shape, ...], static: dict[str, Any]) -> bool:
    """Tell whether an operation sums over axis 0 what it computes row by row."""
    if op in (sum, mean):
        return True  # over some axes, axis 0 among them: otherwise it would be samplewise
    return static.get("reduction") in ("sum", "mean") and op.is_samplewise(shapes, {**static, "reduction": "none"})


KINKED = {"relu", "leaky_relu", "hardtanh", "clip", "absolute", "maximum", "minimum", "max", "min", "max_pool"}
KINKED |= {"sign", "copysign", "fmod", "mod", "floor", "ceil", "round", "trunc"}  # and jumps


def kinks(loss: Node) -> list[str]:
    """Return the names of the operations with kinks that a loss is made of, without repeats.

    `where` is one if both of its branches can vary, elu where its slope jumps at 0. None are x / (1 + |x|), and
    max(|x|, c) of a Euclidean norm: that guards a division.
    """
    found: dict[str, None] = {}
    nodes = history([loss])
    smooth = {_soft_sign(node) for node in nodes}
    for node in nodes:
        name, parents = _name(node), node.parents
        two = len([p for p in parents[1:] if p is not None]) == 2
        guard = name == "maximum" and {_name(p) for p in parents} == {"norm", ""}
        jump = name == "elu" and abs(node.static["alpha"] * node.static["rate"] - 1) > 1e-12
        if (name in KINKED and node not in smooth and not guard) or (name == "where" and two) or jump:
            found[name] = None
    return list(found)


def _name(node: Node | None) -> str:
    """Return the name of the operation that made a node, "" for a leaf or a constant."""
    return getattr(getattr(node, "op", None), "name", "")


def _soft_sign(node: Node) -> Node | None:
    """Return the node |x| of an x / (c + |x|), None for another node."""
    if _name(node) != "divide" or _name(node.parents[1]) != "add":
        return None
    below = [p for p in node.parents[1].parents if p is not None]  # type: ignore[union-attr]
    is_one = len(below) == 1 and _name(below[0]) == "absolute" and below[0].parents[0] is node.parents[0]
    return below[0] if is_one else None
