"""Products with the Hessian, without the Hessian: one recorded gradient, replayed for each vector.

    H v = d/dtheta (g(theta)' v)          (Pearlmutter 1994, "Fast exact multiplication by the Hessian")

g is recorded once with `create_graph=True`; after that each product is one reverse pass, linear in v.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.autograd import history
from ..engine.backend import MODULES, Array, to_device, to_numpy
from ..engine.node import written
from .objective import Batches, Objective, check_finite
from .parameters import ParameterVector, Params

GRAPH_BYTES = 1 << 30  # recorded graphs of further batches are kept up to so many bytes, the others recorded each time


class CurvatureOperator:
    """A symmetric P x P matrix known by its products: what all operators of second order have in common.

    A subclass gives `_record()`, which computes what all products share, and `_product(v)`. If the parameters have
    moved since, whoever moved them, the next product records again.
    """

    def __init__(self, who: str, function: Callable[..., Any], params: Params, batches: Batches):
        self.objective = Objective(who, function, params, batches)
        self.parameters: ParameterVector = self.objective.parameters
        self.size = self.parameters.size
        self.shape = (self.size, self.size)
        self.dtype: np.dtype = self.parameters.dtype
        self._seen: list[tuple[Array, Array, int]] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}(P = {self.size}, {self.dtype}, {len(self.objective.parts)} batches)"

    def _record(self) -> None:
        raise NotImplementedError(f"{type(self).__name__}: an operator defines _record() and _product(v)")

    def _product(self, v: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__}: an operator defines _record() and _product(v)")

    # ---- products --------------------------------------------------------------------------------------------------

    def matvec(self, v: Any) -> Array:
        """Return the product with a vector (P,), an array of the parameters' dtype; ValueError for another, or nan."""
        self._follow()
        who = type(self).__name__
        return self._product(check_finite(who, "vector", self.parameters.vector(v, who)))

    def matmat(self, vectors: Any) -> Array:
        """Return the product with a matrix (P, k), one column after the other."""
        vectors = getattr(vectors, "array", vectors)
        if getattr(vectors, "ndim", 0) != 2 or vectors.shape[0] != self.size:
            got = getattr(vectors, "shape", type(vectors).__name__)
            raise ValueError(f"{type(self).__name__}: needs a matrix with {self.size} rows, got {got}")
        xp = MODULES[type(vectors)]
        out = xp.empty(vectors.shape, self.dtype)
        for k in range(vectors.shape[1]):
            out[:, k] = self.matvec(vectors[:, k])
        return out

    def __matmul__(self, v: Any) -> Array:
        return self.matmat(v) if getattr(v, "ndim", 1) == 2 else self.matvec(v)

    def to_scipy(self) -> Any:
        """Return a `scipy.sparse.linalg.LinearOperator` of it, symmetric: for eigsh, cg, lobpcg. On the host.

        >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
        >>> HessianOperator(lambda: (w**3).sum(), w).to_scipy() @ np.ones(2)
        array([ 6., 12.])
        """
        linalg = importlib.import_module("scipy.sparse.linalg")

        def on_host(product: Callable[[Any], Array]) -> Callable[[np.ndarray], np.ndarray]:
            return lambda x: to_numpy(product(to_device(np.asarray(x), self.parameters.device)))

        one, many = on_host(lambda x: self.matvec(x.reshape(-1))), on_host(self.matmat)
        return linalg.LinearOperator(self.shape, one, rmatvec=one, matmat=many, rmatmat=many, dtype=self.dtype)

    # ---- recording -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Record again at the parameters' present values. It also happens by itself when these have moved.

        Call it when something else has changed: the data, or the network's mode.
        """
        self._seen = []
        self._record()
        self._mark()

    def _mark(self) -> None:
        """Remember the parameters' arrays, values and last writes."""
        self._seen = [(t.array, t.array.copy(), written(t.array)) for t in self.parameters.tensors]

    def _follow(self) -> None:
        """Record again if a parameter was rebound or written into, by the library or behind its back."""
        tensors = self.parameters.tensors
        if len(self._seen) != len(tensors) or any(
            t.array is not array or written(array) != time or not (array == values).all()
            for t, (array, values, time) in zip(tensors, self._seen, strict=True)
        ):
            self.refresh()


