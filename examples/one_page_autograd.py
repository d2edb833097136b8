"""Reverse-mode automatic differentiation on one page: scalars, closures and the chain rule.

A `Value` is a number that remembers which values it was made from, and how to hand a gradient back to them: its
`pull`, the local derivative, written beside the forward formula it belongs to. If L is the result and g = dL/d(out),
then `pull(g)` returns dL/d(parent) for each parent. `backward` starts with dL/dL = 1 and visits the values from the
newest to the oldest, so that g is complete (the sum over all uses) before it is handed on. That is all there is to it.

minidl is this page with arrays instead of numbers, and with rules that can themselves be differentiated.

    python examples/one_page_autograd.py
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

Pull = Callable[[float], tuple[float, ...]]
clock = itertools.count()


class Value:
    """A number in a computation, with the values it was made from and the rule that sends a gradient back to them.

    >>> x, y = Value(3.0), Value(4.0)
    >>> (x * y + x**2).backward()
    >>> x.grad, y.grad  # y + 2 x, x
    (10.0, 3.0)
    """

    def __init__(self, data: float, parents: tuple[Value, ...] = (), pull: Pull | None = None):
        self.data = data
        self.grad = 0.0
        self.parents = parents
        self.pull = pull
        self.time = next(clock)  # a value is always younger than its parents

    def __add__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data + other.data, (self, other), lambda g: (g, g))

    def __mul__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data * other.data, (self, other), lambda g: (g * other.data, g * self.data))

    def __pow__(self, n: float) -> Value:
        if n == 0:  # the rule below would ask for 0 * x**-1, which does not exist at x = 0
            return Value(1.0, (self,), lambda g: (0.0,))
        return Value(self.data**n, (self,), lambda g: (g * n * self.data ** (n - 1),))

    def exp(self) -> Value:
        """Return e^x."""
        out = math.exp(self.data)
        return Value(out, (self,), lambda g: (g * out,))

    def log(self) -> Value:
        """Return the natural logarithm of x."""
        return Value(math.log(self.data), (self,), lambda g: (g / self.data,))

    def tanh(self) -> Value:
        """Return the hyperbolic tangent of x."""
        out = math.tanh(self.data)
        return Value(out, (self,), lambda g: (g * (1.0 - out * out),))

    def relu(self) -> Value:
        """Return max(x, 0); its derivative at 0 is taken as 0."""
        return Value(max(self.data, 0.0), (self,), lambda g: (g if self.data > 0 else 0.0,))

    def backward(self) -> None:
        """Set `grad` of this value and of everything it was made from to d(self)/d(that), replacing older gradients."""
        order = [self]
        seen = {self}
        for value in order:  # the list grows while it is read: no recursion, so no limit on the depth
            value.grad = 0.0
            for parent in value.parents:
                if parent not in seen:
                    seen.add(parent)
                    order.append(parent)
        self.grad = 1.0
        for value in sorted(order, key=lambda v: v.time, reverse=True):
            if value.pull is not None:
                for parent, g in zip(value.parents, value.pull(value.grad), strict=True):
                    parent.grad += g  # a value used twice receives two gradients: they add

    # Everything else follows from the five rules above.
    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Value | float) -> Value:
        return self + -as_value(other)

    def __rsub__(self, other: float) -> Value:
        return other + -self

    def __truediv__(self, other: Value | float) -> Value:
        return self * as_value(other) ** -1.0

    def __rtruediv__(self, other: float) -> Value:
        return other * self**-1.0


def as_value(x: Value | float) -> Value:
    """Return x if it is a Value, else a new Value of the number x."""
    return x if isinstance(x, Value) else Value(x)


# ---- a check, and a network --------------------------------------------------------------------------------------


def central_difference(f: Callable[..., Value], xs: Sequence[float], i: int, step: float = 6e-6) -> float:
    """Return (f(x + h e_i) - f(x - h e_i)) / 2h, the slope that `backward` must show; its own error is about 1e-10."""
    high = [x + step * (k == i) for k, x in enumerate(xs)]
    low = [x - step * (k == i) for k, x in enumerate(xs)]
    return (f(*map(Value, high)).data - f(*map(Value, low)).data) / (2.0 * step)


def formula(x: Value, y: Value) -> Value:
    """Return log(1 + e^(x y)) + y^3 tanh(x) + relu(x - y) / x: every rule above at once."""
    return (1.0 + (x * y).exp()).log() + y**3 * x.tanh() + (x - y).relu() / x


def network(weights: Sequence[Value], x: tuple[float, float], hidden: int = 3) -> Value:
    """Return a two-layer network's answer to two inputs: v_0 + sum_j v_j tanh(a_j x_1 + b_j x_2 + c_j)."""
    out = weights[0]
    for a, b, c, v in (weights[1 + 4 * j : 5 + 4 * j] for j in range(hidden)):
        out = out + v * (a * x[0] + b * x[1] + c).tanh()
    return out


XOR = (((0.0, 0.0), 0.0), ((0.0, 1.0), 1.0), ((1.0, 0.0), 1.0), ((1.0, 1.0), 0.0))


def xor_loss(*weights: Value) -> Value:
    """Return the network's sum of squared errors on the four cases of exclusive or."""
    loss = Value(0.0)
    for x, target in XOR:
        loss = loss + (network(weights, x) - target) ** 2
    return loss


def train(steps: int = 300, lr: float = 0.1, seed: int = 0) -> tuple[list[Value], list[float]]:
    """Minimise `xor_loss` by gradient descent from random weights; return the weights and the loss before each step."""
    draw = random.Random(seed)
    weights = [Value(draw.uniform(-1.0, 1.0)) for _ in range(13)]
    losses = []
    for _ in range(steps):
        loss = xor_loss(*weights)
        loss.backward()
        losses.append(loss.data)
        for weight in weights:
            weight.data -= lr * weight.grad
    return weights, losses


def main() -> None:
    """Print a gradient found in two ways, check the network's gradient, and train the network on exclusive or."""
    x, y = Value(1.5), Value(-0.5)
    formula(x, y).backward()
    print("f(x, y) = log(1 + e^(x y)) + y^3 tanh(x) + relu(x - y) / x  at  x = 1.5, y = -0.5")
    for i, (name, value) in enumerate((("x", x), ("y", y))):
        difference = central_difference(formula, (1.5, -0.5), i)
        print(f"  df/d{name}: backward {value.grad:+.9f}, central difference {difference:+.9f}")

    weights, losses = train()
    numbers = [weight.data for weight in weights]
    xor_loss(*weights).backward()
    worst = max(abs(w.grad - central_difference(xor_loss, numbers, i)) for i, w in enumerate(weights))
    last = xor_loss(*weights).data
    print(f"network of 13 weights: largest difference between backward and central differences {worst:.1e}")
    print(f"exclusive or: loss {losses[0]:.3f} before training, {last:.1e} after {len(losses)} steps")
    for case, target in XOR:
        print(f"  {case[0]:.0f} xor {case[1]:.0f} = {target:.0f}: the network says {network(weights, case).data:+.4f}")


if __name__ == "__main__":
    main()
