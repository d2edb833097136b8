"""state_dict, load_state_dict, to: complete, atomic, and nothing moves that was not asked to."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy


def network(device=None, dtype=None):
    return nn.Sequential(
        nn.Linear(4, 3, device=device, dtype=dtype), nn.BatchNorm1d(3, device=device, dtype=dtype), nn.ReLU(),
        nn.Linear(3, 2, device=device, dtype=dtype),
    )  # fmt: skip


KEYS = [
    "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "3.weight",
    "3.bias",
]  # fmt: skip


def host(state):
    return {name: to_numpy(t.array).copy() for name, t in state.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


# ---- state_dict --------------------------------------------------------------------------------------------------


def test_the_keys_are_dotted_and_in_pytorchs_order():
    assert list(network().state_dict()) == KEYS
    assert next(iter(network().state_dict(prefix="net"))) == "net.0.weight"


def test_the_state_is_a_copy_without_gradient():
    model = network()
    state = model.state_dict()
    before = host(state)
    assert not any(t.requires_grad for t in state.values())
    model(md.randn(5, 4)).sum().backward()
    with md.no_grad():
        for p in model.parameters():
            p.zero_()
    assert equal(host(state), before)
    with md.no_grad():
        state["0.weight"].fill_(7)
    assert not model[0].weight.data.any()


def test_buffers_that_are_not_persistent_stay_out():
    module = nn.Module()
    module.register_buffer("kept", md.tensor([1.0]))
    module.register_buffer("cache", md.tensor([2.0]), persistent=False)
    assert list(module.state_dict()) == ["kept"]
    with pytest.raises(ValueError, match="unexpected cache"):
        module.load_state_dict({"kept": md.tensor([1.0]), "cache": md.tensor([1.0])})


def test_two_tensors_of_one_name_are_refused():
    module = nn.Module()
    module.parts = {1: nn.Parameter([1.0]), "1": nn.Parameter([2.0])}
    with pytest.raises(ValueError, match=r"two tensors of the state are called 'parts\.1'; rename one"):
        module.state_dict()


# ---- load_state_dict ---------------------------------------------------------------------------------------------


def test_a_round_trip_is_bitwise_and_keeps_the_parameter_objects_and_their_memory(device):
    source, target = network(device), network(device)
    source(md.randn(5, 4, device=device))
    params, arrays = target.parameters(), [p.array for p in target.parameters()]
    result = target.load_state_dict(source.state_dict())
    assert result == ([], [])
    assert equal(host(target.state_dict()), host(source.state_dict()))
    assert all(p is q and p.array is a for p, q, a in zip(target.parameters(), params, arrays, strict=True))
    assert all(p.requires_grad for p in params)


def test_plain_arrays_can_be_loaded():
    source, target = network(), network()
    target.load_state_dict(host(source.state_dict()))
    assert equal(host(target.state_dict()), host(source.state_dict()))


def test_all_that_does_not_fit_is_listed_at_once_and_nothing_changes():
    model = network()
    before = host(model.state_dict())
    state = network().state_dict()
    del state["0.bias"], state["1.weight"]
    state["extra"] = md.ones(1)
    state["more.extra"] = md.ones(1)
    state["0.weight"] = md.ones(3, 5)
    state["3.weight"] = state["3.weight"].astype("float64")
    state["1.num_batches_tracked"] = md.tensor(1.0)
    state["3.bias"] = [0.0, 0.0]
    with pytest.raises(ValueError, match=r"^Sequential.load_state_dict: nothing was loaded") as caught:
        model.load_state_dict(state)
    for part in (
        "missing 0.bias, 1.weight",
        "unexpected extra, more.extra",
        "0.weight has shape (3, 5) and must have (3, 4)",
        "3.weight is float64 and must be float32",
        "1.num_batches_tracked is float32 and must be int64",
        "3.bias must be a Tensor or an array, got list",
    ):
        assert part in str(caught.value)
    assert equal(host(model.state_dict()), before)


def test_without_strict_missing_and_unexpected_names_are_returned_and_the_rest_is_loaded():
    model = network()
    before = host(model.state_dict())
    new = {"3.bias": np.array([5.0, 6.0], np.float32), "other": np.ones(1)}
    result = model.load_state_dict(new, strict=False)
    assert result.missing_keys == KEYS[:-1]
    assert result.unexpected_keys == ["other"]
    assert equal(host(model.state_dict()), {**before, "3.bias": new["3.bias"]})


def test_without_strict_a_wrong_shape_or_dtype_is_an_error_still():
    model = network()
    before = host(model.state_dict())
    wrong = {"0.weight": np.zeros((3, 4), np.float32), "3.bias": np.zeros(3)}
    with pytest.raises(ValueError, match=r"3.bias has shape \(3,\)"):
        model.load_state_dict(wrong, strict=False)
    assert equal(host(model.state_dict()), before)


@pytest.mark.parametrize("state", [None, [("a", 1)], "file.safetensors"])
def test_only_a_mapping_can_be_loaded(state):
    with pytest.raises(TypeError, match=r"Linear.load_state_dict: needs a mapping of names to tensors, got"):
        nn.Linear(1, 1).load_state_dict(state)


def test_a_state_made_of_the_modules_own_arrays_can_exchange_two_layers():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    model = nn.ModuleList([a, b])
    before = host(model.state_dict())
    swapped = {"0.weight": b.weight, "0.bias": b.bias, "1.weight": a.weight.array, "1.bias": a.bias.array}
    model.load_state_dict(swapped)
    after = host(model.state_dict())
    assert all(np.array_equal(after[f"{i}.{k}"], before[f"{1 - i}.{k}"]) for i in (0, 1) for k in ("weight", "bias"))


def test_read_only_memory_is_found_before_anything_is_written():
    model = network()
    frozen = np.zeros(2, np.float32)
    frozen.flags.writeable = False
    model[3].bias.data = frozen
    before = host(model.state_dict())
    with pytest.raises(ValueError, match=r"3.bias lies in read-only memory"):
        model.load_state_dict(network().state_dict())
    assert equal(host(model.state_dict()), before)


def test_loading_after_a_forward_is_noticed_by_the_backward_of_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    loss = model(md.ones(1, 2)).sum()
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        loss.backward()


# ---- tied parameters ---------------------------------------------------------------------------------------------


def tied():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    return model


def test_tied_parameters_are_saved_under_each_name_and_load_from_any():
    model = tied()
    state = model.state_dict()
    assert list(state) == ["0.weight", "1.weight"]
    new = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    for given in ({"0.weight": new}, {"1.weight": new}, {"0.weight": new, "1.weight": new.copy()}):
        model = tied()
        assert model.load_state_dict(given) == ([], [])
        assert np.array_equal(model[1].weight.data, new)
        assert model[1].weight is model[0].weight


def test_tied_parameters_given_two_values_are_a_contradiction():
    model = tied()
    before = host(model.state_dict())
    new = np.ones((3, 3), np.float32)
    with pytest.raises(ValueError, match=r"1.weight and 0.weight are one parameter .* differ in the state"):
        model.load_state_dict({"0.weight": new, "1.weight": new * 2})
    assert equal(host(model.state_dict()), before)
    model.load_state_dict({"0.weight": new * np.nan, "1.weight": new * np.nan})
    assert np.isnan(model[0].weight.data).all()


# ---- to ----------------------------------------------------------------------------------------------------------


def test_to_converts_floating_tensors_and_keeps_the_parameter_objects():
    model = network()
    model(md.randn(5, 4)).sum().backward()
    params, gradient = model.parameters(), model[0].weight.grad.numpy().copy()
    assert model.double() is model
    assert all(p is q for p, q in zip(model.parameters(), params, strict=True))
    assert {name: str(t.dtype) for name, t in model.state_dict().items()} == {
        name: "int64" if "num_batches" in name else "float64" for name in KEYS
    }
    assert np.array_equal(model[0].weight.grad.numpy(), gradient.astype(np.float64))
    out = model(md.randn(5, 4, dtype="float64"))
    assert out.dtype == np.float64
    out.sum().backward()
    assert model[0].weight.grad.dtype == np.float64
    assert model.float()[0].weight.dtype == np.float32
    assert model.to(md.float64)[0].weight.dtype == np.float64
    assert model.to(dtype="float16")[3].bias.dtype == np.float16


def test_to_the_same_place_and_dtype_changes_nothing():
    model = network()
    arrays = [p.array for p in model.parameters()]
    model.to("cpu", "float32").cpu().float()
    assert all(p.array is a for p, a in zip(model.parameters(), arrays, strict=True))


@pytest.mark.parametrize("wrong", ["int64", bool, np.longdouble])
def test_to_refuses_a_dtype_that_has_no_gradient(wrong):
    with pytest.raises(TypeError, match=r"Linear.to: parameters need a floating dtype"):
        nn.Linear(1, 1).to(wrong)


def test_tied_parameters_stay_tied_when_moved(fake_cuda):
    model = tied().cuda().double()
    assert model[1].weight is model[0].weight
    assert model[0].weight.device == "cuda:0"


def test_a_model_moves_there_and_back_bitwise(fake_cuda):
    model = network()
    model(md.randn(5, 4)).sum().backward()
    before, params = host(model.state_dict()), model.parameters()
    gradient = model[0].weight.grad.numpy().copy()
    with md.transfers() as seen:
        model.cuda()
    assert seen.count == len(KEYS) + len(params)
    assert {t.device for t in (*model.state_dict().values(), model[0].weight.grad)} == {"cuda:0"}
    assert equal(host(model.state_dict()), before)
    model.cpu()
    assert equal(host(model.state_dict()), before)
    assert np.array_equal(model[0].weight.grad.numpy(), gradient)
    assert all(p is q for p, q in zip(model.parameters(), params, strict=True))


def test_a_model_stays_where_it_is_sent_under_another_default_device(fake_cuda):
    model = network("cpu")
    model[0].weight.grad = np.ones((3, 4), np.float32)
    with md.device("cuda"):
        assert network()[0].weight.device == "cuda:0"
        model.double()
        assert model[0].weight.device == "cpu"
        assert model.cuda().cpu()[0].weight.device == "cpu"
        assert model[0].weight.grad.device == "cpu"


def test_saving_and_loading_move_nothing(fake_cuda):
    model, other = network("cuda"), network("cpu")
    with md.transfers(max=0):
        state = model.state_dict()
    assert {t.device for t in state.values()} == {"cuda:0"}
    with md.transfers(max=0):
        model.load_state_dict(state)
    other.load_state_dict(state)
    assert {p.device for p in model.parameters()} == {"cuda:0"}
    assert {p.device for p in other.parameters()} == {"cpu"}
    assert {t.device for t in state.values()} == {"cuda:0"}
    assert equal(host(other.state_dict()), host(state))


def test_a_move_that_fails_leaves_the_model_where_it_was(fake_cuda):
    model = network()
    before = host(model.state_dict())
    with pytest.raises(ValueError, match="cuda:5 asked for"):
        model.to("cuda:5", dtype="float64")
    assert equal(host(model.state_dict()), before)


def test_moving_to_a_gpu_without_cupy_names_the_package(monkeypatch):
    import importlib

    def absent(name, package=None):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    model = nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="pip install cupy-cuda13x"):
        model.cuda()
    assert model.weight.device == "cpu"


def test_an_optimizer_made_before_goes_on_after_a_move(fake_cuda):
    model, twin = network(), network()
    twin.load_state_dict(model.state_dict())
    x = md.randn(6, 4)
    inputs = {"cpu": x, "cuda:0": md.tensor(x, device="cuda")}
    one, two = (md.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, twin))
    for step in range(4):
        if step == 2:
            model.cuda()
        for net, optimizer in ((model, one), (twin, two)):
            optimizer.zero_grad()
            (net(inputs[net[0].weight.device]) ** 2).sum().backward()
            optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(to_numpy(p.array), q.data, rtol=1e-5, atol=1e-6)


def normed_state(**more):
    """Return a layer with weight normalization, and a state for it under the names of parametrizations."""
    layer = nn.utils.weight_norm(nn.Linear(2, 1))
    state = {"bias": np.ones(1, "f4"), "parametrizations.weight.original1": np.full((1, 2), 2.0, "f4")} | more
    return layer, state


def test_a_computed_weight_loads_under_the_names_of_parametrizations():
    layer, state = normed_state(**{"parametrizations.weight.original0": np.full((1, 1), 3.0, "f4")})
    layer.load_state_dict(state)
    assert (layer.weight_g.tolist(), layer.weight_v.tolist()) == ([[3.0]], [[2.0, 2.0]])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "missing weight_g"),
        ({"parametrizations.weight.original0": np.ones((2, 1), "f4")}, r"original0 has shape \(2, 1\) and must have"),
        ({"parametrizations.weight.original": np.ones((1, 2), "f4")}, r"unexpected parametrizations\.weight\.original"),
        ({"parametrizations.weight.0._u": np.ones(1, "f4")}, r"unexpected parametrizations\.weight\.0\._u"),
        ({"parametrizations.bias.original0": np.ones((1, 1), "f4")}, r"unexpected parametrizations\.bias\.original0"),
        ({"parametrizations.weight.other": np.ones((1, 1), "f4")}, r"unexpected parametrizations\.weight\.other"),
        ({"weight_v": np.zeros((1, 2), "f4")}, r"weight_v and parametrizations\.weight\.original1 are one parameter"),
        ({"parametrizations.weight.original0": 1.0}, r"original0 must be a Tensor or an array, got float"),
    ],
)
def test_names_of_parametrizations_are_checked_like_others(more, message):
    layer, state = normed_state(**more)
    before = layer.weight_v.tolist()
    with pytest.raises(ValueError, match=message):
        layer.load_state_dict(state)
    assert layer.weight_v.tolist() == before


def test_names_of_parametrizations_are_unexpected_where_nothing_is_computed():
    found = nn.Linear(2, 1).load_state_dict({"parametrizations.weight.original": np.ones((1, 2), "f4")}, strict=False)
    assert found == (["weight", "bias"], ["parametrizations.weight.original"])


def test_a_safetensors_file_carries_a_model(tmp_path):
    source, target = network(), network()
    source(md.randn(5, 4))
    md.save(source.state_dict(), tmp_path / "model.safetensors")
    target.load_state_dict(md.load(tmp_path / "model.safetensors"))
    assert equal(host(target.state_dict()), host(source.state_dict()))
