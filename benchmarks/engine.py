"""What the engine itself costs: single operations, chains of them, and the import.

Arrays of 4x4 float32 are so small that arithmetic takes a third of a microsecond; the rest is bookkeeping.

    python benchmarks/engine.py [--threads 1] [--rounds 40]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from _timing import (
    arguments,
    compare,
    describe_machine,
    load_text,
    optional,
    print_table,
    ratio,
    report,
    spread,
    use_threads,
)

import minidl as md

PER_OPERATION = 0.65  # x PyTorch
PER_CHAIN = 0.7  # x PyTorch
IMPORT = 0.150  # seconds beyond NumPy

rng = np.random.default_rng(0)
X = rng.uniform(0.0, 1.0, (4, 4)).astype(np.float32)
Y = rng.uniform(-0.9, -0.2, (4, 4)).astype(np.float32)  # five operations then shrink a gradient to a fifth, not to 0
SIGNS = rng.choice(np.array([-1.0, 1.0], np.float32), (4, 4))
ONES = np.ones((4, 4), np.float32)


def operations(x, y, exp: Callable, tanh: Callable) -> dict[str, Callable[[], object]]:
    """Return the five operations on one library's arrays."""
    return {
        "x * y": lambda: x * y,
        "x + y": lambda: x + y,
        "x * 2.0": lambda: x * 2.0,
        "exp(x)": lambda: exp(x),
        "tanh(x)": lambda: tanh(x),
    }


