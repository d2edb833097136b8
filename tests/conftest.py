"""Fixtures for every test: the devices to run on, seeded numbers, data sets that may be absent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import strictfake
from minidl import random as minidl_random
from minidl.engine import backend

GPU_USABLE, GPU_STATE = backend.cuda_state()  # asked once, before any test: whether there is a real GPU, or why not
backend.use_cuda_module(None)


def pytest_report_header(config):
    where = os.environ.get("MINIDL_DATA") or "not set"
    return f"minidl: GPU: {GPU_STATE}; MINIDL_DATA: {where}"


def pytest_collection_modifyitems(items):
    if not GPU_USABLE:
        skip = pytest.mark.skip(reason=f"needs a GPU: {GPU_STATE}")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _same_state_for_every_test(monkeypatch):
    """Start each test from the same random numbers, default dtype and device, and leave no fake GPU behind."""
    monkeypatch.delenv("MINIDL_DEVICE", raising=False)
    minidl_random.seed(0)
    dtype = backend.get_default_dtype()
    yield
    backend.set_default_dtype(dtype)
    backend.use_cuda_module(None)


@pytest.fixture
def rng():
    """A NumPy generator, always in the same state."""
    return np.random.default_rng(20260101)


@pytest.fixture
def fake_cuda():
    """The strict stand-in for CuPy as device "cuda"; `.stats` counts from zero, `.devices(2)` makes it two GPUs."""
    backend.use_cuda_module(strictfake.cupy)
    strictfake.stats.reset()
    yield strictfake
    backend.use_cuda_module(None)


# The real GPU joins in wherever there is one: the same tests, the same numbers.
DEVICES = ["cpu", "cuda"] + ([pytest.param("gpu", marks=pytest.mark.gpu)] if GPU_USABLE else [])


@pytest.fixture(params=DEVICES)
def device(request):
    """The device to run the test on: "cpu", and "cuda:0", the strict stand-in (and the real GPU if there is one)."""
    if request.param == "cuda":
        request.getfixturevalue("fake_cuda")
    return "cpu" if request.param == "cpu" else "cuda:0"


@pytest.fixture
def xp(device):
    """The array module of the device: numpy, or the stand-in for cupy."""
    return backend.on_device(device)[0]


@pytest.fixture(scope="session")
def data():
    """The folder named by MINIDL_DATA, with the published MNIST files in it; skips the test where they are absent."""
    folder = os.environ.get("MINIDL_DATA")
    if not folder:
        pytest.skip(
            "MINIDL_DATA is not set: it must name a folder with mnist/train-images-idx3-ubyte.gz and its sisters"
        )
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        if not any(Path(folder, "mnist", name + end).is_file() for end in (".gz", "")):
            pytest.skip(f"MINIDL_DATA={folder} has no mnist/{name}.gz")
    return Path(folder)
