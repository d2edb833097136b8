"""The state of the installation, as `python -m minidl` prints it: versions, threads, devices, data, what is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import __version__, data
from ._threads import blas_threads, oversubscription, usable_cpus
from .engine import backend

REQUIRED = ("safetensors", "tqdm")
OPTIONAL = {"numba": "fast", "matplotlib": "viz", "threadpoolctl": "examples", "scipy": "test"}  # package -> extra


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="python -m minidl", description="Print the state of the installation.")
    parser.add_argument("--version", action="version", version=f"minidl {__version__}")
    parser.parse_args(arguments)
    print(report())
    return 0


def report() -> str:
    """Return the state of the installation as text: one subject a line, and what to install for what is missing.

    >>> report().splitlines()[0].split()[0]
    'minidl'
    """
    lines = [("minidl", __version__), ("Python", f"{platform.python_version()}, {platform.platform()}")]
    subjects = (_numpy, _packages, _gpu, _devices, _data)
    for subject in subjects:
        try:
            lines += subject()
        except Exception as error:  # a broken installation is what the report is for
            lines.append((subject.__name__.strip("_"), f"{type(error).__name__}: {error}"))
    return "\n".join(f"{label:<14}{text}" for label, text in lines)


def _numpy() -> Iterator[tuple[str, str]]:
    yield "NumPy", np.__version__
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    threads = blas_threads()
    counted = f"{threads} thread(s)" if threads else "threads unknown (pip install threadpoolctl)"
    name = f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    yield "BLAS", f"{name}, {counted} on {usable_cpus()} usable processor(s)"
    warning = oversubscription()
    if warning:
        yield "warning", warning


def _packages() -> Iterator[tuple[str, str]]:
    for name in (*REQUIRED, *OPTIONAL):
        remedy = f'pip install "minidl[{OPTIONAL[name]}]"' if name in OPTIONAL else f"pip install {name}"
        yield name, _version(name) or f"not installed; {remedy}"


def _version(name: str) -> str | None:
    """Return the version of a package without importing it; None if it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def _gpu() -> Iterator[tuple[str, str]]:
    usable, text = backend.cuda_state()
    yield "CuPy", backend.cuda_module().__version__ if usable else f"no GPU: {text}"


def _devices() -> Iterator[tuple[str, str]]:
    yield "device", "cpu"
    if backend.cuda_state()[0]:
        runtime = backend.cuda_module().cuda.runtime
        for index in range(runtime.getDeviceCount()):
            properties = runtime.getDeviceProperties(index)
            name = properties["name"]
            name = name.decode() if isinstance(name, bytes) else name
            yield "device", f"cuda:{index}, {name}, {properties['totalGlobalMem'] / 2**30:.0f} GiB"
    yield "default", f"device {backend.default_device()}, dtype {backend.get_default_dtype()}"


def _data() -> Iterator[tuple[str, str]]:
    for name, place in data.available().items():
        yield name, str(place) if place else f"not found; minidl.data.{name}() downloads it"
    yield "MINIDL_DATA", os.environ.get("MINIDL_DATA") or "not set"
    yield "cache", str(data.cache_folder())


