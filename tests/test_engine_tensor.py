"""Tensors themselves: making, converting, copying, printing, moving."""

from __future__ import annotations

import copy
import pickle
import time

import numpy as np
import pytest

import minidl as md


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


# ---- making ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a,
        lambda a: a[::2],
        lambda a: a.T,
        lambda a: md.from_numpy(a),
        lambda a: memoryview(a),
        lambda a: np.broadcast_to(a, (2, *a.shape)),
        lambda a: [a, a],
        lambda a: a.reshape(-1)[0:1],
    ],
)
def test_a_tensor_is_always_a_copy(make):
    a = np.zeros((4, 4))
    t = md.tensor(make(a))
    a[...] = 1
    assert (t.numpy() == 0).all()
    assert t.array.flags.writeable
    assert t.dtype == np.float64


def test_arrays_of_other_libraries_keep_their_dtype_and_are_copied():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    source = torch.zeros(2, dtype=torch.float64)
    t = md.tensor(source)
    source += 1
    assert (t.dtype, t.tolist()) == (np.float64, [0.0, 0.0])
    assert md.tensor(torch.zeros(2, dtype=torch.int16)).dtype == np.int16

    import array

    assert md.tensor(array.array("d", [0.1])).dtype == np.float64


def test_the_default_dtype_and_device_can_be_set():
    md.set_default_dtype("float64")
    assert (md.tensor(1.0).dtype, md.ones(1).dtype, md.rand(1).dtype) == (np.float64,) * 3
    with pytest.raises(TypeError, match=r"float16, float32 or float64.*int64"):
        md.set_default_dtype("int64")
    assert md.get_default_dtype() == np.float64


def test_devices_by_context_environment_and_argument(fake_cuda, monkeypatch):
    assert md.ones(1).device == "cpu"
    with md.device("cuda"):
        assert (md.ones(1).device, md.tensor([1.0]).device, md.arange(3).device) == ("cuda:0",) * 3
        with md.device("cpu"):
            assert md.ones(1).device == "cpu"
        assert md.tensor([1.0], device="cpu").device == "cpu"
    monkeypatch.setenv("MINIDL_DEVICE", "cuda:0")
    assert md.zeros(2).device == "cuda:0"
    for bad in ("gpu", "cuda:x", "cpu:0", "", "cuda:"):
        with pytest.raises(ValueError, match=r"device: .*'cpu', 'cuda' or 'cuda:i'"):
            md.zeros(1, device=bad) if bad else md.device(bad)
    with pytest.raises(ValueError, match=r"cuda:3.*1 GPU"):
        md.zeros(1, device="cuda:3")


def test_without_a_gpu_the_error_names_the_package_and_nothing_changes():
    from minidl.engine import backend

    if backend.cuda_state()[0]:
        pytest.skip("there is a GPU")
    for f in (lambda: md.zeros(1, device="cuda"), lambda: md.ones(1).cuda(), lambda: md.ones(1).to("cuda:0")):
        with pytest.raises(RuntimeError, match=r"device cuda: .*(pip install cupy|no usable GPU)"):
            f()


def test_makers_agree_with_numpy():
    assert md.zeros(2, 3).tolist() == md.zeros((2, 3)).tolist() == np.zeros((2, 3)).tolist()
    assert md.full((2,), 7.5).tolist() == [7.5, 7.5]
    assert md.full((2,), 7).dtype == np.int64
    assert md.full((2,), True).dtype == bool
    assert md.arange(5).tolist() == [0, 1, 2, 3, 4]
    assert md.arange(1, 2, 0.25).tolist() == [1.0, 1.25, 1.5, 1.75]
    assert md.arange(1.0, 3).dtype == np.float32
    assert md.linspace(0, 1, 5).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert md.eye(2, 3).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert md.zeros().shape == ()
    assert md.ones(0, 3).shape == (0, 3)
    x = md.ones(2, 3, dtype="float64")
    assert [f(x).dtype for f in (md.zeros_like, md.ones_like)] == [np.float64] * 2
    assert md.full_like(x, 3).tolist() == [[3.0] * 3] * 2
    with pytest.raises(ValueError, match=r"zeros: .*-1"):
        md.zeros(-1)
    with pytest.raises(TypeError):
        md.zeros(1.5)
    with pytest.raises(TypeError, match="complex"):
        md.zeros(1, dtype=complex)
    assert md.ones(2, requires_grad=True).is_leaf
    with pytest.raises(TypeError, match="floating"):
        md.ones(2, dtype=int, requires_grad=True)


