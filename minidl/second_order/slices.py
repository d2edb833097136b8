"""The loss along lines and in planes of parameter space. The network is the same afterwards, bit by bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import Array, device_of, is_array, to_device, to_numpy
from ..engine.tensor import Tensor
from ..krylov import norm
from .objective import Batches, Objective
from .parameters import ParameterVector, Params

NORMALIZATIONS = ("filter", "layer", "whole")


class LossSlice(NamedTuple):
    """The loss on a grid around a point.

    coordinates : one array (n,) a direction, in multiples of it; its middle is 0 exactly, the point.
    losses      : (n,) along one direction, (n, n) in the plane of two, the first direction's coordinate first. Not a
                  number, or infinite, where the loss is.
    lengths     : the norm of each direction.
    """

    coordinates: tuple[np.ndarray, ...]
    losses: np.ndarray
    lengths: tuple[float, ...]

    @property
    def center(self) -> float:
        """The loss at the point itself."""
        return float(self.losses[tuple(n // 2 for n in self.losses.shape)])


def loss_slice(
    loss_fn: Callable[..., Any],
    params: Params,
    directions: Any,
    *,
    span: float | Sequence[float] = 1.0,
    points: int = 51,
    batches: Batches = None,
) -> LossSlice:
    """Evaluate L(theta + a d) for a in [-span, span], or L(theta + a d1 + b d2) in the square, at `points` values each.

    directions : one vector (P,), or a list of one or two; or parts by parameter name. From `random_direction`, from the
                 columns of `eigsh(...).vectors`, or from `trajectory_plane(...).directions`.
    span       : one for both directions, or one each.
    points     : odd, so that the middle of the grid is the point itself.

    A slice shows 1 or 2 of P dimensions, and a saddle with few negative directions looks like a minimum in most of
    them: `eigsh(op, 1, "SA")` knows better. Batches and layers are treated as in `HessianOperator`.

    >>> w = tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> loss_slice(lambda: (1 - w[0] * w[1]) ** 2, w, [1.0, 1.0], points=3).losses
    array([1., 0., 9.])
    """
    objective = Objective("loss_slice", loss_fn, params, batches)
    if not isinstance(points, int) or points < 3 or points % 2 == 0:
        raise ValueError(f"loss_slice: points must be an odd integer >= 3, so that the point is one, got {points!r}")
    vectors = _directions(objective.parameters, directions)
    spans = np.atleast_1d(np.asarray(span, dtype=np.float64)).tolist()
    spans = spans * len(vectors) if len(spans) == 1 else spans
    if len(spans) != len(vectors) or not all(0 < s < math.inf for s in spans):
        raise ValueError(f"loss_slice: span must be a finite number > 0, or one a direction, got {span!r}")
    steps = np.arange(-(points // 2), points // 2 + 1) / (points // 2)
    coordinates = tuple(s * steps for s in spans)
    theta = objective.parameters.get()

    def grid() -> Iterable[Array]:
        for place in itertools.product(*coordinates):
            moved = theta
            for a, d in zip(place, vectors, strict=True):
                moved = moved + float(a) * d if a else moved
            yield moved

    losses = np.array(losses_at(objective, grid())).reshape([points] * len(vectors))
    return LossSlice(coordinates, losses, tuple(float(d @ d) ** 0.5 for d in vectors))


class Interpolation(NamedTuple):
    """The loss along the line between two points.

    alphas : (n,), 0 is the start, 1 the end.
    losses : (n,).
    ends   : the losses at start and end.
    """

    alphas: np.ndarray
    losses: np.ndarray
    ends: tuple[float, float]

    @property
    def barrier(self) -> float:
        """How far the loss rises above the straight line between the two ends' losses, 0 at least."""
        inside = (self.alphas >= 0) & (self.alphas <= 1)
        a, losses = self.alphas[inside], self.losses[inside]
        return float(np.max(losses - (1 - a) * self.ends[0] - a * self.ends[1], initial=0.0))


def interpolate(
    loss_fn: Callable[..., Any], params: Params, start: Any, end: Any, *, alphas: Any = None, batches: Batches = None
) -> Interpolation:
    """Evaluate L((1 - alpha) start + alpha end) along the line between two points (Goodfellow et al. 2015).

    start, end : vectors (P,), as `ParameterVector(model).get()` returns them, or parts by parameter name.
    alphas     : where; by default 25 values from 0 to 1.

    >>> w = tensor([0.0, 0.0], dtype="float64", requires_grad=True)
    >>> found = interpolate(lambda: (1 - w[0] * w[1]) ** 2, w, [1.0, 1.0], [-1.0, -1.0], alphas=[0, 0.5, 1])
    >>> found.losses, found.barrier
    (array([0., 1., 0.]), 1.0)
    """
    objective = Objective("interpolate", loss_fn, params, batches)
    start, end = (_vector(objective.parameters, v, "interpolate") for v in (start, end))
    alphas = np.linspace(0, 1, 25) if alphas is None else np.asarray(alphas, dtype=np.float64)
    if alphas.ndim != 1 or not alphas.size or not np.isfinite(alphas).all():
        raise ValueError(f"interpolate: alphas must be finite numbers (n,), got shape {alphas.shape}")
    where = [0.0, 1.0, *alphas.tolist()]
    losses = losses_at(objective, ((1 - a) * start + a * end for a in where))
    return Interpolation(alphas, np.array(losses[2:]), (losses[0], losses[1]))


