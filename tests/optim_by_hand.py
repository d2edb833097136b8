"""The formulas of optimizers, written a second time: plain loops over Python numbers, for the tests.

`x` and `g` are an element of a parameter and of its gradient, `s` the state of that element by slot name, `t` its step
from 1. A formula that needs the norm of a parameter gets lists of all elements, and one dictionary of lists.
"""

from __future__ import annotations

import math


def sign(x):
    return (x > 0) - (x < 0)


def mean(s, name, beta, value, start=0.0):
    s[name] = beta * s.get(name, start) + (1 - beta) * value
    return s[name]


def l2_or_shrunk(x, g, lr, weight_decay, decoupled):
    return (x * (1 - lr * weight_decay), g) if decoupled else (x, g + weight_decay * x)


def sgdw(x, g, s, t, lr=1e-3, momentum=0.9, dampening=0.0, weight_decay=1e-2, nesterov=False, maximize=False,
         lr_in_buffer=False, decay="lr"):  # fmt: skip
    g = -g if maximize else g
    x = x - (lr if decay == "lr" else 1.0) * weight_decay * x
    if momentum == 0:
        return x - lr * g
    kept = g if t == 1 else (1 - dampening) * g
    if lr_in_buffer:
        s["b"] = momentum * s.get("b", 0.0) - lr * kept
        return x + (momentum * s["b"] - lr * g if nesterov else s["b"])
    s["b"] = kept if t == 1 else momentum * s["b"] + kept
    return x - lr * (g + momentum * s["b"] if nesterov else s["b"])


def adam(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
         debias="torch"):  # fmt: skip
    g = (-g if maximize else g) + weight_decay * x
    m, v = mean(s, "m", betas[0], g), mean(s, "v", betas[1], g * g)
    c1, c2 = 1 - betas[0] ** t, 1 - betas[1] ** t
    if debias == "vhat":
        v = v / c2
        if amsgrad:
            v = s["v_max"] = max(s.get("v_max", 0.0), v)
        return x - lr * (m / c1) / (math.sqrt(v) + eps)
    if amsgrad:
        v = s["v_max"] = max(s.get("v_max", 0.0), v)
    if debias == "none":
        return x - lr * m / (math.sqrt(v) + eps)
    if debias == "keras":
        return x - lr * math.sqrt(c2) / c1 * m / (math.sqrt(v) + eps)
    return x - lr * (m / c1) / (math.sqrt(v / c2) + eps)


def adamw(x, g, s, t, lr=1e-3, weight_decay=1e-2, decay="lr", **options):
    return adam(x * (1 - (lr if decay == "lr" else 1.0) * weight_decay), g, s, t, lr=lr, **options)


def adagrad(x, g, s, t, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10,
            maximize=False, mean=False, eps_in_sqrt=False):  # fmt: skip
    g = (-g if maximize else g) + weight_decay * x
    s["s"] = s.get("s", initial_accumulator_value) + g * g
    square = s["s"] / t if mean else s["s"]
    root = math.sqrt(square + eps) if eps_in_sqrt else math.sqrt(square) + eps
    return x - lr / (1 + (t - 1) * lr_decay) * g / root


def rmsprop(x, g, s, t, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False,
            initial_accumulator_value=0.0, eps_in_sqrt=False, lr_in_buffer=False):  # fmt: skip
    g = (-g if maximize else g) + weight_decay * x
    square = mean(s, "v", alpha, g * g, initial_accumulator_value)
    if centered:
        square -= mean(s, "c", alpha, g) ** 2
    u = g / (math.sqrt(square + eps) if eps_in_sqrt else math.sqrt(square) + eps)
    if momentum == 0:
        return x - lr * u
    s["b"] = momentum * s.get("b", 0.0) + (lr * u if lr_in_buffer else u)
    return x - (s["b"] if lr_in_buffer else lr * s["b"])