def test_random_numbers_repeat_with_the_seed_on_every_device(fake_cuda):
    found = []
    for device in ("cpu", "cuda"):
        md.manual_seed(5)
        found.append(
            [
                md.rand(3, device=device).tolist(),
                md.randn(2, 2, device=device).tolist(),
                md.randint(0, 9, 4, device=device).tolist(),
            ]
        )
    assert found[0] == found[1]
    state = md.random.get_state()
    a = md.randn(3).tolist()
    md.random.set_state(state)
    assert md.randn(3).tolist() == a
    assert md.randn(3).tolist() != a
    for bad in (-1, 2**64):
        with pytest.raises(ValueError, match=r"\[0, 2\*\*64\)"):
            md.manual_seed(bad)
    with pytest.raises(TypeError, match="integer"):
        md.manual_seed(1.5)


def test_random_numbers_have_the_moments_of_their_distribution():
    md.manual_seed(0)
    n = 40_000
    u, z = md.rand(n, dtype="float64").numpy(), md.randn(n, dtype="float64").numpy()
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * n)
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert (u.min() >= 0, u.max() < 1) == (True, True)
    counts = np.bincount(md.randint(0, 4, n).numpy(), minlength=4)
    assert np.abs(counts / n - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / n)


# ---- out of the library (T23, T24) -----------------------------------------------------------------------------------


def test_T23_a_number_comes_out_of_one_element_only():
    assert (md.tensor([[2.5]]).item(), float(md.tensor([2.5])), int(md.tensor(2)), bool(md.tensor(0.0))) == (
        2.5,
        2.5,
        2,
        False,
    )
    assert type(md.tensor(2.5).item()) is float
    assert type(md.tensor(2).item()) is int
    assert type(md.tensor(True).item()) is bool
    t = md.ones(2, 3)
    for f, name in ((t.item, "item"), (lambda: float(t), "float"), (lambda: int(t), "int")):
        with pytest.raises(ValueError, match=rf"{name}: .*one element.*6"):
            f()
    with pytest.raises(ValueError, match=r"bool: .*ambiguous|ambiguous"):
        bool(t)
    with pytest.raises(ValueError, match="bool"):
        bool(md.zeros(0))
    assert list(range(5))[md.tensor(3)] == 3
    with pytest.raises(TypeError, match=r"index: .*integer.*float32"):
        [1, 2][md.tensor(1.0)]


def test_T24_an_array_that_wants_a_gradient_must_be_detached():
    x = leaf([1.0, 2.0])
    for f in (x.numpy, lambda: np.asarray(x), lambda: np.array(x * 2), lambda: np.zeros(2) + np.asarray(x)):
        with pytest.raises(RuntimeError, match=r"numpy: .*gradient.*detach\(\)"):
            f()
    a = x.detach().numpy()
    assert np.shares_memory(a, x.array)
    b = np.array(x.detach())
    assert not np.shares_memory(b, x.array)
    assert np.asarray(x.detach(), dtype=np.float32).dtype == np.float32
    assert x.tolist() == [1.0, 2.0]


