"""What the tests of optimizers share: parameters of every layout, gradients, the cases, a schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import minidl as md
from minidl.engine.backend import to_device, to_numpy
from minidl.optim import SGD, Adam, AdamW

KINDS = [SGD, Adam, AdamW]


def parameter(array, device="cpu"):
    """Return a parameter that has this very array, layout included."""
    p = md.Parameter(np.zeros(array.shape, array.dtype))
    p.data = to_device(array, device) if device != "cpu" else array
    return p


def parameters(rng, dtype=np.float64, device="cpu"):
    """Return parameters of every layout: plain, transposed, with gaps, 0-d, empty."""
    shapes = [(3, 4), (5,), (), (0, 2), (2, 3, 2)]
    plain = [np.asarray(rng.standard_normal(shape), dtype=dtype) for shape in shapes]
    odd = [rng.standard_normal((6, 4)).astype(dtype).T, rng.standard_normal((5, 6)).astype(dtype)[::2, ::3]]
    return [parameter(x, device) for x in plain + odd]


def set_gradients(params, rng, skip=()):
    """Give each parameter the gradient of a noisy quadratic: 0.3 p + noise."""
    for i, p in enumerate(params):
        noise = np.asarray(rng.standard_normal(p.shape), dtype=p.dtype)
        p.grad = None if i in skip else to_numpy(p.array) * p.dtype.type(0.3) + noise
        if p.grad is not None and p.ndim == 2 and i % 2:
            p.grad.data = np.asfortranarray(p.grad.data)  # not laid out like its parameter


def arrays(params):
    return [to_numpy(p.array).copy() for p in params]


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def leaf(*shape):
    return md.tensor(np.ones(shape or (2,)), requires_grad=True)


@dataclass
class Case:
    kind: type
    by_hand: object
    torch: str
    options: dict

    def __str__(self):
        return f"{self.kind.__name__}-" + "-".join(f"{k}={v}" for k, v in self.options.items())

    def make(self, params, **more):
        return self.kind(params, **self.options, **more)


VARIED = [
    Case(SGD, None, "", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    Case(SGD, None, "", {"lr": 0.1}),
    Case(Adam, None, "", {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
    Case(AdamW, None, "", {"lr": 0.1}),
]


def train(optimizer, params, steps, seed=1, skip=()):
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        set_gradients(params, generator, skip)
        optimizer.step()
    return arrays(params)


@dataclass(frozen=True)
class Halving:
    start: float
    every: int = 2

    def __call__(self, step):
        return self.start * 0.5 ** (step // self.every)


