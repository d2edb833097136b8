"""DataLoader: every sample once, orders decided by (seed, epoch), nothing moved or changed unseen."""

from __future__ import annotations

import gc
import itertools
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from minidl import random
from minidl.data import DataLoader, Subset, TensorDataset
from minidl.engine import backend
from minidl.engine.tensor import Parameter, Tensor


def rows(loader):
    """Return the first column of an epoch, one list a batch."""
    return [backend.to_numpy(batch[0].array).tolist() for batch in loader]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


# ---- an epoch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 11, 100])
@pytest.mark.parametrize("n", [0, 1, 10])
def test_every_sample_comes_once_an_epoch(n, batch_size, drop_last, shuffle):
    loader = DataLoader(np.arange(n), batch_size, shuffle=shuffle, seed=0, drop_last=drop_last)
    for _ in range(3):
        epoch = rows(loader)
        assert len(epoch) == len(loader) == (n // batch_size if drop_last else -(-n // batch_size))
        seen = flat(epoch)
        assert len(set(seen)) == len(seen) == (n // batch_size * batch_size if drop_last else n)
        assert set(seen) <= set(range(n))
        assert all(len(batch) == batch_size for batch in epoch[:-1])
        if not shuffle:
            assert seen == list(range(len(seen)))


def test_drop_last_leaves_out_other_samples_each_epoch():
    loader = DataLoader(np.arange(10), 4, shuffle=True, seed=0, drop_last=True)
    left_out = [frozenset(range(10)) - set(flat(rows(loader))) for _ in range(10)]
    assert len(set(left_out)) > 1


def test_orders_differ_by_epoch_and_by_seed_and_are_equal_for_equal_ones():
    def epochs(seed):
        loader = DataLoader(np.arange(100), 7, shuffle=True, seed=seed)
        return [rows(loader) for _ in range(4)]

    assert epochs(3) == epochs(3)
    orders = [str(epoch) for seed in (0, 1, 2**70) for epoch in epochs(seed)]
    assert len(set(orders)) == 12


def test_the_first_place_is_taken_by_each_sample_equally_often():
    loader = DataLoader(np.arange(5), 5, shuffle=True, seed=0)
    counts = np.zeros((5, 5))
    for (batch,) in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), 2000):
        counts[np.arange(5), batch.array] += 1
    assert np.abs(counts / 2000 - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 2000)  # five standard deviations


def test_without_a_seed_orders_follow_the_seed_of_the_library():
    random.seed(4)
    first, second = DataLoader(np.arange(50), 50, shuffle=True), DataLoader(np.arange(50), 50, shuffle=True)
    random.seed(4)
    again = DataLoader(np.arange(50), 50, shuffle=True)
    assert rows(first) == rows(again)
    assert first.seed != second.seed


def test_a_loader_that_does_not_shuffle_draws_no_random_number():
    before = random.get_state()
    rows(DataLoader(np.arange(5)))
    assert random.get_state() == before


def test_drawing_from_the_library_does_not_change_the_order_of_a_loader():
    loader = DataLoader(np.arange(50), 50, shuffle=True, seed=1)
    first = rows(loader)
    random.generator().random(5)
    random.seed(9)
    assert rows(DataLoader(np.arange(50), 50, shuffle=True, seed=1)) == first


# ---- what a batch is ---------------------------------------------------------------------------------------------


def test_a_batch_is_a_tuple_of_new_tensors_that_belong_together(device, rng):
    x, y = rng.standard_normal((20, 3)), np.arange(20)
    loader = DataLoader((x, y), 6, shuffle=True, seed=0, device=device)
    for batch in loader:
        assert type(batch) is tuple
        features, labels = batch
        assert type(features) is type(labels) is Tensor
        assert features.device == labels.device == device
        assert (features.dtype, labels.dtype) == (np.float64, np.int64)
        assert not features.requires_grad
        np.testing.assert_array_equal(backend.to_numpy(features.array), x[backend.to_numpy(labels.array)])


