"""What an entry of the table of cases is made of: inputs, samples, errors, shapes that many share. See `cases`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

# ---- inputs: a shape and how its numbers are drawn -------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """An array to be drawn from a generator."""

    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, tuple], Any]

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(self.draw(rng, self.shape))


def _maker(draw: Callable[[np.random.Generator, tuple], Any]) -> Callable[..., Input]:
    return lambda *shape: Input(shape, draw)


normal = _maker(lambda rng, shape: rng.standard_normal(shape))
positive = _maker(lambda rng, shape: rng.uniform(0.5, 2.0, shape))
inside = _maker(lambda rng, shape: rng.uniform(-0.9, 0.9, shape))  # of (-1, 1)
# Away from a kink at the integers, and from each other: a step of check_grad, at most 0.02, crosses nothing.
off_zero = _maker(lambda rng, shape: rng.uniform(0.1, 2.0, shape) * rng.choice([-1.0, 1.0], shape))
on_grid = _maker(lambda rng, shape: rng.integers(-4, 5, shape) * 0.5)
off_grid = _maker(lambda rng, shape: rng.integers(-4, 5, shape) * 0.5 + 0.25)
distinct = _maker(lambda rng, shape: rng.permutation(int(np.prod(shape))).reshape(shape) * 0.25 - 1.0)
bools = _maker(lambda rng, shape: rng.random(shape) < 0.5)


def integers(*shape: int, below: int = 3, low: int = 0) -> Input:
    """Return integers in [low, below)."""
    return Input(shape, lambda rng, shape: rng.integers(low, below, shape))


def fixed(data: Any, dtype: Any = None) -> Input:
    """Return the same numbers each time."""
    array = np.array(data, dtype)
    return Input(array.shape, lambda rng, shape: array.copy())


# ---- samples and entries ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Inputs and settings of one call. `orders`, if given, is less than its operation's: a cast to int, say."""

    inputs: tuple[Input, ...]
    settings: dict[str, Any]
    orders: int | None = None

    def __str__(self) -> str:
        shapes = "".join(str(x.shape).replace(" ", "") for x in self.inputs)
        return shapes + "".join(f" {k}={getattr(v, '__name__', v)}" for k, v in self.settings.items())


def s(*inputs: Input, orders: int | None = None, **settings: Any) -> Sample:
    """Return a sample."""
    return Sample(inputs, settings, orders)


def at(*data: Any, **settings: Any) -> Sample:
    """Return a sample of given numbers."""
    return Sample(tuple(map(fixed, data)), settings)


@dataclass(frozen=True)
class Error:
    """A call that must raise: the exception's class, and what its message must contain (a regular expression)."""

    call: Callable[[Any], Any]
    kind: type[Exception]
    match: str


def plain(f: Callable, *inputs: Any, **settings: Any) -> Any:
    """Call with inputs in their places and settings by name."""
    return f(*inputs, **settings)


@dataclass(frozen=True)
class Entry:
    """All that is known of one operation.

    name        as in `minidl`
    reference   the same in NumPy; called as the operation is
    samples     inputs and settings: broadcasting, 0-d, empty, negative axes
    orders      how often it can be differentiated: 3 stands for any number, 0 for not at all
    call        how it is called where that is not f(*inputs, **settings)
    numpy       NumPy's function that gives way to it when called on a Tensor
    method      its name as a method of Tensor
    torch       PyTorch's: a dotted name, or a function torch -> function
    finite      samples where value, gradient and second derivative are finite and nothing warns
    errors      calls that must raise
    """

    name: str
    reference: Callable
    samples: list[Sample]
    orders: int = 3
    call: Callable = plain
    numpy: Callable | None = None
    method: str | None = None
    torch: str | Callable | None = None
    finite: list[Sample] = field(default_factory=list)
    errors: list[Error] = field(default_factory=list)
    scalars: bool = False  # a number can stand in the place of either input
    keeps_dtype: bool = True
    sample_inputs: tuple[int, ...] = (0,)  # whose rows are samples, where the operation is samplewise
    transfers: int = 0  # copies to the device that it cannot do without
    waits: bool = False  # the shape of the result depends on values, which a GPU must be asked for
    rtol: float = 1e-12
    tolerance: dict[str, float] = field(default_factory=dict)  # of check_grad

    def cases(self) -> list[Case]:
        """Return a case for each sample."""
        return [Case(self, sample) for sample in self.samples]


