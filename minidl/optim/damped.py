"""Newton-like steps with damping: saddle-free Newton, Gauss-Newton, Levenberg-Marquardt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..engine import autograd
from ..engine.backend import Array
from ..engine.modes import enable_grad
from ..engine.tensor import Tensor, wrap
from ..krylov import cg, lanczos, norm
from .groups import at_least_zero, below_one
from .newton import Expansion, NewtonOptimizer, StepReport, fixed, ratio
from .rules import OneOf, count_or_none

DENSE_BYTES = 1 << 30  # a matrix that a step would form may take so many bytes


class Model(NamedTuple):
    """A loss around the present parameters, and the step p = -(B + damping 1)^-1 g for any damping."""

    here: Expansion
    solve: Callable[[float], tuple[Array, float, int, str]]  # damping -> p, predicted decrease, products, reason


def no_maximum(x: Any) -> bool:
    """False: a sum of squares has no maximum to find"""  # noqa: D400
    return x is False


class Damped(NewtonOptimizer):
    """Base: p = -(B + damping 1)^-1 g, with more damping where the model failed and less where it was good.

        ratio = (L(theta) - L(theta + p)) / (m(0) - m(p))
        ratio > 0:  theta <- theta + p,   damping <- damping max(1/3, 1 - (2 ratio - 1)^3),   grow <- 2
        else        theta stays,          damping <- damping grow,                            grow <- 2 grow

    (Nielsen 1999, IMM-REP-1999-05; Madsen, Nielsen & Tingleff 2004, Alg. 3.16). The option `damping` is the first one,
    as a multiple of the curvature g'Bg / g'g there. A damping of 0 stays 0 until a step is refused, and then becomes
    |g| / |p|, the curvature that made the step so long (1 if p = 0).
    """

    rules: ClassVar = {"damping": at_least_zero, "tolerance_grad": at_least_zero}
    remembered = frozenset({"damping", "grow"})

    def model(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Model:
        """Return the loss at the present parameters and how to solve for a step."""
        raise NotImplementedError(f"{self._who}: a damped method defines model(xp, closure, group)")

    def curvature(self, model: Model) -> float:
        """Return g'Bg / g'g, the scale of the damping."""
        g = model.here.gradient
        return max(float(g @ model.here.product(g)) / float(g @ g), 0.0)

    def advance(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Any:
        closure = fixed(closure)
        model, own = self.model(xp, closure, group), self.memory
        here = model.here
        if here.gradient_norm <= group["tolerance_grad"]:
            kept = own.get("damping", math.nan)
            self.report = StepReport(here.value, math.nan, here.gradient_norm, False, "gradient", damping=kept)
            return here.returned
        if "damping" not in own:
            own.update(damping=group["damping"] and group["damping"] * self.curvature(model), grow=2.0)
        p, predicted, products, reason = model.solve(own["damping"])
        x, length = self._read(xp), norm(p)
        new = self.attempt(x, p, closure) if length else here.value
        gained = ratio(here, new, predicted)
        accepted = gained > 0 and length > 0
        if accepted:
            own["damping"] *= max(1 / 3, 1 - (2 * min(gained, 2.0) - 1) ** 3)
            own["grow"] = 2.0
        else:
            self._write(x)
            own["damping"] = own["damping"] * own["grow"] or (here.gradient_norm / length if length else 1.0)
            own["grow"] *= 2
        self.report = StepReport(
            here.value, new, here.gradient_norm, accepted, reason, length, predicted, products, damping=own["damping"]
        )
        return here.returned


class SaddleFreeNewton(Damped):
    """Newton's step with the absolute values of the eigenvalues (Dauphin et al. 2014, arXiv:1406.2572, Alg. 1).

        theta <- theta - (|H| + damping 1)^-1 g,   |H| = sum_i |lambda_i| u_i u_i'

    Along negative curvature it walks away from a saddle where Newton's method walks into it. An eigenvalue of 0 to
    rounding, |lambda| <= P eps max |lambda|, gets no step without damping.

    rank    None: all P eigenpairs of the Hessian, formed by P products; an int k: those of V'HV, with V (P, k) an
            orthonormal basis of the Krylov space of g, by k products, and the step within that space

    One step is one p, taken if the loss falls and refused otherwise; `report` says which, and the damping follows
    (`Damped`). damping = 0 is the pure method until a step is refused. m is the true quadratic model. Where g = 0
    nothing moves, saddle or not. ValueError for a negative or non-finite option, for a Hessian of more than 1 GiB with
    rank=None, for a second parameter group, for parameters of several dtypes, and for a loss that is not finite.

    >>> import minidl as md
    >>> w = md.tensor([1e-6, 1e-6], dtype="float64", requires_grad=True)
    >>> optimizer = SaddleFreeNewton([w])
    >>> losses = [optimizer.step(lambda: (1 - w[0] * w[1]) ** 2).item() for _ in range(20)]
    >>> [round(loss, 3) for loss in losses[-3:]]  # the distance from the saddle doubles at each step
    [0.966, 0.861, 0.431]
    """

    rules: ClassVar = {**Damped.rules, "rank": count_or_none}

    def __init__(
        self,
        params: Any,
        damping: float = 0.0,
        rank: int | None = None,
        tolerance_grad: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, damping=damping, rank=rank, tolerance_grad=tolerance_grad, maximize=maximize)

    def check_group(self, group: Mapping[str, Any]) -> None:
        size, itemsize = sum(p.size for p in group["params"]), max(p.dtype.itemsize for p in group["params"])
        if group["rank"] is None and size**2 * itemsize > DENSE_BYTES:
            raise ValueError(
                f"{self._who}: the Hessian of {size:,} parameters takes {size**2 * itemsize / 2**30:.2g} GiB; choose "
                "rank=50 or so, for a Krylov space instead of the whole"
            )

    def model(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Model:
        here = self.expand(xp, closure)
        g, rank = here.gradient, group["rank"]
        if not here.gradient_norm:
            return Model(here, lambda damping: (0 * g, 0.0, 0, "gradient"))
        if rank is None:
            units = xp.eye(g.size, dtype=g.dtype)
            h = xp.stack([here.product(units[i]) for i in range(g.size)])
            values, vectors = xp.linalg.eigh((h + h.T) / 2)
            products = g.size
        else:
            found = lanczos(here.product, g, rank)
            host, small, _ = found.ritz()
            values = xp.asarray(host, dtype=g.dtype)
            vectors = found.basis.T @ xp.asarray(small, dtype=g.dtype)
            products = len(host)
        size = abs(values)
        along, zero = vectors.T @ g, size <= g.size * float(np.finfo(g.dtype).eps) * size.max()

        def solve(damping: float) -> tuple[Array, float, int, str]:
            bent = size + damping
            steps = -along / xp.where(zero & (damping == 0), math.inf, bent)
            predicted = -float(along @ steps) - float(steps @ (values * steps)) / 2
            return vectors @ steps, predicted, products, "dense" if rank is None else "krylov"

        def product(v: Array) -> Array:
            return vectors @ (size * (vectors.T @ v))

        return Model(here._replace(product=product), solve)


class GaussNewton(Damped):
    """Hessian-free optimization: CG with the Gauss-Newton matrix (Schraudolph 2002; Martens 2010, ICML).

        B = J' H_z J,   J = dz / dtheta,   H_z = d2L / dz dz',   for the network's outputs z and the loss L(z)
        (B + damping 1) p = -g by CG, to a residual of cg_tol |g| or up to max_iter products (None: two for each
        parameter element);   theta <- theta + p where L falls

    The closure returns (outputs, loss), the loss computed from the outputs: optimizer.step(lambda: (z := model(x),
    cross_entropy(z, y))). B is never negative where the loss is convex in z. What the loss has besides z (an L2 term)
    is in g and not in B. One step is one p, taken or refused; the damping follows (`Damped`), and `report` says so.
    ValueError for a negative or non-finite option, for a second parameter group, for parameters of several dtypes, and
    for a loss that is not finite; RuntimeError for a loss that was not computed from the outputs.

    >>> import minidl as md
    >>> w = md.tensor([3.0, 0.0], dtype="float64", requires_grad=True)
    >>> optimizer = GaussNewton([w], damping=0.0)
    >>> def closure():
    ...     z = w * md.tensor([1.0, 2.0], dtype="float64")
    ...     return z, ((z - 1) ** 2).sum()
    >>> loss = optimizer.step(closure)  # linear outputs and squares: one step
    >>> w.data.round(9), optimizer.report.reason
    (array([1. , 0.5]), 'converged')
    """

    rules: ClassVar = {**Damped.rules, "cg_tol": below_one, "max_iter": count_or_none, "maximize": no_maximum}
    closure_rule = "returns (outputs, loss), Tensors with their graph, without calling backward"

    def __init__(
        self,
        params: Any,
        damping: float = 1e-3,
        cg_tol: float = 0.3,
        max_iter: int | None = None,
        tolerance_grad: float = 0.0,
    ):
        options: dict[str, Any] = {"damping": damping, "cg_tol": cg_tol, "max_iter": max_iter}
        super().__init__(params, **options, tolerance_grad=tolerance_grad)

    def outputs(self, result: Any) -> tuple[Tensor, Tensor]:
        """Return outputs and loss of what the closure returned; TypeError if it is not that."""
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"{self._who}.step: the closure {self.closure_rule}; got {type(result).__name__}")
        z, loss = self.with_graph(result[0], "outputs"), self.with_graph(result[1], "the loss")
        if loss.size != 1:
            raise ValueError(f"{self._who}.step: the loss must be one number, got shape {loss.shape}")
        return z, loss

    def number(self, result: Any) -> float:
        return float(result[1].item())

    def expand(self, xp: Any, closure: Callable[[], Any]) -> Expansion:
        with enable_grad():
            z, loss = self.outputs(closure())
            (slope,) = autograd.grad(loss, z, create_graph=True, allow_unused=True)
            if slope is None:
                raise RuntimeError(f"{self._who}.step: the loss was not computed from the outputs returned with it")
            gradient = self.join(xp, self.pull(loss, None, retain_graph=True))
            forward = self.jacobian_product(z)

        def product(v: Array) -> Array:
            u = forward(v)
            bent = autograd.grad(slope, z, u, retain_graph=True, allow_unused=True)[0] if slope.requires_grad else None
            return 0 * v if bent is None else self.join(xp, self.pull(z, bent, retain_graph=True))

        return self.checked(loss, loss.item(), gradient, product)

    def jacobian_product(self, z: Tensor) -> Callable[[Array], Array]:
        """Return v -> J v: the derivative by u of u'J, which is linear in u, in the direction v."""
        zeros = wrap(0 * z.array).requires_grad_()
        pulled = [(i, t) for i, t in enumerate(self.pull(z, zeros, create_graph=True)) if t is not None]
        reached = [(i, t) for i, t in pulled if t.requires_grad]

        def product(v: Array) -> Array:
            pieces = self._pieces(v)
            return autograd.vjp([t for _, t in reached], zeros, [pieces[i] for i, _ in reached])[0].array

        return product

    def model(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Model:
        here = self.expand(xp, closure)
        return Model(here, lambda damping: self.iterate(here, damping, group))

    def iterate(self, here: Expansion, damping: float, group: Mapping[str, Any]) -> tuple[Array, float, int, str]:
        """Solve for a step by CG."""
        g = here.gradient
        found = cg(lambda v: here.product(v) + damping * v, -g, tol=group["cg_tol"], max_iter=group["max_iter"])
        predicted = found.decrease + damping * float(found.x @ found.x) / 2  # without the damping
        return found.x, predicted, found.iterations, found.reason


class LevenbergMarquardt(GaussNewton):
    """Damped Gauss-Newton for sums of squares (Levenberg 1944; Marquardt 1963; Madsen et al. 2004, Alg. 3.16).

        L = 1/2 |r|^2,   J = dr / dtheta
        p = -(J'J + damping 1)^-1 J'r,   theta <- theta + p where L falls

    The closure returns the residuals r, a Tensor of any shape with its graph: optimizer.step(lambda: model(x) - y);
    step returns L. damping=0 is the Gauss-Newton method until a step is refused.

    solver  "dense": J is formed by rows or columns, whichever are fewer, and p is the least-squares solution of
            [J; sqrt(damping) 1] p = [-r; 0], the shortest without damping; "cg": by products with J and J';
            "auto": dense where J has at most 512 rows or columns and at most 1 GiB

    One step is one p, taken or refused; the damping follows (`Damped`), and `report` says so. ValueError as for
    `GaussNewton`, and for "dense" with a J of more than 1 GiB.

    >>> import minidl as md
    >>> w = md.tensor([-1.2, 1.0], dtype="float64", requires_grad=True)
    >>> optimizer = LevenbergMarquardt([w])
    >>> for _ in range(25):  # Rosenbrock's function as a sum of squares
    ...     loss = optimizer.step(lambda: md.stack([10 * (w[1] - w[0] ** 2), 1 - w[0]]))
    >>> w.data.round(9), bool(loss.item() < 1e-20)
    (array([1., 1.]), True)
    """

    rules: ClassVar = {**GaussNewton.rules, "solver": OneOf("auto", "dense", "cg")}
    closure_rule = "returns the residuals as a Tensor with its graph, without calling backward"

    def __init__(
        self,
        params: Any,
        damping: float = 1e-3,
        solver: str = "auto",
        cg_tol: float = 1e-3,
        max_iter: int | None = None,
        tolerance_grad: float = 0.0,
    ):
        options: dict[str, Any] = {"cg_tol": cg_tol, "max_iter": max_iter, "tolerance_grad": tolerance_grad}
        NewtonOptimizer.__init__(self, params, damping=damping, solver=solver, **options)

    def number(self, result: Any) -> float:
        return float((result.array * result.array).sum()) / 2

    def expand(self, xp: Any, closure: Callable[[], Any]) -> Expansion:
        return self.linearize(xp, self.residuals(closure))

    def residuals(self, closure: Callable[[], Any]) -> Tensor:
        """Return the residuals with their graph."""
        with enable_grad():
            return self.with_graph(closure(), "residuals")

    def linearize(self, xp: Any, r: Tensor) -> Expansion:
        """Return L = 1/2 |r|^2, J'r, and the product with J'J."""
        with enable_grad():
            forward = self.jacobian_product(r)

        def back(u: Array) -> Array:
            return self.join(xp, self.pull(r, u, retain_graph=True))

        value = self.number(r)
        loss = wrap(xp.asarray(value, dtype=r.dtype))
        return self.checked(loss, value, back(r.array), lambda v: back(forward(v)))

    def model(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Model:
        r = self.residuals(closure)
        here = self.linearize(xp, r)
        g, rows, columns = here.gradient, r.size, here.gradient.size
        size = rows * columns * r.dtype.itemsize
        if group["solver"] == "dense" and size > DENSE_BYTES:
            raise ValueError(f"{self._who}: J is {rows} x {columns} and takes {size / 2**30:.2g} GiB; use solver='cg'")
        small = min(rows, columns) <= 512 and size <= DENSE_BYTES
        if group["solver"] == "cg" or (group["solver"] == "auto" and not small):
            return Model(here, lambda damping: self.iterate(here, damping, group))
        jacobian = self.jacobian(xp, r)

        def solve(damping: float) -> tuple[Array, float, int, str]:
            a, b = jacobian, -r.array.reshape(-1)
            if damping:
                a = xp.concatenate([a, math.sqrt(damping) * xp.eye(columns, dtype=g.dtype)])
                b = xp.concatenate([b, xp.zeros(columns, g.dtype)])
            p = xp.linalg.lstsq(a, b, rcond=None)[0]
            image = jacobian @ p
            return p, -float(g @ p) - float(image @ image) / 2, 0, "dense"

        return Model(here, solve)

    def jacobian(self, xp: Any, r: Tensor) -> Array:
        """Return J (residuals, parameters), by rows or columns, whichever are fewer."""
        columns = sum(p.size for p in self.param_groups[0]["params"])
        if not r.size:
            return xp.zeros((0, columns), r.dtype)
        if r.size <= columns:
            units = xp.eye(r.size, dtype=r.dtype).reshape(r.size, *r.shape)
            return xp.stack([self.join(xp, self.pull(r, units[i], retain_graph=True)) for i in range(r.size)])
        with enable_grad():
            forward = self.jacobian_product(r)
        units = xp.eye(columns, dtype=r.dtype)
        return xp.stack([forward(units[i]).reshape(-1) for i in range(columns)], axis=1)
