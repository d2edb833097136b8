"""A checkpoint of everything in training goes through one file and continues bitwise."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import optim
from minidl.optim import averaging, lr_scheduler
from optim_cases import arrays, assert_same, parameters, train
from optim_table import VARIED


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_every_optimizer_continues_bitwise_through_a_file(case, rng, path):
    params = parameters(rng)
    optimizer = case.make(params)
    train(optimizer, params, 4, skip=(1,))
    md.save({"optimizer": optimizer.state_dict(), "weights": arrays(params)}, path)
    whole = train(optimizer, params, 3, seed=2)
    state = md.load(path)
    for p, x in zip(params, state["weights"], strict=True):
        p.data[...] = x.data
    again = case.make(params)
    again.load_state_dict(state["optimizer"])
    assert_same(train(again, params, 3, seed=2), whole)


WRAPPERS = {
    "Lookahead": lambda p: optim.Lookahead(optim.SGD(p, lr=0.1, momentum=0.9), k=3),
    "GradientAccumulation": lambda p: optim.GradientAccumulation(optim.Adam(p, lr=0.1), every=3),
    "SkipNonFinite": lambda p: optim.SkipNonFinite(optim.AdamW(p, lr=0.1)),
    "SWATS": lambda p: optim.SWATS(p, lr=0.1, switch_rtol=0.5),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_continue_bitwise_through_a_file(name, rng, path):
    params = parameters(rng)
    optimizer = WRAPPERS[name](params)
    train(optimizer, params, 5)
    md.save({"optimizer": optimizer.state_dict(), "weights": arrays(params)}, path)
    whole = train(optimizer, params, 4, seed=2)
    state = md.load(path)
    for p, x in zip(params, state["weights"], strict=True):
        p.data[...] = x.data
    again = WRAPPERS[name](params)
    again.load_state_dict(state["optimizer"])
    assert_same(train(again, params, 4, seed=2), whole)


def test_lbfgs_schedulers_averages_and_counts_share_a_file(path):
    def start():
        w = md.tensor(np.array([3.0, -2.0]), requires_grad=True)
        o = optim.LBFGS([w], lr=0.5, max_iter=2)
        plateau = lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5)
        return w, o, plateau, averaging.EMA([w], 0.5)

    def go(w, o, plateau, ema, steps):
        def closure():
            o.zero_grad()
            loss = (w**4).sum() + (w * w).sum()
            loss.backward()
            return loss

        for _ in range(steps):
            plateau.step(1.0 if o.steps else o.step(closure))
            o.step(closure)
            ema.update()
        return [w.data.copy(), *(x.data for x in ema.averages().values()), o.param_groups[0]["lr"]]

    w, o, plateau, ema = first = start()
    go(*first, 2)
    parts = {"optimizer": o, "scheduler": plateau, "average": ema}
    md.save({"w": w, "epoch": 2, **{name: x.state_dict() for name, x in parts.items()}}, path)
    whole = go(*first, 2)
    w, o, plateau, ema = second = start()
    state = md.load(path)
    w.data[...] = state["w"].data
    o.load_state_dict(state["optimizer"])
    plateau.load_state_dict(state["scheduler"])
    ema.load_state_dict(state["average"])
    assert_same(go(*second, 2), whole)
    assert state["epoch"] == 2
