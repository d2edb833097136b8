"""RNN, LSTM, GRU: the equations by hand, directions and layers, states, errors."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.nn.lstm import lstm as fused


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def rnn(a, b, state):
    return (np.tanh(a + b),)


def lstm(a, b, state):
    i, f, g, o = np.split(a + b, 4, -1)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(a, b, state):
    (r, z, n), (r_h, z_h, n_h) = np.split(a, 3, -1), np.split(b, 3, -1)
    z = sigmoid(z + z_h)
    return ((1 - z) * np.tanh(n + sigmoid(r + r_h) * n_h) + z * state[0],)


def by_hand(layer, step, x, state, suffix="_l0"):
    """One layer in one direction over x (l, n, features)."""
    p = {name: t.detach().numpy() for name, t in layer.named_parameters()}
    hs = []
    for x_t in x:
        a = x_t @ p[f"weight_ih{suffix}"].T + p.get(f"bias_ih{suffix}", 0)
        b = state[0] @ p[f"weight_hh{suffix}"].T + p.get(f"bias_hh{suffix}", 0)
        state = step(a, b, state)
        hs.append(state[0])
    return np.stack(hs), state


@pytest.mark.parametrize("reverse", [False, True])
def test_the_fused_memory_is_its_steps_to_the_third_derivative(reverse, rng):
    def steps(x, h, c, w):
        hs, cs = [], []
        for x_t in list(x)[:: -1 if reverse else 1]:
            i, f, g, o = md.split(x_t + h @ w.T, 4, axis=-1)
            c = md.sigmoid(f) * c + md.sigmoid(i) * md.tanh(g)
            h = md.sigmoid(o) * md.tanh(c)
            hs.append(h)
            cs.append(c)
        return md.stack(hs[:: -1 if reverse else 1]), md.stack(cs[:: -1 if reverse else 1])

    arrays = [rng.standard_normal(shape) for shape in ((3, 2, 8), (2, 2), (2, 2), (8, 2))]
    directions = [rng.standard_normal((3, 2, 2)) for _ in range(2)]
    both = []
    for f in (steps, lambda *xs: fused(*xs, reverse=reverse)):
        xs = [md.tensor(a, requires_grad=True) for a in arrays]
        ys = f(*xs)
        found = [[y.detach().numpy() for y in ys]]
        current, us = ys, [md.tensor(d) for d in directions]
        for _ in range(3):
            current = md.autograd.grad(current, xs, us, create_graph=True)
            us = [md.tensor(np.cos(np.arange(g.size)).reshape(g.shape)) for g in current]
            found.append([g.detach().numpy() for g in current])
        both.append(found)
    for one, two in zip(*both, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


KINDS = pytest.mark.parametrize(
    ("kind", "step", "states"), [("RNN", rnn, 1), ("LSTM", lstm, 2), ("GRU", gru, 1)], ids=lambda v: str(v)
)


def run(layer, *args):
    """Outputs and a tuple of last states, as arrays."""
    out, last = layer(*args)
    return out.detach().numpy(), tuple(s.detach().numpy() for s in (last if isinstance(last, tuple) else (last,)))


def given(arrays):
    """States as a layer takes them."""
    ts = tuple(md.tensor(a) for a in arrays)
    return ts if len(ts) > 1 else ts[0]


@KINDS
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_follows_its_equations(kind, step, states, bias, rng):
    layer, x = getattr(nn, kind)(3, 4, bias=bias, dtype="float64"), rng.standard_normal((5, 2, 3))
    start = rng.standard_normal((states, 1, 2, 4))
    out, last = run(layer, md.tensor(x), given(start))
    expected, end = by_hand(layer, step, x, tuple(start[:, 0]))
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    for a, b in zip(last, end, strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-12)


@KINDS
def test_both_directions_and_two_layers_follow_their_equations(kind, step, states, rng):
    layer = getattr(nn, kind)(3, 4, num_layers=2, bidirectional=True, dtype="float64")
    x, zeros = rng.standard_normal((5, 2, 3)), (np.zeros((2, 4)),) * states
    out, last = run(layer, md.tensor(x))
    below, ends = x, []
    for k in range(2):
        there, end = by_hand(layer, step, below, zeros, f"_l{k}")
        back, end_back = by_hand(layer, step, below[::-1], zeros, f"_l{k}_reverse")
        below = np.concatenate([there, back[::-1]], axis=-1)
        ends += [end, end_back]
    np.testing.assert_allclose(out, below, rtol=1e-12)
    for a, b in zip(last, zip(*ends, strict=True), strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-12)


@KINDS
def test_two_halves_of_a_sequence_are_the_whole_if_the_state_is_handed_on(kind, step, states, rng):
    layer, x = getattr(nn, kind)(3, 4, num_layers=2, dtype="float64"), md.tensor(rng.standard_normal((6, 2, 3)))
    whole, end = run(layer, x)
    first, between = layer(x[:2])
    second, last = run(layer, x[2:], between)
    np.testing.assert_allclose(np.concatenate([first.detach().numpy(), second]), whole, rtol=1e-12)
    assert all(map(np.array_equal, end, last))


@KINDS
def test_batch_first_only_moves_the_axis_and_one_sequence_is_a_batch_of_one(kind, step, states, rng):
    layer = getattr(nn, kind)(3, 4, bidirectional=True, dtype="float64")
    turned = getattr(nn, kind)(3, 4, bidirectional=True, batch_first=True, dtype="float64")
    turned.load_state_dict(layer.state_dict())
    x = rng.standard_normal((5, 2, 3))
    out, last = run(layer, md.tensor(x))
    out2, last2 = run(turned, md.tensor(x.swapaxes(0, 1).copy()))
    np.testing.assert_allclose(out2.swapaxes(0, 1), out, rtol=1e-13)
    assert all(map(np.array_equal, last, last2))
    for one in (layer, turned):
        alone, end = run(one, md.tensor(x[:, 0].copy()))
        np.testing.assert_allclose(alone, out[:, 0], rtol=1e-13)
        np.testing.assert_allclose(end[0], last[0][:, 0], rtol=1e-13)


def test_dropout_acts_between_layers_in_training_alone(rng):
    layer, x = nn.GRU(3, 50, num_layers=2, dropout=0.5, dtype="float64"), md.tensor(rng.standard_normal((4, 2, 3)))
    same = nn.GRU(3, 50, num_layers=2, dtype="float64")
    same.load_state_dict(layer.state_dict())
    one, two = run(layer, x), run(layer, x)
    assert np.array_equal(one[1][0][0], two[1][0][0]), "the first layer sees no mask"
    assert not np.array_equal(one[0], two[0])
    assert np.array_equal(run(layer.eval(), x)[0], run(same, x)[0])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_parameters_are_drawn_within_one_over_the_root_of_the_hidden_size(kind):
    layer = getattr(nn, kind)(3, 25, num_layers=2, bidirectional=True)
    for p in layer.parameters():
        assert 0.15 < abs(p.detach().numpy()).max() <= 0.2


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.LSTM(0, 2), "LSTM: input_size must be an integer of at least 1, got 0"),
        (lambda: nn.GRU(2, 2, num_layers=0), "GRU: num_layers must be an integer of at least 1, got 0"),
        (lambda: nn.RNN(2, 2, nonlinearity="elu"), "RNN: nonlinearity must be 'tanh' or 'relu', got 'elu'"),
        (lambda: nn.RNN(2, 2, dropout=0.5), "RNN: dropout acts between layers, and num_layers=1 leaves no place"),
        (lambda: nn.RNN(2, 2, 2, dropout=1.5), r"RNN: dropout must be .* in \[0, 1\], got dropout=1.5"),
        (
            lambda: nn.RNN(3, 2)(md.zeros(4, 2, 5)),
            r"RNN\(input_size=3.* \(l, n, features\) .* 3 features .*\(4, 2, 5\)",
        ),
        (lambda: nn.LSTM(3, 2, batch_first=True)(md.zeros(2, 0, 3)), r"at least one time, got shape \(2, 0, 3\)"),
        (lambda: nn.GRU(3, 2)(md.zeros(3)), r"GRU\(.*got shape \(3,\)"),
        (
            lambda: nn.GRU(3, 2)(md.zeros(4, 2, 3), md.zeros(2, 2)),
            r"GRU\(.*: the first state must be \(1, 2, 2\), got \(2, 2\)",
        ),
        (
            lambda: nn.LSTM(3, 2)(md.zeros(4, 2, 3), md.zeros(1, 2, 2)),
            r"LSTM\(.*first state must be \(1, 2, 2\) and \(1, 2, 2\), got \(1, 2, 2\)",
        ),
    ],
)
def test_errors_name_the_layer_the_rule_and_what_arrived(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_another_dtype_is_named_with_the_remedies():
    with pytest.raises(
        TypeError, match=r"LSTM\(.*the input is float64 and the layer float32; use x.astype\('float32'\)"
    ):
        nn.LSTM(3, 2)(md.zeros(4, 2, 3, dtype="float64"))
    with pytest.raises(TypeError, match="needs a Tensor or an array, got list"):
        nn.LSTM(3, 2)([[1.0, 2.0, 3.0]])


def test_a_long_sequence_can_be_trained():
    md.manual_seed(0)
    layer, x = nn.GRU(1, 4), md.randn(300, 2, 1)
    out, _ = layer(x)
    out.sum().backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in layer.parameters())


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_state_of_another_dtype_is_refused(kind):
    layer, states = getattr(nn, kind)(2, 3), [md.zeros(1, 4, 3, dtype="float64")] * 2
    with pytest.raises(TypeError, match="float32.*float64|float64.*float32"):
        layer(md.zeros(5, 4, 2), tuple(states) if kind == "LSTM" else states[0])
