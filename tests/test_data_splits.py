"""Random parts and folds: nothing lost, nothing twice, decided by the seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import random
from minidl.data import KFold, Subset, TensorDataset, random_split
from minidl.engine.tensor import Tensor

# ---- random_split ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[7, 3], [10], [0, 10], [0.7, 0.3], [0.5, 0.25, 0.25], [1.0], [0.33, 0.33, 0.34]])
def test_the_parts_hold_every_sample_once(lengths):
    parts = random_split(np.arange(10), lengths, seed=0)
    rows = np.concatenate([part.indices for part in parts])
    assert sorted(rows) == list(range(10))
    assert len(parts) == len(lengths)


@pytest.mark.parametrize(
    ("n", "fractions", "counts"),
    [
        (10, [0.75, 0.25], [8, 2]),  # floors 7 and 2; the one left over goes to the first
        (5, [0.5, 0.5], [3, 2]),
        (7, [1 / 3, 1 / 3, 1 / 3], [3, 2, 2]),
        (100, [0.29, 0.71], [29, 71]),
        (11, [0.1, 0.2, 0.7], [2, 2, 7]),
    ],
)
def test_fractions_are_rounded_as_in_pytorch(n, fractions, counts):
    assert [len(part) for part in random_split(np.arange(n), fractions, seed=1)] == counts


def test_fractions_agree_with_pytorch_where_it_is_installed(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for _ in range(100):
        n, k = int(rng.integers(50, 200)), int(rng.integers(1, 5))
        fractions = rng.dirichlet(np.full(k, 5.0)).tolist()
        if sum(fractions) > 1:  # PyTorch refuses a sum of 1 + 2e-16
            continue
        ours = [len(part) for part in random_split(np.arange(n), fractions, seed=0)]
        assert ours == [len(part) for part in torch.utils.data.random_split(range(n), fractions)]


def test_the_seed_alone_decides_the_parts():
    first, again, other = (random_split(np.arange(50), [40, 10], seed=s)[0].indices for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_a_seed_the_parts_follow_the_seed_of_the_library():
    def split():
        return random_split(np.arange(50), [40, 10])[0].indices

    random.seed(5)
    first, second = split(), split()
    random.seed(5)
    np.testing.assert_array_equal(split(), first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([5, 4], r"must add up to 10 samples, got \[5, 4\] = 9"),
        ([], r"must add up to 10 samples, got \[\] = 0"),
        ([11, -1], "at least 0, got -1"),
        ([0.5, 0.4], r"must add up to 1, got \[0.5, 0.4\] = 0.9"),
        ([0.5, 6], r"must add up to 1"),
        ([float("nan"), 1.0], "at least 0, got nan"),
        (["10"], "at least 0, got '10'"),
        ([True, 9], "at least 0, got True"),
        ([0.99, 0.01], "part 1, 0.01 of 10 samples, would be empty"),
    ],
)
def test_lengths_that_do_not_add_up_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        random_split(np.arange(10), lengths, seed=0)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="random_split: seed must be an integer of at least 0"):
        random_split(np.arange(4), [2, 2], seed=seed)


def test_a_split_of_arrays_gives_samples_that_belong_together():
    part = random_split((np.arange(6.0), np.arange(6) * 10), [2, 4], seed=0)[1]
    assert [(x.item() * 10, y.item()) for x, y in part] == [(10 * i, 10 * i) for i in part.indices]


# ---- Subset ------------------------------------------------------------------------------------------------------


def test_a_subset_of_a_subset_looks_into_the_whole():
    whole = TensorDataset(np.arange(10) * 2)
    part = Subset(Subset(whole, [9, 5, 1]), [2, -3])
    assert part.dataset is whole
    assert part.indices.tolist() == [1, 9]
    assert [x.item() for (x,) in part] == [2, 18]
    assert part[-1][0].item() == 18


def test_a_subset_may_hold_a_sample_twice_or_nothing():
    assert len(Subset(np.arange(3), [])) == 0
    assert [x.item() for (x,) in Subset(np.arange(3), Tensor([2, 2]))] == [2, 2]


def test_indices_that_are_not_in_the_data_set_are_refused():
    with pytest.raises(IndexError, match=r"indices must be in 0 ... 2, got 3 at position 1"):
        Subset(np.arange(3), [0, 3])
    with pytest.raises(IndexError, match="got -4 at position 0"):
        Subset(np.arange(3), [-4])
    with pytest.raises(TypeError, match="one axis of integers, got shape .2,. of float64"):
        Subset(np.arange(3), [0.0, 1.0])
    with pytest.raises(TypeError, match="one axis of integers"):
        Subset(np.arange(3), [True, False, True])
    with pytest.raises(IndexError, match="index 2 is out of range for 2 samples"):
        Subset(np.arange(3), [0, 1])[2]


# ---- KFold -------------------------------------------------------------------------------------------------------


def test_folds_are_consecutive_and_the_first_ones_are_longer():
    tests = [test.tolist() for _, test in KFold(3).split(8)]
    assert tests == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("n", "k"), [(10, 2), (10, 10), (23, 5)])
def test_every_sample_is_tested_once_and_trained_on_in_all_other_folds(n, k, shuffle):
    seen = []
    for train, test in KFold(k, shuffle=shuffle, seed=1 if shuffle else None).split(n):
        assert sorted([*train, *test]) == list(range(n))
        assert np.all(np.diff(train) > 0)
        assert np.all(np.diff(test) > 0)
        assert train.dtype == test.dtype == np.int64
        assert len(test) in (n // k, n // k + 1)
        seen.extend(test)
    assert sorted(seen) == list(range(n))


def test_shuffled_folds_are_decided_by_the_seed_and_equal_at_each_call():
    def tests(fold):
        return [test.tolist() for _, test in fold.split(30)]

    fold = KFold(3, shuffle=True, seed=1)
    assert tests(fold) == tests(fold) == tests(KFold(3, shuffle=True, seed=1))
    assert tests(fold) != tests(KFold(3, shuffle=True, seed=2))
    assert tests(fold) != tests(KFold(3))
    unseeded = KFold(3, shuffle=True)
    assert tests(unseeded) == tests(unseeded)


def test_without_shuffle_no_random_number_is_drawn():
    before = random.get_state()
    list(KFold(3).split(30, stratify=np.arange(30) % 2))
    assert random.get_state() == before


def test_stratified_folds_agree_with_those_of_scikit_learn():
    """Computed with scikit-learn 1.9.1: StratifiedKFold(3).split(labels, labels)."""
    labels = np.array([2, 0, 0, 1, 1, 1, 0, 2, 2, 0, 1, 0, 1, 2])
    tests = [test.tolist() for _, test in KFold(3).split(14, stratify=labels)]
    assert tests == STRATIFIED_BY_SCIKIT_LEARN


STRATIFIED_BY_SCIKIT_LEARN = [[0, 1, 3, 4, 7], [2, 5, 6, 8, 10], [9, 11, 12, 13]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_stratified_folds_have_their_share_of_each_class(shuffle, rng):
    labels = np.concatenate([np.full(50, 0), np.full(31, 1), np.full(7, 5)])
    rng.shuffle(labels)
    fold = KFold(5, shuffle=shuffle, seed=0 if shuffle else None)
    seen = []
    for train, test in fold.split(TensorDataset(labels), stratify=labels):
        assert sorted([*train, *test]) == list(range(88))
        for label, count in ((0, 50), (1, 31), (5, 7)):
            assert np.count_nonzero(labels[test] == label) in (count // 5, count // 5 + 1)
        seen.extend(test)
    assert sorted(seen) == list(range(88))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KFold(1), "at least 2, got 1"),
        (lambda: KFold(2.0), "at least 2, got 2.0"),
        (lambda: KFold(True), "at least 2, got True"),
        (lambda: KFold(3, seed=1), "seed has no effect without shuffle=True"),
        (lambda: KFold(3, shuffle=True, seed=-1), "KFold: seed must be an integer of at least 0"),
        (lambda: KFold(5).split(4), "n_splits=5 folds need as many samples, got 4"),
        (lambda: KFold(2).split(4, stratify=[0, 0, 1, 2]), "2 samples of each class, got 1 of"),
        (lambda: KFold(2).split(4, stratify=[0, 0, 1]), r"one label for each of 4 samples, got shape \(3,\)"),
    ],
)
def test_bad_folds_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
