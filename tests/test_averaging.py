"""Averages of weights equal their closed forms, leave the training alone, and continue bit by bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.optim import SGD, averaging
from minidl.optim.averaging import EMA, LAWA, SWA, Average, AveragedModel, Polyak, update_bn

N = 13


def mean(weights):
    return np.mean(weights, axis=0)


def exponential(weights, decay=0.9, ramp=False):
    decays = [min(decay, (1 + n) / (10 + n)) if ramp else decay for n in range(len(weights))]
    shares = [(1 - decays[k] if k else 1.0) * np.prod(decays[k + 1 :]) for k in range(len(weights))]
    assert np.sum(shares) == pytest.approx(1)
    return np.tensordot(shares, weights, 1)


def later_more(weights, eta):
    """The weights of Shamir & Zhang's average, for whole eta: n (n + 1) ... (n + eta - 1)."""
    shares = np.array([np.prod([n + j for j in range(eta)]) for n in range(1, len(weights) + 1)], dtype=float)
    return np.tensordot(shares / shares.sum(), weights, 1)


# (name, make, closed form of the list of all weights that update() saw)
CASES = {
    "EMA": (lambda p: EMA(p, 0.9), exponential),
    "EMA ramp": (lambda p: EMA(p, 0.7, ramp=True), lambda w: exponential(w, 0.7, ramp=True)),
    "EMA decay 0": (lambda p: EMA(p, 0.0), lambda w: w[-1]),
    "EMA decay 1": (lambda p: EMA(p, 1.0), lambda w: w[0]),
    "EMA every": (lambda p: EMA(p, 0.9, start=2, every=3), lambda w: exponential(w[4::3])),
    "SWA": (SWA, mean),
    "SWA cycles": (lambda p: SWA(p, start=3, every=4), lambda w: mean(w[6::4])),
    "Polyak": (Polyak, mean),
    "Polyak tail": (lambda p: Polyak(p, start=5), lambda w: mean(w[5:])),
    "Polyak eta": (lambda p: Polyak(p, eta=3.0), lambda w: later_more(w, 3)),
    "LAWA": (lambda p: LAWA(p, 4), lambda w: mean(w[-4:])),
    "LAWA not full": (lambda p: LAWA(p, 40), mean),
    "LAWA every": (lambda p: LAWA(p, 2, every=3), lambda w: mean(w[2::3][-2:])),
}


def model_of(dtype="float64", device="cpu"):
    md.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(dtype=dtype, device=device)


def walk(model, rng):
    for p in model.parameters():
        with md.no_grad():
            p.copy_(md.tensor(rng.standard_normal(p.shape), dtype=p.dtype, device=p.device))


def values(model):
    return {name: to_numpy(p.array).copy() for name, p in model.named_parameters()}


