"""MultiheadAttention, positional encoding, embedding, Residual: what each is by definition, masks, errors."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.testing import check_module

E, H = 4, 2


def layer_of(**options):
    md.manual_seed(0)
    layer = nn.MultiheadAttention(E, H, **options).double()
    with md.no_grad():
        for p in layer.parameters():
            p.copy_(np.random.default_rng(p.size).standard_normal(p.shape))
    return layer


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ---- attention ---------------------------------------------------------------------------------------------------


def test_attention_is_that_of_each_head_side_by_side(rng):
    layer = layer_of()
    q, k, v = rng.standard_normal((3, 2, E)), rng.standard_normal((5, 2, E)), rng.standard_normal((5, 2, E))
    out, weights = (t.detach().numpy() for t in layer(*map(md.tensor, (q, k, v))))
    w, b = (p.detach().numpy() for p in (layer.in_proj_weight, layer.in_proj_bias))
    q, k, v = (x @ w[i * E : i * E + E].T + b[i * E : i * E + E] for i, x in enumerate((q, k, v)))
    mean, joined = np.zeros((2, 3, 5)), np.zeros((3, 2, E))
    for n in range(2):
        for h in range(H):
            part = slice(h * E // H, (h + 1) * E // H)
            p = softmax(q[:, n, part] @ k[:, n, part].T / np.sqrt(E / H))
            mean[n] += p / H
            joined[:, n, part] = p @ v[:, n, part]
    np.testing.assert_allclose(weights, mean, rtol=1e-12)
    o = layer.out_proj
    np.testing.assert_allclose(out, joined @ o.weight.detach().numpy().T + o.bias.detach().numpy(), rtol=1e-12)


def test_weights_of_each_head_average_to_those_returned_and_sum_to_one(rng):
    layer, x = layer_of(), md.tensor(rng.standard_normal((3, 2, E)))
    mean, each = layer(x, x, x)[1].detach(), layer(x, x, x, average_attn_weights=False)[1].detach()
    assert (mean.shape, each.shape) == ((2, 3, 3), (2, H, 3, 3))
    np.testing.assert_allclose(each.numpy().mean(1), mean.numpy(), rtol=1e-13)
    np.testing.assert_allclose(each.numpy().sum(-1), 1, rtol=1e-13)
    assert layer(x, x, x, need_weights=False)[1] is None


def test_one_product_for_one_input_gives_what_three_products_give(rng):
    layer, x = layer_of(), rng.standard_normal((3, 2, E))
    one = md.tensor(x)
    three = [md.tensor(x) for _ in range(3)]
    np.testing.assert_allclose(layer(one, one, one)[0].detach(), layer(*three)[0].detach(), rtol=1e-13)


def test_batch_first_only_moves_the_axis_and_a_sample_is_a_batch_of_one(rng):
    layer, turned = layer_of(), layer_of(batch_first=True)
    x = rng.standard_normal((3, 2, E))
    out = layer(*(md.tensor(x),) * 3)[0].detach().numpy()
    turn = turned(*(md.tensor(x.swapaxes(0, 1).copy()),) * 3)[0].detach().numpy()
    np.testing.assert_allclose(turn.swapaxes(0, 1), out, rtol=1e-13)
    for one in (layer, turned):
        y, weights = one(*(md.tensor(x[:, 1].copy()),) * 3)
        np.testing.assert_allclose(y.detach().numpy(), out[:, 1], rtol=1e-12)
        assert weights.shape == (3, 3)


def test_masks_of_bools_and_of_minus_infinity_forbid_the_same(rng):
    layer, x = layer_of(), md.tensor(rng.standard_normal((3, 2, E)))
    mask = np.triu(np.ones((3, 3), bool), 1)
    added = np.where(mask, -np.inf, 0.0)
    results = [layer(x, x, x, attn_mask=md.tensor(m)) for m in (mask, added, np.stack([mask] * 2 * H))]
    results += [layer(x, x, x, is_causal=True), layer(x, x, x, attn_mask=mask)]
    for out, weights in results:
        np.testing.assert_allclose(out.detach(), results[0][0].detach(), rtol=1e-13)
        assert not weights.detach().numpy()[:, mask].any()


def test_what_stands_at_a_masked_key_does_not_matter(rng):
    layer, x = layer_of(), rng.standard_normal((4, 2, E))
    padding = md.tensor([[False, False, True, False], [False, False, True, True]])
    other = x.copy()
    other[2], other[3, 1] = 1e4, -1e4
    a, b = (layer(md.tensor(x), md.tensor(k), md.tensor(k), key_padding_mask=padding)[0].detach() for k in (x, other))
    np.testing.assert_allclose(a, b, rtol=1e-13)


def test_a_query_that_may_look_nowhere_gets_weights_0_and_finite_gradients(rng):
    layer, x = layer_of(), md.tensor(rng.standard_normal((3, 2, E)), requires_grad=True)
    out, weights = layer(x, x, x, key_padding_mask=md.tensor([[True] * 3, [False] * 3]))
    assert not weights.detach().numpy()[0].any()
    np.testing.assert_allclose(out.detach().numpy()[:, 0], np.tile(layer.out_proj.bias.detach().numpy(), (3, 1)))
    (out * out).sum().backward()
    assert all(np.isfinite(t.grad.numpy()).all() for t in (x, *layer.parameters()))


@pytest.mark.parametrize(
    ("options", "arguments", "text"),
    [
        ({}, {"shapes": [(3, 2, 5), (3, 2, 4), (3, 2, 4)]}, r"query must have .*4 features, got shapes \(3, 2, 5\)"),
        ({}, {"shapes": [(3, 2, 4), (3, 4), (3, 4)]}, r"key must have 2 axes, or 3 like all others"),
        ({}, {"shapes": [(3, 2, 4), (5, 2, 4), (6, 2, 4)]}, "key and value must have one length"),
        ({"batch_first": True}, {"shapes": [(3, 2, 4), (5, 2, 4), (5, 2, 4)]}, "all one number of samples"),
        ({}, {"attn_mask": np.zeros((2, 3), bool)}, r"attn_mask must be \(3, 3\) or \(4, 3, 3\) and bool .*\(2, 3\)"),
        ({}, {"key_padding_mask": np.zeros((3, 2), bool)}, r"key_padding_mask must be \(2, 3\) .*got \(3, 2\) of bool"),
    ],
)
def test_shapes_that_do_not_fit_are_named(options, arguments, text):
    shapes = arguments.pop("shapes", [(3, 2, 4)] * 3)
    with pytest.raises(ValueError, match=rf"MultiheadAttention\(embed_dim=4, num_heads=2.*{text}"):
        layer_of(**options)(*(md.zeros(s, dtype="float64") for s in shapes), **arguments)


def test_masks_of_another_dtype_and_inputs_of_another_dtype_are_refused():
    x = md.zeros(3, 2, 4, dtype="float64")
    for mask in (np.zeros((3, 3), np.float32), np.zeros((3, 3), int)):
        with pytest.raises(TypeError, match=r"MultiheadAttention\(.*attn_mask must .* float64, got \(3, 3\) of"):
            layer_of()(x, x, x, attn_mask=mask)
    with pytest.raises(TypeError, match=r"MultiheadAttention\(.*float32 and weight is float64"):
        layer_of()(x.float(), x.float(), x.float())
    with pytest.raises(ValueError, match="num_heads must divide embed_dim, got 3 and 4"):
        nn.MultiheadAttention(4, 3)


# ---- places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 4, 5])
def test_the_code_of_a_place_is_sines_and_cosines_of_falling_rates(d):
    layer = nn.PositionalEncoding(d, max_len=50, dtype="float64")
    table = layer(md.zeros(50, d, dtype="float64")).numpy()
    for t in (0, 1, 7, 49):
        for i in range(d):
            angle = t / 10000 ** (2 * (i // 2) / d)
            assert table[t, i] == pytest.approx(np.cos(angle) if i % 2 else np.sin(angle), abs=1e-12)


def test_the_table_is_not_saved_and_moves_with_the_layer():
    layer = nn.PositionalEncoding(4, max_len=10)
    assert layer.state_dict() == {}
    assert layer.double().table.dtype == np.float64
    with pytest.raises(
        ValueError, match=r"PositionalEncoding\(d_model=4, max_len=10\): .* l <= 10, got shape \(11, 4\)"
    ):
        layer(md.zeros(11, 4))
    with pytest.raises(TypeError, match="the input is float32 and the layer float64"):
        layer(md.zeros(5, 4))


# ---- embedding ---------------------------------------------------------------------------------------------------


def test_an_embedding_looks_up_rows_and_adds_up_their_gradients():
    table = nn.Embedding(4, 2)
    out = table(md.tensor([[1, 1], [3, 1]]))
    assert np.array_equal(out.detach().numpy(), table.weight.detach().numpy()[[[1, 1], [3, 1]]])
    out.sum().backward()
    assert table.weight.grad.tolist() == [[0, 0], [3, 3], [0, 0], [1, 1]]


def test_the_padding_row_starts_at_0_and_is_never_trained():
    table = nn.Embedding(4, 2, padding_idx=-1)
    assert table.padding_idx == 3
    assert not table.weight.detach().numpy()[3].any()
    table(md.tensor([3, 0, 3])).sum().backward()
    assert table.weight.grad.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]


def test_given_vectors_are_copied_and_frozen_unless_asked(rng):
    vectors = rng.standard_normal((3, 2))
    table = nn.Embedding.from_pretrained(vectors)
    vectors[0] = 0
    assert table.weight.detach().numpy()[0].any()
    assert not table.weight.requires_grad
    assert nn.Embedding.from_pretrained(vectors, freeze=False).weight.requires_grad
    assert (table.num_embeddings, table.embedding_dim, table.weight.dtype) == (3, 2, np.float64)
    with pytest.raises(ValueError, match=r"from_pretrained: embeddings must have 2 axes, got shape \(3,\)"):
        nn.Embedding.from_pretrained(vectors[:, 0])


def test_numbers_out_of_range_and_of_another_kind_are_named():
    table = nn.Embedding(4, 2)
    with pytest.raises(IndexError, match=r"Embedding\(num_embeddings=4.*\[0, 4\), got 4 at index 1"):
        table(md.tensor([0, 4]))
    with pytest.raises(IndexError, match="got -1 at index 0"):
        table(md.tensor([-1, 0]))
    with pytest.raises(TypeError, match=r"Embedding\(.*integer .*float32"):
        table(md.zeros(3))
    with pytest.raises(TypeError, match="Embedding: padding_idx must be an integer or None, got 1.5"):
        nn.Embedding(4, 2, padding_idx=1.5)
    with pytest.raises(ValueError, match=r"Embedding: padding_idx must lie in \[-4, 4\), got 4"):
        nn.Embedding(4, 2, padding_idx=4)


# ---- Residual ----------------------------------------------------------------------------------------------------


def test_a_residual_adds_its_module(rng):
    inner = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    layer, x = nn.Residual(inner), md.tensor(rng.standard_normal((2, 3)))
    np.testing.assert_allclose(layer(x).detach(), x.numpy() + inner(x).detach().numpy(), rtol=1e-15)
    assert layer.parameters().names[0] == "module.0.weight"
    check_module(layer, x, order=3)


def test_a_residual_never_broadcasts():
    with pytest.raises(ValueError, match=r"Residual: the module must keep the shape \(2, 3\), it returned \(2, 1\)"):
        nn.Residual(nn.Linear(3, 1))(md.zeros(2, 3))
    with pytest.raises(TypeError, match="Residual: needs a Module, got function"):
        nn.Residual(lambda x: x)


def test_a_batch_of_no_samples_is_attended_to():
    layer, x = nn.MultiheadAttention(4, 2), md.zeros(3, 0, 4)
    out, weights = layer(x, x, x)
    assert (out.shape, weights.shape) == ((3, 0, 4), (0, 3, 3))
