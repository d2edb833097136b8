"""The networks of `examples/train_mlp.py` learn what they should with its defaults: digits, and MNIST where it is."""

from __future__ import annotations

import time

import numpy as np
import pytest

import minidl as md
from example_runs import load_train_mlp

SEEDS = range(5)
train_mlp = load_train_mlp()


def trained(*flags):
    """Return a run of the example after its last epoch."""
    run = train_mlp.prepare(["--no-plot", *flags])
    assert train_mlp.train(run)
    return run


def test_digits_are_read_with_every_seed_in_seconds():
    start = time.process_time()
    accuracies = [trained("--seed", str(seed)).history[-1][3] for seed in SEEDS]
    assert min(accuracies) >= 0.97, accuracies
    assert time.process_time() - start < 20  # five runs; one was asked to stay below


def test_digits_are_read_in_other_splits_too(monkeypatch):
    cut = md.data.random_split
    accuracies = []
    for split in range(1, 9):
        other = lambda data, parts, seed, split=split: cut(data, parts, seed=split)  # noqa: E731
        monkeypatch.setattr(md.data, "random_split", other)
        accuracies.append(trained().history[-1][3])
    assert np.mean(accuracies) >= 0.97, accuracies
    assert min(accuracies) >= 0.95, accuracies


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_digits_are_read_with_each_optimizers_own_defaults(optimizer):
    assert trained("--optimizer", optimizer).history[-1][3] >= 0.97


def test_a_network_without_images_to_learn_from_guesses():
    run = train_mlp.prepare(["--no-plot"])
    assert run.evaluate(run.test_data)[1] < 0.4
    assert run.evaluate(run.test_data)[0] == pytest.approx(np.log(10), rel=0.3)


@pytest.mark.slow
def test_mnist_is_read_at_98_percent_by_a_perceptron_in_ten_epochs(data):
    runs = [trained("--data", "mnist", "--seed", str(seed)) for seed in SEEDS]
    accuracies = [run.history[-1][3] for run in runs]
    shapes = [p.shape for name, p in runs[0].model.named_parameters() if name.endswith("weight")]
    assert shapes == [(128, 784), (64, 128), (10, 64)]
    assert len(runs[0].history) <= 10
    assert len(runs[0].test_data[0]) == 10_000
    assert np.mean(accuracies) >= 0.98, accuracies
    assert min(accuracies) >= 0.979, accuracies


@pytest.mark.slow
def test_fashion_mnist_is_read_at_88_percent(data):
    if not (data / "fashion_mnist").is_dir():
        pytest.skip(f"MINIDL_DATA={data} has no fashion_mnist")
    assert trained("--data", "fashion_mnist").history[-1][3] >= 0.88