def test_every_average_has_a_case():
    kinds = {x for x in vars(averaging).values() if isinstance(x, type) and issubclass(x, Average)} - {Average}
    assert {kind.__name__ for kind in kinds} == {name.split()[0] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_an_average_equals_its_closed_form(name, rng):
    make, closed = CASES[name]
    model = model_of()
    average, seen = make(model), []
    for _ in range(N):
        walk(model, rng)
        average.update()
        seen.append(values(model))
    for key, got in average.averages().items():
        np.testing.assert_allclose(got.data, closed([w[key] for w in seen]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_an_average_continues_bitwise(name, rng):
    make, _ = CASES[name]
    model = model_of("float32")
    average = make(model)
    for step in range(N):
        if step == 7:
            restored = make(model)
            restored.load_state_dict(pickle.loads(pickle.dumps(average.state_dict())))
        walk(model, rng)
        average.update()
        if step >= 7:
            restored.update()
    want = average.averages()
    for key, got in restored.averages().items():
        np.testing.assert_array_equal(got.data, want[key].data)
        assert got.dtype == np.float32


@pytest.mark.parametrize("name", CASES)
def test_an_average_is_applied_and_taken_back_bit_by_bit(name, rng, device):
    model = model_of("float32", device)
    average = CASES[name][0](model.parameters())
    for _ in range(N):
        walk(model, rng)
        average.update()
    before, want = values(model), {k: to_numpy(t.array) for k, t in average.averages().items()}
    with average.applied():
        for key, got in values(model).items():
            np.testing.assert_array_equal(got, want[key])
        with pytest.raises(RuntimeError, match=r"the model holds the average at present"):
            average.update()
        with pytest.raises(RuntimeError, match=r"the model holds the average already"), average.applied():
            pass
    for key, got in values(model).items():
        np.testing.assert_array_equal(got, before[key])
    average.assign()
    for key, got in values(model).items():
        np.testing.assert_array_equal(got, want[key])


@pytest.mark.parametrize("kind", [SWA, LAWA])
def test_an_average_that_has_taken_in_nothing_is_saved_and_continues(kind, rng):
    model = model_of()
    average, again = kind(model, start=2), kind(model, start=2)
    average.update()
    again.load_state_dict(pickle.loads(pickle.dumps(average.state_dict())))
    for _ in range(2):
        walk(model, rng)
        again.update()
    assert (again.calls, again.n) == (3, 1)
    np.testing.assert_array_equal(again.averages()["0.weight"].data, values(model)["0.weight"])


def test_the_weights_come_back_after_an_error_too(rng):
    model = model_of()
    average = SWA(model)
    average.update()
    walk(model, rng)
    before = values(model)
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert {k: v.tolist() for k, v in values(model).items()} == {k: v.tolist() for k, v in before.items()}
    average.update()


def test_an_average_follows_parameters_to_another_dtype(rng):
    model = model_of("float32")
    average = EMA(model, 0.5)
    average.update()
    first = values(model)
    model.to("float64")
    walk(model, rng)
    average.update()
    got = average.averages()["0.weight"]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got.data, (first["0.weight"] + values(model)["0.weight"]) / 2, rtol=1e-6)


def test_buffers_are_averaged_on_request(rng):
    model = model_of()
    average = EMA(model, 0.5, use_buffers=True)
    for value in (1.0, 3.0):
        model.state_dict()
        with md.no_grad():
            model.get_buffer("1.running_mean").fill_(value)
        average.update()
    assert average.averages()["1.running_mean"].tolist() == [2.0] * 4
    assert "1.num_batches_tracked" not in average.averages()


def test_an_average_does_not_build_a_graph_or_touch_gradients():
    w = md.Parameter([2.0])
    (w * w).sum().backward()
    average = SWA([w])
    average.update()
    average.update()
    assert w.grad.tolist() == [4.0]
    assert not average.averages()["0"].requires_grad


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: EMA(m, 1.5), ValueError, r"EMA: decay must be a number in \[0, 1\], got decay=1.5"),
        (lambda m: SWA(m, every=0), ValueError, r"SWA: every must be an int >= 1, got every=0"),
        (lambda m: SWA(m, start=-1), ValueError, r"SWA: start must be an int >= 0, got start=-1"),
        (lambda m: LAWA(m, 0), ValueError, r"LAWA: k must be an int >= 1, got k=0"),
        (lambda m: Polyak(m, -1.0), ValueError, r"Polyak: eta must be a finite number >= 0, got eta=-1.0"),
        (lambda m: SWA([]), ValueError, r"SWA: got no parameters to average"),
        (
            lambda m: SWA(m.parameters(), use_buffers=True),
            TypeError,
            r"SWA: use_buffers needs a module, got Parameters",
        ),
        (lambda m: SWA(m).averages(), ValueError, r"SWA: nothing has been averaged yet \(after 0 calls of update\)"),
        (lambda m: SWA(m).load_state_dict({}), ValueError, r"SWA.load_state_dict: .* it must be what state_dict\(\)"),
        (lambda m: LAWA(m).load_state_dict({}), ValueError, r"LAWA.load_state_dict: .* it must be what state_dict\(\)"),
        (
            lambda m: SWA(m).load_state_dict({"calls": 1, "n": 1, "averages": {"0.weight": np.zeros((4, 3))}}),
            ValueError,
            r"missing \['0.bias', .*\], unexpected \[\]",
        ),
        (
            lambda m: SWA([m[0].bias]).load_state_dict({"calls": 1, "n": 1, "averages": {"0": np.zeros(3)}}),
            ValueError,
            r"0 must have shape \(4,\), got \(3,\)",
        ),
        (lambda m: Average(m).weight(1), NotImplementedError, r"Average: an average defines weight\(n\)"),
        (lambda m: AveragedModel([m]), TypeError, r"AveragedModel: needs a module, got list"),
        (lambda m: AveragedModel(m).update_parameters(m[0]), ValueError, r"the model has other parameters or buffers"),
        (lambda m: AveragedModel(m).load_state_dict({}), ValueError, r"the state has no 'n_averaged'"),
        (lambda m: averaging.get_ema_avg_fn(-1), ValueError, r"decay must be a number in \[0, 1\], got decay=-1"),
        (lambda m: update_bn([], m), ValueError, r"update_bn: the loader gave no batch"),
    ],
)
def test_what_is_wrong_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(model_of())


