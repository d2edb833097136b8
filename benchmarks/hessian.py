"""The whole Hessian of a 64-32-10 tanh network on the 1,797 digits, in float64: minidl, JAX and PyTorch side by side.

P = 2,410 parameters, cross-entropy; then the same network with batch normalization in training mode. JAX is compiled
and maps Hessian-vector products over chunks of 16 and of 64 unit vectors, which is its best; PyTorch runs its own
`torch.autograd.functional.hessian`, a loop over rows and the fastest of its ways. Beside them stands `eigvalsh` of the
result. Before anything is timed, all matrices must agree. The peak memory is that of a process of its own.

    python benchmarks/hessian.py [--threads 1] [--rounds 7] [--mnist]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from _timing import arguments, compare, describe_machine, load_text, optional, report, use_threads

import minidl as md

ALONE = "minidl, one BLAS thread"
EIGENVALUES = "eigvalsh of the result"
LOOP = "PyTorch, functional.hessian"
CHUNKS = {f"JAX, jit, chunks of {k}": k for k in (16, 64)}
PLAIN = {1: 0.15, 2: 0.22}  # our time in units of JAX's, by threads
NORMALIZED = 0.4
SIZES = (64, 32, 10)
EPS = 1e-5  # of batch normalization

Task = Callable[[], object]


def network(normalized: bool, sizes: tuple[int, int, int] = SIZES):
    """Return the network and its parameters as one vector."""
    md.manual_seed(0)
    inputs, hidden, outputs = sizes
    layers = [md.nn.Linear(inputs, hidden), md.nn.Tanh(), md.nn.Linear(hidden, outputs)]
    if normalized:
        layers.insert(1, md.nn.BatchNorm1d(hidden))
    model = md.nn.Sequential(*layers).double()
    return model, md.second_order.ParameterVector(model).get()


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the images (1797, 64) in [0, 1] and the labels."""
    images, labels = md.data.digits()
    return images.reshape(-1, 64) / 16.0, labels


def minidl_task(x: np.ndarray, y: np.ndarray, model) -> Task:
    """Return what computes the Hessian with minidl."""
    images, labels = md.tensor(x), md.tensor(y)
    loss = md.nn.CrossEntropyLoss()
    return lambda: md.second_order.hessian(lambda: loss(model(images), labels), model)


def on_one_thread(task: Task) -> object:
    """Run a task with one BLAS thread: where other work runs, several wait for each other."""
    with md.threads(1):
        return task()


def split(theta, normalized: bool) -> list:
    """Cut the vector of all parameters, of any library, into matrices and vectors."""
    inputs, hidden, outputs = SIZES
    shapes = [(hidden, inputs), (hidden,), *([(hidden,)] * (2 * normalized)), (outputs, hidden), (outputs,)]
    parts, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        parts.append(theta[start : start + size].reshape(shape))
        start += size
    return parts


def logits(theta, x, normalized: bool, tanh, sqrt):
    """Compute the outputs with the operators that JAX and PyTorch share."""
    w1, b1, *middle, w2, b2 = split(theta, normalized)
    z = x @ w1.T + b1
    if normalized:
        centred = z - z.mean(0)
        z = centred / sqrt((centred**2).mean(0) + EPS) * middle[0] + middle[1]
    return tanh(z) @ w2.T + b2


def jax_tasks(jax, x: np.ndarray, y: np.ndarray, theta: np.ndarray, normalized: bool) -> dict[str, Task]:
    """Return the Hessian by compiled products with chunks of unit vectors."""
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    images, labels, at = jnp.asarray(x), jnp.asarray(y), jnp.asarray(theta)

    def loss(theta):
        p = jax.nn.log_softmax(logits(theta, images, normalized, jnp.tanh, jnp.sqrt))
        return -p[jnp.arange(len(labels)), labels].mean()

    def task(chunk: int) -> Task:
        def product(theta, v):
            return jax.jvp(jax.grad(loss), (theta,), (v,))[1]

        run = jax.jit(lambda t: jax.lax.map(lambda v: product(t, v), jnp.eye(len(theta)), batch_size=chunk))
        return lambda: run(at).block_until_ready()

    return {name: task(chunk) for name, chunk in CHUNKS.items()}


