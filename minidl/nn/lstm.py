"""Long short-term memory, all times as one operation: a dozen small ones a time cost more than what they compute."""

from __future__ import annotations

from typing import Any

from ..engine.op import Op
from ..ops.elementwise import sigmoid, tanh
from ..ops.linalg import check_dtypes, matmul
from ..ops.rearrange import split
from ..ops.shape import concatenate, stack, unstack


def _scan(xp: Any, x: Any, h: Any, c: Any, w: Any, *, reverse: bool) -> tuple:
    check_dtypes("lstm", ("x", x), ("h", h), ("c", c), ("w", w))
    n = h.shape[-1]
    hs, cs, gates = xp.empty((*x.shape[:2], n), x.dtype), xp.empty((*x.shape[:2], n), x.dtype), xp.empty_like(x)
    turned = xp.ascontiguousarray(w.T)  # once: a product with few rows takes half the time
    for t in range(len(x))[:: -1 if reverse else 1]:
        z = xp.dot(h, turned)
        z += x[t]
        gates[t] = sigmoid.forward(xp, z)
        i, f, g, o = (gates[t, :, k : k + n] for k in range(0, 4 * n, n))
        g[...] = xp.tanh(z[:, 2 * n : 3 * n])
        new = f * c
        new += i * g
        c, h = cs[t], hs[t]
        c[...] = new
        xp.multiply(o, xp.tanh(new), out=h)
    return hs, cs, gates


def _scan_rule(gs: tuple, outs: tuple, x: Any, h: Any, c: Any, w: Any, *, reverse: bool) -> tuple:
    """Go back through the times; what does not depend on the gradient is computed for all times at once.

    With k = o (1 - tanh(c')^2): G_c' = G_c' + G_h k, and the gradients of i, f, g and o are G_c' g, G_c' c, G_c' i and
    G_h tanh(c'), times the slopes of their functions; G_c = G_c' f, and G_h = G_z W of the time before.
    """
    (g_hs, g_cs, g_gates), (hs, cs, gates) = gs, outs
    before = [a[1:] if reverse else a[:-1] for a in (hs, cs)]
    h_before, c_before = (
        concatenate([b, a[None]] if reverse else [a[None], b]) for a, b in zip((h, c), before, strict=True)
    )
    i, f, g, o = split(gates, 4, axis=-1)
    tanh_c = tanh(cs)
    k = o * (1.0 - tanh_c * tanh_c)
    slope = concatenate([i * (1.0 - i), f * (1.0 - f), 1.0 - g * g, o * (1.0 - o)], axis=-1)
    factor = concatenate([g, c_before, i, tanh_c], axis=-1) * slope
    steps = list(zip(*map(unstack, (g_hs, g_cs, k, f, factor, g_gates * slope)), strict=True))
    g_h, g_c, found = 0.0, 0.0, []
    for g_hs_t, g_cs_t, k_t, f_t, factor_t, own in steps if reverse else steps[::-1]:
        g_h = g_hs_t + g_h
        g_c = g_cs_t + g_c + g_h * k_t
        g_z = _spread(g_c, g_h) * factor_t + own
        g_h, g_c = matmul(g_z, w), g_c * f_t
        found.append(g_z)
    g_x = stack(found if reverse else found[::-1])
    rows = g_x.reshape((-1, g_x.shape[-1]))
    return g_x, g_h, g_c, matmul(rows.T, h_before.reshape((-1, h.shape[-1])))


def _spread_rule(g: Any, out: Any, g_c: Any, g_h: Any) -> tuple:
    i, f, g, o = split(g, 4, axis=-1)
    return i + f + g, o


_spread = Op(
    lambda xp, g_c, g_h: xp.concatenate((g_c, g_c, g_c, g_h), axis=-1), joint=_spread_rule, name="lstm_gates_gradient"
)
_lstm = Op(_scan, joint=_scan_rule, saves="h c w out", name="lstm")


def lstm(x: Any, h: Any, c: Any, w: Any, reverse: bool = False) -> tuple[Any, Any]:
    """Return all h and c of c_t = f c_(t-1) + i g, h_t = o tanh(c_t), with gates of [i, f, g, o] = x_t + W h_(t-1).

    i, f and o are sigmoids, g is a tanh; `reverse` goes from the last time to the first. Shapes: x (l, n, 4 k), h and c
    before the first step (n, k), w (4 k, k) -> (l, n, k) twice.

    >>> hs, cs = lstm(zeros(2, 1, 4), zeros(1, 1), ones(1, 1), zeros(4, 1))
    >>> cs.tolist()
    [[[0.5]], [[0.25]]]
    """
    hs, cs, _ = _lstm(x, h, c, w, reverse=reverse)
    return hs, cs
