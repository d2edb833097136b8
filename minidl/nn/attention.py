"""Attention as a layer, and the sum around a layer that transformers and residual networks are made of."""

from __future__ import annotations

import math
from typing import Any

from ..ops.attention import earlier
from ..ops.elementwise import where
from ..ops.linalg import matmul
from ..ops.rearrange import split, swapaxes
from ..ops.reduce import mean
from ..ops.shape import reshape
from . import functional as F
from . import init
from .layers import Linear, new_parameter, size
from .module import Module
from .settings import Described, number


class MultiheadAttention(Described):
    """Attention in parts: each head averages values with the weights softmax(q k' / sqrt(d)), d = embed_dim/num_heads.

    Queries, keys and values are affine maps of the three inputs, and so is the result of the heads side by side.
    Shapes: query (l, n, embed_dim), key (s, n, kdim), value (s, n, vdim) -> (l, n, embed_dim) and the weights, mean of
    the heads, (n, l, s); with batch_first n comes first; without n for a single sample. Parameters in_proj_weight
    (3 embed_dim, embed_dim), or q_proj_weight, k_proj_weight, v_proj_weight if kdim or vdim differ, from Glorot's
    uniform distribution; in_proj_bias (3 embed_dim,) and out_proj.bias 0; out_proj.weight as in `Linear`.

    `attn_mask` (l, s), (n num_heads, l, s) and `key_padding_mask` (n, s) are True where not to look, or numbers to be
    added to the scores; `is_causal` lets each query look at keys up to its own place (PyTorch's wants a mask beside
    it). A query that may look nowhere gets weights 0 (PyTorch: NaN). `need_weights=False` returns None for them.
    ValueError for shapes that do not fit (Vaswani et al. 2017, arXiv:1706.03762, Sec. 3.2).

    >>> layer = nn.MultiheadAttention(8, num_heads=2, batch_first=True)
    >>> x = ones(5, 3, 8)
    >>> y, weights = layer(x, x, x, is_causal=True)
    >>> y.shape, weights[0].tolist()[1]
    ((5, 3, 8), [0.5, 0.5, 0.0])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ):
        who = "MultiheadAttention"
        e = self.embed_dim = size(who, embed_dim=embed_dim)
        self.num_heads = size(who, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"{who}: num_heads must divide embed_dim, got {num_heads} and {embed_dim}")
        self.dropout, self.bias, self.batch_first = number(who, "dropout", dropout, 0, 1), bool(bias), bool(batch_first)
        self.kdim = e if kdim is None else size(who, kdim=kdim)
        self.vdim = e if vdim is None else size(who, vdim=vdim)
        self.in_proj_weight = None
        if self.kdim == self.vdim == e:
            self.in_proj_weight = new_parameter((3 * e, e), device, dtype)
        else:
            self.q_proj_weight = new_parameter((e, e), device, dtype)
            self.k_proj_weight = new_parameter((e, self.kdim), device, dtype)
            self.v_proj_weight = new_parameter((e, self.vdim), device, dtype)
        self.in_proj_bias = new_parameter((3 * e,), device, dtype) if bias else None
        self.out_proj = Linear(e, e, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew and set the biases to 0."""
        self.out_proj.reset_parameters()
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                init.zeros_(p)
            elif not name.startswith("out_proj"):
                init.xavier_uniform_(p)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Any, Any]:
        """Return the attended values, and the weights, averaged over the heads or of each (n, num_heads, l, s)."""
        self._check(query, key, value)
        alone = query.ndim == 2
        if alone or not self.batch_first:
            query, key, value = self._by_sample(query, key, value, alone)
        q, k, v = self._call(self._projected, query, key, value)
        scores = matmul(self._heads(q) * (1 / math.sqrt(self.embed_dim // self.num_heads)), self._heads(k).mT)
        if is_causal:
            scores = where(earlier(scores), scores, -math.inf)
        scores = self._masked(scores, "attn_mask", attn_mask)
        scores = self._masked(scores, "key_padding_mask", key_padding_mask)
        weights = F.dropout(F.softmax(scores), self.dropout, self.training)
        out = swapaxes(matmul(weights, self._heads(v)), 1, 2)
        out = self.out_proj(reshape(out, (*query.shape[:2], self.embed_dim)))
        out = out[0] if alone else out if self.batch_first else swapaxes(out, 0, 1)
        if not need_weights:
            return out, None
        weights = mean(weights, axis=1) if average_attn_weights else weights
        return out, weights[0] if alone else weights

    def _check(self, *inputs: Any) -> None:
        """Raise unless query, key and value are samples, or batches, that belong together."""
        expected = dict(zip(("query", "key", "value"), (self.embed_dim, self.kdim, self.vdim), strict=True))
        shapes = [tuple(getattr(x, "shape", ())) for x in inputs]
        for (name, features), shape in zip(expected.items(), shapes, strict=True):
            if len(shape) not in (2, 3) or len(shape) != len(shapes[0]) or shape[-1] != features:
                rule = f"{name} must have 2 axes, or 3 like all others, and {features} features"
                raise ValueError(f"{self._title()}: {rule}, got shapes {', '.join(map(str, shapes))}")
        batch, time = (0, 1) if self.batch_first else (1, 0)
        place = 0 if len(shapes[0]) == 2 else time
        if shapes[1][place] != shapes[2][place] or len({s[batch] for s in shapes if len(s) == 3}) > 1:
            rule = "key and value must have one length, and all one number of samples"
            raise ValueError(f"{self._title()}: {rule}, got shapes {', '.join(map(str, shapes))}")

    def _by_sample(self, query: Any, key: Any, value: Any, alone: bool) -> list[Any]:
        """Bring the axis of samples to the front; where all three are one, they stay one."""
        turned: dict[int, Any] = {}
        for x in (query, key, value):
            turned.setdefault(id(x), x[None] if alone else swapaxes(x, 0, 1))
        return [turned[id(x)] for x in (query, key, value)]

    def _projected(self, query: Any, key: Any, value: Any) -> list[Any]:
        """Return the three affine maps of the inputs; of one input, by a single product."""
        if self.in_proj_weight is not None and query is key is value:
            return split(F.linear(query, self.in_proj_weight, self.in_proj_bias), 3, axis=-1)
        weights = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if self.in_proj_weight is None
            else split(self.in_proj_weight, 3)
        )
        biases = [None] * 3 if self.in_proj_bias is None else split(self.in_proj_bias, 3)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _heads(self, x: Any) -> Any:
        """Part the features between the heads: (n, l, embed_dim) -> (n, num_heads, l, d)."""
        return swapaxes(reshape(x, (*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads)), 1, 2)

    def _masked(self, scores: Any, name: str, mask: Any) -> Any:
        """Forbid what a mask marks, or add it to the scores (n, heads, l, s)."""
        if mask is None:
            return scores
        n, h, length, s = scores.shape
        shapes = {(length, s): (length, s), (n * h, length, s): (n, h, length, s)}
        if name == "key_padding_mask":
            shapes = {(n, s): (n, 1, 1, s)} | ({(s,): (1, 1, 1, s)} if n == 1 else {})
        shape, kind = tuple(mask.shape), mask.dtype
        if shape not in shapes or (kind != scores.dtype and kind.kind != "b"):
            rule = f"{name} must be {' or '.join(map(str, shapes))} and bool (True: not to look) or {scores.dtype}"
            raise (TypeError if shape in shapes else ValueError)(f"{self._title()}: {rule}, got {shape} of {kind}")
        mask = reshape(mask, shapes[shape])
        return where(mask, -math.inf, scores) if kind.kind == "b" else scores + mask


class Residual(Module):
    """Add to x what a module makes of it: y = x + module(x) (He et al. 2016, arXiv:1512.03385, eq. 1).

    ValueError if the module changes the shape: nothing is broadcast.

    >>> nn.Residual(nn.ReLU())(tensor([-1.0, 2.0]))
    tensor([-1.,  4.])
    """

    def __init__(self, module: Module):
        if not isinstance(module, Module):
            raise TypeError(f"Residual: needs a Module, got {type(module).__name__}")
        self.module = module

    def forward(self, x: Any) -> Any:
        """Return x + module(x)."""
        y = self.module(x)
        if y.shape != x.shape:
            raise ValueError(f"Residual: the module must keep the shape {tuple(x.shape)}, it returned {tuple(y.shape)}")
        return x + y


__all__ = ["MultiheadAttention", "Residual"]