def torch_task(torch, x: np.ndarray, y: np.ndarray, theta: np.ndarray, normalized: bool) -> Task:
    """Return the Hessian by PyTorch's own function."""
    images, labels, at = torch.tensor(x), torch.tensor(y), torch.tensor(theta)

    def loss(theta):
        scores = logits(theta, images, normalized, torch.tanh, torch.sqrt)
        return torch.nn.functional.cross_entropy(scores, labels)

    return lambda: torch.autograd.functional.hessian(loss, at)


def run(normalized: bool, threads: int, rounds: int) -> None:
    """Check that all agree, then time them."""
    (x, y), (model, theta) = digits(), network(normalized)
    ours = minidl_task(x, y, model)
    tasks: dict[str, Task] = {"minidl": ours}
    if threads > 1:
        tasks[ALONE] = lambda: on_one_thread(ours)
    h = tasks["minidl"]()
    matrix = h.matrix
    torch, jax = optional("torch"), optional("jax")
    if jax is not None:
        tasks |= jax_tasks(jax, x, y, theta, normalized)
    if torch is not None:
        tasks[LOOP] = torch_task(torch, x, y, theta, normalized)
    for name, task in tasks.items():
        if name not in ("minidl", ALONE):
            np.testing.assert_allclose(np.asarray(task()), matrix, atol=1e-13, err_msg=f"{name} differs")
    tasks[EIGENVALUES] = lambda: np.linalg.eigvalsh(matrix)
    share = NORMALIZED if normalized else PLAIN.get(threads)
    targets = {EIGENVALUES: 1.0, LOOP: share, **dict.fromkeys(CHUNKS, share)}
    title = f"P = {h.size}{', batch normalization in training mode' if normalized else ''}, {threads} thread(s)"
    report(
        f"{title}; method {h.method!r}, asymmetry {h.symmetry_error:.0e}", compare(tasks, rounds, 1), "minidl", targets
    )


def peak_memory(*options: str) -> str:
    """Return the largest resident memory of a process that computes one Hessian and nothing else."""
    found = subprocess.run([sys.executable, __file__, "--alone", *options], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def peak_of_this_process() -> str:
    """Return the largest resident memory so far, from Linux's own count: getrusage's begins with the parent's."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown on this system"
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return f"{kilobytes / 1024:,.0f} MB"


def alone(mnist: bool) -> None:
    """Compute one Hessian and print what it took."""
    if mnist:
        rng = np.random.default_rng(0)
        x, y = rng.random((1000, 784)), rng.integers(0, 10, 1000)
        model, _ = network(False, (784, 16, 10))
    else:
        (x, y), (model, _) = digits(), network(False)
    start = perf_counter()
    h = minidl_task(x, y, model)()
    seconds = perf_counter() - start
    print(
        f"P = {h.size:,}, {len(x):,} samples, the first call: {seconds:.2f} s, peak memory of the process "
        f"{peak_of_this_process()}, of which the matrix {h.matrix.nbytes / 2**20:,.0f} MB"
    )


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__.partition("\n")[0])
    parser.set_defaults(rounds=7)
    parser.add_argument("--mnist", action="store_true", help="also a 784-16-10 network, P = 12,730, on 1,000 samples")
    parser.add_argument("--alone", action="store_true", help="only one Hessian, and its memory")
    options = parser.parse_args()
    if options.alone:
        alone(options.mnist)
        return
    use_threads(options.threads)
    print(describe_machine())
    if optional("jax") is None or optional("torch") is None:
        print("JAX or PyTorch is not installed: their rows are missing (pip install minidl[bench])")
    print(peak_memory())
    if options.mnist:
        print(peak_memory("--mnist"))
    for normalized in (False, True):
        run(normalized, options.threads, options.rounds)
    print(f"\nload average after: {load_text(options.threads)} (of which this benchmark up to {options.threads})")


if __name__ == "__main__":
    main()
