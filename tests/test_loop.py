"""The compiled loop is the NumPy kernel, to the last bit."""

import subprocess
import sys

import numpy as np
import pytest

import minidl as md
from minidl.compiler import fuse, loop

pytest.importorskip("numba", reason="the compiled loop needs numba")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))


def train(make, mode, dtype, monkeypatch):
    monkeypatch.setenv("MINIDL_FUSE", mode)
    rng = np.random.default_rng(0)
    shapes = [(784, 32), (32,), (), (0, 3), (60, 50)]
    ps = [md.Parameter(rng.standard_normal(shape).astype(dtype)) for shape in shapes]
    ps[4].data = np.asfortranarray(ps[4].array)
    optimizer = make(ps)
    for _ in range(5):
        for p in ps:
            p.grad = md.tensor((rng.standard_normal(p.shape) * 10.0 ** rng.integers(-6, 3)).astype(dtype))
        optimizer.step()
    return [p.array for p in ps] + list(optimizer.state_dict()["state"].values())


def bits(x):
    if isinstance(x, dict):
        return {key: bits(value) for key, value in x.items()}
    return np.asarray(getattr(x, "array", x)).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "make",
    [
        lambda ps: md.optim.SGD(ps, lr=0.1),
        lambda ps: md.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda ps: md.optim.Adam(ps),
        lambda ps: md.optim.Adam(ps, amsgrad=True, weight_decay=0.1),
        lambda ps: md.optim.AdamW(ps),
    ],
    ids=["SGD", "Nesterov", "Adam", "AMSGrad", "AdamW"],
)
def test_a_step_has_the_same_bits_with_and_without_numba(make, dtype, monkeypatch):
    plain, looped = (train(make, mode, dtype, monkeypatch) for mode in ("numpy", "numba"))
    assert [bits(x) for x in plain] == [bits(x) for x in looped]


ODD = np.array([0.0, -0.0, 1.0, -1.5, np.nan, np.inf, -np.inf, 1e-40, 3e38, -2.0], np.float32)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "formula",
    [
        lambda xp, x, y, *, a: (x + a * y) / (x - y),
        lambda xp, x, y, *, a: xp.where(x > y, xp.sqrt(xp.abs(x)), -y),
        lambda xp, x, y, *, a: xp.abs(xp.maximum(x, y)) * xp.abs(xp.minimum(x, a)),  # of 0 and -0 either may win
        lambda xp, x, y, *, a: xp.where((x == y) | (x >= a), x**2, y),
        lambda xp, x, y, *, a: xp.where(xp.isfinite(x) & (y != a), x, a * y),
    ],
)
def test_special_numbers_come_out_alike(formula, monkeypatch):
    x, y = (grid.ravel() for grid in np.meshgrid(ODD, ODD))
    program = fuse(formula, ["x", "y"], ["a"], writes=["x"])
    results = []
    for looped in (False, True):
        xs, scratch = x.copy(), [np.empty_like(x) for _ in program.places.scratch]
        masks = [np.empty(x.shape, bool) for _ in program.places.masks]
        typed = (
            (lambda *ns: [np.float32(n) for n in ns])
            if looped
            else (lambda *ns: [np.asarray(n, np.float32) for n in ns])
        )
        blocks = [(xs, y, *scratch, *masks)]
        program.function(np, looped=looped)(lambda blocks=blocks: blocks, typed, 0.75)
        results.append(xs)
    np.testing.assert_array_equal(
        results[0].view(np.int32)[~np.isnan(results[0])], results[1].view(np.int32)[~np.isnan(results[0])]
    )
    np.testing.assert_array_equal(np.isnan(results[0]), np.isnan(results[1]))


def test_a_formula_with_a_function_that_is_not_exact_keeps_to_numpy():
    assert fuse(lambda xp, x: xp.exp(x), ["x"], writes=["x"]).loop is None
    assert "t0 = x[i] + x[i]" in fuse(lambda xp, x: x + x, ["x"], writes=["x"]).loop


def test_small_optimizers_do_not_start_numba():
    text = (
        "import sys, minidl as md; w = md.ones(3, requires_grad=True);"
        "o = md.optim.Adam([w]); w.sum().backward(); o.step()"
    )
    subprocess.run([sys.executable, "-c", text + "; assert 'numba' not in sys.modules"], check=True)


def test_the_machine_code_is_found_again_in_a_new_process(tmp_path):
    text = (
        "import os; os.environ['MINIDL_FUSE'] = 'numba'; import minidl as md; w = md.ones(3, requires_grad=True);"
        "o = md.optim.SGD([w], lr=0.5); w.sum().backward(); o.step(); assert w.tolist() == [0.5] * 3"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", text], check=True)
    assert len(list((tmp_path / "minidl" / "kernels").glob("minidl_loop_*.py"))) == 1


def test_an_unknown_choice_is_an_error(monkeypatch):
    monkeypatch.setenv("MINIDL_FUSE", "fortran")
    with pytest.raises(ValueError, match="MINIDL_FUSE: must be numpy or numba, got 'fortran'"):
        loop.available(10)