# ---- AveragedModel and update_bn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_an_averaged_model_equals_pytorchs(rng, use_buffers, decay):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    swa = torch.optim.swa_utils
    ours = model_of()
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)).double()
    theirs_fn = None if decay is None else swa.get_ema_avg_fn(decay)
    our_fn = None if decay is None else averaging.get_ema_avg_fn(decay)
    a, b = AveragedModel(ours, our_fn, use_buffers), swa.AveragedModel(theirs, None, theirs_fn, use_buffers=use_buffers)
    for _ in range(6):
        state = {name: rng.standard_normal(tuple(t.shape)) for name, t in theirs.state_dict().items()}
        state["1.num_batches_tracked"] = np.array(0)
        ours.load_state_dict(state)
        theirs.load_state_dict({name: torch.as_tensor(x) for name, x in state.items()})
        a.update_parameters(ours)
        b.update_parameters(theirs)
    got, want = a.state_dict(), b.state_dict()
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name].data, want[name].numpy(), rtol=1e-12, atol=1e-15)
    batches = [rng.standard_normal((5, 3)) for _ in range(4)]
    update_bn([(md.tensor(x), 0) for x in batches], a)
    swa.update_bn([(torch.as_tensor(x), 0) for x in batches], b)
    for name, want in b.state_dict().items():
        np.testing.assert_allclose(a.state_dict()[name].data, want.numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        a(md.tensor(batches[0])).detach().data, b(torch.as_tensor(batches[0])).detach().numpy(), rtol=1e-12
    )


def test_an_averaged_model_saves_and_continues_bitwise(rng):
    model = model_of("float32")
    averaged = AveragedModel(model)
    for step in range(6):
        walk(model, rng)
        if step == 3:
            again = AveragedModel(model_of("float32"))
            again.load_state_dict(pickle.loads(pickle.dumps(averaged.state_dict())))
        averaged.update_parameters(model)
        if step >= 3:
            again.update_parameters(model)
    assert again.n_averaged == averaged.n_averaged == 6
    for key, want in averaged.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key].data, want.data)


def test_update_bn_makes_the_statistics_the_mean_over_the_batches_and_restores_modes_and_momenta(rng):
    model = model_of().eval()
    batches = [md.tensor(rng.standard_normal((6, 3))) for _ in range(3)]
    update_bn(batches, model)
    hidden = [model[0](x).detach().data for x in batches]
    np.testing.assert_allclose(model[1].running_mean.data, np.mean([h.mean(0) for h in hidden], 0), rtol=1e-12)
    np.testing.assert_allclose(model[1].running_var.data, np.mean([h.var(0, ddof=1) for h in hidden], 0), rtol=1e-12)
    assert [m.training for m in model.modules()] == [False] * 4
    assert model[1].momentum == 0.1
    with pytest.raises(ValueError, match="expected 2 or 3 axes|matmul|linear|features"):
        update_bn([md.tensor(np.zeros((2, 9)))], model)
    assert [m.training for m in model.modules()] == [False] * 4
    assert model[1].momentum == 0.1


def test_update_bn_leaves_a_model_without_batch_norm_alone():
    update_bn(iter([1 / 0 for _ in ()]), nn.Linear(2, 2))


def test_the_average_of_noisy_iterates_is_closer_to_the_minimum(rng):
    w = md.Parameter(np.full(50, 1.0))
    optimizer, average = SGD([w], lr=0.5), Polyak([w], start=20)
    for _ in range(400):
        w.grad = w.data + rng.standard_normal(50)
        optimizer.step()
        average.update()
    assert np.square(average.averages()["0"].data).mean() < 0.05 * np.square(w.data).mean()
