"""The formulas of optimizers, written a second time: plain loops over Python numbers, for the tests.

`x` and `g` are an element of a parameter and of its gradient, `s` the state of that element by slot name, `t` its step
from 1. A formula that needs the norm of a parameter gets lists of all elements, and one dictionary of lists.
"""

from __future__ import annotations

import math

import numpy as np


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


def madgrad(x, g, s, t, lr=1e-2, momentum=0.9, weight_decay=0.0, eps=1e-6, maximize=False):
    g = (-g if maximize else g) + weight_decay * x
    s.setdefault("x0", x)
    s["s"] = s.get("s", 0.0) + lr * math.sqrt(t) * g
    s["v"] = s.get("v", 0.0) + lr * math.sqrt(t) * g * g
    return momentum * x + (1 - momentum) * (s["x0"] - s["s"] / (s["v"] ** (1 / 3) + eps))


def ftrl(x, g, s, t, lr=1e-3, l1=0.0, l2=0.0, beta=0.0, initial_accumulator_value=0.1, maximize=False):
    g = -g if maximize else g
    n = s.get("n", initial_accumulator_value)
    s["n"] = n + g * g
    s["z"] = s.get("z", 0.0) + g - (math.sqrt(s["n"]) - math.sqrt(n)) / lr * x
    if abs(s["z"]) <= l1:
        return 0.0
    return -(s["z"] - sign(s["z"]) * l1) / ((beta + math.sqrt(s["n"])) / lr + l2)


# ---- formulas with norms: x and g are arrays, read element by element; s holds arrays --------------------------------


def norm(values):
    return math.sqrt(math.fsum(v * v for v in values))


def flat(x):
    return [float(v) for v in x.flat]


def ratio(a, b):
    return a / b if a > 0 and b > 0 else 1.0


def kept(s, name, x, values):
    s[name] = np.array(values).reshape(x.shape)


def lars(x, g, s, t, lr=1e-1, momentum=0.9, weight_decay=0.0, trust=1e-3, eps=1e-8, maximize=False):
    xs, gs = flat(x), [-v if maximize else v for v in flat(g)]
    wide, long = norm(xs), norm(gs)
    q = 1.0 if trust is None or wide == 0 or long == 0 else trust * wide / (long + weight_decay * wide + eps)
    old = flat(s["b"]) if s else [0.0] * len(xs)
    b = [momentum * o + q * (v + weight_decay * u) for o, u, v in zip(old, xs, gs, strict=True)]
    kept(s, "b", x, b)
    return [u - lr * v for u, v in zip(xs, b, strict=True)]


def lamb(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, maximize=False):
    xs, gs = flat(x), [-v if maximize else v for v in flat(g)]
    b1, b2 = betas
    m, v = (flat(s[k]) if s else [0.0] * len(xs) for k in "mv")
    m = [b1 * o + (1 - b1) * w for o, w in zip(m, gs, strict=True)]
    v = [b2 * o + (1 - b2) * w * w for o, w in zip(v, gs, strict=True)]
    kept(s, "m", x, m)
    kept(s, "v", x, v)
    r = [
        a / (1 - b1**t) / (math.sqrt(b / (1 - b2**t)) + eps) + weight_decay * u
        for a, b, u in zip(m, v, xs, strict=True)
    ]
    q = ratio(norm(xs), norm(r))
    return [u - lr * q * w for u, w in zip(xs, r, strict=True)]


def novograd(x, g, s, t, lr=1e-2, betas=(0.95, 0.98), eps=1e-8, weight_decay=0.0, averaged=False, maximize=False):
    xs, gs = flat(x), [-v if maximize else v for v in flat(g)]
    size = math.fsum(v * v for v in gs)
    v = size if t == 1 else betas[1] * float(s["v"]) + (1 - betas[1]) * size
    s["v"] = np.array(v)
    m = flat(s["m"]) if "m" in s else [0.0] * len(xs)
    new = 1 - betas[0] if averaged else 1.0
    m = [betas[0] * o + new * (w / (math.sqrt(v) + eps) + weight_decay * u) for o, w, u in zip(m, gs, xs, strict=True)]
    kept(s, "m", x, m)
    return [u - lr * w for u, w in zip(xs, m, strict=True)]


def fromage(x, g, s, t, lr=1e-2, maximize=False):
    xs, gs = flat(x), [-v if maximize else v for v in flat(g)]
    q = lr * ratio(norm(xs), norm(gs))
    return [(u - q * v) / math.sqrt(1 + lr**2) for u, v in zip(xs, gs, strict=True)]


def adafactor(x, g, s, t, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0, maximize=False):
    g = -g if maximize else g
    if x.size == 0:
        s.setdefault("r", np.zeros(x.shape if x.ndim < 2 else (*x.shape[:-1], 1)))
        s.setdefault("c", np.zeros(() if x.ndim < 2 else (*x.shape[:-2], 1, x.shape[-1])))
        return []
    eps1 = 2.0**-52 if eps[0] is None else eps[0]
    share, v = t**beta2_decay, {}
    if x.ndim < 2:
        s.setdefault("c", np.zeros(()))
        r = s.setdefault("r", np.zeros(x.shape))
        for i in np.ndindex(x.shape):
            r[i] += share * (float(g[i]) ** 2 - float(r[i]))
            v[i] = float(r[i])
    else:
        *front, rows, columns = x.shape
        r, c = s.setdefault("r", np.zeros((*front, rows, 1))), s.setdefault("c", np.zeros((*front, 1, columns)))
        for k in np.ndindex(*front):
            for i in range(rows):
                mean = math.fsum(float(g[(*k, i, j)]) ** 2 for j in range(columns)) / columns
                r[(*k, i, 0)] += share * (mean - r[(*k, i, 0)])
            for j in range(columns):
                mean = math.fsum(float(g[(*k, i, j)]) ** 2 for i in range(rows)) / rows
                c[(*k, 0, j)] += share * (mean - c[(*k, 0, j)])
            whole = max(math.fsum(float(r[(*k, i, 0)]) for i in range(rows)) / rows, eps1)
            for i, j in np.ndindex(rows, columns):
                v[(*k, i, j)] = float(r[(*k, i, 0)]) * float(c[(*k, 0, j)]) / whole
    u = {i: float(g[i]) / math.sqrt(max(v[i], eps1**2)) for i in v}
    clip = max(1.0, norm(u.values()) / math.sqrt(x.size) / d)
    alpha = max(eps[1], norm(flat(x)) / math.sqrt(x.size)) * min(lr, 1 / math.sqrt(t))
    return [float(x[i]) * (1 - lr * weight_decay) - alpha * u[i] / clip for i in np.ndindex(x.shape)]


def sm3(x, g, s, t, lr=1e-1, momentum=0.9, eps=1e-8, maximize=False):
    shape = x.shape or (1,)
    gs = np.reshape(-g if maximize else g, shape)
    starts = [sum(shape[:k]) for k in range(len(shape))]
    old = s.get("covers", np.zeros(sum(shape)))
    s["covers"] = np.zeros(sum(shape)) if x.size else old
    m, new = s.setdefault("m", np.zeros(x.shape)).reshape(shape), []
    for i in np.ndindex(shape):
        n = min(float(old[a + k]) for a, k in zip(starts, i, strict=True)) + float(gs[i]) ** 2
        for a, k in zip(starts, i, strict=True):
            s["covers"][a + k] = max(s["covers"][a + k], n)
        m[i] = momentum * m[i] + (1 - momentum) * (float(gs[i]) / math.sqrt(n + eps) if n > 0 else 0.0)
        new.append(float(x.reshape(shape)[i]) - lr * m[i])
    return new