def test_numpy_of_a_gpu_tensor_is_a_counted_copy(fake_cuda):
    t = md.ones(3, device="cuda")
    with md.transfers() as seen:
        t.numpy(), t.tolist(), t.sum().item(), bool((t > 0)[0]), t.cpu(), md.ones(2).cuda()
    assert seen.count == 6
    assert [d for d, _ in seen.log] == ["device to host"] * 5 + ["host to device"]
    assert seen.bytes == 12 + 12 + 4 + 1 + 12 + 8
    with md.transfers(max=0), pytest.raises(RuntimeError, match=r"transfers: .*device to host.*\(3,\).*max=0"):
        t.numpy()
    with md.transfers(max=1):
        t.numpy()
        with pytest.raises(RuntimeError, match="max=1"):
            t.numpy()


def test_dlpack_shares_memory_both_ways():
    a = np.arange(3.0)
    t = md.from_dlpack(a)
    a[0] = 7.0
    assert t.tolist() == [7.0, 1.0, 2.0]
    assert np.shares_memory(np.from_dlpack(md.from_numpy(a)), a)
    with pytest.raises(BufferError, match=r"gradient.*detach"):
        np.from_dlpack(leaf([1.0]))
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert torch.from_dlpack(md.from_numpy(a)).tolist() == [7.0, 1.0, 2.0]
    assert md.from_dlpack(torch.ones(2)).tolist() == [1.0, 1.0]


# ---- copies, pickles, prints (T25) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
@pytest.mark.parametrize("make", [lambda a: md.tensor(a), lambda a: leaf(a), lambda a: md.Parameter(a)])
def test_T25_copies_and_pickles_keep_class_values_and_wish_for_a_gradient(clone, make):
    t = make(np.array([[1.0, 2.0]]))
    new = clone(t)
    assert type(new) is type(t)
    assert (new.tolist(), new.dtype, new.requires_grad) == (t.tolist(), t.dtype, t.requires_grad)
    assert not np.shares_memory(new.array, t.array)
    assert new.is_leaf
    if t.requires_grad:
        (new * 2).sum().backward()
        assert t.grad is None


def test_T25_a_deepcopy_keeps_what_is_shared_shared_and_the_gradient():
    p = md.Parameter(np.ones(2))
    (p * 3).sum().backward()
    a, b = copy.deepcopy([p, p])
    assert a is b
    assert a.grad.tolist() == [3.0, 3.0]
    assert not np.shares_memory(a.grad.array, p.grad.array)


def test_T25_a_result_cannot_be_copied_without_its_graph():
    y = leaf([1.0]) * 2
    for f in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(RuntimeError, match=r"detach\(\)"):
            f(y)
    assert copy.deepcopy(y.detach()).tolist() == [2.0]


@pytest.mark.parametrize(
    "t",
    [
        lambda: md.zeros(0),
        lambda: md.zeros(0, 3),
        lambda: md.tensor([np.nan, np.inf]),
        lambda: md.tensor(1.0),
        lambda: leaf([1.0]),
        lambda: leaf([1.0]) * 2,
        lambda: md.tensor([True]),
        lambda: md.tensor([1], dtype="uint8"),
        lambda: md.batch_norm_train(leaf(np.ones((2, 1))), leaf([1.0]), leaf([0.0]), eps=1.0)[1],
        lambda: md.Parameter([1.0]),
        lambda: leaf(np.ones((3, 2)))[0],
        lambda: md.softmax(leaf([1.0, 2.0])).sum(),
    ],
)
def test_T25_every_tensor_prints(t):
    assert repr(t()).startswith("tensor(")
    assert str(t())


def test_T25_a_large_tensor_prints_shortly_and_at_once():
    t = md.from_numpy(np.broadcast_to(np.float32(1), (10_000, 10_000)))
    start = time.perf_counter()
    text = repr(t)
    assert len(text) < 2000
    assert time.perf_counter() - start < 5


def test_what_is_printed_says_dtype_gradient_operation_and_device(fake_cuda):
    assert repr(md.tensor([1.0])) == "tensor([1.])"
    assert repr(leaf([1.0])) == "tensor([1.], dtype=float64, requires_grad=True)"
    assert "op=multiply" in repr(leaf([1.0]) * 2)
    assert "device='cuda:0'" in repr(md.ones(1, device="cuda"))


