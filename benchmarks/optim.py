"""One step of Adam: minidl, NumPy by hand and PyTorch side by side, on few large and on many small parameters.

The gradients stand still, so that nothing but the step is timed. Before anything is timed, all must agree after five
steps. The hand-written loop runs over one flat vector in blocks, so it is spared what separate parameters cost.

Then one step of every optimizer, beside PyTorch's where it has the optimizer, with default options on both sides.

    python benchmarks/optim.py [--threads 1] [--rounds 40]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from _timing import (
    arguments,
    compare,
    describe_machine,
    load_text,
    microseconds,
    optional,
    print_table,
    ratio,
    report,
    use_threads,
)
from handwritten import SIZES, HandwrittenStep, draw_parameters

import minidl as md
from minidl.optim.vector import VectorOptimizer

LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
BLOCK = 65_536  # elements; measured best among 8,192 to 262,144 for the hand-written loop
OURS = "minidl"
HAND = "NumPy by hand, in blocks"
TORCH = "PyTorch, default Adam"

# Our time in units of theirs.
WORKLOADS = {
    "the 109,386 parameters of the 784-128-64-10 network": (
        [shape for n_in, n_out in itertools.pairwise(SIZES) for shape in ((n_out, n_in), (n_out,))],
        {HAND: 1.3},
    ),
    "200 parameters of 1,000 elements": ([(1000,)] * 200, {TORCH: 0.2}),
}

# What the table of all optimizers does differently for some: a gradient that never changes would drive those that find
# their step size to infinity.
OPTIONS = {name: {"lr": 1e-9} for name in ("DAdaptAdam", "DAdaptSGD", "DoG", "DoWG", "Prodigy")}
NOTES = {
    **dict.fromkeys(OPTIONS, "with lr=1e-9"),
    "AdaHessian": "with gradient and curvature of |theta|^2",
    "Sophia": "with gradient and curvature of |theta|^2",
    "Muon": "the three weights only; PyTorch in bfloat16",
    "PolyakSGD": "given the loss",
    "SOAP": "mean of ten steps: the tenth turns the bases",
}
CYCLE = {"SOAP": 10, "Sophia": 10}  # steps that belong together
TOLERANCE = {"Muon": 0.05}  # after five steps, between us and PyTorch; elsewhere 1e-5

Task = Callable[[], object]
Arrays = Sequence[np.ndarray]


def minidl_adam(parameters: Arrays, gradients: Arrays) -> tuple[Task, Arrays]:
    """Return minidl's step, and the arrays that it moves."""
    params = [md.Parameter(x) for x in parameters]
    for p, g in zip(params, gradients, strict=True):
        p.grad = md.tensor(g)
    return md.optim.Adam(params, lr=LR, betas=BETAS, eps=EPS).step, [p.data for p in params]


def hand_adam(parameters: Arrays, gradients: Arrays) -> tuple[Task, Arrays]:
    """Return the formula as twelve calls of NumPy a block over one flat vector, and its parts."""
    theta, g = (np.concatenate([x.reshape(-1) for x in xs]) for xs in (parameters, gradients))
    m, v, scratch = np.zeros_like(theta), np.zeros_like(theta), np.empty_like(theta[:BLOCK])
    cuts = [slice(start, start + BLOCK) for start in range(0, theta.size, BLOCK)]
    blocks = [(theta[c], g[c], m[c], v[c], scratch[: theta[c].size]) for c in cuts]
    b1, b2, rest1, rest2 = (np.asarray(x, theta.dtype) for x in (*BETAS, 1 - BETAS[0], 1 - BETAS[1]))
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        root = (1 - BETAS[1] ** t) ** 0.5
        lr, eps = (np.asarray(x, theta.dtype) for x in (LR * root / (1 - BETAS[0] ** t), EPS * root))
        for theta_, g_, m_, v_, work in blocks:
            np.multiply(m_, b1, m_)
            np.multiply(g_, rest1, work)
            np.add(m_, work, m_)
            np.multiply(v_, b2, v_)
            np.multiply(g_, rest2, work)
            np.multiply(work, g_, work)
            np.add(v_, work, v_)
            np.sqrt(v_, work)
            np.add(work, eps, work)
            np.divide(m_, work, work)
            np.multiply(work, lr, work)
            np.subtract(theta_, work, theta_)

    ends = np.cumsum([x.size for x in parameters])
    return step, [theta[end - x.size : end].reshape(x.shape) for x, end in zip(parameters, ends, strict=True)]


def rescaled_adam(gradients: Arrays) -> Task:
    """Return the ten passes of handwritten.py, whose m and v are rescaled; only for the network's own shapes."""
    hand = HandwrittenStep(draw_parameters(), batch=1, lr=LR)
    hand.grad[...] = np.concatenate([g.reshape(-1) for g in gradients])
    return hand.adam


def torch_adam(parameters: Arrays, gradients: Arrays, **options: bool) -> tuple[Task, Arrays]:
    """Return PyTorch's step with default options or with fused=True, and the arrays that it moves."""
    torch = optional("torch")
    params = [torch.nn.Parameter(torch.tensor(x)) for x in parameters]
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.tensor(g)
    return torch.optim.Adam(params, lr=LR, betas=BETAS, eps=EPS, **options).step, [p.detach().numpy() for p in params]


def draw(shapes: Sequence[tuple[int, ...]]) -> tuple[Arrays, Arrays]:
    """Return random parameters and gradients of some shapes."""
    rng = np.random.default_rng(0)
    parameters, gradients = ([rng.standard_normal(s).astype(np.float32) for s in shapes] for _ in range(2))
    return parameters, gradients


