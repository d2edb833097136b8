"""The Hessian of a samplewise loss in about as many passes as its layers have units, instead of one for each parameter.

All samples share the vectors that a pass starts from: because no sample influences another, the derivative of
sum_n dL/dz_nu by y_nv is d2L/dz_nu dy_nv, for every sample at once. One pass for each unit u of each site gives the
curvature between sites for all samples; what is left is a matrix product for each pair of sites (`contraction`).
Nothing is approximated. Everything is double backprop on the replayed graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..engine import autograd
from ..engine.backend import Array
from ..engine.tensor import Tensor, wrap
from .canvas import Canvas, largest
from .contraction import BLOCK_BYTES, cross_block, inner_block
from .samples import CONSTANT, SHARED, TOTAL, Mixed, Reading, terms
from .sites import Replay, Site

PASS_BYTES = 4 * BLOCK_BYTES  # what the results of the passes for some units of a site may take


def add_hessian(canvas: Canvas, loss: Tensor, factor: float) -> float:
    """Add factor times the Hessian of a recorded loss; return the asymmetry of the samples' curvature, relative.

    Mixed, before anything is written, if the loss is no sum over samples that this route can follow.
    """
    if loss.node is None:
        return 0.0
    parameters = canvas.parameters
    readings = [(share * factor, Reading(term, parameters)) for term, share in terms(loss.node).items()]
    totals = [(share, reading) for share, reading in readings if reading.kind == TOTAL]
    if not totals and any(reading.kind != CONSTANT for _, reading in readings):
        raise Mixed("the loss is no sum over samples")
    replays = [Replay(reading, parameters, share) for share, reading in totals if reading.rows != 0]
    asymmetry = 0.0
    for replay in replays:
        canvas.begin(replay.sites, replay.size)
        asymmetry = max(asymmetry, _write(canvas, replay))
        if replay.size > parameters.size:
            canvas.finish(_slopes(canvas, replay))
        functions = [wrap(canvas.xp.zeros(node.shape, node.dtype), node) for node in replay.reading.functions]
        _add_function(canvas, functions, replay.multipliers)
    for share, reading in readings:
        if reading.kind == SHARED:
            _add_shared(canvas, reading, share)
    return asymmetry


def _write(canvas: Canvas, replay: Replay) -> float:
    """Write the blocks of all pairs of sites."""
    xp, sites = canvas.xp, replay.sites
    slopes = autograd.grad(replay.outputs, [s.z for s in sites], replay.seeds, create_graph=True, allow_unused=True)
    asymmetry = scale = 0.0
    for i, (site, slope) in enumerate(zip(sites, slopes, strict=True)):
        if slope is None:
            continue
        wanted = [j for j in range(i + 1) if canvas.wants(site, sites[j])]
        for us, found in _passes(xp, slope, site.width, [sites[j] for j in wanted]):
            for j, curvature in zip(wanted, found, strict=True):
                if curvature is not None and j < i:
                    cross_block(canvas, site, sites[j], curvature, us)
                elif curvature is not None:
                    corner = curvature[:, us]
                    asymmetry = max(asymmetry, float((corner - corner.transpose(1, 0, 2)).max()))
                    scale = max(scale, largest(curvature))
                    canvas.own(site, curvature, us)
        if site.source is not None:
            g, before = slope.array.reshape(len(slope), -1).T, [j for j in wanted if j < i]
            for ds, found in _passes(xp, site.source, site.source.shape[1], [sites[j] for j in before]):
                for j, inner in zip(before, found, strict=True):
                    if inner is not None:
                        inner_block(canvas, site, sites[j], g, inner, ds)
    return asymmetry / scale if scale else 0.0


def _passes(xp: Any, y: Tensor, units: int, sites: Sequence[Site]) -> Iterator[tuple[slice, list[Any]]]:
    """Yield ranges of units u of y and, for each site, dy_u/dz_v (u, v, n), one pass a unit; None where it is 0.

    y has a row for each sample, or is a statistic of all of them.
    """
    if y.node is None or not sites:
        return
    samples = len(sites[0].z)
    seed = xp.zeros(y.shape, y.dtype)
    columns = seed.reshape(-1, units)
    step = max(1, PASS_BYTES // (y.dtype.itemsize * samples * sum(site.width for site in sites)))
    for start in range(0, units, step):
        stop = min(units, start + step)
        found: list[Any] = [None] * len(sites)
        for u in range(start, stop):
            columns[:, u] = 1
            gradients = autograd.grad(y, [s.z for s in sites], seed, retain_graph=True, allow_unused=True)
            for j, g in enumerate(gradients):
                if g is not None:
                    if found[j] is None:
                        found[j] = xp.zeros((stop - start, sites[j].width, samples), y.dtype)
                    found[j][u - start] = g.array.reshape(samples, -1).T
            columns[:, u] = 0
        yield slice(start, stop), found


def _slopes(canvas: Canvas, replay: Replay) -> Array:
    """Return S = ds/dtheta (statistics, P), from s_k = h_k(theta, s_1 ... s_k-1) one after another."""
    xp, parameters = canvas.xp, canvas.parameters
    slopes = xp.zeros((replay.size - parameters.size, replay.size), parameters.dtype)
    row = _slopes_of_functions(canvas, replay, slopes)
    for h in replay.equations:
        for us, found in _passes(xp, h, h.size, replay.sites):
            for site, inner in zip(replay.sites, found, strict=True):
                if inner is None:
                    continue
                product = xp.dot(inner.reshape(-1, inner.shape[2]), site.a.T).reshape(*inner.shape[:2], site.depth)
                start = 0
                for places in site.places:
                    here = xp.asarray(places.reshape(-1))
                    part = product[:, :, start : start + places.shape[1]].reshape(len(product), -1)
                    slopes[row + us.start : row + us.stop, here] += part
                    start += places.shape[1]
        before = slopes[row : row + h.size, parameters.size : parameters.size + row]
        slopes[row : row + h.size] += xp.dot(before, slopes[:row])
        row += h.size
    return slopes[:, : parameters.size]


def _slopes_of_functions(canvas: Canvas, replay: Replay, slopes: Array) -> int:
    """Write the derivatives of functions of parameters by these; return how many rows they take."""
    parameters, row = canvas.parameters, 0
    for node in replay.reading.functions:
        function = wrap(canvas.xp.zeros(node.shape, node.dtype), node)
        seed = canvas.xp.zeros(node.shape, node.dtype)
        flat = seed.reshape(-1)
        for k in range(flat.size):
            flat[k] = 1
            found = autograd.grad(function, parameters.tensors, seed, retain_graph=True, allow_unused=True)
            slopes[row + k, : parameters.size] = parameters.join(found)
            flat[k] = 0
        row += flat.size
    return row


def _add_shared(canvas: Canvas, reading: Reading, factor: float) -> None:
    """Add the Hessian of a term of parameters alone, as weight decay is."""
    term = wrap(canvas.xp.zeros(reading.term.shape, reading.term.dtype), reading.term)
    if not reading.separable:
        _add_function(canvas, [term], [canvas.xp.full(term.shape, factor, term.dtype)])
        return
    tensors, slices = canvas.parameters.tensors, canvas.parameters.slices.values()
    gradients: Any = autograd.grad(term, tensors, retain_graph=True, create_graph=True, allow_unused=True)
    for t, s, g in zip(tensors, slices, gradients, strict=True):
        if g is not None and g.requires_grad:
            (diagonal,) = autograd.vjp(g.sum(), t)
            canvas.add_diagonal(s, factor * diagonal.array.reshape(-1))


def _add_function(canvas: Canvas, outputs: Sequence[Tensor], seeds: Sequence[Array]) -> None:
    """Add the Hessian of sum seeds * outputs, functions of parameters alone, one pass for each element they reach."""
    if not outputs:
        return
    parameters = canvas.parameters
    gradients: Any = autograd.grad(
        outputs, parameters.tensors, seeds, retain_graph=True, create_graph=True, allow_unused=True
    )
    reached = [i for i, g in enumerate(gradients) if g is not None and g.requires_grad]
    tensors, found = [parameters.tensors[i] for i in reached], [gradients[i] for i in reached]
    slices = [list(parameters.slices.values())[i] for i in reached]
    for i, g in enumerate(found):
        seed = canvas.xp.zeros(g.shape, g.dtype)
        flat = seed.reshape(-1)
        for k in range(flat.size):
            flat[k] = 1
            row = autograd.grad(g, tensors, seed, retain_graph=True, allow_unused=True)
            for s, part in zip(slices, row, strict=True):
                if part is not None:
                    canvas.add_row(slices[i].start + k, s, part.array.reshape(-1))
            flat[k] = 0
