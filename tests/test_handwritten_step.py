"""The hand-written training step that benchmarks compare with must itself be right."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

HANDWRITTEN = Path(__file__).resolve().parent.parent / "benchmarks" / "handwritten.py"


def load_handwritten():
    """Import the benchmark from its file: the benchmarks are scripts, not a package."""
    spec = importlib.util.spec_from_file_location("handwritten", HANDWRITTEN)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


handwritten = load_handwritten()
SMALL = (7, 5, 4, 3)


def small_step(batch: int = 6, sizes: tuple[int, ...] = SMALL, **options):
    """Return a float64 step of a small network, with images and labels."""
    pairs = [(w.astype(np.float64), b.astype(np.float64)) for w, b in handwritten.draw_parameters(1, sizes)]
    x, y = handwritten.draw_batch(batch, 2, sizes)
    return handwritten.HandwrittenStep(pairs, batch, **options), x.astype(np.float64), y


def test_the_gradient_agrees_with_central_differences_in_every_parameter():
    step, x, y = small_step()
    step.gradients(x, y)
    found = step.grad.copy()
    h = 1e-5
    for i in range(step.theta.size):
        old = step.theta[i]
        step.theta[i] = old + h
        high = float(step.gradients(x, y))
        step.theta[i] = old - h
        low = float(step.gradients(x, y))
        step.theta[i] = old
        assert found[i] == pytest.approx((high - low) / (2 * h), rel=1e-6, abs=1e-9)
    assert np.count_nonzero(found) > found.size // 2


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_number_of_classes():
    step, x, y = small_step()
    step.theta[:] = 0.0
    assert float(step.gradients(x, y)) == pytest.approx(np.log(3), rel=1e-15)


def test_logits_of_a_thousand_do_not_overflow():
    step, x, y = small_step()
    step.params[5][:] = (1000.0, 0.0, -1000.0)
    loss = float(step.gradients(x, y))
    assert loss == pytest.approx(np.mean(np.array([0.0, 1000.0, 2000.0])[y]), rel=1e-3)
    assert np.isfinite(step.grad).all()


@pytest.mark.parametrize("block", [1, 10, 16, 10_000])
def test_adam_equals_the_formula_of_the_paper_for_every_block_size(block):
    lr, (b1, b2), eps = 0.01, (0.8, 0.97), 1e-4
    step, x, y = small_step(lr=lr, betas=(b1, b2), eps=eps, block=block)
    theta, m, v = step.theta.copy(), 0.0, 0.0
    for t in range(1, 6):
        step.step(x, y)
        g = step.grad
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        theta -= lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        np.testing.assert_allclose(step.theta, theta, rtol=1e-12, atol=1e-14)


def test_the_first_step_of_adam_moves_each_parameter_by_the_learning_rate():
    step, x, y = small_step(lr=0.125, eps=0.0)
    step.gradients(x, y)
    step.grad[step.grad == 0] = 1.0  # eps = 0 has no answer for a gradient of exactly zero
    before = step.theta.copy()
    step.adam()
    np.testing.assert_allclose(step.theta - before, -0.125 * np.sign(step.grad), rtol=1e-12)


def test_training_on_one_batch_brings_the_loss_down_to_a_hundredth():
    step = handwritten.HandwrittenStep(handwritten.draw_parameters(), 32)
    x, y = handwritten.draw_batch(32)
    losses = [float(step.step(x, y)) for _ in range(60)]
    assert losses[0] == pytest.approx(np.log(10), abs=0.3)
    assert losses[-1] < losses[0] / 100


@pytest.mark.parametrize("batch", [1, 32])
def test_gradients_and_three_steps_agree_with_pytorch(batch):
    torch = pytest.importorskip("torch")
    pairs = handwritten.draw_parameters(3)
    step = handwritten.HandwrittenStep(pairs, batch)
    x, y = handwritten.draw_batch(batch, 4)

    model = torch.nn.Sequential(
        torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
    with torch.no_grad():
        for layer, (w, b) in zip(model[::2], pairs, strict=True):
            layer.weight.copy_(torch.from_numpy(w))
            layer.bias.copy_(torch.from_numpy(b))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for t in range(3):
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        expected.backward()
        optimizer.step()
        loss = step.step(x, y)
        assert float(loss) == pytest.approx(expected.item(), rel=2e-5, abs=2e-6)
        if t:
            continue
        for i, (mine, theirs) in enumerate(zip(step.grads, model.parameters(), strict=True)):
            grad = theirs.grad.numpy()
            np.testing.assert_allclose(mine, grad.T if i in (0, 2) else grad, rtol=1e-4, atol=1e-6)
    # Where a gradient is within rounding of zero Adam may step either way: compare the size of the whole difference.
    for i, (mine, theirs) in enumerate(zip(step.params, model.parameters(), strict=True)):
        theirs = theirs.detach().numpy()
        difference = mine - (theirs.T if i in (0, 2) else theirs)
        assert np.abs(difference).mean() < 2e-6


def test_both_ways_to_store_the_moments_are_one_step():
    pairs = handwritten.draw_parameters(1)
    x, y = handwritten.draw_batch(16, 2)
    steps = [handwritten.HandwrittenStep(pairs, 16, rescaled=rescaled) for rescaled in (True, False)]
    for _ in range(5):
        losses = [float(step.step(x, y)) for step in steps]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(steps[0].theta, steps[1].theta, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(steps[0].m * np.float32(0.1), steps[1].m, rtol=1e-4, atol=1e-8)
