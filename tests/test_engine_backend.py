"""Where arrays live: array modules, devices, and that nothing crosses over unseen."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import minidl as md
from minidl.engine import backend


def test_the_array_brings_its_module(fake_cuda):
    assert backend.array_module(np.zeros(1)) is np
    there = md.ones(1, device="cuda").array
    assert backend.array_module(there) is fake_cuda.cupy
    assert (backend.device_of(np.zeros(1)), backend.device_of(there)) == ("cpu", "cuda:0")
    for bad in ([1.0], 1.0, "x", None):
        with pytest.raises(TypeError, match=r"array_module: .*numpy\.ndarray.*cupy\.ndarray.*got"):
            backend.array_module(bad)


def test_devices_are_names_with_one_spelling():
    assert md.device("cuda") == md.device("cuda:0") == "cuda:0"
    assert md.device("cuda:01") == "cuda:1"
    assert md.device() == "cpu"
    assert md.device(md.device("cuda:2")) == "cuda:2"
    for bad in ("", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:1.5", "cuda:x", 0, None):
        with pytest.raises(ValueError, match=r"device: must be 'cpu', 'cuda' or 'cuda:i', got"):
            md.device(bad)


def test_the_default_device_belongs_to_the_thread():
    with md.device("cpu"):
        found = []
        thread = threading.Thread(target=lambda: found.append(backend.default_device()))
        thread.start()
        thread.join()
    assert found == ["cpu"]


def test_the_default_device_comes_back_after_an_error(fake_cuda):
    with pytest.raises(KeyError), md.device("cuda"):
        raise KeyError
    assert backend.default_device() == "cpu"


def test_nothing_moves_that_is_already_there(fake_cuda):
    here, there = np.ones(2), md.ones(2, device="cuda").array
    with md.transfers(max=0):
        assert backend.to_device(here, "cpu") is here
        assert backend.to_device(there, "cuda") is there
        assert backend.to_numpy(here) is here


def test_copies_between_gpus_are_counted_as_such(fake_cuda):
    with fake_cuda.devices(2), md.transfers() as seen:
        t = md.ones(3, device="cuda:0")
        u = t.to("cuda:1")
        assert (u.device, (u + 1).device) == ("cuda:1", "cuda:1")
    assert seen.log == [("device to device", (3,))]


def test_transfer_watches_nest_and_each_counts(fake_cuda):
    t = md.ones(3, device="cuda")
    with md.transfers() as outer:
        with md.transfers() as inner:
            t.numpy()
        t.numpy()
    t.numpy()
    assert (outer.count, inner.count) == (2, 1)
    with pytest.raises(KeyError), md.transfers(max=0):
        raise KeyError
    t.numpy()


def test_a_refused_transfer_is_not_counted(fake_cuda):
    t = md.ones(3, device="cuda")
    with md.transfers(max=0) as seen:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="max=0"):
                t.item() if t.size == 1 else t.numpy()
    assert seen.count == 0


def test_a_transfer_in_another_thread_is_its_own_business(fake_cuda):
    t, failed = md.ones(3, device="cuda"), []

    def work():
        try:
            t.numpy()
        except RuntimeError as error:
            failed.append(error)

    with md.transfers(max=0):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert failed == []


def test_a_cupy_array_is_taken_as_it_is(fake_cuda):
    a = fake_cuda.cupy.arange(3, dtype="float32")
    t = md.tensor(a)
    assert (t.device, t.dtype) == ("cuda:0", np.float32)
    a += 1
    assert t.tolist() == [0.0, 1.0, 2.0]
    assert type(md.exp(a)) is type(a)
    assert type(md.tensor([1.0], device="cuda").array * a) is type(a)


def test_numpy_targets_with_gpu_logits_are_an_error(fake_cuda):
    x = md.zeros(2, 3, device="cuda")
    for target in (np.array([0, 1]), md.tensor([0, 1])):
        with pytest.raises(TypeError, match=r"cross_entropy: .*one device.*cuda:0 and cpu.*\.to\('cuda:0'\)"):
            md.cross_entropy(x, target)


def test_an_index_list_is_sent_to_the_gpu_and_an_array_must_be_there(fake_cuda):
    x = md.tensor([1.0, 2.0, 3.0], device="cuda", requires_grad=True)
    with md.transfers() as seen:
        y = x[[0, 0, 2]]
    assert seen.count == 1
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 0.0, 1.0]
    with pytest.raises(TypeError, match=r"getitem: .*one device"):
        x[np.array([0, 1])]
    with md.transfers(max=0):
        x[1:], x[-1], x[..., None]


@pytest.mark.parametrize(
    ("shape", "ids"),
    [
        ((5, 3), [0, 4, 0, -1, -5]),
        ((5, 3), [[1, 1], [2, 1]]),
        ((4, 2, 3), [3, 0, 3]),
        ((4,), [1, 1]),
        ((4, 3), []),
        ((4, 0), [1, 1]),
        ((300, 2), np.array([255, 255, 7], np.uint8)),
    ],
)
def test_rows_are_scattered_as_numpys_add_at_does(shape, ids, rng):
    ids = np.asarray(ids, None if len(ids) else np.int64)
    values = rng.standard_normal((*ids.shape, *shape[1:]))
    expected, found = np.ones(shape), np.ones(shape)
    np.add.at(expected, ids, values)
    backend.scatter_add(np, found, (ids,), values)
    np.testing.assert_array_equal(found, expected)
    backend.scatter_add(np, found, (ids,), np.float64(2.0) * np.ones(shape[-1:] if len(shape) > 1 else ()))
    np.add.at(expected, ids, 2.0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wrong", [5, -6])
def test_a_row_out_of_range_is_an_error_when_scattered(wrong):
    with pytest.raises(IndexError, match="out of bounds"):
        backend.scatter_add(np, np.zeros((5, 3)), (np.array([0, wrong]),), np.ones((2, 3)))


def test_subclasses_of_numpy_arrays_become_plain_arrays():
    matrix = np.ones((2, 2)).view(type("Sub", (np.ndarray,), {}))
    assert type(md.tensor(matrix).array) is np.ndarray
    assert type(md.exp(matrix)) is np.ndarray
    assert type((md.ones(2, 2, dtype="float64") + matrix).array) is np.ndarray


@pytest.mark.parametrize("problem", ["missing", "broken", "no gpu"])
def test_without_a_usable_cupy_the_reason_is_told(monkeypatch, problem):
    import types

    backend.use_cuda_module(None)
    fake = types.ModuleType("cupy")
    if problem == "no gpu":
        fake.cuda = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", None if problem == "missing" else fake)
    with pytest.raises(RuntimeError, match=r"device cuda: .*(cupy|CuPy)"):
        md.ones(1, device="cuda")
    usable, reason = backend.cuda_state()
    assert not usable
    assert "cuda" in reason
    assert md.ones(1).device == "cpu"