@pytest.mark.parametrize("transform", [None, lambda *arrays: arrays])
def test_writing_into_a_batch_does_not_reach_the_data_set(transform):
    x, y = np.arange(12.0).reshape(4, 3), np.arange(4)
    for batch_size in (1, 4):
        for features, labels in DataLoader((x, y), batch_size, transform=transform):
            features.array[...] = -1
            labels.array[...] = -1
    np.testing.assert_array_equal(x, np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(y, np.arange(4))


def test_images_of_bytes_become_floats_from_0_to_1_and_labels_stay(device):
    images = np.arange(256, dtype=np.uint8).reshape(64, 2, 2)
    loader = DataLoader((images, np.arange(64)), 10, device=device)
    x = np.concatenate([backend.to_numpy(x.array) for x, _ in loader])
    assert x.dtype == np.float32
    assert x[63, 1, 1] == 1.0
    np.testing.assert_array_equal(x, (images / 255).astype(np.float32))
    assert next(iter(loader))[1].dtype == np.int64


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_images_become_the_default_dtype(device, dtype):
    images = np.arange(256, dtype=np.uint8).reshape(64, 4)
    loader = DataLoader(images, 64, device=device)
    backend.set_default_dtype(dtype)
    (x,) = next(iter(loader))
    assert x.dtype == dtype
    np.testing.assert_array_equal(backend.to_numpy(x.array), (images / 255).astype(dtype))


def test_only_the_first_array_can_be_images():
    masks = np.array([[0, 1], [1, 0]], np.uint8)
    x, m, y = next(iter(DataLoader((np.zeros((2, 2)), masks, np.array([3, 4], np.uint8)), 2)))
    assert x.dtype == np.float64
    assert m.dtype == y.dtype == np.uint8
    assert m.tolist() == masks.tolist()
    (labels,) = next(iter(DataLoader(np.array([3, 4], np.uint8), 2)))
    assert labels.tolist() == [3, 4]


def test_raw_bytes_can_be_kept():
    (x,) = next(iter(DataLoader(np.full((2, 2), 7, np.uint8), transform=lambda *arrays: arrays)))
    assert x.dtype == np.uint8


@pytest.mark.parametrize(
    "make", [lambda x: np.asfortranarray(x), lambda x: x[::-1], lambda x: np.broadcast_to(x[:1], x.shape)]
)
def test_arrays_of_any_layout_are_taken(device, make, rng):
    x = make(rng.standard_normal((6, 4, 2)))
    batches = [backend.to_numpy(b.array) for (b,) in DataLoader(x, 4, device=device)]
    np.testing.assert_array_equal(np.concatenate(batches), x)


def test_tensors_are_taken_as_values():
    weight = Parameter(np.arange(4.0))
    (x,) = next(iter(DataLoader(TensorDataset(weight), 4)))
    assert not x.requires_grad
    assert x.array is not weight.array
    assert x.tolist() == [0, 1, 2, 3]


def test_a_memory_mapped_array_is_read_as_needed(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10.0))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    batches = list(DataLoader(x, 4))
    assert all(type(b.array) is np.ndarray for (b,) in batches)
    assert flat(b.tolist() for (b,) in batches) == list(range(10))
    del x


def test_a_subset_is_loaded_in_its_order_and_shuffled_within_itself():
    images = np.arange(10)
    part = Subset((images, images * 2), [7, 1, 4])
    assert rows(DataLoader(part, 2)) == [[7, 1], [4]]
    shuffled = DataLoader(part, 3, shuffle=True, seed=0)
    assert all(sorted(flat(rows(shuffled))) == [1, 4, 7] for _ in range(5))


# ---- bad arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "2", None])
def test_a_batch_size_that_is_no_positive_integer_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got"):
        DataLoader(np.arange(3), batch_size)


def test_a_numpy_integer_is_a_batch_size():
    assert len(DataLoader(np.arange(3), np.int32(2))) == 2


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"shuffle": 1}, TypeError, "shuffle must be True or False, got 1"),
        ({"drop_last": "no"}, TypeError, "drop_last must be True or False"),
        ({"seed": -1}, ValueError, "seed must be an integer of at least 0"),
        ({"seed": 1.5}, ValueError, "seed must be an integer of at least 0"),
        ({"transform": 3}, TypeError, "transform must be callable, got int"),
        ({"num_workers": 2}, ValueError, "worker processes are not offered"),
        ({"device": "tpu"}, ValueError, "must be 'cpu', 'cuda' or 'cuda:i', got 'tpu'"),
    ],
)
def test_bad_options_are_refused_by_name(options, kind, message):
    with pytest.raises(kind, match=message):
        DataLoader(np.arange(3), **options)


@pytest.mark.parametrize("data", [{"x": 1}, "text", 3, iter([1, 2]), None, {1, 2}, DataLoader(np.arange(2))])
def test_what_is_no_data_set_is_refused(data):
    with pytest.raises(TypeError, match="dataset: must be a TensorDataset, a tuple of arrays, or have __len__"):
        DataLoader(data)


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match=r"same length along axis 0, got \[3, 4\]"):
        TensorDataset(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="at least one array"):
        TensorDataset()
    with pytest.raises(ValueError, match="argument 1 is 0-d and has no samples"):
        TensorDataset(np.zeros(3), np.array(1.0))
    with pytest.raises(TypeError, match="argument 0 must be an array or a Tensor, got list; use numpy.asarray"):
        TensorDataset([1, 2])
    with pytest.raises(TypeError, match="argument 0: .*complex128"):
        TensorDataset(np.zeros(3, complex))


