"""Anomaly mode names the operation and the user's line; off, it costs nothing (A24)."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minidl as md
from minidl.engine.node import mode


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


def nan_in_backward(x):
    return md.sqrt(x) * 0.0  # 0 * inf at 0


def test_A24_a_nan_in_backward_names_the_operation_and_the_line_of_the_forward():
    x = leaf([0.0, 1.0])
    with np.errstate(invalid="ignore", divide="ignore"), md.detect_anomaly():
        y = nan_in_backward(x).sum()
        with pytest.raises(RuntimeError) as error:
            y.backward()
    text = str(error.value)
    assert text.startswith("sqrt: returned nan")
    assert re.search(r"test_engine_anomaly\.py:\d+, in nan_in_backward: \"return md\.sqrt\(x\)", text)
    assert x.grad is None


def test_A24_the_users_line_is_named_through_methods_operators_and_functions():
    x = leaf([1.0, 2.0])
    with md.detect_anomaly():
        for make in (
            lambda: x.sum(),
            lambda: x**2,
            lambda: 2.0 / x,
            lambda: md.squeeze(x),
            lambda: x[0],
            lambda: md.mean(x),
        ):
            y = make()
            assert "test_engine_anomaly.py" in y.node.trace[0]
            assert 'in <lambda>: "lambda: ' in y.node.trace[0]


def test_A24_it_is_off_by_default_and_off_again_after_the_block():
    x = leaf([0.0])
    with np.errstate(invalid="ignore", divide="ignore"):
        nan_in_backward(x).backward()
        assert np.isnan(x.grad.numpy()).all()
        with md.detect_anomaly():
            assert mode.record == 2
        nan_in_backward(x).backward()
    assert (mode.record, mode.watch) == (1, None)
    with pytest.raises(AttributeError):
        _ = (x * 2).node.trace


def test_A24_it_nests_with_the_recording_modes():
    x = leaf([1.0])
    with md.detect_anomaly():
        with md.no_grad():
            assert (x * 2).node is None
            with md.enable_grad():
                assert (x * 2).node.trace
        assert (x * 2).node.trace
        with md.detect_anomaly():
            assert (x * 2).node.trace
        assert (x * 2).node.trace
    with md.no_grad():
        with md.detect_anomaly():
            assert (x * 2).node is None
        assert not md.is_grad_enabled()
    assert mode.record == 1


def test_A24_a_graph_made_outside_the_block_is_checked_without_a_line():
    x = leaf([0.0])
    with np.errstate(invalid="ignore", divide="ignore"):
        y = nan_in_backward(x)
        with md.detect_anomaly(), pytest.raises(RuntimeError, match=r"sqrt: returned nan.*outside detect_anomaly"):
            y.backward()


def test_A24_the_second_derivative_is_watched_too():
    x = leaf([0.0])
    with np.errstate(invalid="ignore", divide="ignore"), md.detect_anomaly():
        (g,) = md.autograd.grad((x**2.5).sum(), x, create_graph=True)
        (h,) = md.autograd.grad(g.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"nan"):
            md.autograd.grad((h * 0.0).sum(), x)  # 0 * x^-0.5


def test_A24_right_programs_give_the_same_numbers_in_it(rng):
    a = rng.standard_normal((4, 3))
    target = np.array([0, 1, 2, 0])

    def gradients():
        x = leaf(a)
        y, mean, _ = md.batch_norm_train(x, leaf(np.ones(3)), leaf(np.zeros(3)), eps=1e-3)
        loss = md.cross_entropy(md.concatenate([y, y[[0, 0, 1, 2]]])[:4], target) + mean.sum()
        (g,) = md.autograd.grad(loss, x, create_graph=True)
        (h,) = md.autograd.grad((g * g).sum(), x)
        return g.tolist(), h.tolist()

    with md.detect_anomaly():
        watched = gradients()
    assert watched == gradients()


def test_A24_a_users_joint_rule_with_nan_is_named():
    bad = md.Op(lambda xp, x, y: x + y, joint=lambda g, out, x, y: (g, g * np.nan), name="bad")
    with md.detect_anomaly(), pytest.raises(RuntimeError, match=r"bad: returned nan values in its gradient 1"):
        bad(leaf([1.0]), leaf([2.0])).backward()


def test_A24_a_users_file_beside_the_package_is_a_users_file(tmp_path):
    """The user's line is told by the package's folder, not by a name that begins like it."""
    from pathlib import Path

    beside = Path(md.__file__).parent.with_name("minidl_experiment.py")
    space = {"md": md}
    exec(compile("def f(x):\n    return x * 2\n", str(beside), "exec"), space)
    with md.detect_anomaly():
        trace = space["f"](leaf([1.0])).node.trace[0]
    assert trace.startswith(f"{beside}:2, in f")


def test_the_engines_own_errors_are_the_same_in_it():
    x = leaf([1.0])
    y = x * x
    y.backward()
    for context in (md.enable_grad(), md.detect_anomaly()):
        with context:
            with pytest.raises(RuntimeError, match="second time"):
                y.backward()
            with pytest.raises(RuntimeError, match="allow_unused"):
                md.autograd.grad(x * 2, leaf([1.0]))
            with pytest.raises(RuntimeError, match="scalar"):
                md.stack([x, x]).backward()


def test_an_error_of_a_users_rule_keeps_its_type_and_text():
    def rule(g, out, x):
        raise LookupError("my own words")

    op = md.Op(lambda xp, x: x.copy(), rule, name="mine")
    for context in (md.detect_anomaly(), md.enable_grad()):
        with context, pytest.raises(LookupError, match="my own words"):
            op(leaf([1.0])).backward()


def test_A20_an_error_in_a_rule_tells_the_line_of_the_forward_in_anomaly_mode():
    def rule(g, out, x):
        raise LookupError("my own words")

    op = md.Op(lambda xp, x: x.copy(), rule, name="mine")
    with md.detect_anomaly():
        y = op(leaf([1.0]))  # the guilty line
        with pytest.raises(LookupError) as error:
            y.backward()
    notes = "".join(getattr(error.value, "__notes__", [])) + str(error.value) + str(error.value.__cause__)
    assert "the guilty line" in notes


def test_A24_on_a_gpu_it_works_too(fake_cuda):
    x = md.tensor([0.0, 1.0], device="cuda", requires_grad=True)
    with md.detect_anomaly():
        y = nan_in_backward(x).sum()
        with pytest.raises(RuntimeError, match=r"sqrt: returned nan.*nan_in_backward"):
            y.backward()
        z = (x * x).sum()
        x.array[0] = 5.0
        with pytest.raises(RuntimeError, match=r"multiply: .*modified outside"):
            z.backward()


def test_one_object_nests_and_leaves_nothing_behind():
    anomaly = md.detect_anomaly()
    x = md.tensor([1.0], requires_grad=True)
    with anomaly, anomaly:
        pass
    assert not hasattr((x * 2).node, "trace")
