"""Recurrent networks: RNN, LSTM, GRU. Names of parameters and order of gates are PyTorch's."""

from __future__ import annotations

import math
from typing import Any

from ..engine.op import Op
from ..ops.rearrange import split
from ..ops.shape import concatenate, stack, unstack
from . import functional as F
from . import init
from .layers import dtypes_differ, new_parameter, size
from .lstm import lstm
from .settings import Described, number

_zeros = Op(lambda xp, like, *, shape: xp.zeros(shape, like.dtype), name="zeros")

State = tuple[Any, ...]  # (h,), or (h, c) of an LSTM


class _Recurrent(Described):
    """Layers of cells h_t = step(W_ih x_t + b_ih, h_(t-1)), in one or both directions; a subclass defines the step."""

    gates = 1  # rows of the weights, in multiples of hidden_size
    states = 1  # tensors that a cell hands on
    adds_biases = True  # b_hh may be added to b_ih, once for all times

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
    ):
        who = type(self).__name__
        self.input_size = size(who, input_size=input_size)
        self.hidden_size = size(who, hidden_size=hidden_size)
        self.num_layers = size(who, num_layers=num_layers)
        self.bias, self.batch_first, self.bidirectional = bool(bias), bool(batch_first), bool(bidirectional)
        self.dropout = number(who, "dropout", dropout, 0, 1)
        if dropout and num_layers == 1:
            raise ValueError(
                f"{who}: dropout acts between layers, and num_layers=1 leaves no place for it; use nn.Dropout"
            )
        rows = self.gates * self.hidden_size
        for k, suffix in enumerate(self._suffixes()):
            below = self.hidden_size * (1 + bidirectional) if k > bidirectional else self.input_size
            for name, shape in (("weight_ih", (rows, below)), ("weight_hh", (rows, self.hidden_size)),
                                ("bias_ih", (rows,)), ("bias_hh", (rows,)))[: 4 if bias else 2]:  # fmt: skip
                setattr(self, f"{name}{suffix}", new_parameter(shape, device, dtype))
        self.reset_parameters()

    def _suffixes(self) -> list[str]:
        """Return the end of the names of each layer's and direction's parameters."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-s, s), s = 1/sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def forward(self, x: Any, hx: Any = None) -> tuple[Any, Any]:
        """Return the last layer's h at all times, and the last state of every layer."""
        alone = self._check(x)
        x = x[:, None] if alone else x.swapaxes(0, 1) if self.batch_first else x
        state = self._initial(x, hx, alone)
        suffixes, ends = self._suffixes(), []
        for k in range(0, len(suffixes), 1 + self.bidirectional):
            if k and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            ways = [self._run(x, suffixes[j], tuple(s[j] for s in state)) for j in range(k, k + 1 + self.bidirectional)]
            x = concatenate([hs for hs, _ in ways], axis=-1) if self.bidirectional else ways[0][0]
            ends += [end for _, end in ways]
        last = tuple(stack(parts) for parts in zip(*ends, strict=True))
        if alone:
            x, last = x[:, 0], tuple(s[:, 0] for s in last)
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        return x, last if self.states > 1 else last[0]

    def _run(self, x: Any, suffix: str, state: State) -> tuple[Any, State]:
        """Run one layer in one direction over x (l, n, features): h at all times (l, n, hidden), and the last state."""
        w_ih, w_hh = getattr(self, f"weight_ih{suffix}"), getattr(self, f"weight_hh{suffix}")
        b_ih, b_hh = getattr(self, f"bias_ih{suffix}", None), getattr(self, f"bias_hh{suffix}", None)
        if self.adds_biases and b_ih is not None:
            b_ih, b_hh = b_ih + b_hh, None
        return self._scan(F.linear(x, w_ih, b_ih), w_hh, b_hh, state, suffix.endswith("_reverse"))

    def _scan(self, x: Any, w_hh: Any, b_hh: Any, state: State, reverse: bool) -> tuple[Any, State]:
        """Do the steps, of what comes from x at all times."""
        order = -1 if reverse else 1
        hs = []
        for from_x in unstack(x)[::order]:
            state = self._step(from_x, w_hh, b_hh, *state)
            hs.append(state[0])
        return stack(hs[::order]), state

    def _step(self, from_x: Any, w_hh: Any, b_hh: Any, *state: Any) -> State:
        raise NotImplementedError

    def _check(self, x: Any) -> bool:
        """Tell whether x is one sequence (l, features) instead of a batch of them; raise if it is neither."""
        shape, mine = getattr(x, "shape", None), self.weight_ih_l0.dtype  # type: ignore[attr-defined]
        if shape is None:
            raise TypeError(f"{self._title()}: needs a Tensor or an array, got {type(x).__name__}")
        if len(shape) not in (2, 3) or shape[-1] != self.input_size or not shape[self.batch_first and len(shape) == 3]:
            axes = "(n, l, features)" if self.batch_first else "(l, n, features)"
            rule = f"expected {axes} or (l, features) with {self.input_size} features and at least one time"
            raise ValueError(f"{self._title()}: {rule}, got shape {tuple(shape)}")
        if x.dtype != mine:
            raise TypeError(f"{self._title()}: {dtypes_differ(x.dtype, mine)}")
        return len(shape) == 2

    def _initial(self, x: Any, hx: Any, alone: bool) -> State:
        """Return the first state of every layer: that given, checked, or zeros."""
        shape = (len(self._suffixes()), x.shape[1], self.hidden_size)
        if hx is None:
            return tuple(_zeros(x, shape=shape) for _ in range(self.states))
        given = hx if isinstance(hx, tuple) else (hx,)
        expected = (shape[0], shape[2]) if alone else shape
        if [tuple(s.shape) for s in given] != [expected] * self.states:
            got = ", ".join(str(tuple(s.shape)) for s in given)
            raise ValueError(
                f"{self._title()}: the first state must be {' and '.join([str(expected)] * self.states)}, got {got}"
            )
        return tuple(s[:, None] for s in given) if alone else given


