"""Cut a data set into parts: at random, or into folds for cross-validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import random
from ..engine.backend import is_array, to_numpy
from ..engine.tensor import Tensor
from .dataset import Subset, as_dataset


def random_split(dataset: Any, lengths: Sequence[float], seed: int | None = None) -> list[Subset]:
    """Cut a data set into random parts without overlap.

    Parameters: `lengths`, integers that add up to the length of the data set, or fractions that add up to 1 (as in
    PyTorch: each part gets floor(n * fraction), what is left over goes one by one to the first parts); `seed`, an
    integer that alone decides the result, or None to draw from `minidl.random`.

    ValueError if they do not add up, one is negative, or a fraction above 0 leaves a part empty.

    >>> train, test = random_split(np.arange(10), [0.75, 0.25], seed=0)
    >>> len(train), len(test), sorted({*train.indices, *test.indices}) == list(range(10))
    (8, 2, True)
    """
    dataset = as_dataset(dataset)
    n = len(dataset)
    counts = _counts(list(lengths), n)
    order = host_generator(seed, "random_split").permutation(n)
    ends = np.cumsum(counts)
    return [Subset(dataset, order[end - count : end]) for end, count in zip(ends, counts, strict=True)]


class KFold:
    """Cut a data set into k folds: each is the test set once, the rest is the training set.

    The first n % k folds have one sample more. Without `shuffle` folds are consecutive; with it they are random, the
    same at each call of `split`, and `seed` alone decides them (None: drawn from `minidl.random`).
    The semantics are those of scikit-learn's KFold, and of StratifiedKFold if `split` is given labels.

    >>> for train, test in KFold(2).split(5):
    ...     print(train, test)
    [3 4] [0 1 2]
    [0 1 2] [3 4]
    """

    def __init__(self, n_splits: int = 5, shuffle: bool = False, seed: int | None = None):
        if isinstance(n_splits, bool) or not isinstance(n_splits, (int, np.integer)) or n_splits < 2:
            raise ValueError(f"KFold: n_splits must be an integer of at least 2, got {n_splits!r}")
        if not shuffle and seed is not None:
            raise ValueError("KFold: seed has no effect without shuffle=True; leave it out or shuffle")
        self.n_splits = int(n_splits)
        self.shuffle = bool(shuffle)
        self.seed = checked_seed(seed, "KFold") if seed is not None else draw_seed() if shuffle else None

    def split(self, data: Any, stratify: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (training indices, test indices), both sorted int64, for each fold.

        `data` is a data set, arrays, or the number of samples. With `stratify`, labels (n,), every fold has its share
        of each class, to within one sample. ValueError if there are fewer samples (of each class) than folds.
        """
        n = int(data) if isinstance(data, (int, np.integer)) else len(as_dataset(data))
        if n < self.n_splits:
            raise ValueError(f"KFold: n_splits={self.n_splits} folds need as many samples, got {n}")
        fold_of = self._folds(n) if stratify is None else self._stratified_folds(n, stratify)
        return ((np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(self.n_splits))

    def _folds(self, n: int) -> np.ndarray:
        """Return the fold of each sample."""
        sizes = np.full(self.n_splits, n // self.n_splits)
        sizes[: n % self.n_splits] += 1
        fold_of = np.empty(n, np.int64)
        order = host_generator(self.seed, "KFold").permutation(n) if self.shuffle else np.arange(n)
        fold_of[order] = np.repeat(np.arange(self.n_splits), sizes)
        return fold_of

    def _stratified_folds(self, n: int, labels: Any) -> np.ndarray:
        """Return the fold of each sample, dealing out the sorted labels to the folds in turn."""
        labels = labels.array if isinstance(labels, Tensor) else labels
        labels = to_numpy(labels) if is_array(labels) else np.asarray(labels)
        if labels.shape != (n,):
            raise ValueError(f"KFold: stratify must hold one label for each of {n} samples, got shape {labels.shape}")
        classes, first, codes = np.unique(labels, return_index=True, return_inverse=True)
        counts = np.bincount(codes)
        if counts.min() < self.n_splits:
            rare = counts.argmin()
            raise ValueError(
                f"KFold: stratify needs {self.n_splits} samples of each class, got {counts[rare]} of {classes[rare]!r}"
            )
        codes = np.argsort(np.argsort(first))[codes]  # classes in order of appearance, as scikit-learn deals them
        dealt = np.sort(codes)
        generator = host_generator(self.seed, "KFold") if self.shuffle else None
        fold_of = np.empty(n, np.int64)
        for code in range(len(classes)):
            share = [np.count_nonzero(dealt[k :: self.n_splits] == code) for k in range(self.n_splits)]
            folds = np.repeat(np.arange(self.n_splits), share)
            if generator is not None:
                generator.shuffle(folds)
            fold_of[codes == code] = folds
        return fold_of


# ---- seeds -------------------------------------------------------------------------------------------------------


def checked_seed(seed: Any, who: str) -> int:
    """Return a seed as an int; ValueError unless it is an integer of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"{who}: seed must be an integer of at least 0, or None, got {seed!r}")
    return int(seed)


def draw_seed() -> int:
    """Draw a seed from the random stream of the library."""
    return int(random.generator().integers(2**63))


def host_generator(seed: int | None, who: str) -> np.random.Generator:
    """Return NumPy's generator for a seed; None draws the seed from the random stream of the library."""
    return np.random.default_rng(draw_seed() if seed is None else checked_seed(seed, who))


def _counts(lengths: list[float], n: int) -> list[int]:
    """Return the number of samples of each part."""
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, (int, float, np.integer, np.floating)) or not length >= 0:
            raise ValueError(f"random_split: lengths must be counts or fractions of at least 0, got {length!r}")
    if all(isinstance(length, (int, np.integer)) for length in lengths):
        counts = [int(length) for length in lengths]
        if sum(counts) != n:
            raise ValueError(f"random_split: lengths must add up to {n} samples, got {counts} = {sum(counts)}")
        return counts
    if not math.isclose(sum(lengths), 1.0):
        raise ValueError(f"random_split: fractions must add up to 1, got {lengths} = {sum(lengths):g}")
    counts = [math.floor(n * length) for length in lengths]
    for i in range(n - sum(counts)):
        counts[i % len(counts)] += 1
    for i, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        if length and not count:
            raise ValueError(f"random_split: part {i}, {length:g} of {n} samples, would be empty; give counts instead")
    return counts