def test_T25_len_iteration_and_membership():
    t = md.tensor([[1.0], [2.0]])
    assert len(t) == 2
    with pytest.raises(TypeError, match="0-d"):
        len(md.tensor(1.0))
    assert t in [None, t]
    assert t.T.shape == (1, 2)
    assert md.ones(2, 3, 4).mT.shape == (2, 4, 3)


# ---- moving and casting ----------------------------------------------------------------------------------------------


def test_to_moves_casts_and_returns_itself_where_nothing_changes(fake_cuda):
    t = md.ones(2)
    assert t.to("cpu") is t
    assert t.to(np.float32) is t
    assert t.to("cpu", "float32") is t
    assert t.to("float64").dtype == np.float64
    there = t.to("cuda", "float64")
    assert (there.device, there.dtype) == ("cuda:0", np.float64)
    assert there.to("cuda") is there
    assert there.to("cuda:0") is there
    assert there.cpu().device == "cpu"
    assert t.cuda().device == "cuda:0"
    assert (t.float() is t, t.double().dtype) == (True, np.float64)
    assert t.to(md.float64).dtype == np.float64
    assert t.to(device="cuda", dtype="float16").dtype == np.float16
    for bad in ("tpu", "cuda:9", complex, "text"):
        with pytest.raises((ValueError, TypeError)):
            t.to(bad)


def test_properties_are_those_of_the_array():
    a = np.ones((2, 3), np.float16)
    t = md.tensor(a)
    assert (t.shape, t.dtype, t.ndim, t.size, t.device, len(t)) == ((2, 3), np.float16, 2, 6, "cpu", 2)
    assert (t.is_leaf, t.requires_grad, t.grad) == (True, False, None)


def test_requires_grad_can_be_set_on_leaves_only():
    t = md.ones(2)
    assert t.requires_grad_() is t
    assert (t * 2).requires_grad
    t.requires_grad = False
    assert not (t * 2).requires_grad
    with pytest.raises(RuntimeError, match=r"leaf.*detach"):
        (t.requires_grad_() * 2).requires_grad = False
    with pytest.raises(TypeError, match="floating"):
        md.ones(2, dtype=int).requires_grad = True


def test_a_tensor_has_no_room_for_misspelt_attributes():
    t = md.ones(2)
    with pytest.raises(AttributeError):
        t.require_grad = True
    with pytest.raises(AttributeError):
        t.no_such_method()


def test_a_subclass_behaves_as_a_tensor():
    class Mine(md.Tensor):
        pass

    t = Mine(np.array([1.0, 2.0]), requires_grad=True)
    y = (2 * t + np.ones(2)).sum()
    assert type(y) is md.Tensor
    y.backward()
    assert t.grad.tolist() == [2.0, 2.0]
    assert type(copy.deepcopy(t)) is Mine
    t.note = "kept"
    assert t.note == "kept"


def test_a_parameter_is_a_leaf_that_wants_its_gradient():
    p = md.Parameter([1.0, 2.0])
    assert (p.requires_grad, p.is_leaf, p.dtype) == (True, True, np.float32)
    assert not md.Parameter([1.0], requires_grad=False).requires_grad
    assert type(p * 2) is md.Tensor
    with pytest.raises(TypeError, match="floating"):
        md.Parameter([1, 2])


def test_integers_that_do_not_fit_their_dtype_are_refused():
    for data, dtype in (([300], "uint8"), ([-1], "uint8"), ([2**40], "int32")):
        with pytest.raises(ValueError, match=rf"tensor: {dtype} holds .* to .*, got numbers from"):
            md.tensor(data, dtype=dtype)
    with pytest.raises(TypeError, match="masked array"):
        md.tensor(np.ma.array([1.0, 2.0], mask=[0, 1]))


def test_what_lends_its_array_is_copied():
    class Lender:
        array = np.zeros(2)

        def __array__(self, dtype=None, copy=None):
            return self.array

    t = md.tensor(Lender())
    Lender.array[0] = 5.0
    assert t.tolist() == [0.0, 0.0]