class RNN(_Recurrent):
    """Layers of h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or of relu (Elman 1990, Cognitive Science 14).

    Shapes: x (l, n, input_size), with batch_first (n, l, input_size), or one sequence (l, input_size) -> outputs like x
    with hidden_size features, twice as many if bidirectional, and the last states (num_layers, n, hidden_size), where
    each layer counts once for each direction. `layer(x, h0)` starts from states of that shape, else from zeros.
    Parameters weight_ih_l0 (hidden_size, input_size), weight_hh_l0, bias_ih_l0, bias_hh_l0, then _l1, ..., and
    _l0_reverse for the way back; all are drawn from U(-s, s), s = 1/sqrt(hidden_size). `dropout` acts on what each
    layer but the last hands up. ValueError for other shapes, TypeError for another dtype.

    >>> layer = nn.RNN(3, 4, num_layers=2)
    >>> output, h = layer(zeros(5, 7, 3))
    >>> output.shape, h.shape, (output[-1] == h[-1]).all().item()
    ((5, 7, 4), (2, 7, 4), True)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        settings = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(input_size, hidden_size, *settings, device=device, dtype=dtype)

    def _step(self, from_x: Any, w_hh: Any, b_hh: Any, *state: Any) -> State:
        z = from_x + F.linear(state[0], w_hh, b_hh)
        return (F.relu(z) if self.nonlinearity == "relu" else F.tanh(z),)


class LSTM(_Recurrent):
    """Layers of long short-term memory: a cell c that gates write to, keep and read.

    With i, f, o = sigmoid and g = tanh of the four parts, in the order i, f, g, o, of W_ih x_t + b_ih + W_hh h_(t-1) +
    b_hh: c_t = f c_(t-1) + i g and h_t = o tanh(c_t) (Hochreiter & Schmidhuber 1997, Neural Computation 9; forget gate:
    Gers et al. 2000). Shapes and parameters as in `RNN`, weights with 4 hidden_size rows; the states, given and
    returned, are pairs (h, c).

    >>> layer = nn.LSTM(3, 4, batch_first=True)
    >>> output, (h, c) = layer(zeros(7, 5, 3))
    >>> output.shape, h.shape, c.shape, layer.weight_hh_l0.shape
    ((7, 5, 4), (1, 7, 4), (1, 7, 4), (16, 4))
    """

    gates = 4
    states = 2

    def _scan(self, x: Any, w_hh: Any, b_hh: Any, state: State, reverse: bool) -> tuple[Any, State]:
        h, c = state
        hs, cs = lstm(x, h, c, w_hh, reverse)
        last = 0 if reverse else -1
        return hs, (hs[last], cs[last])


class GRU(_Recurrent):
    """Layers of gated recurrent units: h_t = (1 - z) n + z h_(t-1).

    With r, z = sigmoid of the first two of the three parts, in the order r, z, n, of W_ih x_t + b_ih + W_hh h_(t-1) +
    b_hh, and n = tanh(W_in x_t + b_in + r (W_hn h_(t-1) + b_hn)) (Cho et al. 2014, arXiv:1406.1078, with r applied
    after the product, as in PyTorch). Shapes and parameters as in `RNN`, weights with 3 hidden_size rows.

    >>> layer = nn.GRU(3, 4, bidirectional=True)
    >>> output, h = layer(zeros(5, 7, 3))
    >>> output.shape, h.shape, layer.weight_ih_l0_reverse.shape
    ((5, 7, 8), (2, 7, 4), (12, 3))
    """

    gates = 3
    adds_biases = False

    def _step(self, from_x: Any, w_hh: Any, b_hh: Any, *state: Any) -> State:
        h = state[0]
        r, z, n = split(from_x, 3, axis=-1)
        r_h, z_h, n_h = split(F.linear(h, w_hh, b_hh), 3, axis=-1)
        n = F.tanh(n + F.sigmoid(r + r_h) * n_h)
        return (n + F.sigmoid(z + z_h) * (h - n),)
