"""The training step of a 784-128-64-10 ReLU network with Adam, written by hand in NumPy as fast as it goes.

This is the floor that the library is measured against: no graph, no allocation, every formula worked out on paper.

    h1 = relu(x W1 + b1),  h2 = relu(h1 W2 + b2),  z = V3 h2' + b3   (one column a sample)
    loss = mean over the batch of log sum_k e^(z_k) - z_y            (softmax cross-entropy)

What was measured and kept (float32, one thread, OpenBLAS, AMD EPYC with 1 MB of L2 cache; microseconds at batch 32):

- weights lie (in, out): x W1 takes 75 with W1 (in, out) in memory and 111 with (out, in); the price, 10 instead of 5
  for the gradient that leaves the second layer, is small, and the first layer needs no gradient for its input at all
- `np.dot` with `out=`: equal to `matmul`, except for the outer products at batch 1 (14 against 112)
- a bias gradient is ones @ g: 0.6, against 1.7 for g.sum(0)
- the last layer is held transposed, classes first: the row maximum of (10, batch) runs along memory (1.1 against 2.4)
- Adam runs over one flat vector, in ten passes (see `adam`) over blocks that stay in the cache
- constants are 0-d arrays: a Python float costs each ufunc 0.25 more

`tests/test_handwritten_step.py` checks its gradients and its Adam against other routes.
"""

from __future__ import annotations

import itertools

import numpy as np

SIZES = (784, 128, 64, 10)
BLOCK = 65_536  # elements: Adam took 238, 184, 153, 145, 134 us in blocks of 4,096, 8,192, 16,384, 32,768, 65,536


