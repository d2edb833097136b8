"""`python -m minidl`, and the threads of the BLAS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import _installation, _threads
from minidl._threads import blas_threads, oversubscription, threads, usable_cpus, warn_if_oversubscribed

ROOT = Path(__file__).resolve().parent.parent


def python(*arguments, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment)


def rows(text):
    return [(line[:14].strip(), line[14:]) for line in text.splitlines()]


@pytest.fixture
def quiet_machine(monkeypatch):
    """A machine of four processors on which nothing runs, and a BLAS with one thread."""
    monkeypatch.setattr(_threads, "blas_threads", lambda: 1)
    monkeypatch.setattr(_threads, "usable_cpus", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(_threads, "_load", lambda: 0.0)
    monkeypatch.setattr(_threads, "_warned", False)
    return monkeypatch


# ---- python -m minidl --------------------------------------------------------------------------------------------


def test_the_command_prints_the_state_and_succeeds():
    run = python("-m", "minidl")
    assert (run.returncode, run.stderr) == (0, "")
    state = dict(rows(run.stdout))
    assert state["minidl"] == minidl.__version__
    assert state["NumPy"] == np.__version__
    assert state["device"] == "cpu" or state["CuPy"][:2].isdigit()
    assert {"Python", "BLAS", "safetensors", "tqdm", "numba", "matplotlib", "digits", "mnist", "cache"} <= set(state)


def test_the_command_refuses_arguments_it_does_not_know():
    run = python("-m", "minidl", "--nonsense")
    assert run.returncode == 2
    assert "--nonsense" in run.stderr
    assert python("-m", "minidl", "--version").stdout == f"minidl {minidl.__version__}\n"


def test_without_a_gpu_the_report_gives_the_reason(monkeypatch):
    monkeypatch.setattr(_installation.backend, "cuda_state", lambda: (False, "device cuda: no driver"))
    assert ("CuPy", "no GPU: device cuda: no driver") in rows(_installation.report())


def test_gpus_are_listed_with_their_names(fake_cuda):
    with fake_cuda.devices(2):
        state = rows(_installation.report())
    assert [text for label, text in state if label == "device"] == [
        "cpu",
        "cuda:0, strict stand-in, 16 GiB",
        "cuda:1, strict stand-in, 16 GiB",
    ]
    assert ("CuPy", "14.2.0") in state


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(_installation.importlib.util, "find_spec", lambda name: None)
    state = rows(_installation.report())
    assert ("numba", 'not installed; pip install "minidl[fast]"') in state
    assert ("tqdm", "not installed; pip install tqdm") in state


def test_a_broken_part_is_reported_and_the_rest_still_printed(monkeypatch):
    def broken():
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(_installation.data, "available", broken)
    state = rows(_installation.report())
    assert state[-1] == ("data", "RuntimeError: the disk is gone")
    assert ("NumPy", np.__version__) in state


def test_a_wrong_default_device_is_reported(monkeypatch):
    monkeypatch.setenv("MINIDL_DEVICE", "tpu")
    assert any("must be 'cpu', 'cuda' or 'cuda:i', got 'tpu'" in text for _, text in rows(_installation.report()))


def test_data_sets_are_found_or_it_is_said_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(_installation.data, "available", lambda: {"digits": tmp_path, "mnist": None})
    state = rows(_installation.report())
    assert ("digits", str(tmp_path)) in state
    assert ("mnist", "not found; minidl.data.mnist() downloads it") in state


def test_the_report_contains_the_warning_about_threads(quiet_machine):
    quiet_machine.setattr(_threads, "blas_threads", lambda: 64)
    warning = dict(rows(_installation.report()))["warning"]
    assert warning.startswith("the BLAS uses 64 threads, but this process may use 4 processor(s); limit them")


# ---- threads -----------------------------------------------------------------------------------------------------


@pytest.fixture
def threadpoolctl():
    module = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    with module.threadpool_limits():  # whatever the test does, the old numbers come back
        yield module
    if blas_threads() is None:
        pytest.skip("no BLAS whose threads can be set is loaded")


def test_threads_limits_the_blas_from_now_on_or_for_one_block(threadpoolctl):
    threads(2)
    assert blas_threads() == 2
    with threads(1) as limit:
        assert repr(limit) == "threads(1)"
        assert blas_threads() == 1
    assert blas_threads() == 2
    threads(1)
    assert blas_threads() == 1


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (True, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_threads_refuses_anything_but_a_positive_integer(n, error):
    before = blas_threads()
    with pytest.raises(error, match="threads: must be a"):
        threads(n)
    assert blas_threads() == before


def test_threads_accepts_numpys_integers(threadpoolctl):
    with threads(np.int64(1)):
        assert blas_threads() == 1


def test_without_threadpoolctl_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(ImportError, match="pip install threadpoolctl"):
        threads(1)
    assert blas_threads() is None


def test_a_limit_without_effect_is_told(monkeypatch, threadpoolctl):
    monkeypatch.setattr(_threads, "blas_threads", lambda: None)
    with pytest.warns(RuntimeWarning, match="this has no effect"):
        threads(1)


def test_importing_minidl_changes_no_environment_variable():
    code = "import os; before = dict(os.environ); import minidl; print(dict(os.environ) == before)"
    assert python("-c", code).stdout == "True\n"


# ---- threads that hinder each other ------------------------------------------------------------------------------


def test_one_thread_each_is_no_oversubscription(quiet_machine):
    assert oversubscription() is None
    quiet_machine.setattr(_threads, "blas_threads", lambda: 4)
    assert oversubscription() is None


def test_more_threads_than_processors_is_oversubscription(quiet_machine):
    quiet_machine.setattr(_threads, "blas_threads", lambda: 5)
    assert "5 threads, but this process may use 4 processor(s); limit them with minidl.threads(4)" in oversubscription()


def test_several_threads_on_a_busy_machine_are_oversubscription(quiet_machine):
    quiet_machine.setattr(_threads, "_load", lambda: 6.5)
    assert oversubscription() is None  # one thread waits for nobody
    quiet_machine.setattr(_threads, "blas_threads", lambda: 2)
    assert "busy machine (load 6.5 on 4 processor(s))" in oversubscription()
    quiet_machine.setattr(_threads, "_load", lambda: 5.5)
    assert oversubscription() is None


def test_the_warning_comes_once(quiet_machine):
    warn_if_oversubscribed()
    quiet_machine.setattr(_threads, "blas_threads", lambda: 5)
    with pytest.warns(RuntimeWarning, match="5 threads"):
        warn_if_oversubscribed()
    warn_if_oversubscribed()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 4),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
    ],
)
def test_without_threadpoolctl_the_environment_tells_the_number_of_threads(quiet_machine, variables, expected):
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        quiet_machine.delenv(name, raising=False)
    for name, value in variables.items():
        quiet_machine.setenv(name, value)
    quiet_machine.setattr(_threads, "_affinity", lambda: 4)
    quiet_machine.setattr(_threads, "blas_threads", lambda: None)
    quiet_machine.setattr(_threads, "usable_cpus", lambda: 1)
    assert f"uses {expected} threads" in oversubscription()


@pytest.mark.parametrize(
    ("text", "processors"),
    [("200000 100000", 2), ("150000 100000", 2), ("max 100000", None), ("nonsense", None), ("1 0", None)],
)
def test_the_quota_of_a_container_is_read(tmp_path, text, processors):
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert _threads._quota(tmp_path / "cpu.max") == processors


def test_without_a_quota_the_affinity_counts(monkeypatch, tmp_path):
    assert _threads._quota(tmp_path / "absent") is None
    assert 1 <= usable_cpus() <= os.cpu_count()
    monkeypatch.setattr(_threads, "_quota", lambda file: 1)
    assert usable_cpus() == 1
