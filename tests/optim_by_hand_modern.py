"""The formulas of the optimizers since 2018, written a second time as plain loops; see optim_by_hand.py."""

from __future__ import annotations

import math

import numpy as np

from optim_by_hand import flat, kept, l2_or_shrunk, mean, norm


def qhm(x, g, s, t, lr=1e-2, momentum=0.999, nu=0.7, weight_decay=0.0, maximize=False, decoupled_weight_decay=False):
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    buffer = mean(s, "m", momentum, g)
    x = x - lr * nu * buffer
    return x - lr * (1 - nu) * g


def qhadam(x, g, s, t, lr=1e-3, betas=(0.995, 0.999), nus=(0.7, 1.0), eps=1e-8, weight_decay=0.0, maximize=False,
           decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    corrected = []
    for name, beta, value in (("m", betas[0], g), ("v", betas[1], g**2)):
        weight = sum(beta**k for k in range(t))  # the authors' way to the same correction
        corrected.append(mean(s, name, beta, value) / (1 - beta) / weight)
    top = (1 - nus[0]) * g + nus[0] * corrected[0]
    bottom = math.sqrt((1 - nus[1]) * g**2 + nus[1] * corrected[1])
    return x - lr * top / (bottom + eps)


def aggmo(x, g, s, t, lr=1e-3, betas=(0.0, 0.9, 0.99), weight_decay=0.0, maximize=False,
          decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    for i, beta in enumerate(betas):
        velocity = g
        if beta > 0:
            velocity = s[f"b{i}"] = beta * s.get(f"b{i}", 0.0) + g
        x = x - lr / len(betas) * velocity
    return x


def ademamix(x, g, s, t, lr=1e-3, betas=(0.9, 0.999, 0.9999), alpha=5.0, alpha_warmup=None, beta3_warmup=None, eps=1e-8,
             weight_decay=0.0, maximize=False):  # fmt: skip
    g = -g if maximize else g
    b1, b2, b3 = betas
    if alpha_warmup:
        alpha = min(t / alpha_warmup, 1.0) * alpha
    if beta3_warmup and t < beta3_warmup:
        a = t / beta3_warmup  # the paper's form, for b1 and b3 > 0
        b3 = math.exp(math.log(b1) * math.log(b3) / ((1 - a) * math.log(b3) + a * math.log(b1)))
    fast, slow, v = mean(s, "m1", b1, g), mean(s, "m2", b3, g), mean(s, "v", b2, g * g)
    update = (fast / (1 - b1**t) + alpha * slow) / (math.sqrt(v / (1 - b2**t)) + eps)
    return x - lr * (update + weight_decay * x)


def adopt(x, g, s, t, lr=1e-3, betas=(0.9, 0.9999), eps=1e-6, weight_decay=0.0, clip_exponent=0.25, maximize=False,
          decoupled_weight_decay=False):  # fmt: skip
    start = x
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    if t == 1:
        s["m"], s["v"] = 0.0, g * g
        return start
    n = g / max(math.sqrt(s["v"]), eps)
    if clip_exponent is not None:
        limit = (t - 1) ** clip_exponent
        n = max(-limit, min(limit, n))
    x = x - lr * mean(s, "m", betas[0], n)
    mean(s, "v", betas[1], g * g)
    return x


def laprop(x, g, s, t, lr=4e-4, betas=(0.9, 0.999), eps=1e-15, weight_decay=0.0, maximize=False,
           decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    v = mean(s, "v", betas[1], g * g) / (1 - betas[1] ** t)
    return x - lr * mean(s, "m", betas[0], g / (math.sqrt(v) + eps)) / (1 - betas[0] ** t)


def padam(x, g, s, t, lr=1e-1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, partial=0.125, maximize=False,
          decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    m, v = mean(s, "m", betas[0], g), mean(s, "v", betas[1], g * g)
    s["v_max"] = max(s.get("v_max", 0.0), v)
    return x - lr * m / math.pow(math.sqrt(s["v_max"]) + eps, 2 * partial)


def adamod(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), beta3=0.999, eps=1e-8, weight_decay=0.0, maximize=False,
           decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    m = mean(s, "m", betas[0], g) / (1 - betas[0] ** t)
    v = mean(s, "v", betas[1], g * g) / (1 - betas[1] ** t)
    rate = lr / (math.sqrt(v) + eps)
    return x - min(rate, mean(s, "s", beta3, rate)) * m


def adan(x, g, s, t, lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, maximize=False):
    g = -g if maximize else g
    difference = g - s.get("previous", g)
    s["previous"] = g
    m = mean(s, "m", betas[0], g) / (1 - betas[0] ** t)
    u = mean(s, "u", betas[1], difference) / (1 - betas[1] ** t)
    n = mean(s, "n", betas[2], (g + betas[1] * difference) ** 2) / (1 - betas[2] ** t)
    x = x - lr * m / (math.sqrt(n) + eps)
    x = x - lr * betas[1] * u / (math.sqrt(n) + eps)
    return x / (1 + lr * weight_decay)


def diffgrad(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False,
             decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    change = abs(g - s.get("previous", 0.0))
    s["previous"] = g
    m, v = mean(s, "m", betas[0], g), mean(s, "v", betas[1], g * g)
    sigmoid = math.exp(change / 2) / (math.exp(change / 2) + math.exp(-change / 2))
    return x - lr * sigmoid * m / (1 - betas[0] ** t) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)


# ---- formulas with norms: x and g are arrays, s holds arrays ---------------------------------------------------------


def mars(x, g, s, t, lr=3e-3, betas=(0.95, 0.99), gamma=0.025, eps=1e-8, weight_decay=0.0, maximize=False):
    (b1, b2), gs = betas, [-v if maximize else v for v in flat(g)]
    old = flat(s["previous"]) if s else gs
    cs = [a + gamma * b1 / (1 - b1) * (a - b) for a, b in zip(gs, old, strict=True)]
    length = norm(cs)
    if length > 1:
        cs = [c / length for c in cs]
    m, v = (flat(s[k]) if s else [0.0] * len(cs) for k in "mv")
    m = [b1 * o + (1 - b1) * c for o, c in zip(m, cs, strict=True)]
    v = [b2 * o + (1 - b2) * c * c for o, c in zip(v, cs, strict=True)]
    for name, values in (("m", m), ("v", v), ("previous", gs)):
        kept(s, name, np.asarray(x), values)
    steps = [a / (1 - b1**t) / (math.sqrt(b / (1 - b2**t)) + eps) for a, b in zip(m, v, strict=True)]
    return [u - lr * (step + weight_decay * u) for u, step in zip(flat(x), steps, strict=True)]
