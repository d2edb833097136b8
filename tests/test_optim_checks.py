"""check_optimizer passes what is right and names what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import optim_by_hand as hand
from minidl.optim import SGD, Adam, Muon, Optimizer
from minidl.testing import check_optimizer
from optim_table import VARIED


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_every_optimizer_of_the_table_passes(case):
    def make(params, **more):
        return case.make(params, **more)

    formula = None
    if case.scope == "element":

        def formula(x, g, s, t):
            return case.hand(x, g, s, t, **case.options)

    check_optimizer(make, formula)


def test_shapes_can_be_chosen():
    check_optimizer(Muon, shapes=[(3, 4), (2, 2)])
    check_optimizer(Adam, hand.adam, shapes=[(3,), (2, 2)])


class Climber(SGD):
    def update(self, xp, theta, g, b=None, **numbers):
        return theta + numbers["lr"] * g


class Forgetful(Adam):
    def load_state_dict(self, state_dict, hyper="saved"):
        pass


class Rebinding(SGD):
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.data = p.data.copy()


class Restless(SGD):
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.data[...] *= 0.99


class OneWay(SGD):
    def __init__(self, params, maximize=False):
        super().__init__(params)


class Still(Optimizer):
    def __init__(self, params, maximize=False):
        super().__init__(params, maximize=maximize)

    def scalars(self, group, t):
        return {}

    def update(self, xp, theta, g):
        return theta + 0.0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Climber, "at step 1 parameter 0"),
        (Forgetful, "a loaded state must go on"),
        (Rebinding, "own arrays"),
        (Restless, "without a gradient must not move"),
        (OneWay, "maximizing -f"),
        (Still, "nothing moved"),
    ],
)
def test_what_is_wrong_is_named(kind, message):
    with pytest.raises(AssertionError, match=f"check_optimizer: .*{message}"):
        check_optimizer(kind, lambda x, g, s, t: x - 1e-3 * g)


def test_the_state_of_float32_parameters_must_be_float32():
    class Wide(Adam):
        @property
        def state(self):
            return {
                name: {k: v if k == "t" else np.float64(v) * np.ones(1) for k, v in own.items()}
                for name, own in super().state.items()
            }

    with pytest.raises(AssertionError, match="the state of float32 parameters must be float32"):
        check_optimizer(Wide, shapes=[(1,), (1,)])
