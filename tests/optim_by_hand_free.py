"""Formulas with numbers of all parameters at once, written a second time: plain loops over Python numbers, for tests.

`xs` are the parameters, which a formula changes, `gs` their gradients, None for one that does not move; `states` has a
dictionary of arrays by slot for each, empty before its first step, `found` the numbers that hold for all and are saved,
and `hidden` what else a formula keeps.
"""

from __future__ import annotations

import math

import numpy as np


def begin(x, state, zero, first=()):
    """Make the slots of a parameter before its first step: zeros, and copies of the parameter."""
    if not state:
        state.update({name: np.zeros(x.shape) for name in zero}, **{name: x.copy() for name in first})


def gradient(x, g, i, weight_decay, maximize):
    return (-float(g[i]) if maximize else float(g[i])) + weight_decay * float(x[i])


def everywhere(xs, gs, weight_decay, maximize):
    """Yield (k, i, gradient) for each element of each parameter that moves."""
    for k, (x, g) in enumerate(zip(xs, gs, strict=True)):
        if g is not None:
            for i in np.ndindex(x.shape):
                yield k, i, gradient(x, g, i, weight_decay, maximize)


def values(states, name):
    return [float(v) for state in states if name in state for v in state[name].flat]


# ---- D-Adaptation and Prodigy ----------------------------------------------------------------------------------------


def dadapt_sgd(xs, gs, states, found, hidden, lr=1.0, momentum=0.0, weight_decay=0.0, d0=1e-6, growth_rate=math.inf,
               maximize=False):  # fmt: skip
    elements = list(everywhere(xs, gs, weight_decay, maximize))
    found.setdefault("g_norm", math.sqrt(math.fsum(g * g for _, _, g in elements)))
    found.setdefault("numerator", 0.0)
    d = found.setdefault("d", d0)
    step = d * lr / found["g_norm"]
    for x, g, state in zip(xs, gs, states, strict=True):
        if g is not None:
            begin(x, state, ("s",), ("x0",))
    found["numerator"] += math.fsum(step * g * float(states[k]["s"][i]) for k, i, g in elements)
    for k, i, g in elements:
        states[k]["s"][i] += step * g
    length = math.sqrt(math.fsum(v * v for v in values(states, "s")))
    for k, i, _ in elements:
        z = float(states[k]["x0"][i]) - float(states[k]["s"][i])
        xs[k][i] = momentum * float(xs[k][i]) + (1 - momentum) * z
    found["d"] = max(d, min(2 * found["numerator"] / length, d * growth_rate))


def dadapt_adam(xs, gs, states, found, hidden, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
                decoupled_weight_decay=False, bias_correction=False, d0=1e-6, growth_rate=math.inf,
                maximize=False):  # fmt: skip
    (b1, b2), root = betas, math.sqrt(betas[1])
    d = found.setdefault("d", d0)
    k = found["k"] = found.get("k", 0) + 1
    step = d * lr * (math.sqrt(1 - b2**k) / (1 - b1**k) if bias_correction else 1)
    for x, g, state in zip(xs, gs, states, strict=True):
        if g is not None:
            begin(x, state, ("m", "v", "s"))
    products = []
    for p, i, g in everywhere(xs, gs, 0.0 if decoupled_weight_decay else weight_decay, maximize):
        m, v, s = (states[p][name] for name in "mvs")
        products.append(step * g * s[i] / (math.sqrt(v[i]) + eps))
        m[i] = b1 * m[i] + (1 - b1) * step * g
        v[i] = b2 * v[i] + (1 - b2) * g * g
        s[i] = root * s[i] + (1 - root) * step * g
        if decoupled_weight_decay:
            xs[p][i] -= weight_decay * step * xs[p][i]
        xs[p][i] -= m[i] / (math.sqrt(v[i]) + eps)
    found["numerator"] = root * found.get("numerator", 0.0) + (1 - root) * math.fsum(products)
    size = math.fsum(map(abs, values(states, "s")))
    found["d"] = max(d, min(found["numerator"] / (1 - root) / size, d * growth_rate))


def prodigy(xs, gs, states, found, hidden, lr=1.0, betas=(0.9, 0.999), beta3=None, eps=1e-8, weight_decay=0.0,
            decoupled_weight_decay=True, bias_correction=False, safeguard_warmup=False, d0=1e-6, d_coef=1.0,
            growth_rate=math.inf, maximize=False):  # fmt: skip
    (b1, b2), b3 = betas, math.sqrt(betas[1]) if beta3 is None else beta3
    d = found.setdefault("d", d0)
    k = found["k"] = found.get("k", 0) + 1
    step = d * lr * (math.sqrt(1 - b2**k) / (1 - b1**k) if bias_correction else 1)
    for x, g, state in zip(xs, gs, states, strict=True):
        if g is not None:
            begin(x, state, ("m", "v", "s"), ("x0",))
    elements = list(everywhere(xs, gs, 0.0 if decoupled_weight_decay else weight_decay, maximize))
    products = [g * (float(states[p]["x0"][i]) - float(xs[p][i])) for p, i, g in elements]
    for p, i, g in elements:
        m, v, s = (states[p][name] for name in "mvs")
        m[i] = b1 * m[i] + (1 - b1) * d * g
        v[i] = b2 * v[i] + (1 - b2) * (d * g) ** 2
        s[i] = b3 * s[i] + d / d0 * (d if safeguard_warmup else step) * g
    found["numerator"] = b3 * found.get("numerator", 0.0) + d / d0 * step * math.fsum(products)
    guess = d_coef * found["numerator"] / math.fsum(map(abs, values(states, "s")))
    found["d_max"] = max(found.get("d_max", d0), guess)
    found["d"] = min(found["d_max"], growth_rate * (max(d, guess) if d == d0 else d))
    for p, i, _ in elements:
        if decoupled_weight_decay:
            xs[p][i] -= weight_decay * step * xs[p][i]
        xs[p][i] -= step * states[p]["m"][i] / (math.sqrt(states[p]["v"][i]) + found["d"] * eps)


