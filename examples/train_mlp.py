"""Train a small network on handwritten digits: the first whole program to read.

    python examples/train_mlp.py                          8 x 8 digits that ship with minidl: two seconds
    python examples/train_mlp.py --data mnist             MNIST, downloaded once: 98.5 % in ten seconds
    python examples/train_mlp.py --save a.safetensors     Ctrl-C stops at any time; this goes on from there, and
    python examples/train_mlp.py --resume a.safetensors   ends in the same bits as if nothing had happened

In this order: the data and the network, a run and its checkpoint, training, the figure, the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

import minidl as md

Data = tuple[np.ndarray, np.ndarray]  # images (n, h, w), labels (n,)
PIXELS = {"digits": (16, 0.305, 0.376), "mnist": (255, 0.1307, 0.3081), "fashion_mnist": (255, 0.286, 0.353)}
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
OPTIMIZERS = {
    "sgd": lambda params, lr: md.optim.SGD(params, lr=lr, momentum=0.9),
    "adam": lambda params, lr: md.optim.Adam(params, lr=lr),
    "adamw": lambda params, lr: md.optim.AdamW(params, lr=lr, weight_decay=0.1),
}
SETTINGS = ("data", "hidden", "dropout", "epochs", "batch_size", "optimizer", "lr", "seed")  # all that decides a run

# ---- the data and the network ------------------------------------------------------------------------------------


def load_data(name: str) -> tuple[Data, Data]:
    """Return the training and the test data."""
    if name != "digits":
        load = getattr(md.data, name)
        return load(train=True), load(train=False)
    images, labels = md.data.digits()
    # There is no official split: a fifth is for testing, the same for every seed, so that runs can be compared.
    train, test = md.data.random_split((images, labels), [0.8, 0.2], seed=0)
    return (images[train.indices], labels[train.indices]), (images[test.indices], labels[test.indices])


def make_network(inputs: int, hidden: Sequence[int], dropout: float) -> md.nn.Sequential:
    """Return a multilayer perceptron: from images to ten scores, the largest for the class that it sees."""
    layers: list[md.nn.Module] = [md.nn.Flatten()]
    for width in hidden:
        layers += [md.nn.Linear(inputs, width), md.nn.ReLU(), md.nn.Dropout(dropout)]
        inputs = width
    return md.nn.Sequential(*layers, md.nn.Linear(inputs, 10))


# ---- a run and its checkpoint ------------------------------------------------------------------------------------


class Run:
    """A network in training, with all that changes while it trains: what a checkpoint holds."""

    def __init__(self, flags: argparse.Namespace):
        self.flags = flags
        self.train_data, self.test_data = load_data(flags.data)
        largest, mean, std = PIXELS[flags.data]  # mean and std of the training pixels, divided by the largest
        scale = [md.data.transforms.ToFloat(largest), md.data.transforms.Normalize(mean, std)]
        self.loading = {"transform": md.data.transforms.Compose(scale), "device": flags.device}
        md.manual_seed(flags.seed)  # from here on every random number is decided
        self.loader = md.data.DataLoader(self.train_data, flags.batch_size, shuffle=True, **self.loading)
        self.steps = flags.epochs * len(self.loader)
        self.model = make_network(self.train_data[0][0].size, flags.hidden, flags.dropout).to(device=flags.device)
        self.optimizer = OPTIMIZERS[flags.optimizer](self.model.parameters(), self.learning_rate)
        self.history: list[list[float]] = []  # for each epoch: training loss and accuracy, test loss and accuracy

    def learning_rate(self, step: int) -> float:
        """Rise to the peak in the first tenth of all steps, then follow half a cosine down to zero."""
        done = min(1.0, step / self.steps)
        return self.flags.lr * min(1.0, 10 * (done + 1 / self.steps)) * (1 + math.cos(math.pi * done)) / 2

    def evaluate(self, data: Data) -> tuple[float, float, np.ndarray]:
        """Return the mean loss, the fraction read correctly, and each image's log-probability of each class (n, 10)."""
        self.model.eval()  # no dropout
        batches = md.data.DataLoader(data, batch_size=1000, **self.loading)
        with md.no_grad():
            logs = md.concatenate([md.log_softmax(self.model(images), axis=1) for images, _ in batches]).cpu().numpy()
        loss = -logs[np.arange(len(logs)), data[1]].mean(dtype=np.float64)
        return float(loss), float((logs.argmax(axis=1) == data[1]).mean()), logs

    def save(self, path: str) -> None:
        """Write a checkpoint: tensors, and all else as JSON. The file is replaced at once or not at all."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        for name, slots in optimizer["state"].items():
            tensors |= {f"optimizer.{name}.{slot}": slots.pop(slot) for slot in [*slots] if slot != "t"}
        rest = {"settings": {name: getattr(self.flags, name) for name in SETTINGS}, "optimizer": optimizer}
        rest |= {"random": md.random.get_state(), "loader": self.loader.state_dict(), "epoch": len(self.history)}
        rest |= {"best_accuracy": max((row[3] for row in self.history), default=0.0), "history": self.history}
        md.save(tensors, path, metadata={"train_mlp": json.dumps(rest)})

    def load(self, tensors: dict[str, md.Tensor], rest: dict[str, Any]) -> None:
        """Go back to the moment at which a checkpoint was written."""
        self.model.load_state_dict({name[6:]: x for name, x in tensors.items() if name.startswith("model.")})
        for name, x in tensors.items():
            if name.startswith("optimizer."):
                parameter, _, slot = name[10:].rpartition(".")
                rest["optimizer"]["state"][parameter][slot] = x
        self.optimizer.load_state_dict(rest["optimizer"], hyper="current")
        self.loader.load_state_dict(rest["loader"])
        md.random.set_state(rest["random"])
        self.history = rest["history"]


# ---- training and its figure ---------------------------------------------------------------------------------------


def train(run: Run) -> bool:
    """Train to the last epoch, printing a line for each; return False if Ctrl-C came first."""
    stops: list[int] = []  # Ctrl-C is only noted, for a checkpoint must not fall into the middle of a step
    before = signal.signal(signal.SIGINT, lambda number, frame: stops.append(number))
    silent = not (sys.stderr and sys.stderr.isatty())  # no bar where nobody watches
    try:
        with tqdm(total=run.steps, initial=run.optimizer.steps, unit=" steps", leave=False, disable=silent) as bar:
            while run.optimizer.steps < run.steps and not stops:
                start = time.perf_counter()
                run.model.train()
                for images, labels in run.loader:
                    loss = md.nn.functional.cross_entropy(run.model(images), labels)
                    run.optimizer.zero_grad()
                    loss.backward()
                    run.optimizer.step()
                    bar.update()
                    if stops:
                        break
                if run.optimizer.steps % len(run.loader) == 0:  # the epoch is complete
                    run.history.append([*run.evaluate(run.train_data)[:2], *run.evaluate(run.test_data)[:2]])
                    row = "{:5}{:13.4f}{:10.2%}{:12.4f}{:10.2%}".format(len(run.history), *run.history[-1])
                    with bar.external_write_mode():
                        print(f"{row}{time.perf_counter() - start:10.2f}", flush=True)
                if run.flags.save:
                    run.save(run.flags.save)
    finally:
        signal.signal(signal.SIGINT, before)
    return not stops


def draw(run: Run, path: Path) -> None:
    """Draw the course of the training, and the test images that the network finds hardest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    history = np.array(run.history).reshape(-1, 4)
    for k, (axes, title) in enumerate(zip(upper.subplots(1, 2), ("loss (nats)", "accuracy (%)"), strict=True)):
        axes.plot(range(1, len(history) + 1), history[:, k::2] * (100 if k else 1), ".-", label=["training", "test"])
        axes.set(xlabel="epoch", title=title, yscale="linear" if k else "log")
        axes.grid(alpha=0.3)
        axes.legend()
    names = CLOTHES if run.flags.data == "fashion_mnist" else "0123456789"
    (images, labels), logs = run.test_data, run.evaluate(run.test_data)[2]
    guesses = logs.argmax(axis=1)
    wrong = guesses != labels
    hardest = np.lexsort((logs[np.arange(len(labels)), labels], ~wrong))  # misread ones first, the surest among them
    lower.suptitle(f"{wrong.sum():,} of {len(labels):,} test images are misread (red); the hardest are")
    for axes, i in zip(lower.subplots(2, 9).flat, hardest, strict=False):
        axes.imshow(images[i], cmap="gray_r")
        axes.axis("off")
        title = f"{names[labels[i]]}\nread as {names[guesses[i]]} ({math.exp(logs[i].max()):.0%})"
        axes.set_title(title, color="tab:red" if wrong[i] else "black", fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


# ---- the command line --------------------------------------------------------------------------------------------


def fail(message: object) -> NoReturn:
    """Say what is wrong with what was asked for, and end with exit code 2."""
    print(f"train_mlp.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def widths(text: str) -> list[int]:
    """Read "128,64"."""
    return [int(width) for width in text.split(",")]


def prepare(argv: Sequence[str] | None) -> Run:
    """Return the run that the flags ask for, new or from a checkpoint; exit code 2 if they cannot be obeyed."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style, allow_abbrev=False)
    parser.error = fail  # type: ignore[method-assign]
    add = parser.add_argument
    add("--data", choices=PIXELS, default="digits", help="what to train on (default: digits)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--hidden", metavar="N,N", type=widths, default="128,64", help="widths of hidden layers (default: 128,64)")
    add("--dropout", metavar="P", type=float, default=0.0, help="chance that a step leaves out a unit (default: 0)")
    add("--epochs", metavar="N", type=int, help="rounds through the data (default: 20 for digits, else 10)")
    add("--batch-size", metavar="N", type=int, help="images in a step (default: 32 for digits, else 128)")
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="how to step (default: adamw)")
    add("--lr", metavar="X", type=float, help="highest learning rate (default: 0.05 for sgd, else 0.005)")
    add("--seed", metavar="N", type=int, default=0, help="decides every random number (default: 0)")
    add("--save", metavar="PATH", help="write a checkpoint after each epoch (default: to that of --resume, if given)")
    add("--resume", metavar="PATH", help="go on from a checkpoint, with its settings where no others are given")
    add("--plot", metavar="PATH", help="where to draw the figure (default: runs/train_mlp_DATA.png)")
    add("--no-plot", action="store_true", help="draw no figure")
    flags = parser.parse_args(argv)
    small, lr = flags.data == "digits", 0.05 if flags.optimizer == "sgd" else 0.005
    parser.set_defaults(epochs=20 if small else 10, batch_size=32 if small else 128, lr=lr, save=flags.resume)
    try:
        if flags.resume:
            tensors, texts = md.io.load_with_metadata(flags.resume)
            rest = json.loads(texts.get("train_mlp") or fail(f"{flags.resume}: is no checkpoint of this program"))
            parser.set_defaults(**rest["settings"])
        flags = parser.parse_args(argv)  # again, now that the other defaults are known
        if flags.epochs < 1 or not 0 < flags.lr < math.inf:
            fail(f"--epochs and --lr must be positive, got {flags.epochs} and {flags.lr:g}")
        if flags.plot and not os.access(Path(flags.plot).parent, os.W_OK):
            fail(f"--plot {flags.plot}: its folder does not exist, or cannot be written to")
        run = Run(flags)
        if flags.resume:
            run.load(tensors, rest)
            if flags.seed != rest["settings"]["seed"]:
                fail(f"--seed {flags.seed}: a run goes on with the random numbers of its own seed; leave it out")
        if flags.save:
            run.save(flags.save)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        fail(error)
    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say; return 0, or 130 after Ctrl-C, or 1 if nobody reads what is printed."""
    try:
        run = prepare(argv)
        flags, (n, height, width), tests = run.flags, run.train_data[0].shape, len(run.test_data[0])
        network = "-".join(map(str, [height * width, *flags.hidden, 10]))
        print(f"data      {flags.data}, {n:,} images to train on and {tests:,} to test with, {height} x {width} pixels")
        print(f"network   {network} on {flags.device}, {sum(p.size for p in run.model.parameters()):,} parameters")
        print(f"method    {flags.optimizer}, learning rate up to {flags.lr:g}, {flags.batch_size} images a step")
        print("epoch   train loss  accuracy   test loss  accuracy   seconds", flush=True)
        if run.optimizer.steps >= run.steps:
            print(f"nothing to do: the checkpoint has made {run.optimizer.steps:,} of {run.steps:,} steps")
        finished = train(run)
        if not finished:
            print(f"stopped   after step {run.optimizer.steps:,} of {run.steps:,}")
        if not flags.no_plot:
            path = Path(flags.plot or f"runs/train_mlp_{flags.data}.png")
            try:
                draw(run, path)
            except (ImportError, OSError, ValueError) as error:  # no matplotlib, a read-only folder, an odd format
                if flags.plot:
                    fail(f"--plot {path}: {error}")
                path = f"none, {error}"
            print(f"figure    {path}")
        return 0 if finished else 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # nobody reads our output any more, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        md.threads(1)  # matrices this small are not worth sharing: threads would only wait for each other
    sys.exit(main())
