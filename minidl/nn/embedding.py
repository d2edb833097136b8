"""Vectors for numbered things, and for places in a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.backend import get_default_dtype
from ..engine.tensor import Parameter, Tensor
from . import functional as F
from . import init
from .layers import dtypes_differ, new_parameter, size
from .settings import Described, integer
from .state import write


class Embedding(Described):
    """A table of vectors, looked up by number: y = weight[x].

    Shapes: x (...) of integers in [0, num_embeddings) -> (..., embedding_dim); weight (num_embeddings, embedding_dim),
    drawn from N(0, 1). The row `padding_idx` starts as 0 and gets no gradient. A number out of range is an IndexError
    on the CPU (on a GPU, where looking would wait for it, only in `detect_anomaly()`).

    >>> table = nn.Embedding.from_pretrained(tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> table(tensor([1, 0, 1])).tolist(), table.weight.requires_grad
    ([[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]], False)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: str | None = None,
        dtype: Any = None,
    ):
        self.num_embeddings = size("Embedding", num_embeddings=num_embeddings)
        self.embedding_dim = size("Embedding", embedding_dim=embedding_dim)
        self.padding_idx = _row(self.num_embeddings, padding_idx)
        self.weight = new_parameter((self.num_embeddings, self.embedding_dim), device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all vectors anew; that of `padding_idx` is 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            keep = np.arange(self.num_embeddings)[:, None] != self.padding_idx
            write(self.weight, (self.weight.detach() * Tensor(keep, device=self.weight.device)).array)

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """Make a table of given vectors, (num_embeddings, embedding_dim); they are trained only if not `freeze`.

        They are copied, the row `padding_idx` included. ValueError unless there are two axes.
        """
        weight = Parameter(embeddings, requires_grad=True)
        if weight.ndim != 2:
            raise ValueError(f"Embedding.from_pretrained: embeddings must have 2 axes, got shape {weight.shape}")
        table = cls.__new__(cls)  # without a draw of other vectors
        table.num_embeddings, table.embedding_dim = weight.shape
        table.padding_idx = _row(table.num_embeddings, padding_idx)
        table.weight = weight
        weight.requires_grad = not freeze
        return table

    def forward(self, x: Any) -> Any:
        """Look up the vectors of x."""
        return self._call(F.embedding, x, self.weight, self.padding_idx)


def _row(n: int, padding_idx: int | None) -> int | None:
    """Return the row of n that is for padding, counted from the front; ValueError if there is none such."""
    if padding_idx is None:
        return None
    row = integer("Embedding", "padding_idx", padding_idx)
    if not -n <= row < n:
        raise ValueError(f"Embedding: padding_idx must lie in [-{n}, {n}), got {row}")
    return row % n


class PositionalEncoding(Described):
    """Add to each vector of a sequence a code of its place: y_t = x_t + pe_t.

    pe_(t, 2i) = sin(t / 10000^(2i / d_model)), pe_(t, 2i + 1) = cos of the same. Shapes: x (l, n, d_model), with
    batch_first (n, l, d_model), or one sequence (l, d_model) -> the same, l <= max_len. The table is a buffer that is
    not saved. ValueError for other shapes (Vaswani et al. 2017, arXiv:1706.03762, Sec. 3.5).

    >>> nn.PositionalEncoding(4)(zeros(2, 4)).numpy().round(4).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.8414999842643738, 0.5403000116348267, 0.009999999776482582, 1.0]]
    """

    table: Tensor

    def __init__(
        self,
        d_model: int,
        max_len: int = 5000,
        batch_first: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ):
        self.d_model = size("PositionalEncoding", d_model=d_model)
        self.max_len = size("PositionalEncoding", max_len=max_len)
        self.batch_first = bool(batch_first)
        i = np.arange(self.d_model)
        angle = np.arange(self.max_len)[:, None] / 10000.0 ** ((i - i % 2) / self.d_model)
        codes = np.where(i % 2, np.cos(angle), np.sin(angle)).astype(dtype or get_default_dtype())
        self.register_buffer("table", Tensor(codes, device=device), persistent=False)

    def forward(self, x: Any) -> Any:
        """Add the codes to x."""
        shape = tuple(x.shape)
        place = len(shape) - 2 if self.batch_first else 0  # the axis of times
        if len(shape) not in (2, 3) or shape[-1] != self.d_model or shape[place] > self.max_len:
            axes = "(n, l, d_model)" if self.batch_first else "(l, n, d_model)"
            rule = f"expected {axes} or (l, d_model) with l <= {self.max_len}"
            raise ValueError(f"{self._title()}: {rule}, got shape {shape}")
        if x.dtype != self.table.dtype:
            raise TypeError(f"{self._title()}: {dtypes_differ(x.dtype, self.table.dtype)}")
        codes = self.table[: shape[place]]
        return x + (codes[:, None] if len(shape) == 3 and not self.batch_first else codes)


__all__ = ["Embedding", "PositionalEncoding"]
