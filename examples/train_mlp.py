"""Train a small network on handwritten digits: the first whole program to read.

    python examples/train_mlp.py                            8 x 8 digits that ship with minidl: a few seconds
    python examples/train_mlp.py --data mnist               MNIST, downloaded once: 98.3 % in half a minute
    python examples/train_mlp.py --save a.safetensors       Ctrl-C stops at any time, and this goes on from there,
    python examples/train_mlp.py --resume a.safetensors     to the last bit as if nothing had happened

The data and the network, the run and its checkpoint, the figure, the command line: in this order.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import minidl as md

Data = tuple[np.ndarray, np.ndarray]  # images (n, h, w), labels (n,)
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
RECIPES: dict[str, dict[str, Any]] = {  # mean and std are those of the training pixels, divided by the largest, top
    "digits": {"top": 16, "mean": 0.305, "std": 0.376, "epochs": 20, "batch_size": 32, "lr": 0.01},
    "mnist": {"top": 255, "mean": 0.1307, "std": 0.3081, "epochs": 10, "batch_size": 128, "lr": 0.003},
    "fashion_mnist": {"top": 255, "mean": 0.286, "std": 0.353, "epochs": 10, "batch_size": 128, "lr": 0.003},
}
OPTIMIZERS: dict[str, Callable[..., md.optim.Optimizer]] = {
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


def make_network(inputs: int, hidden: Sequence[int], dropout: float) -> md.nn.Module:
    """Return a multilayer perceptron: images to ten scores, the largest for the class that it sees."""
    layers: list[md.nn.Module] = [md.nn.Flatten()]
    for width in hidden:
        layers += [md.nn.Linear(inputs, width), md.nn.ReLU(), md.nn.Dropout(dropout)]
        inputs = width
    return md.nn.Sequential(*layers, md.nn.Linear(inputs, 10))


# ---- the run and its checkpoint ----------------------------------------------------------------------------------


class Run:
    """A network in training, with all that changes while it trains: what a checkpoint holds."""

    def __init__(self, settings: dict[str, Any], device: str):
        md.manual_seed(settings["seed"])  # from here on every random number is decided
        recipe, transforms = RECIPES[settings["data"]], md.data.transforms
        standardize = transforms.Normalize(recipe["mean"], recipe["std"])
        self.loading = {"transform": transforms.Compose([transforms.ToFloat(recipe["top"]), standardize]), "device": device}
        self.train_data, self.test_data = load_data(settings["data"])
        self.loader = md.data.DataLoader(
            self.train_data, settings["batch_size"], shuffle=True, seed=settings["seed"], **self.loading
        )
        self.settings, self.steps = settings, settings["epochs"] * len(self.loader)
        self.model = make_network(self.train_data[0][0].size, settings["hidden"], settings["dropout"]).to(device=device)
        self.optimizer = OPTIMIZERS[settings["optimizer"]](self.model.parameters(), self.learning_rate)
        self.history: list[list[float]] = []  # for each epoch: training loss and accuracy, test loss and accuracy

    def learning_rate(self, step: int) -> float:
        """Rise to the peak in the first tenth of all steps, then follow half a cosine down to zero."""
        return self.settings["lr"] * min(1.0, 10 * (step + 1) / self.steps) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def train_epoch(self, after_step: Callable[[], Any]) -> None:
        """Take one step for each batch that is left of this epoch, or until `after_step` raises StopIteration."""
        loss_of = md.nn.CrossEntropyLoss()
        self.model.train()
        for images, labels in self.loader:
            loss = loss_of(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            after_step()

    def predict(self, data: Data) -> np.ndarray:
        """Return the log-probability of each class for each image, (n, 10), without dropout."""
        self.model.eval()
        with md.no_grad():
            batches = md.data.DataLoader(data, 1000, **self.loading)
            return np.concatenate([md.log_softmax(self.model(images), axis=1).cpu().numpy() for images, _ in batches])

    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean loss and the fraction of images that are read correctly."""
        logs, labels = self.predict(data), data[1]
        loss = -logs[np.arange(len(labels)), labels].mean(dtype=np.float64)
        return float(loss), float((logs.argmax(axis=1) == labels).mean())

    def save(self, path: Path) -> None:
        """Write a checkpoint: tensors, and everything else as JSON. The file is replaced at once or not at all."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, slots in optimizer["state"].items():
            tensors |= {f"optimizer.{name}.{slot}": slots.pop(slot) for slot in [*slots] if slot != "t"}
        rest = {
            "settings": self.settings,
            "epoch": len(self.history),
            "best_accuracy": max((row[3] for row in self.history), default=0.0),
            "history": self.history,
            "optimizer": optimizer,
            "random": md.random.get_state(),
            "loader": self.loader.state_dict(),
        }
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


def train(run: Run, save: Path | None) -> bool:
    """Train to the last epoch, with a line for each; return False if Ctrl-C came first."""
    stops: list[int] = []

    def stop(number: int, _: Any) -> None:  # the step that is being taken is finished, so that a checkpoint is whole
        stops.append(number)
        signal.signal(signal.SIGINT, before)  # a second Ctrl-C does not wait

    before = signal.signal(signal.SIGINT, stop)
...
