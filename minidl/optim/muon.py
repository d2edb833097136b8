"""Muon: momentum whose matrices are made orthogonal before each step, and the choice of parameters for it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ..engine.backend import Array
from ..engine.tensor import Tensor
from .base import Optimizer
from .groups import below_one, finite
from .rules import OneOf, count


def three_numbers(x: Any) -> bool:
    """three finite numbers"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 3 and all(map(finite, x))


class Muon(Optimizer):
    """Steps along the matrix nearest to the momentum with all singular values 1 (Jordan et al. 2024, "Muon").

        m <- m + (1 - momentum) (g - m),   u = g + momentum (m - g)            without nesterov u = m
        theta <- (1 - lr weight_decay) theta - lr s orthogonal(u)

    For u = U S V', `orthogonal` is U V' with method="svd". The default "newton-schulz" starts from X = u / max(|u|,
    eps) and repeats X <- a X + (b A + c A A) X, A = X X', ns_steps times, with ns_coefficients (a, b, c): that takes a
    singular value x to a x + b x^3 + c x^5, and after five rounds all from 0.001 to 1 lie between 0.47 and 1.20.

    adjust   s: "original" sqrt(max(1, rows / columns)); "match_rms_adamw" 0.2 sqrt(max(rows, columns)), for rates tuned
             for AdamW (Liu et al. 2025, arXiv:2502.16982, eq. 4); "none" 1

    It is for hidden matrices; embeddings, the last layer, biases and scales belong to AdamW: `muon_split` parts them.
    More than two axes count as (first, all others), as for the filters of a convolution. Computed in the parameter's
    dtype, where PyTorch, whose defaults these are, uses bfloat16. ValueError for parameters with fewer than two axes,
    naming them, for a negative or non-finite option, and for momentum outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([[0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    >>> w.grad = md.tensor([[0.0, -5.0], [0.1, 0.0]])
    >>> Muon([w], lr=0.5, method="svd").step()
    >>> w
    tensor([[ 0. ,  0.5],
            [-0.5,  0. ]], requires_grad=True)
    """

    slots = ("m",)
    rules: ClassVar = {
        "momentum": below_one,
        "ns_coefficients": three_numbers,
        "ns_steps": count,
        "adjust": OneOf("original", "match_rms_adamw", "none"),
        "method": OneOf("newton-schulz", "svd"),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust: str = "original",
        *,
        maximize: bool = False,
        method: str = "newton-schulz",
    ):
        options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eps": eps}
        options |= {"ns_coefficients": ns_coefficients, "ns_steps": ns_steps, "adjust": adjust, "method": method}
        super().__init__(params, **options, nesterov=nesterov, maximize=maximize)

    def check_group(self, group: Mapping[str, Any]) -> None:
        few = [name for name, p in zip(group["names"], group["params"], strict=True) if p.ndim < 2]
        if few:
            raise ValueError(
                f"Muon: needs parameters with at least two axes, got {', '.join(few)}; give these to AdamW, for "
                "example by matrices, others = muon_split(model)"
            )

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        names = ("lr", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust", "method")
        return {**{name: group[name] for name in names}, "keep": 1 - group["lr"] * group["weight_decay"]}

    def update_tensor(self, xp, theta, g, m, *, lr, momentum, nesterov, keep, adjust, method, **numbers):
        if not theta.size:
            return theta, m
        m = m + (1 - momentum) * (g - m)
        u = g + momentum * (m - g) if nesterov else m
        matrix = u.reshape(len(u), -1)
        rows, columns = matrix.shape
        scales = {"original": max(1, rows / columns) ** 0.5, "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5}
        if method == "svd":
            left, _, right = xp.linalg.svd(matrix, full_matrices=False)
            matrix = left @ right
        else:
            matrix = newton_schulz(xp, matrix, **numbers)
        return keep * theta - lr * scales.get(adjust, 1.0) * matrix.reshape(theta.shape), m


def newton_schulz(xp: Any, x: Array, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float) -> Array:
    """Bring all singular values of a matrix near 1, without computing them: five to ten products of matrices."""
    a, b, c = ns_coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / xp.maximum(xp.sqrt((x * x).sum()), eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


Named = list[tuple[str, Tensor]]


def muon_split(model: Any, exclude: Iterable[str] = (), last: bool = False) -> tuple[Named, Named]:
    """Part the parameters of a model into those for Muon and the others, for AdamW, as (name, parameter) pairs.

    Muon gets those with two axes or more, except the weights of embeddings (modules whose class name contains
    "Embedding"), the last such parameter, which is taken for the output layer (unless `last`), and names that match a
    pattern in `exclude`, such as "head.*". ValueError if nothing is left for Muon, or a pattern matches no name.

    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> matrices, others = muon_split(model)
    >>> [name for name, _ in matrices]
    ['0.weight', '1.weight']
    >>> [name for name, _ in others]
    ['0.bias', '1.bias', '2.weight', '2.bias']
    """
    named: Named = list(model.named_parameters())
    embeddings = {id(p) for m in model.modules() if "Embedding" in type(m).__name__ for _, p in m.named_parameters()}
    patterns = list(exclude)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name, _ in named):
            known = ", ".join(name for name, _ in named)
            raise ValueError(f"muon_split: no parameter is called {pattern!r}; there are {known}")
    matrices = [(n, p) for n, p in named if p.ndim >= 2 and id(p) not in embeddings]
    matrices = matrices if last else matrices[:-1]
    matrices = [(n, p) for n, p in matrices if not any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)]
    if not matrices:
        raise ValueError("muon_split: the model has no hidden matrix for Muon; use AdamW alone")
    chosen = {id(p) for _, p in matrices}
    return matrices, [(n, p) for n, p in named if id(p) not in chosen]
