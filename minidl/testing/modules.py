"""What every layer must pass: one function a truth, each taking a module and its inputs; and `check_module`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import random
from ..creation import tensor, zeros_like
from ..engine.autograd import backward, grad
from ..engine.backend import cuda_state, to_numpy
from ..engine.check import check_grad
from ..engine.modes import no_grad
from ..engine.tensor import Tensor
from ..nn import Module, frozen_statistics
from .operations import prove
from .values import DOUBLE, SINGLE, assert_close, cast, cotangents, expect, floating, host_arrays, layouts, results, tensors


def pure(module: Module, count: int) -> Callable[..., tuple]:
    """Return a module as a function of `count` inputs and of its parameters, the same at every call.

    For the length of a call the parameters are given the values, and the place in the graph, of the arguments.
    """
    parameters, frozen = module.parameters(), frozen_statistics()

    def function(*xs: Any) -> tuple:
        before = [(p.array, p.node) for p in parameters]
        try:
            for p, x in zip(parameters, xs[count:], strict=True):
                p.array, p.node = x.array, x.node
            with frozen:
                return tuple(y for y in results(module(*xs[:count])) if floating(y))
        finally:
            for p, (array, node) in zip(parameters, before, strict=True):
                p.array, p.node = array, node

    return function


def run(module: Module, inputs: list) -> tuple[list[Tensor], list[Any]]:
    """Return a module's results, and the gradients of a random mix of them by floating inputs and by parameters."""
    out = [y for y in results(module(*inputs))]
    wanted = [t for t in (*inputs, *module.parameters()) if t.requires_grad]
    reached = [y for y in out if y.requires_grad]
    floats = [y for y in out if floating(y)]
    us = {id(y): u for y, u in zip(floats, cotangents(tuple(floats)), strict=True)}
    seeds = [tensor(us[id(y)].astype(y.dtype), device=y.device) for y in reached]
    found = grad(reached, wanted, seeds, allow_unused=True) if reached and wanted else ()
    return out, list(found)
