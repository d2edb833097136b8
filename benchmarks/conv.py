"""Convolution and pooling of a LeNet-sized network: minidl and PyTorch side by side, forward and backward.

Single convolutions first, with the gradients that training needs of them (not that of the first layer's images), then
the whole network: 1x28x28 -> 6@5x5 -> pool -> 16@5x5 -> pool -> 120 -> 84 -> 10. Before anything is timed, the losses
and the gradients of both libraries must agree.

    python benchmarks/conv.py [--batches 1 64] [--threads 1] [--rounds 40]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _timing import arguments, compare, describe_machine, load_text, optional, report, use_threads

import minidl as md

TARGET = {"PyTorch": 2.0}  # our time in units of theirs
LAYERS = [  # channels, size, kernels, cells of a kernel along one side, padding, whether the image wants a gradient
    (1, 28, 6, 5, 0, False),
    (6, 12, 16, 5, 0, True),
    (16, 14, 32, 3, 1, True),
    (64, 14, 64, 3, 1, True),
]
SHAPES = [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 256), (120,), (84, 120), (84,), (10, 84), (10,)]

rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    """Return standard normal numbers in float32."""
    return rng.standard_normal(shape).astype(np.float32)


def batch_last(a: np.ndarray) -> np.ndarray:
    """Return the same array with the batch last in memory, as one layer of minidl hands it to the next."""
    return np.ascontiguousarray(a.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)


def convolution(functions, parameters: list, x, g, padding: int) -> Callable[[], list]:
    """Return what runs a convolution forward and backward and returns the gradients: minidl and PyTorch alike."""

    def both():
        for p in (*parameters, x):
            p.grad = None
        functions.conv2d(x, *parameters, padding=padding).backward(g)
        return [p.grad for p in (*parameters, x) if p.grad is not None]

    return both


def network(functions, parameters: list, x, labels) -> Callable[[], list]:
    """Return what runs the network forward and backward and returns the loss and the gradients."""
    k1, c1, k2, c2, w3, c3, w4, c4, w5, c5 = parameters
    f = functions

    def both():
        for p in parameters:
            p.grad = None
        h = f.max_pool2d(f.relu(f.conv2d(x, k1, c1)), 2)
        h = f.max_pool2d(f.relu(f.conv2d(h, k2, c2)), 2)
        h = f.relu(f.linear(h.reshape(h.shape[0], -1), w3, c3))
        h = f.relu(f.linear(h, w4, c4))
        loss = f.cross_entropy(f.linear(h, w5, c5), labels)
        loss.backward()
        return [loss, *(p.grad for p in parameters)]

    return both


def pair_of(make: Callable, arrays: list[np.ndarray], *rest, torch, ours: Callable = md.from_numpy) -> dict:
    """Return both libraries' task: `make(functions, parameters, *rest)`, all but the parameters constants."""
    tasks = {"minidl": make(md, [md.tensor(a, requires_grad=True) for a in arrays], *(ours(a) for a in rest))}
    if torch is not None:
        parameters = [torch.tensor(a, requires_grad=True) for a in arrays]
        tasks["PyTorch"] = make(torch.nn.functional, parameters, *(torch.tensor(a) for a in rest))
    return tasks


def check_agreement(tasks: dict[str, Callable[[], list]]) -> None:
    """Run each once; AssertionError if losses or gradients differ by more than float32 rounds."""
    found = {name: [np.asarray(t.detach().numpy()) for t in task()] for name, task in tasks.items()}
    for name, values in found.items():
        for mine, theirs in zip(found["minidl"], values, strict=True):
            scale = float(np.abs(theirs).max())
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * scale, err_msg=f"{name} differs")


def layer(batch: int, torch, c: int, size: int, m: int, k: int, padding: int, wanted: bool) -> dict:
    """Return both libraries' task for one convolution."""
    x, g = draw(batch, c, size, size), draw(batch, m, *(2 * (size + 2 * padding - k + 1,)))
    weights = [draw(m, c, k, k) / np.float32(k * np.sqrt(c)), draw(m)]

    def make(functions, parameters, images, gradient):
        if wanted:
            images.requires_grad_()
        return convolution(functions, parameters, images, gradient, padding)

    return pair_of(make, weights, x, g, torch=torch, ours=lambda a: md.from_numpy(batch_last(a) if wanted else a))


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="batch sizes")
    options = parser.parse_args()
    use_threads(options.threads)
    torch = optional("torch")
    print(describe_machine())
    if torch is None:
        print("PyTorch is not installed: its rows are missing (pip install minidl[bench])")
    for batch in options.batches:
        for c, size, m, k, padding, wanted in LAYERS:
            tasks = layer(batch, torch, c, size, m, k, padding, wanted)
            check_agreement(tasks)
            title = f"batch {batch}: conv2d {c}x{size}x{size} -> {m}@{k}x{k}, forward and backward"
            report(title, compare(tasks, options.rounds), "minidl", TARGET)
        weights = [draw(*s) / np.float32(np.sqrt(np.prod(s[1:]))) for s in SHAPES]
        tasks = pair_of(network, weights, draw(batch, 1, 28, 28), rng.integers(0, 10, batch), torch=torch)
        check_agreement(tasks)
        report(f"batch {batch}: LeNet, forward and backward", compare(tasks, options.rounds), "minidl", TARGET)
    print(f"\nload average after: {load_text(options.threads)} (of which this benchmark up to {options.threads})")


if __name__ == "__main__":
    main()