def random_direction(params: Params, *, normalize: str = "filter", biases: bool = False, seed: int = 0) -> Array:
    """Return a random direction (P,) in which each filter is as long as the network's own (Li et al. 2018).

        d_i <- d_i |theta_i| / |d_i|,    arXiv:1712.09913, Sec. 4

    normalize : what i counts: "filter", the entries of a parameter's axis 0, so the weights into one unit or channel;
                "layer", each parameter; "whole", all of them as one vector.
    biases    : whether parameters of fewer than two axes, biases and the scales and shifts of normalization, move too
                (each as one filter). The authors keep them fixed.

    A filter of zeros gets zeros. The length matters: a network with ReLU or batch norm is the same function with layers
    scaled up and down, and only a direction that scales with them shows the same picture.

    >>> w = tensor([[3.0, 4.0], [0.0, 0.0]], dtype="float64", requires_grad=True)
    >>> d = random_direction(w)
    >>> round(float((d**2).sum()), 12), d[2:]
    (25.0, array([0., 0.]))
    """
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"random_direction: normalize must be one of {', '.join(NORMALIZATIONS)}, got {normalize!r}")
    parameters, rng = ParameterVector(params), np.random.default_rng(seed)
    pieces = []
    for t in parameters.tensors:
        d = rng.standard_normal(t.shape)
        if t.ndim < 2 and not biases:
            d[...] = 0
        own = to_numpy(t.array).astype(np.float64)
        pieces.append(d if normalize == "whole" else d * _ratio(own, d, normalize == "filter" and t.ndim > 1))
    flat = np.concatenate([d.ravel() for d in pieces])
    if normalize == "whole":
        flat *= _ratio(to_numpy(parameters.get()).astype(np.float64), flat, False)
    return to_device(flat.astype(parameters.dtype), parameters.device)


class TrajectoryPlane(NamedTuple):
    """The plane, or the k dimensions, in which a path of training spreads most.

    directions  : (k, P), orthonormal.
    explained   : (k,), the share of the path's variance along each.
    coordinates : (n, k), of each point of the path, with the last one at 0.
    """

    directions: Array
    explained: np.ndarray
    coordinates: np.ndarray


def trajectory_plane(trajectory: Any, k: int = 2) -> TrajectoryPlane:
    """Return the principal components of points theta_1, ..., theta_n of a training run (Li et al. 2018, Sec. 7).

    trajectory : (n, P), or a list of n vectors (P,), the last one where the slice is to lie.

    A large share explained says little: of a random walk in many dimensions the k-th component explains
    6 / (pi k)^2, so two of them 76 % (Antognini & Sohl-Dickstein 2018, arXiv:1806.08805).

    >>> found = trajectory_plane(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), k=1)
    >>> found.explained, abs(found.coordinates[:, 0])
    (array([1.]), array([2., 1., 0.]))
    """
    rows = [getattr(p, "array", p) for p in trajectory]
    points = np.array([to_numpy(p) if is_array(p) else p for p in rows], dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"trajectory_plane: needs finite points (n, P), got shape {points.shape}")
    if not isinstance(k, int) or not 1 <= k <= min(len(points) - 1, points.shape[1]):
        most = min(len(points) - 1, points.shape[1])
        raise ValueError(f"trajectory_plane: k must be from 1 to {most} for {len(points)} points, got {k!r}")
    _, singular, components = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    total = float((singular**2).sum())
    if total == 0:
        raise ValueError("trajectory_plane: all points are the same, and span nothing")
    first = rows[0]
    directions = components[:k]
    if is_array(first):
        directions = to_device(directions.astype(first.dtype), device_of(first))
    return TrajectoryPlane(directions, singular[:k] ** 2 / total, (points - points[-1]) @ components[:k].T)


def losses_at(objective: Objective, points: Iterable[Array]) -> list[float]:
    """Return the loss at each point (P,), infinite or not a number where it is; then put the parameters back."""
    found = []
    with objective.parameters.restored() as parameters, np.errstate(over="ignore", invalid="ignore"):
        for theta in points:
            parameters.set(theta)
            found.append(sum(objective.each(lambda weight, loss, _: weight * _number(objective, loss))))
    return found


def _number(objective: Objective, loss: Any) -> float:
    if not isinstance(loss, Tensor) or loss.size != 1:
        return objective.scalar(loss)  # which says what is wrong
    return float(loss.item())


def _directions(parameters: ParameterVector, given: Any) -> list[Array]:
    """Return one or two vectors (P,), however they are given."""
    given = getattr(given, "array", given)
    first = None if isinstance(given, Mapping) or getattr(given, "ndim", 2) == 1 else next(iter(given), None)
    one = first is None or isinstance(first, (int, float))
    vectors = [_vector(parameters, d, "loss_slice") for d in ([given] if one else given)]
    if not 1 <= len(vectors) <= 2:
        raise ValueError(f"loss_slice: needs one direction or two, got {len(vectors)}")
    if not all(math.isfinite(norm(d)) for d in vectors):
        raise ValueError("loss_slice: a direction has elements that are not finite")
    return vectors


def _vector(parameters: ParameterVector, given: Any, who: str) -> Array:
    return parameters.join(given) if isinstance(given, Mapping) else parameters.vector(given, who)


def _ratio(own: np.ndarray, d: np.ndarray, rows: bool) -> Any:
    """Return |own| / |d|, of each entry of axis 0 or of all; 0 where d is."""
    axes = tuple(range(1, d.ndim)) if rows else None
    length, wanted = (np.sqrt((a * a).sum(axis=axes, keepdims=True)) for a in (d, own))
    return np.divide(wanted, length, out=np.zeros_like(length), where=length > 0)