@dataclass(frozen=True)
class Case:
    """One operation with one sample: what the functions of `battery` take."""

    entry: Entry
    sample: Sample

    def __str__(self) -> str:
        return f"{self.entry.name}-{self.sample}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.entry, name)

    @property
    def orders(self) -> int:
        """How often this call can be differentiated."""
        return self.entry.orders if self.sample.orders is None else self.sample.orders

    @property
    def atol(self) -> float:
        """How much a value near 0 may differ from NumPy's."""
        return 1e-14 if self.entry.rtol < 1e-11 else self.entry.rtol

    def arrays(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the inputs, float64, integers or bool."""
        return [x(rng) for x in self.sample.inputs]

    def call(self, f: Callable, *inputs: Any) -> Any:
        """Call f with the inputs and this case's settings."""
        return self.entry.call(f, *inputs, **self.sample.settings)

    def reference(self, *arrays: np.ndarray) -> Any:
        """Return NumPy's answer."""
        return self.call(self.entry.reference, *arrays)


# ---- samples that many operations share ------------------------------------------------------------------------------

PAIRS = [
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((2, 1, 3), (4, 1)),
    ((2,), ()),
    ((), (2,)),
    ((), ()),
    ((4, 0), (4, 1)),
    ((0,), ()),
]


def unary(make: Callable[..., Input]) -> list[Sample]:
    """Return samples of a function of one array, elementwise."""
    return [s(make(*shape)) for shape in ((2, 3), (4,), (), (1, 1), (0, 3))]


def binary(left: Callable[..., Input], right: Callable[..., Input] | None = None) -> list[Sample]:
    """Return samples of a function of two arrays that broadcast."""
    return [s(left(*a), (right or left)(*b)) for a, b in PAIRS]


def reduced(make: Callable[..., Input], empty: bool = False, **settings: Any) -> list[Sample]:
    """Return samples of a reduction: axes None, one, negative, several and none at all; axes kept and not."""
    axes: list[dict[str, Any]] = [
        {},
        {"axis": 0},
        {"axis": -1, "keepdims": True},
        {"axis": (0, 2)},
        {"axis": (-1, 1)},
        {"keepdims": True},
        {"axis": ()},
    ]
    found = [s(make(2, 3, 2), **a, **settings) for a in axes] + [s(make(), **settings), s(make(3), axis=0, **settings)]
    return found + ([s(make(0, 3)), s(make(0, 3), axis=0), s(make(0, 3), axis=1)] if empty else [s(make(0, 3), axis=1)])


ANY = [-1e4, -1e3, -1e-8, 0.0, 1e-8, 1e3, 1e4]
ROWS = [[0.0, 0.0, 0.0], [1e3, 0.0, -1e3], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4 - 1.0]]


def axis_errors(shape: tuple[int, ...] = (2, 3)) -> list[Error]:
    """Return calls of a reduction with axes that do not exist, come twice, or are called `dim`."""
    x = np.ones(shape)
    return [
        Error(lambda f: f(x, axis=5), np.exceptions.AxisError, r"axis 5.*dimension 2"),
        Error(lambda f: f(x, axis=(0, 0)), ValueError, r"(repeated|duplicate)"),
        Error(lambda f: f(x, dim=0), TypeError, r"axis="),
        Error(lambda f: f(x, axes=0), TypeError, r"axes"),
    ]


def broadcast_errors(name: str) -> list[Error]:
    """Return calls with shapes that do not broadcast and with things that are no numbers."""
    a, b = np.ones((2, 3)), np.ones(4)
    return [
        Error(lambda f: f(a, b), ValueError, rf"{name}: .*\(2, 3\).*\(4,\)"),
        Error(lambda f: f(a, "x"), TypeError, rf"{name}: .*str"),
        Error(lambda f: f(None, a), TypeError, rf"{name}: .*NoneType"),
        Error(lambda f: f(a, 1j), TypeError, rf"{name}: .*complex"),
    ]


def number_errors(name: str) -> list[Error]:
    """Return calls of a function of one array with things that are no numbers."""
    return [
        Error(lambda f: f("x"), TypeError, rf"{name}: .*str"),
        Error(lambda f: f({}), TypeError, rf"{name}: .*dict"),
        Error(lambda f: f(), TypeError, rf"{name}.*argument"),
    ]


def elementwise(name: str, reference: Callable, make: Callable[..., Input], **more: Any) -> Entry:
    """Return the entry of a function of one array."""
    more.setdefault("torch", name)
    return Entry(name, reference, unary(make), errors=number_errors(name), **more)


def arithmetic(name: str, reference: Callable, *makes: Callable[..., Input], **more: Any) -> Entry:
    """Return the entry of a function of two arrays."""
    more = {"torch": name, "numpy": reference, **more}
    more["errors"] = broadcast_errors(name) + more.get("errors", [])
    return Entry(name, reference, binary(*makes), scalars=True, **more)


def reduction(name: str, reference: Callable, make: Callable[..., Input], **more: Any) -> Entry:
    """Return the entry of a reduction."""
    more.setdefault("samples", reduced(make))
    more["errors"] = axis_errors() + more.get("errors", [])
    return Entry(name, reference, **more)


def in_torch(function: Callable) -> Callable:
    """Return a function of PyTorch's module that calls `function(torch, *inputs, **settings)`."""
    return lambda torch: partial(function, torch)
