"""check_optimizer passes what is right and names what is wrong."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

import optim_by_hand as hand
from minidl import optim
from minidl.compiler import total_dot
from minidl.optim import SGD, Adam, Muon, Optimizer
from minidl.optim.groups import below_one
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

    check_optimizer(make, formula, coupled=case.scope == "all")


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


class Shrinking(SGD):
    """Decays at any lr."""

    def update(self, xp, theta, g, b=None, *, lr, **numbers):
        return 0.99 * theta - lr * g


class Unclocked(Adam):
    """Takes the optimizer's steps for the parameter's."""

    def scalars(self, group, t):
        return super().scalars(group, self.steps + 1)


class OneRate(SGD):
    """Reads the lr of the constructor in every group."""

    def scalars(self, group, t):
        return super().scalars({**group, "lr": self.defaults["lr"]}, t)


class Twice(SGD):
    def step(self, closure=None):
        if closure is not None:
            closure()
        return super().step(closure)


class Silent(SGD):
    def step(self, closure=None):
        super().step(closure)


class Dark(SGD):
    """Calls its closure without gradients."""

    def step(self, closure=None):
        loss = None if closure is None else closure()
        super().step()
        return loss


class Turning(SGD):
    """Goes up from the ninth step on."""

    def scalars(self, group, t):
        numbers = super().scalars(group, t)
        return {**numbers, "lr": -numbers["lr"] if t >= 9 else numbers["lr"]}


class Corrupting(SGD):
    """Its copies have another lr."""

    def __setstate__(self, state):
        super().__setstate__(state)
        self.param_groups[0]["lr"] *= 2


class Unpicklable(SGD):
    def __reduce_ex__(self, protocol):
        raise TypeError("cannot pickle an open file")


class AnyRate(SGD):
    def __init__(self, params, lr=1e-3, maximize=False):
        self.rules = {"lr": lambda x: True}
        Optimizer.__init__(self, params, lr=lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False,
                           lr_in_buffer=False, maximize=maximize)  # fmt: skip


class NoRule(Optimizer):
    """Has an option rho, and says nothing of what it may be."""

    def __init__(self, params, lr=0.1, rho=0.5, maximize=False):
        super().__init__(params, lr=lr, rho=rho, maximize=maximize)

    def scalars(self, group, t):
        return {"rate": group["lr"] * group["rho"]}

    def update(self, xp, theta, g, *, rate):
        return theta - rate * g


class Gaps(Optimizer):
    """Doubles the step of parameters that are not contiguous."""

    def __init__(self, params, lr=0.1, maximize=False):
        super().__init__(params, lr=lr, maximize=maximize)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update_tensor(self, xp, theta, g, *, lr):
        return theta - lr * g * (1 if theta.flags.c_contiguous else 2)


class Coupled(NoRule):
    """Divides by the norm of all gradients."""

    rules: ClassVar = {"rho": below_one}

    def update(self, xp, theta, g, *, rate):
        return theta - rate * g / total_dot(g, g) ** 0.5


class Counting(SGD):
    """Counts a step in which nothing moves."""

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += all(p.grad is None for p in self.param_groups[0]["params"])
        return loss


class Idle(SGD):
    """Decays where no parameter has a gradient."""

    def step(self, closure=None):
        loss = super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.data[...] *= 0.9 if all(q.grad is None for q in self.param_groups[0]["params"]) else 1.0
        return loss


class Mixing(SGD):
    """Moves float32 parameters twice as far where there are float64 ones too."""

    def step(self, closure=None):
        loss = super().step(closure)
        params = self.param_groups[0]["params"]
        for p in params if len({p.dtype for p in params}) > 1 else ():
            if p.dtype == np.float32:
                p.data[...] -= np.float32(1e-2) * p.grad.data
        return loss


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Climber, "steps must go against the gradient; at steps 1 to 8 parameter 0 goes along"),
        (Forgetful, "a loaded state must go on"),
        (Rebinding, "own arrays"),
        (Restless, "without a gradient must not move"),
        (OneWay, "maximizing -f"),
        (Still, "nothing moved in 40 steps"),
        (Shrinking, "lr = 0 must move nothing; parameter 0"),
        (Unclocked, "the step count must be a parameter's own t, not the optimizer's"),
        (OneRate, "the lr of a group must count; lr=0.000125 gave the same steps as lr=0.001"),
        (Twice, "a closure must be called once; it was called 2 times"),
        (Silent, "step must return what the closure returned; got None"),
        (Dark, "a closure must be called with gradients enabled"),
        (Turning, "steps must go against the gradient; at steps 9 to 16"),
        (Corrupting, "a deep copy must keep the options; it changed lr"),
        (Unpicklable, "a deep copy of an optimizer must be possible; TypeError: cannot pickle an open file"),
        (AnyRate, r"an option must refuse a wrong value by name \(see Optimizer.rules\); lr=.* was accepted"),
        (NoRule, r"an option must refuse a wrong value by name \(see Optimizer.rules\); rho=nan .* was accepted"),
        (Gaps, r"the layout in memory \(F-ordered\) must not matter"),
        (Coupled, "must move as it would alone .*pass coupled=True"),
        (Counting, "a step without any gradient must not count"),
        (Idle, "a step without any gradient must not move"),
        (Mixing, "float32 and float64 parameters in one optimizer must move as apart; parameter 0"),
        (optim.PolyakSGD, "a step with needs='gradient' raised ValueError: PolyakSGD.step: needs .*needs='closure'"),
        (optim.AdaHessian, "a step with needs='gradient' raised RuntimeError: .*pass needs='graph'"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_wrong_is_named(kind, message):
    with pytest.raises(AssertionError, match=f"check_optimizer: .*({message})"):
        check_optimizer(kind)


def test_a_trajectory_and_slots_that_are_not_the_formulas_are_named():
    check_optimizer(Adam, hand.adam)
    with pytest.raises(AssertionError, match="at step 1 parameter 0 .* is not where the formula says"):
        check_optimizer(Adam, lambda x, g, s, t: x - 1e-3 * g)

    def otherwise(x, g, s, t):
        x = hand.adam(x, g, s, t)
        return x, {**s, "v": 2 * s["v"]}

    def told(x, g, s, t):
        x, s["told"] = otherwise(x, g, s.setdefault("own", {}), t)
        s["v"] = s["told"]["v"]
        return x

    with pytest.raises(
        AssertionError, match=r"at step 1 slot 'v' of parameter 0 \(3, 4\) is not what the formula says"
    ):
        check_optimizer(Adam, told)


RIGHT = [
    (lambda p, **o: optim.RAdam(p, variant="official", **o), {}),
    (optim.PolyakSGD, {"needs": "closure", "coupled": True}),
    (optim.AdaHessian, {"needs": "graph"}),
    (optim.AdaHessian, {"needs": "closure"}),
    (optim.Sophia, {"needs": "graph"}),
    (lambda p, **o: optim.SWATS(p, lr=0.1, **o), {"coupled": True}),
    (lambda p, **o: SGD(p, lr=0.1, momentum=0.9, nesterov=True, **o), {}),
    (Muon, {"shapes": [(3, 4), (2, 2)]}),
    (SGD, {"needs": "closure"}),
    (lambda p, **o: SGD(p, lr=optim.schedules.Linear(0.1, 100, 0.05), **o), {}),
    (lambda p, **o: optim.Lookahead(optim.cautious(Adam(p, lr=0.1, **o))), {}),
    (Coupled, {"coupled": True}),
]


@pytest.mark.parametrize(("make", "options"), RIGHT, ids=range(len(RIGHT)))
def test_what_needs_more_than_a_gradient_passes_when_it_gets_it(make, options):
    check_optimizer(make, **options)


def test_an_optimizer_of_vectors_and_an_unknown_need_are_refused():
    with pytest.raises(TypeError, match="check_optimizer: LBFGS moves all parameters along one line"):
        check_optimizer(optim.LBFGS)
    with pytest.raises(ValueError, match="needs must be one of 'gradient', 'graph', 'closure', got needs='loss'"):
        check_optimizer(SGD, needs="loss")


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