# ---- distance over gradients -----------------------------------------------------------------------------------------


def over_gradients(xs, gs, states, found, first, weight_decay, maximize):
    """Return the gradients of elements, |g|^2, and r, noted as found["distance"]."""
    elements = list(everywhere(xs, gs, weight_decay, maximize))
    size = math.sqrt(math.fsum(float(v) ** 2 for x in xs for v in x.flat))
    for x, g, state in zip(xs, gs, states, strict=True):
        if g is not None:
            begin(x, state, (), ("x0",))
    moved = [(x, state["x0"]) for x, state in zip(xs, states, strict=True) if state]
    ways = [float(a) - float(b) for x, x0 in moved for a, b in zip(x.flat, x0.flat, strict=True)]
    found["distance"] = max(found.get("distance", first(size)), math.sqrt(math.fsum(w * w for w in ways)))
    return elements, math.fsum(g * g for _, _, g in elements), found["distance"]


def dog(
    xs, gs, states, found, hidden, lr=1.0, reps_rel=1e-6, eps=1e-8, weight_decay=0.0, maximize=False, scope="global"
):
    elements, square, r = over_gradients(
        xs, gs, states, found, lambda size: reps_rel * (1 + size), weight_decay, maximize
    )
    found["squares"] = found.get("squares", 0.0) + square
    for k, i, g in elements:
        xs[k][i] -= lr * r / math.sqrt(found["squares"] + eps) * g


def dowg(
    xs, gs, states, found, hidden, lr=1.0, reps_rel=None, eps=1e-4, weight_decay=0.0, maximize=False, scope="global"
):
    elements, square, r = over_gradients(
        xs, gs, states, found, lambda size: math.sqrt(eps) if reps_rel is None else reps_rel * (1 + size),
        weight_decay, maximize,
    )  # fmt: skip
    found["squares"] = found.get("squares", 0.0) + r**2 * square
    for k, i, g in elements:
        xs[k][i] -= lr * r**2 / (math.sqrt(found["squares"]) + eps) * g


# ---- Schedule-Free: all three sequences kept, where the optimizer keeps two ------------------------------------------


def rate_and_weight(found, lr, warmup_steps, r, weight_lr_power):
    """Return the rate of this step and the share of its z in the average."""
    k = found["k"] = found.get("k", 0) + 1
    rate = lr * min(1.0, k / warmup_steps) if warmup_steps else lr
    found["lr_max"] = max(found.get("lr_max", 0.0), rate)
    weight = k**r * found["lr_max"] ** weight_lr_power
    found["weight_sum"] = found.get("weight_sum", 0.0) + weight
    return rate, weight / found["weight_sum"] if found["weight_sum"] else 0.0


def start(xs, gs, states, hidden, zero=()):
    """Begin z and x of the parameters that move for the first time, and count the steps of all that move."""
    for k, (x, g) in enumerate(zip(xs, gs, strict=True)):
        if g is not None:
            begin(x, states[k], zero, ("z",))
            hidden.setdefault(("x", k), x.copy())
            hidden["t", k] = hidden.get(("t", k), 0) + 1


def average(xs, states, hidden, k, i, beta, c):
    """Take the new z into x, and put the parameter between them."""
    x, z = hidden["x", k], states[k]["z"]
    x[i] = (1 - c) * x[i] + c * z[i]
    xs[k][i] = (1 - beta) * z[i] + beta * x[i]


def schedule_free_sgd(xs, gs, states, found, hidden, lr=1.0, momentum=0.9, weight_decay=0.0, warmup_steps=0, r=0.0,
                      weight_lr_power=2.0, maximize=False):  # fmt: skip
    rate, c = rate_and_weight(found, lr, warmup_steps, r, weight_lr_power)
    start(xs, gs, states, hidden)
    for k, i, g in list(everywhere(xs, gs, weight_decay, maximize)):
        states[k]["z"][i] -= rate * g
        average(xs, states, hidden, k, i, momentum, c)


def schedule_free_adamw(xs, gs, states, found, hidden, lr=2.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
                        warmup_steps=0, r=0.0, weight_lr_power=2.0, maximize=False):  # fmt: skip
    rate, c = rate_and_weight(found, lr, warmup_steps, r, weight_lr_power)
    start(xs, gs, states, hidden, ("v",))
    for k, i, g in list(everywhere(xs, gs, 0.0, maximize)):
        v = states[k]["v"]
        v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g
        u = g / (math.sqrt(v[i] / (1 - betas[1] ** hidden["t", k])) + eps)
        states[k]["z"][i] -= rate * (u + weight_decay * xs[k][i])
        average(xs, states, hidden, k, i, betas[0], c)
