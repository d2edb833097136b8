"""One training step of a 784-128-64-10 ReLU network: minidl, NumPy by hand, PyTorch and JAX side by side.

A step is zero_grad, forward, softmax cross-entropy, backward, Adam; minidl runs it as it is written, and captured
(`md.capture`), as JAX runs it compiled. The ratios are those of the captured step. All start from the same parameters
and see the same images; the labels change from step to step, so that the gradient never dies away into denormal
numbers, which would be timed instead. Before anything is timed, the losses of three steps must agree.

    python benchmarks/mlp.py [--batches 1 32 128 1024] [--threads 1] [--rounds 40]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from _timing import arguments, compare, describe_machine, load_text, optional, report, use_threads
from handwritten import HandwrittenStep, draw_batch, draw_parameters

import minidl as md

LR = 1e-3
LABELS = 16  # vectors of labels, taken in turn
EAGER, OURS = "minidl, as written", "minidl, captured"
HAND = "NumPy by hand"
RESCALED = "the same, moments rescaled"
FUSED = "PyTorch, fused Adam"
JAX = "JAX, jit, donated"

# Our time in units of theirs. The one against NumPy by hand is what any change must keep; the others are goals.
TARGETS = {
    1: {FUSED: 0.35, JAX: 0.85},
    32: {HAND: 1.3, FUSED: 0.5, JAX: 0.85},
    128: {FUSED: 0.7, JAX: 0.8},
    1024: {FUSED: 0.75, JAX: 0.95},
}

Step = Callable[[], object]  # runs one training step and returns the loss before it, in the library's own form


def minidl_step(x: np.ndarray, labels: Sequence[np.ndarray], captured: bool) -> Step:
    """Return the step written with minidl's public interface, as it is or captured."""
    nn = md.nn
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    names = [f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    arrays = itertools.chain.from_iterable(draw_parameters())
    model.load_state_dict({name: md.tensor(a) for name, a in zip(names, arrays, strict=True)})
    optimizer = md.optim.Adam(model.parameters(), lr=LR)
    images, targets = md.tensor(x), itertools.cycle([md.tensor(y) for y in labels])

    def step(images, classes):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), classes)
        loss.backward()
        optimizer.step()
        return loss

    run = md.capture(step) if captured else step
    return lambda: run(images, next(targets))


def hand_step(x: np.ndarray, labels: Sequence[np.ndarray], rescaled: bool) -> Step:
    """Return the step of handwritten.py, with Adam's moments as they are or in units that save two passes."""
    hand, targets = HandwrittenStep(draw_parameters(), len(x), lr=LR, rescaled=rescaled), itertools.cycle(labels)
    return lambda: hand.step(x, next(targets))


def torch_step(torch, x: np.ndarray, labels: Sequence[np.ndarray], fused: bool) -> Step:
    """Return the step in PyTorch, eager, with its default or its fused Adam."""
    nn = torch.nn
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        for p, a in zip(model.parameters(), itertools.chain.from_iterable(draw_parameters()), strict=True):
            p.copy_(torch.from_numpy(a))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=fused or None)
    images, targets = torch.from_numpy(x), itertools.cycle([torch.from_numpy(y) for y in labels])

    def step():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), next(targets))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def jax_step(jax, x: np.ndarray, labels: Sequence[np.ndarray]) -> tuple[Step, Step]:
    """Return the step in JAX, compiled, its buffers donated, and what waits for the last result."""
    jnp = jax.numpy
    b1, b2, eps = 0.9, 0.999, 1e-8

    def loss_of(params, images, y):
        (w1, c1), (w2, c2), (w3, c3) = params
        h = jax.nn.relu(jax.nn.relu(images @ w1 + c1) @ w2 + c2)
        logits = jax.nn.log_softmax(h @ w3 + c3)
        return -jnp.take_along_axis(logits, y[:, None], 1).mean()

    def update(params, m, v, t, images, y):
        loss, g = jax.value_and_grad(loss_of)(params, images, y)
        t = t + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
        rate, correction = LR / (1 - b1**t), 1 - b2**t
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v / correction) + eps), params, m, v)
        return loss, params, m, v, t

    compiled = jax.jit(update, donate_argnums=(0, 1, 2, 3))
    params = [(jnp.array(w.T), jnp.array(b)) for w, b in draw_parameters()]
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = [params, zeros, jax.tree.map(jnp.zeros_like, params), jnp.zeros(())]
    images, targets = jnp.array(x), itertools.cycle([jnp.array(y) for y in labels])

    def step():
        loss, *state[:] = compiled(*state, images, next(targets))
        return loss

    return step, lambda: jax.block_until_ready(state)


def steps_of(batch: int, torch, jax) -> tuple[dict[str, Step], dict[str, Step]]:
    """Return the steps of all installed libraries for one batch size, and what waits for those that run ahead."""
    x, _ = draw_batch(batch)
    labels = [draw_batch(batch, seed)[1] for seed in range(LABELS)]
    steps = {OURS: minidl_step(x, labels, True), EAGER: minidl_step(x, labels, False)}
    steps |= {HAND: hand_step(x, labels, False), RESCALED: hand_step(x, labels, True)}
    finish = {}
    if torch is not None:
        steps["PyTorch, Adam"] = torch_step(torch, x, labels, fused=False)
        steps[FUSED] = torch_step(torch, x, labels, fused=True)
    if jax is not None:
        steps[JAX], finish[JAX] = jax_step(jax, x, labels)
    return steps, finish


def check_agreement(steps: dict[str, Step], count: int = 3) -> list[float]:
    """Run a few steps of each library and return the losses; AssertionError, naming the library, if they differ."""
    losses = {name: [float(step()) for _ in range(count)] for name, step in steps.items()}
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses[HAND], rtol=1e-4, atol=1e-5, err_msg=f"{name} trains differently")
    return losses[HAND]


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128, 1024], help="batch sizes")
    options = parser.parse_args()
    use_threads(options.threads)
    torch, jax = optional("torch"), optional("jax")
    print(describe_machine())
    for name, module in (("PyTorch", torch), ("JAX", jax)):
        if module is None:
            print(f"{name} is not installed: its rows are missing (pip install minidl[bench])")
    for batch in options.batches:
        steps, finish = steps_of(batch, torch, jax)
        losses = check_agreement(steps)
        timings = compare(steps, options.rounds, finish=finish)
        title = f"batch {batch}: one training step (losses of the first three: {', '.join(f'{v:.4f}' for v in losses)})"
        report(title, timings, OURS, TARGETS.get(batch, {}))
    print(f"\nload average after: {load_text(options.threads)} (of which this benchmark up to {options.threads})")


if __name__ == "__main__":
    main()
