"""DataLoader on data sets that compute their samples, and with transforms: stacked right, errors name the samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minidl.data import DataLoader, Subset, random_split
from minidl.data.transforms import Compose, Flatten, Normalize, ToFloat
from minidl.engine import backend
from minidl.engine.tensor import Tensor


def rows(loader):
    """Return the first column of an epoch, one list a batch."""
    return [backend.to_numpy(batch[0].array).tolist() for batch in loader]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


# ---- other data sets ---------------------------------------------------------------------------------------------


class Squares:
    """A data set that computes its samples."""

    def __len__(self):
        return 7

    def __getitem__(self, i):
        return np.full((2,), i, np.float32), i * i, float(i), Tensor([i])


def test_samples_of_any_data_set_are_stacked(device):
    batches = list(DataLoader(Squares(), 3, device=device))
    x, square, number, tensor = batches[1]
    assert [t.device for t in batches[1]] == [device] * 4
    assert (x.shape, square.shape, number.shape, tensor.shape) == ((3, 2), (3,), (3,), (3, 1))
    assert (x.dtype, square.dtype, number.dtype, tensor.dtype) == (np.float32, np.int64, np.float32, np.int64)
    assert backend.to_numpy(square.array).tolist() == [9, 16, 25]
    assert len(batches[-1][0]) == 1


def test_a_list_of_pairs_and_one_of_numbers_are_data_sets():
    pairs = [(np.array([1.0, 2.0]), 0), (np.array([3.0, 4.0]), 1)]
    x, y = next(iter(DataLoader(pairs, 2)))
    assert x.tolist() == [[1, 2], [3, 4]]
    assert y.tolist() == [0, 1]
    assert rows(DataLoader([5, 6, 7], 2, shuffle=False)) == [[5, 6], [7]]
    assert rows(DataLoader(((1, 2), (3, 4)), 2)) == [[1, 3]]  # a tuple of pairs is a sequence of samples


def test_images_among_samples_are_scaled_too():
    (x,) = next(iter(DataLoader([np.array([0, 51, 255], np.uint8)] * 2, 2)))
    assert x.dtype == np.float32
    assert x.tolist()[0] == [0.0, pytest.approx(0.2), 1.0]


def test_a_subset_of_any_data_set_works_and_errors_name_the_samples():
    part = random_split(Squares(), [5, 2], seed=0)[0]
    assert sorted(flat(b[1].tolist() for b in DataLoader(part, 2))) == sorted(int(i) ** 2 for i in part.indices)

    class Broken(Squares):
        def __getitem__(self, i):
            if i == 4:
                raise KeyError("lost")
            return i

    with pytest.raises(
        RuntimeError, match=r"reading failed on the batch of samples \[3, 4, 5\]: KeyError: 'lost'"
    ) as info:
        list(DataLoader(Broken(), 3))
    assert isinstance(info.value.__cause__, KeyError)


def test_samples_of_unequal_shape_or_count_name_their_batch():
    with pytest.raises(RuntimeError, match=r"reading failed on the batch of samples \[0, 1\]: ValueError"):
        list(DataLoader([np.zeros(2), np.zeros(3)], 2))
    with pytest.raises(RuntimeError, match=r"reading failed on the batch of samples \[0, 1\]: ValueError"):
        list(DataLoader([(1, 2), (1,)], 2))
    with pytest.raises(RuntimeError, match=r"samples \[0\]: TypeError: .*dtype"):
        list(DataLoader(["text"], 1))


# ---- transforms --------------------------------------------------------------------------------------------------


def test_a_transform_gets_the_raw_arrays_and_replaces_the_first_or_all(device):
    images, labels = np.full((4, 2, 2), 16, np.uint8), np.arange(4)
    seen = []

    def double(x, y):
        seen.append((x.dtype, backend.device_of(x), y.dtype))
        return x * 2

    x, y = next(iter(DataLoader((images, labels), 4, transform=double, device=device)))
    assert seen == [(np.uint8, device, np.int64)]
    assert (x.dtype, backend.to_numpy(x.array).max()) == (np.uint8, 32)
    assert backend.to_numpy(y.array).tolist() == [0, 1, 2, 3]
    (only,) = next(iter(DataLoader((images, labels), 4, transform=lambda x, y: (y,), device=device)))
    assert backend.to_numpy(only.array).tolist() == [0, 1, 2, 3]


def test_library_transforms_chain_in_a_loader(device):
    images = np.full((4, 2, 2), 16, np.uint8)
    chain = Compose([ToFloat(16), Normalize(0.5, 0.5), Flatten()])
    x, y = next(iter(DataLoader((images, np.arange(4)), 4, transform=chain, device=device)))
    assert backend.to_numpy(x.array).tolist() == [[1.0] * 4] * 4
    assert y.device == device


def test_an_error_in_a_transform_names_the_samples_and_stops_nothing_else():
    def fails(x):
        if 5 in x:
            raise ZeroDivisionError("no luck")
        return x

    loader = DataLoader(Subset(np.arange(100, 110), [0, 1, 2, 3, 4, 5]), 2, transform=lambda x: fails(x - 100))
    batches = iter(loader)
    assert [next(batches)[0].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(RuntimeError, match=r"failed on the batch of samples \[4, 5\]: ZeroDivisionError: no luck"):
        next(batches)
    state = loader.state_dict()
    assert state["position"] == 2  # the batch that failed is not done
    loader.transform = None
    loader.load_state_dict(state)
    assert rows(loader) == [[104, 105]]


def test_many_samples_are_named_by_the_first_and_last():
    with pytest.raises(
        RuntimeError,
        match=r"samples \[0, 1, 2, 3, 4, 5, ..., 98, 99\] \(100 in all\): TypeError: transform: must return",
    ):
        list(DataLoader(np.arange(100), 100, transform=lambda x: None))


def test_an_interrupt_passes_unchanged():
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(DataLoader(np.arange(4), transform=interrupted))