def tasks(shapes: Sequence[tuple[int, ...]]) -> dict[str, Task]:
    """Return the steps to compare, after they have been seen to agree."""
    parameters, gradients = draw(shapes)
    found = {OURS: minidl_adam(parameters, gradients), HAND: hand_adam(parameters, gradients)}
    if optional("torch") is None:
        print("PyTorch is not installed: its rows are left out (pip install torch)")
    else:
        found[TORCH] = torch_adam(parameters, gradients)
        found["PyTorch, foreach Adam"] = torch_adam(parameters, gradients, foreach=True)
        found["PyTorch, fused Adam"] = torch_adam(parameters, gradients, fused=True)
    for _ in range(5):
        for step, _ in found.values():
            step()
    for name, (_, moved) in found.items():
        for ours, theirs in zip(found[OURS][1], moved, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=f"{OURS} and {name} disagree")
    steps = {name: step for name, (step, _) in found.items()}
    if len(shapes) == 2 * (len(SIZES) - 1):
        steps["NumPy by hand, m and v rescaled"] = rescaled_adam(gradients)
    return steps


# ---- every optimizer ---------------------------------------------------------------------------------------------


def our_step(kind: type, parameters: Arrays, gradients: Arrays) -> tuple[Task, Arrays]:
    """Return a step of an optimizer of minidl with its default options, and the arrays that it moves."""
    params = [md.Parameter(x) for x in parameters]
    optimizer: Any = kind(params, **OPTIONS.get(kind.__name__, {}))
    moved = [p.data for p in params]
    if hasattr(optimizer, "wants_graph"):

        def measured_step() -> None:
            optimizer.zero_grad()
            sum((p * p).sum() for p in params).backward(create_graph=optimizer.wants_graph)
            optimizer.step()

        return measured_step, moved
    for p, g in zip(params, gradients, strict=True):
        p.grad = md.tensor(g)
    return partial(optimizer.step, loss=1.0) if kind is md.optim.PolyakSGD else optimizer.step, moved


def torch_steps(name: str, parameters: Arrays, gradients: Arrays) -> dict[str, tuple[Task, Arrays]]:
    """Return the steps of PyTorch's optimizer of that name, default and fused, as far as they exist."""
    torch = optional("torch")
    kind = getattr(getattr(torch, "optim", None), name, None)
    found = {}
    for label, options in (("default", {}), ("fused", {"fused": True})) if kind is not None else ():
        params = [torch.nn.Parameter(torch.tensor(x)) for x in parameters]
        for p, g in zip(params, gradients, strict=True):
            p.grad = torch.tensor(g)
        try:
            found[label] = (kind(params, **options).step, [p.detach().numpy() for p in params])
        except TypeError:  # it has no option "fused"
            continue
    return found


def row_of(kind: type, parameters: Arrays, gradients: Arrays, rounds: int) -> tuple[str, ...]:
    """Return a row of the table: our time, PyTorch's and the ratios."""
    name = kind.__name__
    if kind is md.optim.Muon:
        pairs = [(x, g) for x, g in zip(parameters, gradients, strict=True) if x.ndim == 2]
        parameters, gradients = zip(*pairs, strict=True)
    sides = {OURS: our_step(kind, parameters, gradients), **torch_steps(name, parameters, gradients)}
    for _ in range(5):
        for step, _ in sides.values():
            step()
    for label, (_, moved) in sides.items():
        for ours, theirs in zip(sides[OURS][1], moved, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE.get(name, 1e-5), err_msg=f"{name}, {label}")
    timings = compare({label: step for label, (step, _) in sides.items()}, rounds, number=CYCLE.get(name))
    cells = [microseconds(timings[OURS])]
    for label in ("default", "fused"):
        timing = timings.get(label)
        cells += ["", ""] if timing is None else [microseconds(timing), str(ratio(timings[OURS], timing))]
    return (name, *cells, NOTES.get(name, ""))


def report_all(parameters: Arrays, gradients: Arrays, rounds: int) -> None:
    """Print the time of a step of every optimizer."""
    public = [getattr(md.optim, name) for name in sorted(md.optim.__all__, key=str.lower)]
    base = md.optim.Optimizer
    kinds = [x for x in public if isinstance(x, type) and issubclass(x, base) and x is not base]
    searches = [kind.__name__ for kind in kinds if issubclass(kind, VectorOptimizer)]
    rows = [row_of(kind, parameters, gradients, rounds) for kind in kinds if kind.__name__ not in searches]
    title = "One step of every optimizer, default options, float32, the 109,386 parameters of the 784-128-64-10 network"
    theirs = ("PyTorch, default", f"{OURS} / this", "PyTorch, fused", f"{OURS} / this", "")
    print_table(title, ("", "us: median [10 % 90 %]", *theirs), rows)
    print(f"  left out, because their step evaluates the loss as often as it needs: {', '.join(searches)}")


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__.partition("\n")[0]).parse_args()
    use_threads(options.threads)
    print(describe_machine())
    for title, (shapes, targets) in WORKLOADS.items():
        timings = compare(tasks(shapes), rounds=options.rounds)
        report(f"Adam, float32, {title}", timings, OURS, targets)
    report_all(*draw(next(iter(WORKLOADS.values()))[0]), max(5, options.rounds // 4))
    print(f"\nload average after: {load_text(options.threads)}")


if __name__ == "__main__":
    main()