def test_a_tensor_dataset_is_indexed_like_a_list():
    data = TensorDataset(np.arange(4), np.arange(8.0).reshape(4, 2))
    assert [t.tolist() for t in data[-1]] == [3, [6.0, 7.0]]
    assert [t.tolist() for t in data[1:3]] == [[1, 2], [[2.0, 3.0], [4.0, 5.0]]]
    assert len(list(data)) == 4
    for bad in (4, -5):
        with pytest.raises(IndexError, match=f"index {bad} is out of range for 4 samples"):
            data[bad]
    with pytest.raises(TypeError, match="an index must be an integer, got float"):
        data[1.0]


# ---- devices, memory ---------------------------------------------------------------------------------------------


def test_the_data_set_goes_to_the_device_once_and_each_epoch_one_order(fake_cuda):
    images, labels = np.zeros((100, 4, 4), np.uint8), np.arange(100)
    data = TensorDataset(images, labels)
    with backend.transfers() as seen:
        loaders = [DataLoader(data, 10, shuffle=True, seed=s, device="cuda") for s in (0, 1)]
    assert [shape for _, shape in seen.log] == [(100, 4, 4), (100,)]  # both loaders share one copy
    with backend.transfers() as seen:
        for loader in loaders:
            for _ in range(3):
                for x, y in loader:
                    assert x.device == y.device == "cuda:0"
    assert [shape for _, shape in seen.log] == [(100,)] * 6


def test_a_batch_of_images_costs_two_launches_and_no_wait(fake_cuda):
    loader = DataLoader((np.zeros((100, 4, 4), np.uint8), np.arange(100)), 10, device="cuda")
    batches = iter(loader)
    next(batches)
    fake_cuda.stats.reset()
    next(batches)
    assert fake_cuda.stats.waits == 0
    assert fake_cuda.stats.launches <= 3  # an empty array, the images, the labels


def test_device_none_means_where_the_arrays_are_or_the_default(fake_cuda, monkeypatch):
    here, there = np.arange(4), backend.to_device(np.arange(4), "cuda")
    assert next(iter(DataLoader(here)))[0].device == "cpu"
    assert next(iter(DataLoader(there)))[0].device == "cuda:0"
    assert next(iter(DataLoader(there, device="cpu")))[0].device == "cpu"
    with backend.Device("cuda"):
        assert next(iter(DataLoader(here)))[0].device == "cuda:0"
    with pytest.raises(ValueError, match="the arrays are on cpu and cuda:0; give device="):
        DataLoader((here, there))
    assert [t.device for t in next(iter(DataLoader((here, there), device="cuda")))] == ["cuda:0"] * 2


def test_batches_on_the_second_gpu_are_made_there(fake_cuda):
    with fake_cuda.devices(2):
        images = np.arange(256, dtype=np.uint8).reshape(64, 4)
        (x,) = next(iter(DataLoader(images, 64, device="cuda:1")))
        assert x.device == "cuda:1"
        np.testing.assert_array_equal(backend.to_numpy(x.array), (images / 255).astype(np.float32))


def test_a_device_that_is_not_there_is_refused_when_the_loader_is_made():
    with pytest.raises(RuntimeError, match="device cuda"):
        DataLoader(np.arange(3), device="cuda")


def test_an_epoch_leaves_nothing_behind():
    loader = DataLoader((np.zeros((1000, 10)), np.arange(1000)), 10, shuffle=True, seed=0)
    list(loader)
    threads = threading.active_count()
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        for _ in range(20):
            for _batch in loader:
                pass
            for _batch in loader:
                break
        del _batch
        assert tracemalloc.get_traced_memory()[0] < 20_000
        tracemalloc.stop()
        dead = weakref.ref(loader)
        del loader
        assert dead() is None  # without the garbage collector: there is no cycle
    finally:
        gc.enable()
        tracemalloc.stop()
    assert threading.active_count() == threads


@pytest.mark.gpu
def test_batches_on_a_gpu_equal_those_on_the_cpu_bitwise(rng):
    images = rng.integers(0, 256, (1000, 28, 28)).astype(np.uint8)
    for dtype in ("float32", "float64", "float16"):
        backend.set_default_dtype(dtype)
        both = [DataLoader((images, np.arange(1000)), 128, shuffle=True, seed=0, device=d) for d in ("cpu", "cuda")]
        for (x, y), (u, v) in zip(*both, strict=True):
            np.testing.assert_array_equal(x.array, backend.to_numpy(u.array))
            np.testing.assert_array_equal(y.array, backend.to_numpy(v.array))