def chain(length: int, x, y, exp: Callable, tanh: Callable):
    """Return x after `length` operations, the five above in turn."""
    for _ in range(length // 5):
        x = x * y
        x = x + y
        x = x * 2.0
        x = exp(x)
        x = tanh(x)
    return x


def deep_chain(length: int, x, y, signs):
    """Return x after `length` operations whose derivative is exactly 1 or -1, however many there are."""
    for _ in range(length // 2):
        x = x + y
        x = x * signs
    return x


def with_backward(forward: Callable, x, ones) -> Callable[[], np.ndarray]:
    """Return what runs forward(x), sends a gradient of ones back, and returns the gradient of x; minidl and PyTorch."""

    def both():
        x.grad = None
        forward(x).backward(ones)
        return x.grad.numpy()

    return both


def chains(torch, length: int) -> dict[str, tuple[Callable, Callable]]:
    """Return (forward, forward and backward) of the chain in each library that is installed."""
    found = {}
    x, y = md.tensor(X, requires_grad=True), md.tensor(Y)
    ours = partial(chain, length, y=y, exp=md.exp, tanh=md.tanh)
    found["minidl"] = partial(ours, x), with_backward(ours, x, md.tensor(ONES))
    if torch is not None:
        tx, ty = torch.tensor(X, requires_grad=True), torch.tensor(Y)
        theirs = partial(chain, length, y=ty, exp=torch.exp, tanh=torch.tanh)
        found["PyTorch"] = partial(theirs, tx), with_backward(theirs, tx, torch.tensor(ONES))
    autograd = optional("autograd")
    if autograd is not None:
        hips = partial(chain, length, y=Y, exp=autograd.numpy.exp, tanh=autograd.numpy.tanh)
        found["HIPS autograd"] = lambda: autograd.make_vjp(hips)(X), lambda: autograd.make_vjp(hips)(X)[0](ONES)
    found["NumPy by hand"] = partial(chain, length, X, Y, np.exp, np.tanh), partial(chain_by_hand, length)
    return found


def chain_by_hand(length: int) -> np.ndarray:
    """Return the chain's gradient from the arithmetic alone: the floor."""
    t, saved = X, []
    for _ in range(length // 5):
        e = np.exp((t * Y + Y) * 2.0)
        t = np.tanh(e)
        saved.append((e, t))
    g = ONES
    for e, t in reversed(saved):
        g = g * (1.0 - t * t) * e * 2.0 * Y
    return g


def measure_operations(torch, rounds: int) -> None:
    """Print the cost of one tracked operation."""
    libraries = {"minidl": operations(md.tensor(X, requires_grad=True), md.tensor(Y), md.exp, md.tanh)}
    if torch is not None:
        tracked = torch.tensor(X, requires_grad=True)
        libraries["PyTorch"] = operations(tracked, torch.tensor(Y), torch.exp, torch.tanh)
    libraries["NumPy, untracked"] = operations(X, Y, np.exp, np.tanh)
    for operation in libraries["minidl"]:
        timings = compare({name: tasks[operation] for name, tasks in libraries.items()}, rounds)
        report(f"one tracked {operation}, 4x4 float32", timings, "minidl", {"PyTorch": PER_OPERATION})


def measure_chain(torch, rounds: int, length: int = 100) -> None:
    """Print the cost of a chain of operations, after checking that all libraries find the same gradient."""
    libraries = chains(torch, length)
    expected = chain_by_hand(length)
    for name, (_, both) in libraries.items():
        np.testing.assert_allclose(np.asarray(both()), expected, rtol=1e-4, err_msg=f"{name} finds another gradient")
    for i, what in enumerate(("forward", "forward and backward")):
        targets = {"PyTorch": PER_CHAIN} if i else {}
        timings = compare({name: tasks[i] for name, tasks in libraries.items()}, rounds)
        report(f"a chain of {length} operations, 4x4 float32: {what}", timings, "minidl", targets)


def measure_deep_chains(torch, rounds: int) -> None:
    """Print the cost of one operation in chains up to 100,000 deep: it should not grow with the depth."""
    rows = []
    for length in (1_000, 10_000, 100_000):
        x, y, signs = md.tensor(X, requires_grad=True), md.tensor(Y), md.tensor(SIGNS)
        tasks = {"minidl": with_backward(partial(deep_chain, length, y=y, signs=signs), x, md.tensor(ONES))}
        if torch is not None:
            tx, ty, ts = torch.tensor(X, requires_grad=True), torch.tensor(Y), torch.tensor(SIGNS)
            tasks["PyTorch"] = with_backward(partial(deep_chain, length, y=ty, signs=ts), tx, torch.tensor(ONES))
        for name, task in tasks.items():
            np.testing.assert_array_equal(task(), SIGNS ** (length // 2), err_msg=name)
        timings = compare(tasks, max(3, min(rounds, 200_000 // length)), warmup=1)
        each = {name: f"{t.median / length * 1e6:.2f}" for name, t in timings.items()}
        found = str(ratio(timings["minidl"], timings["PyTorch"])) if "PyTorch" in timings else ""
        rows.append((f"{length:,}", each["minidl"], each.get("PyTorch", "not installed"), found))
    header = ("depth", "minidl", "PyTorch", "minidl / PyTorch")
    print_table("deep chains, forward, backward and freeing: us an operation", header, rows)


def measure_import(rounds: int) -> None:
    """Print how long `import minidl` takes beyond `import numpy`, in fresh processes."""

    def python(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    tasks = {
        "import numpy": python("import numpy"),
        "import numpy, minidl": python("import numpy, minidl; minidl.tensor"),
    }
    numpy_alone, both = compare(tasks, max(5, rounds // 2), warmup=1, number=1).values()
    beyond = both.rounds - numpy_alone.rounds
    median, (low, high) = float(np.median(beyond)), spread(beyond)
    if median <= 0:
        raise RuntimeError(f"import: minidl takes {median * 1e3:.1f} ms beyond NumPy, which cannot be")
    rows = [(timing.name, f"{timing.median * 1e3:.0f}", "") for timing in (numpy_alone, both)]
    reached = "reached" if median <= IMPORT else "MISSED"
    text = f"{median * 1e3:.0f} [{low * 1e3:.0f} {high * 1e3:.0f}]"
    rows.append(("minidl beyond numpy", text, f"target <= {IMPORT * 1e3:.0f}: {reached}"))
    print_table("import, ms in a fresh process", ("", "median", ""), rows)


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__.partition("\n")[0]).parse_args()
    use_threads(options.threads)
    torch = optional("torch")
    print(describe_machine())
    if torch is None:
        print("PyTorch is not installed: the targets are ratios to it and cannot be judged (pip install minidl[bench])")
    measure_operations(torch, options.rounds)
    measure_chain(torch, options.rounds)
    measure_deep_chains(torch, options.rounds)
    measure_import(options.rounds)
    print(f"\nload average after: {load_text(options.threads)} (of which this benchmark up to {options.threads})")


if __name__ == "__main__":
    main()
