"""Train a small network on handwritten digits: the first whole program to read.

    python examples/train_mlp.py                          8 x 8 digits that ship with minidl: two seconds
    python examples/train_mlp.py --data mnist             MNIST, downloaded once: 98.3 % in ten seconds
    python examples/train_mlp.py --save a.safetensors     Ctrl-C stops at any time; this goes on from there, and
    python examples/train_mlp.py --resume a.safetensors   ends in the same bits as if nothing had happened

In this order: the data and the network, a run and its checkpoint, training, the figure, the command line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


class UsageError(Exception):
    """What was asked for cannot be done: one line, and exit code 2."""


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

    def __init__(self, settings: dict[str, Any], device: str):
        self.settings = settings
        self.train_data, self.test_data = load_data(settings["data"])
        largest, mean, std = PIXELS[settings["data"]]  # mean and std of the training pixels, divided by the largest
        transforms = md.data.transforms
        scale = transforms.Compose([transforms.ToFloat(largest), transforms.Normalize(mean, std)])
        self.loading = {"transform": scale, "device": device}
        md.manual_seed(settings["seed"])  # from here on every random number is decided
        self.loader = md.data.DataLoader(self.train_data, settings["batch_size"], shuffle=True, **self.loading)
        self.steps = settings["epochs"] * len(self.loader)
        self.model = make_network(self.train_data[0][0].size, settings["hidden"], settings["dropout"]).to(device=device)
        self.optimizer = OPTIMIZERS[settings["optimizer"]](self.model.parameters(), self.learning_rate)
        self.history: list[list[float]] = []  # for each epoch: training loss and accuracy, test loss and accuracy

    def learning_rate(self, step: int) -> float:
        """Rise to the peak in the first tenth of all steps, then follow half a cosine down to zero."""
        done = min(1.0, step / self.steps)
        return self.settings["lr"] * min(1.0, 10 * (done + 1 / self.steps)) * (1 + math.cos(math.pi * done)) / 2

    def predict(self, data: Data) -> np.ndarray:
        """Return the log-probability of each class for each image, (n, 10)."""
        self.model.eval()  # no dropout
        batches = md.data.DataLoader(data, batch_size=1000, **self.loading)
        with md.no_grad():
            return md.concatenate([md.log_softmax(self.model(images), axis=1) for images, _ in batches]).cpu().numpy()

    def evaluate(self, data: Data) -> list[float]:
        """Return the mean loss and the fraction of images that are read correctly."""
        logs, labels = self.predict(data), data[1]
        loss = -logs[np.arange(len(labels)), labels].mean(dtype=np.float64)
        return [float(loss), float((logs.argmax(axis=1) == labels).mean())]

    def save(self, path: Path) -> None:
        """Write a checkpoint: tensors, and all else as JSON. The file is replaced at once or not at all."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        for name, slots in optimizer["state"].items():
            tensors |= {f"optimizer.{name}.{slot}": slots.pop(slot) for slot in [*slots] if slot != "t"}
        rest = {"settings": self.settings, "epoch": len(self.history), "history": self.history, "optimizer": optimizer}
        rest |= {"best_accuracy": max((row[3] for row in self.history), default=0.0)}
        rest |= {"random": md.random.get_state(), "loader": self.loader.state_dict()}
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


# ---- training ----------------------------------------------------------------------------------------------------


def train(run: Run, save: Path | None) -> None:
    """Train to the last epoch or until Ctrl-C, printing a line for each epoch."""
    stops: list[int] = []  # Ctrl-C is only noted at first: a checkpoint must not fall into the middle of a step
    before = signal.signal(signal.SIGINT, lambda number, frame: stops.append(number))
    hidden = not (sys.stderr and sys.stderr.isatty())
    loss_of = md.nn.CrossEntropyLoss()
    print("epoch   train loss  accuracy   test loss  accuracy   seconds", flush=True)
    try:
        with tqdm(total=run.steps, initial=run.optimizer.steps, unit=" steps", leave=False, disable=hidden) as bar:
            while run.optimizer.steps < run.steps and not stops:
                start = time.perf_counter()
                run.model.train()
                for images, labels in run.loader:
                    loss = loss_of(run.model(images), labels)
                    run.optimizer.zero_grad()
                    loss.backward()
                    run.optimizer.step()
                    bar.update()
                    if stops:
                        break
                if run.optimizer.steps % len(run.loader) == 0:  # the epoch is complete
                    run.history.append(run.evaluate(run.train_data) + run.evaluate(run.test_data))
                    row = "{:5}{:13.4f}{:10.2%}{:12.4f}{:10.2%}".format(len(run.history), *run.history[-1])
                    with bar.external_write_mode():
                        print(f"{row}{time.perf_counter() - start:10.2f}", flush=True)
                if save:
                    run.save(save)
    finally:
        signal.signal(signal.SIGINT, before)
    if stops:
        raise KeyboardInterrupt