class HessianOperator(CurvatureOperator):
    """The Hessian of a loss by its products: H = d2L / dtheta dtheta', exact, never formed.

    loss_fn : without `batches` it takes no argument, with them `loss_fn(*batch)`; it returns a Tensor of one element,
        the mean over the batch's samples: L = sum_b n_b / N loss_fn(*batch_b), with n_b the length of axis 0 of the
        batch's first array.
    params : a module, its parameters, named or plain tensors; see `ParameterVector`. One that the loss does not reach
        has zeros.

    The loss is evaluated with running averages frozen and random masks repeated (`nn.frozen_statistics`), while
    derivatives flow through a batch's mean and variance. Nothing of the network changes, `.grad` neither. Two
    evaluations at construction must agree: RuntimeError if they do not. ValueError for a loss that is not one finite
    number. Cost of a product: about two gradients.

    >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> op = HessianOperator(lambda: w[0] ** 2 * w[1], w)
    >>> op @ np.array([1.0, 0.0])
    array([4., 2.])
    >>> op.loss(), op.gradient()
    (2.0, array([4., 1.]))
    """

    def __init__(self, loss_fn: Callable[..., Any], params: Params, batches: Batches = None):
        super().__init__("hessian", loss_fn, params, batches)
        self._graphs: list[Any] = []
        self._loss = 0.0
        self._gradient: Any = None
        self.refresh()
        check_same(self.objective, self._loss, self._gradient, recorded=bool(self._graphs))

    def loss(self) -> float:
        """Return the loss at the parameters."""
        self._follow()
        return self._loss

    def gradient(self) -> Array:
        """Return the gradient (P,), a copy."""
        self._follow()
        return self._gradient.copy()

    def loss_and_gradient(self) -> tuple[float, Array]:
        """Return both."""
        return self.loss(), self.gradient()

    def _record(self) -> None:
        objective, room = self.objective, GRAPH_BYTES
        self._graphs, values, total = [], [], None

        def visit(weight: float, loss: Any, batch: tuple) -> None:
            nonlocal room, total
            values.append(weight * objective.scalar(loss))
            gradients = objective.pull([loss], None, create=True)
            flat = objective.flat([(weight, gradients)])
            total = flat if total is None else total + flat
            if len(objective.parts) > 1:
                room -= graph_bytes(gradients)
            self._graphs.append(gradients if room >= 0 else None)

        objective.each(visit)
        self._loss = float(sum(values))
        self._gradient = check_finite(objective.who, "gradient", total)

    def _product(self, v: Array) -> Array:
        objective, seeds = self.objective, self.parameters.pieces(v)
        if None not in self._graphs:
            weights = (weight for weight, _ in objective.parts)
            pulled = (objective.pull(gradients, seeds, retain=True) for gradients in self._graphs)
            return objective.flat(zip(weights, pulled, strict=True))
        kept = iter(self._graphs)

        def visit(weight: float, loss: Any, batch: tuple) -> Array:
            gradients = next(kept) or objective.pull([loss], None, create=True)
            return objective.flat([(weight, objective.pull(gradients, seeds, retain=True))])

        return sum(objective.each(visit))


class FiniteDifferenceOperator(HessianOperator):
    """The Hessian's products by differences of the gradient: an oracle for the exact ones, from other passes.

        H v ~ (g(theta + h v) - g(theta - h v)) / 2h,    h = eps (1 + |theta|) / |v|

    eps is by default the cube root of the dtype's spacing (6e-6 in float64), which balances the error h^2 of the
    formula against the rounding 1/h: relative errors of about 1e-9. The parameters are put back bit by bit.

    >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> op = FiniteDifferenceOperator(lambda: (w**3).sum(), w)
    >>> np.round(op @ np.array([1.0, 1.0]), 6)
    array([ 6., 12.])
    """

    def __init__(self, loss_fn: Callable[..., Any], params: Params, batches: Batches = None, eps: float | None = None):
        self.eps = eps
        super().__init__(loss_fn, params, batches)
        self.eps = float(np.cbrt(np.finfo(self.dtype).eps)) if eps is None else float(eps)

    def _record(self) -> None:
        self._loss, gradient = self.objective.value_and_gradient()
        self._gradient = check_finite(self.objective.who, "gradient", gradient)

    def _product(self, v: Array) -> Array:
        theta = self.parameters.get()
        length = float((v * v).sum()) ** 0.5
        if length == 0:
            return 0 * v
        h = self.eps * (1 + float((theta * theta).sum()) ** 0.5) / length
        sides = []
        with self.parameters.restored():
            for step in (h, -h):
                self.parameters.set(theta + step * v)
                sides.append(self.objective.value_and_gradient()[1])
        self._mark()  # the writes were our own, and are undone
        return (sides[0] - sides[1]) / (2 * h)


def hvp(
    loss_fn: Callable[..., Any], params: Params, v: Any, batches: Batches = None, method: str = "products"
) -> Array:
    """Return H v for one vector (P,); for several make a `HessianOperator`, which records the gradient once.

    method "products" is exact, "fd" a finite difference of gradients (`FiniteDifferenceOperator`).

    >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> hvp(lambda: (w**3).sum(), w, [1.0, 1.0])
    array([ 6., 12.])
    """
    operators = {"products": HessianOperator, "fd": FiniteDifferenceOperator}
    if method not in operators:
        raise ValueError(f"hvp: method must be 'products' or 'fd', got {method!r}")
    return operators[method](loss_fn, params, batches).matvec(v)


def check_same(objective: Objective, loss: float, gradient: Array, recorded: bool) -> None:
    """Evaluate once more; RuntimeError unless loss and gradient are the same up to rounding.

    `recorded` as they were: in another order of sums, a gradient of 0 would differ by rounding, and that is all of it.
    """
    again, second = objective.value_and_gradient(recorded)
    xp = objective.parameters.xp
    tolerance = float(np.finfo(gradient.dtype).eps) ** 0.5
    moved = float(xp.abs(second - gradient).max()) if gradient.size else 0.0
    scale = float(xp.abs(gradient).max()) if gradient.size else 0.0
    if abs(again - loss) > tolerance * abs(loss) or moved > tolerance * scale:
        raise RuntimeError(
            f"{objective.who}: two evaluations at the same parameters differ (loss {loss!r} and {again!r}, gradients "
            f"by {moved:.1e}): the loss draws random numbers of its own or changes state; use the library's random "
            "stream (dropout does), fix the data, or put the layer into eval() mode"
        )


def graph_bytes(tensors: Any) -> int:
    """Return how many bytes the arrays that a recorded graph saves take."""
    arrays = {}
    for node in history(t.node for t in tensors if t is not None and t.node is not None):
        for a in (*(node.args or ()), *(node.out if type(node.out) is tuple else (node.out,))):
            if type(a) in MODULES:
                arrays[id(a)] = a.nbytes
    return sum(arrays.values())