def adadelta(x, g, s, t, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    g = (-g if maximize else g) + weight_decay * x
    v = mean(s, "v", rho, g * g)
    step = math.sqrt(s.get("u", 0.0) + eps) / math.sqrt(v + eps) * g
    mean(s, "u", rho, step * step)
    return x - lr * step


def adamax(x, g, s, t, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    g = (-g if maximize else g) + weight_decay * x
    m = mean(s, "m", betas[0], g)
    s["u"] = max(betas[1] * s.get("u", 0.0), abs(g) + eps)
    return x - lr * m / ((1 - betas[0] ** t) * s["u"])


def nadam(x, g, s, t, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
          decoupled_weight_decay=False, maximize=False, variant="torch"):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    b1, b2 = betas
    m, v = mean(s, "m", b1, g), mean(s, "v", b2, g * g)
    root = math.sqrt(v / (1 - b2**t)) + eps
    if variant == "optax":
        return x - lr * (b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)) / root
    if variant == "timm":
        return x - lr * (b1 * m + (1 - b1) * g) / (1 - b1**t) / root
    mus = [b1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in range(1, t + 2)]
    now, ahead = math.prod(mus[:-1]), math.prod(mus)
    return x - lr * (mus[-1] * m / (1 - ahead) + (1 - mus[-2]) * g / (1 - now)) / root


def radam(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False,
          maximize=False, variant="torch"):  # fmt: skip
    start = x
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    b1, b2 = betas
    m, v = mean(s, "m", b1, g), mean(s, "v", b2, g * g)
    limit = 2 / (1 - b2) - 1
    rho = limit - 2 * t * b2**t / (1 - b2**t)
    if rho > 4 if variant == "paper" else rho > 5 if variant == "torch" else rho >= 5:
        r = math.sqrt((rho - 4) / (limit - 4) * (rho - 2) / (limit - 2) * limit / rho)
        return x - lr * r * m / (1 - b1**t) * math.sqrt(1 - b2**t) / (math.sqrt(v) + eps)
    return start if variant == "official" else x - lr * m / (1 - b1**t)


def adabound(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), final_lr=0.1, gamma=1e-3, eps=1e-8, weight_decay=0.0,
             amsbound=False, maximize=False, decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    m, v = mean(s, "m", betas[0], g), mean(s, "v", betas[1], g * g)
    if amsbound:
        v = s["v_max"] = max(s.get("v_max", 0.0), v)
    rate = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) / (math.sqrt(v) + eps)
    low, high = final_lr * (1 - 1 / (gamma * t + 1)), final_lr * (1 + 1 / (gamma * t))
    return x - min(max(rate, low), high) * m


def yogi(x, g, s, t, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0, initial_accumulator_value=1e-6,
         maximize=False, decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    m = mean(s, "m", betas[0], g)
    v = s.get("v", initial_accumulator_value)
    s["v"] = v - (1 - betas[1]) * sign(v - g * g) * g * g
    return x - lr * m / (1 - betas[0] ** t) / (math.sqrt(s["v"] / (1 - betas[1] ** t)) + eps)


def adabelief(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, eps_root=1e-16, weight_decay=0.0, maximize=False,
              decoupled_weight_decay=False):  # fmt: skip
    x, g = l2_or_shrunk(x, -g if maximize else g, lr, weight_decay, decoupled_weight_decay)
    m = mean(s, "m", betas[0], g)
    s["s"] = mean(s, "s", betas[1], (g - m) ** 2) + eps_root
    return x - lr * m / (1 - betas[0] ** t) / (math.sqrt(s["s"] / (1 - betas[1] ** t)) + eps)


def asgd(x, g, s, t, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0, maximize=False):
    g = (-g if maximize else g) + weight_decay * x
    eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
    mu = 1 / max(1, t - 1 - t0)
    x = x * (1 - lambd * eta) - eta * g
    s["ax"] = x if mu == 1 else s["ax"] + mu * (x - s["ax"])
    return x


def rprop(x, g, s, t, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0), maximize=False):
    g = -g if maximize else g
    turn = sign(g) * sign(s.get("previous", 0.0))
    s["d"] = s.get("d", lr) * {1: etas[1], -1: etas[0], 0: 1.0}[turn]
    s["d"] = min(max(s["d"], step_sizes[0]), step_sizes[1])
    s["previous"] = 0.0 if turn < 0 else g
    return x - sign(s["previous"]) * s["d"]


def optimistic_gd(x, g, s, t, lr=1e-3, alpha=1.0, beta=1.0, maximize=False):
    g = -g if maximize else g
    previous, s["previous"] = s.get("previous", g), g
    return x - lr * (alpha * g + beta * (g - previous))


def optimistic_adam(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, alpha=1.0, beta=1.0, maximize=False):
    g = -g if maximize else g
    m, v = mean(s, "m", betas[0], g), mean(s, "v", betas[1], g * g)
    u = m / (1 - betas[0] ** t) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    previous, s["previous"] = s.get("previous", u), u
    return x - lr * (alpha * u + beta * (u - previous))


def sign_sgd(x, g, s, t, lr=1e-3, momentum=0.0, weight_decay=0.0, maximize=False):
    g = -g if maximize else g
    direction = mean(s, "m", momentum, g) if momentum else g
    return x - lr * sign(direction) - lr * weight_decay * x


def signum(x, g, s, t, momentum=0.9, **options):
    return sign_sgd(x, g, s, t, momentum=momentum, **options)


def lion(x, g, s, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
    g = -g if maximize else g
    direction = sign(betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g)
    mean(s, "m", betas[1], g)
    return x - lr * (direction + weight_decay * x)