def draw(run: Run, path: Path) -> None:
    """Draw the course of the training, and the test images to whose class the network gives the least probability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    for k, (axes, title) in enumerate(zip(upper.subplots(1, 2), ("loss (nats)", "accuracy (%)"), strict=True)):
        for label, column, color in (("training", k, "tab:gray"), ("test", k + 2, "tab:blue")):
            values = np.array([row[column] for row in run.history]) * (100 if k else 1)
            axes.plot(range(1, len(values) + 1), values, ".-", label=label, color=color)
        axes.set(xlabel="epoch", title=title, yscale="linear" if k else "log")
        axes.grid(alpha=0.3)
        axes.legend()
    (images, labels), logs = run.test_data, run.predict(run.test_data)
    names, guesses = CLOTHES if run.settings["data"] == "fashion_mnist" else "0123456789", logs.argmax(axis=1)
    wrong = guesses != labels
    hardest = np.lexsort((logs[np.arange(len(labels)), labels], ~wrong))  # misread ones first
    lower.suptitle(f"{wrong.sum():,} of {len(labels):,} test images are misread (red); the hardest:")
    for axes, i in zip(lower.subplots(2, 9).flat, hardest, strict=False):
        axes.imshow(images[i], cmap="gray_r")
        axes.axis("off")
        text = f"{names[labels[i]]}, read as {names[guesses[i]]}" if wrong[i] else f"{names[labels[i]]}"
        axes.set_title(f"{text}\n({math.exp(logs[i].max()):.0%} sure)", color="tab:red" if wrong[i] else "k", fontsize=8)
    figure.savefig(path, dpi=120)


# ---- the command line --------------------------------------------------------------------------------------------


def fail(message: object) -> Any:
    """Give up, with the message on one line."""
    raise UsageError(" ".join(str(message).split()))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style, allow_abbrev=False)
    parser.error = fail  # type: ignore[method-assign]
    add = parser.add_argument
    add("--data", choices=PIXELS, help="what to train on (default: digits)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--hidden", metavar="N,N", help="widths of the hidden layers (default: 128,64)")
    add("--dropout", metavar="P", type=float, help="chance of a hidden unit to be left out of a step (default: 0)")
    add("--epochs", metavar="N", type=int, help="rounds through the data (default: 20 for digits, else 10)")
    add("--batch-size", metavar="N", type=int, help="images in a step (default: 32 for digits, else 128)")
    add("--optimizer", choices=OPTIMIZERS, help="how to step (default: adamw)")
    add("--lr", metavar="X", type=float, help="highest learning rate (default: 0.01 for digits, else 0.003; sgd: 10 x)")
    add("--seed", metavar="N", type=int, help="decides every random number (default: 0)")
    add("--save", metavar="PATH", type=Path, help="write a checkpoint after each epoch (default: that of --resume)")
    add("--resume", metavar="PATH", type=Path, help="go on from a checkpoint, with the settings it was made with")
    figure = parser.add_mutually_exclusive_group()
    figure.add_argument("--plot", metavar="PATH", type=Path, help="the figure (default: runs/train_mlp_DATA.png)")
    figure.add_argument("--no-plot", action="store_true", help="draw no figure")
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> Run:
    """Return the run that the flags ask for: a new one, or that of a checkpoint."""
    digits, factor = args.data in (None, "digits"), 10 if args.optimizer == "sgd" else 1
    settings = {"data": "digits", "hidden": "128,64", "dropout": 0.0, "optimizer": "adamw", "seed": 0}
    settings |= {"epochs": 20, "batch_size": 32, "lr": 0.01} if digits else {"epochs": 10, "batch_size": 128, "lr": 0.003}
    ...