def draw_parameters(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a (weight (out, in), bias (out,)) pair for each layer, uniform in +-1/sqrt(in), float32.

    >>> [(w.shape, b.shape) for w, b in draw_parameters()]
    [((128, 784), (128,)), ((64, 128), (64,)), ((10, 64), (10,))]
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for n_in, n_out in itertools.pairwise(sizes):
        bound = n_in**-0.5
        draw = rng.uniform(-bound, bound, (n_out, n_in + 1)).astype(np.float32)
        pairs.append((np.ascontiguousarray(draw[:, :-1]), draw[:, -1].copy()))
    return pairs


def draw_batch(batch: int, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> tuple[np.ndarray, np.ndarray]:
    """Return images (batch, 784) float32 in [0, 1), four pixels in five zero as in MNIST, and labels (batch,) int64."""
    rng = np.random.default_rng(seed)
    x = rng.random((batch, sizes[0]), dtype=np.float32)
    x *= rng.random(x.shape) < 0.2
    return x, rng.integers(0, sizes[-1], batch)


class HandwrittenStep:
    """Parameters, buffers and the training step for one batch size.

    `parameters` is what `draw_parameters` returns; it is copied. `gradients(x, y)` fills `self.grads` and returns the
    loss (0-d array); `adam()` moves the parameters; `step(x, y)` does both. With `rescaled=False` the moments are
    stored as they stand in the paper: the same step, with the same state, as that of the libraries beside it.
    """

    def __init__(
        self,
        parameters: list[tuple[np.ndarray, np.ndarray]],
        batch: int,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        block: int = BLOCK,
        rescaled: bool = True,
    ):
        (w1, b1), (w2, b2), (w3, b3) = parameters
        arrays = (w1.T, b1, w2.T, b2, w3, b3)
        count = sum(a.size for a in arrays)
        dtype = w1.dtype
        self.theta, self.grad, self.m, self.v = np.zeros((4, count), dtype)
        self.params, self.grads = (_views(flat, [a.shape for a in arrays]) for flat in (self.theta, self.grad))
        for view, a in zip(self.params, arrays, strict=True):
            view[...] = a
        self.lr, self.betas, self.eps, self.t = lr, betas, eps, 0
        self.rescaled = rescaled
        self._blocks = self._cut(block)
        self._c1, self._c2 = (np.asarray(1 - b, dtype) for b in betas)
        self._b1, self._b2 = (np.asarray(b, dtype) for b in betas)
        self._lr, self._eps = np.zeros((), dtype), np.zeros((), dtype)
        self._allocate(batch, dtype)

    def _allocate(self, batch: int, dtype: np.dtype) -> None:
        n1, n2, n3 = self.params[1].size, self.params[3].size, self.params[5].size
        self.h1, self.g1 = np.empty((2, batch, n1), dtype)
        self.h2, self.g2 = np.empty((2, batch, n2), dtype)
        self.mask1, self.mask2 = np.empty((batch, n1), bool), np.empty((batch, n2), bool)
        self.z = np.empty((n3, batch), dtype)
        self.row = np.empty(batch, dtype)
        self.ones, self.rows = np.ones(batch, dtype), np.arange(batch)
        self.zero = np.zeros((), dtype)
        self.batch, self.one_nth = np.asarray(batch, dtype), np.asarray(1.0 / batch, dtype)

    def _cut(self, block: int) -> list[tuple[np.ndarray, ...]]:
        """Cut theta, grad, m, v and one scratch buffer into blocks that fit the cache together."""
        scratch = np.empty(min(block, self.theta.size), self.theta.dtype)
        cut = []
        for start in range(0, self.theta.size, block):
            parts = [flat[start : start + block] for flat in (self.theta, self.grad, self.m, self.v)]
            cut.append((*parts, scratch[: parts[0].size]))
        return cut

    def gradients(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Fill `self.grads` with d loss / d parameters at images x (batch, 784), labels y (batch,); return the loss."""
        w1, b1, w2, b2, w3, b3 = self.params
        dw1, db1, dw2, db2, dw3, db3 = self.grads
        h1, h2, z, g1, g2, row, zero, ones = self.h1, self.h2, self.z, self.g1, self.g2, self.row, self.zero, self.ones

        np.dot(x, w1, out=h1)
        np.add(h1, b1, out=h1)
        np.maximum(h1, zero, out=h1)
        np.dot(h1, w2, out=h2)
        np.add(h2, b2, out=h2)
        np.maximum(h2, zero, out=h2)
        np.dot(w3, h2.T, out=z)
        np.add(z, b3[:, None], out=z)

        # z becomes p = softmax(z), then d loss / d z = (p - onehot(y)) / batch.
        np.maximum.reduce(z, 0, out=row)
        np.subtract(z, row, out=z)  # so that no exp overflows
        at_label = z[y, self.rows]
        np.exp(z, out=z)
        np.add.reduce(z, 0, out=row)
        loss = np.add.reduce(np.log(row) - at_label) * self.one_nth
        np.multiply(row, self.batch, out=row)
        np.divide(z, row, out=z)
        z[y, self.rows] -= self.one_nth

        np.dot(z, h2, out=dw3)
        np.dot(z, ones, out=db3)
        np.dot(z.T, w3, out=g2)
        np.multiply(g2, np.greater(h2, zero, out=self.mask2), out=g2)
        np.dot(h1.T, g2, out=dw2)
        np.dot(ones, g2, out=db2)
        np.dot(g2, w2.T, out=g1)
        np.multiply(g1, np.greater(h1, zero, out=self.mask1), out=g1)
        np.dot(x.T, g1, out=dw1)
        np.dot(ones, g1, out=db1)
        return loss

    def adam(self) -> None:
        """Move the parameters by one step of Adam (Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1).

            m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2,  theta <- theta - lr m_hat / (sqrt(v_hat) + eps)

        with m_hat = m / (1 - b1^t), v_hat = v / (1 - b2^t). Stored are M = m / (1 - b1) and V = v / (1 - b2), which
        saves two passes, and the remaining constants are drawn out of the root: with k = (1 - b2) / (1 - b2^t),

            theta <- theta - lr (1 - b1) / ((1 - b1^t) sqrt(k)) * M / (sqrt(V) + eps / sqrt(k))
        """
        self.t += 1
        beta1, beta2 = self.betas
        # In Python floats, that is 64 bits: 1 - beta2**t loses half its digits in 32.
        root = ((1 - beta2) / (1 - beta2**self.t)) ** 0.5
        self._eps[()] = self.eps / root
        self._lr[()] = -self.lr * (1 - beta1) / ((1 - beta1**self.t) * root)
        lr, eps, b1, b2 = self._lr, self._eps, self._b1, self._b2
        for theta, g, m, v, work in self._blocks:
            np.multiply(m, b1, out=m)
            np.add(m, g, out=m)
            np.multiply(v, b2, out=v)
            np.multiply(g, g, out=work)
            np.add(v, work, out=v)
            np.sqrt(v, out=work)
            np.add(work, eps, out=work)
            np.divide(m, work, out=work)
            np.multiply(work, lr, out=work)
            np.add(theta, work, out=theta)

    def adam_with_the_moments_themselves(self) -> None:
        """Do the same step with m and v stored as the paper and all libraries store them: two passes more."""
        self.t += 1
        beta1, beta2 = self.betas
        root = (1 - beta2**self.t) ** 0.5
        self._eps[()] = self.eps * root
        self._lr[()] = -self.lr * root / (1 - beta1**self.t)
        lr, eps, b1, b2, c1, c2 = self._lr, self._eps, self._b1, self._b2, self._c1, self._c2
        for theta, g, m, v, work in self._blocks:
            np.multiply(m, b1, out=m)
            np.multiply(g, c1, out=work)
            np.add(m, work, out=m)
            np.multiply(v, b2, out=v)
            np.multiply(g, c2, out=work)
            np.multiply(work, g, out=work)
            np.add(v, work, out=v)
            np.sqrt(v, out=work)
            np.add(work, eps, out=work)
            np.divide(m, work, out=work)
            np.multiply(work, lr, out=work)
            np.add(theta, work, out=theta)

    def step(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Run one training step on images x and labels y; return the loss before it."""
        loss = self.gradients(x, y)
        if self.rescaled:
            self.adam()
        else:
            self.adam_with_the_moments_themselves()
        return loss


def _views(flat: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Return consecutive views of a flat array with the given shapes."""
    views, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        views.append(flat[start : start + size].reshape(shape))
        start += size
    return views
