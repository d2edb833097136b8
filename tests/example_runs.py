"""Run the examples as a user would: in a fresh process, with nothing set, without a network."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "examples" / "train_mlp.py"
LIMIT = 300  # seconds after which a process counts as hung

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, terminals or shells")

# What stands in for a machine without a network: found and run by every Python process that is started here.
OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise OSError("the test has no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def load_train_mlp():
    """Import the example, which is a program and no part of a package."""
    spec = importlib.util.spec_from_file_location("train_mlp", TRAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def environment():
    """Return the environment of a user who has set nothing: no home, no data, no network."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Path(folder, "sitecustomize.py").write_text(OFFLINE, encoding="utf-8")
    left_out = ("HOME", "MINIDL_DATA", "MINIDL_DEVICE", "XDG_CACHE_HOME", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = os.pathsep.join([folder, str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def run(cwd, *flags, program=TRAIN):
    """Run an example to its end."""
    command = [sys.executable, str(program), *map(str, flags)]
    settings = {"cwd": cwd, "env": environment(), "encoding": "utf-8", "timeout": LIMIT}
    return subprocess.run(command, capture_output=True, check=False, **settings)


def start(cwd, *flags, **how):
    """Start train_mlp.py."""
    settings = {"cwd": cwd, "env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen([sys.executable, str(TRAIN), *flags], **settings)


def rows_of(log):
    """Return the lines of the epochs, without the seconds at their ends."""
    return [line[:-10] for line in log.splitlines() if re.match(r" {3,}\d+ ", line)]


def losses_of(log):
    """Return the training loss of each epoch."""
    return [float(row.split()[1]) for row in rows_of(log)]
