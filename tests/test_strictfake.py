"""The stand-in for CuPy is as strict as CuPy: what passes on it asks for nothing that CuPy would refuse."""

from __future__ import annotations

import copy
import inspect
import operator
import pickle
import threading
import weakref

import numpy as np
import pytest

import cupy_signatures
import minidl
import strictfake
from minidl.engine import backend
from strictfake import cupy, stats


@pytest.fixture
def host():
    return np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def x(host):
    return cupy.asarray(host)


@pytest.fixture(autouse=True)
def counts_from_zero(x):
    stats.reset()


# ---- nothing crosses over unseen ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [np.asarray, np.array, lambda x: np.asarray([x, x]), np.float32, np.ascontiguousarray, lambda x: np.ones(3) + [x]],
)
def test_numpy_cannot_convert_a_device_array(x, convert):
    with pytest.raises(
        TypeError, match=r"Implicit conversion to a NumPy array is not allowed\. Please use `\.get\(\)`"
    ):
        convert(x)


@pytest.mark.parametrize("protocol", ["__array_interface__", "__array_struct__", "__buffer__", "__index__"])
def test_no_protocol_of_numpy_leaks_out(x, protocol):
    assert not hasattr(x, protocol)


def test_a_device_array_is_no_numpy_array(x):
    assert not isinstance(x, np.ndarray)
    with pytest.raises(TypeError):
        memoryview(x)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, n: x + n,
        lambda x, n: n + x,
        lambda x, n: x @ n.T,
        lambda x, n: n.T @ x,
        lambda x, n: x == n,
        lambda x, n: operator.iadd(x, n),
        lambda x, n: operator.iadd(n, x),
        lambda x, n: cupy.add(x, n),
        lambda x, n: cupy.maximum(n, x),
        lambda x, n: cupy.where(x > 0, x, n),
        lambda x, n: cupy.concatenate([x, n]),
        lambda x, n: cupy.stack((n, x)),
        lambda x, n: cupy.sum(n),
        lambda x, n: cupy.exp(n),
        lambda x, n: cupy.dot(x, n.T),
        lambda x, n: cupy.einsum("ij,ij->", x, n),
        lambda x, n: cupy.add(x, x, out=n),
        lambda x, n: cupy.linalg.norm(n),
        lambda x, n: cupy.copyto(x, n),
        lambda x, n: x.__setitem__(0, n[0]),
        lambda x, n: x.__setitem__(slice(None), n),
        lambda x, n: x.dot(n.T),
    ],
)
def test_mixing_with_a_numpy_array_is_a_type_error(x, host, mix):
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy\.ndarray'>"):
        mix(x, host.copy())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: cupy.exp([1.0]),
        lambda x: cupy.add(x, [1.0, 2.0, 3.0]),
        lambda x: cupy.sum([1.0, 2.0]),
        lambda x: cupy.sum(2.0),
        lambda x: cupy.reshape([1.0, 2.0], (2, 1)),
        lambda x: x + [1.0, 2.0, 3.0],
        lambda x: [1.0, 2.0, 3.0] * x,
        lambda x: x.__setitem__(0, [1.0, 2.0, 3.0]),
        lambda x: x + "a",
        lambda x: cupy.exp(None),
    ],
)
def test_lists_and_other_objects_are_refused(x, call):
    with pytest.raises(TypeError):
        call(x)


def test_numpys_functions_are_refused_although_cupy_would_dispatch_them(x):
    for call in (
        np.exp,
        np.negative,
        lambda a: np.add(a, a),
        np.add.reduce,
        np.sum,
        np.zeros_like,
        lambda a: np.stack([a]),
    ):
        with pytest.raises(TypeError, match="write xp"):
            call(x)


def test_indices_are_never_copied_to_the_device_unseen(x):
    for key in ([0, 1], np.array([0, 1]), (slice(None), [0]), np.array([True, False]), True):
        with pytest.raises(TypeError, match="would be copied to the device"):
            x[key]
        with pytest.raises(TypeError, match="would be copied to the device"):
            x[key] = 0
    with pytest.raises(TypeError, match="would be copied to the device"):
        cupy.take(x, [0, 1])


def test_iterating_is_refused(x):
    with pytest.raises(TypeError, match="a kernel a row"):
        list(x)
    with pytest.raises(TypeError, match="iteration over a 0-d array"):
        iter(x.sum())


# ---- what a GPU would have done is counted -----------------------------------------------------------------------


@pytest.mark.parametrize("read", [float, int, bool, lambda s: s.item(), lambda s: s.get(), str, lambda s: s.tolist()])
def test_reading_a_value_waits_for_the_device(x, read):
    total = x.sum()
    assert (stats.waits, stats.to_host) == (0, 0)
    assert read(total) is not None
    assert (stats.waits, stats.to_host) == (1, 1)


def test_reading_gives_the_values(x, host):
    assert (float(x.sum()), int(x.sum()), x[1, 2].item(), bool(x[0, 0])) == (15.0, 15, 5.0, False)
    np.testing.assert_array_equal(x.get(), host)
    np.testing.assert_array_equal(cupy.asnumpy(x), host)
    assert x.tolist() == host.tolist()
    assert repr(x) == repr(host)


def test_results_whose_size_is_unknown_wait_for_the_device(x):
    for count, select in enumerate(
        [lambda: x[x > 2], lambda: cupy.nonzero(x), lambda: cupy.where(x > 1), x.nonzero], start=1
    ):
        select()
        assert stats.waits == count


def test_copies_to_the_device_are_counted(x, host):
    cupy.asarray(host)
    cupy.array([1.0, 2.0])
    cupy.asarray(3.0)
    assert stats.to_device == 3
    cupy.zeros(3)
    cupy.full((2, 2), 7.0)
    cupy.arange(5)
    assert cupy.asarray(x) is x
    assert stats.to_device == 3
    x[cupy.arange(1)] = 0.0  # CuPy makes an array of the number
    assert stats.to_device == 4


def test_launches_are_counted_and_views_are_free(x):
    y = x.T[1:].reshape(2, 2)[None].squeeze()
    y = cupy.broadcast_to(y, (3, 2, 2)).swapaxes(0, 1)
    assert stats.launches == 0
    y = cupy.exp(y) + 1
    y += 1
    y.sum()
    cupy.multiply(y, 2, out=y)
    y[0] = 0
    assert stats.launches == 6


def test_a_view_keeps_the_array_it_was_taken_from(x):
    base = weakref.ref(x)()
    assert x.base is None
    for view in (x[0], x.T, x.reshape(6)[1:], x[None, :, 1:], cupy.split(x, 3, axis=1)[2], x[1, 2]):
        assert view.base is base
        assert view.data.mem.ptr == x.data.ptr
    assert (x + 1).base is None
    x[1, 2] = 9.0
    assert view.item() == 9.0


# ---- arrays stay arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reduce",
    [
        cupy.sum,
        cupy.max,
        cupy.mean,
        cupy.argmax,
        cupy.linalg.norm,
        cupy.count_nonzero,
        lambda x: x[0, 0],
        lambda x: x.min(),
    ],
)
def test_a_reduction_is_an_array_without_axes(x, reduce):
    result = reduce(x)
    assert type(result) is cupy.ndarray
    assert result.shape == ()


def test_a_comparison_of_arrays_stays_on_the_device(x):
    for result in (cupy.allclose(x, x), cupy.array_equal(x, x), (x == x).all()):
        assert type(result) is cupy.ndarray
    assert stats.waits == 0


def test_dtypes_follow_numpy(x):
    assert (x * 2.0).dtype == np.float32
    assert (np.float32(2) * x).dtype == np.float32
    assert (np.float64(2) * x).dtype == np.float64
    assert (x + cupy.asarray(1.0)).dtype == np.float64
    assert cupy.sum(cupy.zeros(3, np.int32)).dtype == np.int64
    assert cupy.result_type(x, np.float16) == np.float32


def test_results_lie_in_c_order(x):
    assert (x.T + x.T).flags.c_contiguous
    assert not x.T.flags.c_contiguous
    assert cupy.asfortranarray(x).flags.f_contiguous


def test_there_is_no_writeable_flag(x):
    assert not hasattr(x.flags, "writeable")


def test_new_memory_holds_garbage():
    assert np.isnan(cupy.empty(3).get()).all()
    assert cupy.empty((2,), np.int64).get().tolist() == [99, 99]


# ---- CuPy's own rules --------------------------------------------------------------------------------------------


def test_an_index_array_out_of_range_wraps_around(x):
    far = cupy.asarray([2, -3])
    np.testing.assert_array_equal(x[far].get(), x.get()[[0, 1]])
    np.testing.assert_array_equal(x[:, cupy.asarray([4])].get(), x.get()[:, [1]])
    np.testing.assert_array_equal(x[..., cupy.asarray([4])].get(), x.get()[:, [1]])
    np.testing.assert_array_equal(cupy.take(x, far, axis=0).get(), x.get()[[0, 1]])
    np.testing.assert_array_equal(x.take(cupy.asarray(7)).get(), 1.0)
    np.testing.assert_array_equal(cupy.take_along_axis(x, cupy.asarray([[5], [3]]), 1).get(), [[2.0], [3.0]])
    total = cupy.zeros(3)
    cupy.add.at(total, cupy.asarray([0, 3, 5]), 1.0)
    assert total.tolist() == [2.0, 0.0, 1.0]
    x[cupy.asarray([3])] = 7.0
    assert x[1].tolist() == [7.0] * 3


def test_a_plain_integer_out_of_range_is_an_error(x):
    with pytest.raises(IndexError):
        x[2]
    with pytest.raises(IndexError, match="integer or boolean"):
        x[cupy.asarray([1.0])]


@pytest.mark.parametrize(
    "name", ["insert", "block", "geomspace", "vecdot", "einsum_path", "unstack", "errstate", "seterr", "matvec"]
)
def test_what_cupy_lacks_is_missing(name):
    assert hasattr(np, name) or name in ("unstack", "matvec")
    with pytest.raises(AttributeError, match=f"module 'cupy' has no attribute '{name}'"):
        getattr(cupy, name)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: cupy.take(x, cupy.asarray(0), mode="clip"),
        lambda x: x.take(cupy.asarray(0), mode="clip"),
        lambda x: cupy.sum(x, where=x > 0),
        lambda x: cupy.max(x, initial=0),
        lambda x: x.sum(initial=0),
        lambda x: x.mean(where=x > 0),
        lambda x: cupy.add(x, x, where=x > 0),
        lambda x: cupy.clip(x, min=0, max=1),
        lambda x: cupy.copyto(x, 0, wrong=1),
        lambda x: cupy.zeros(3, device="cpu"),
    ],
)
def test_arguments_that_cupy_lacks_are_refused(x, call):
    with pytest.raises(TypeError):
        call(x)


def test_add_at_takes_the_dtypes_with_an_atomic_only():
    for dtype in (np.float16, np.float32, np.float64, np.int32):
        target = cupy.zeros(2, dtype)
        cupy.add.at(target, cupy.asarray([1, 1]), cupy.ones(2, dtype))
        assert target.tolist() == [0, 2]
    with pytest.raises(TypeError, match="does not support int64"):
        cupy.add.at(cupy.zeros(2, np.int64), cupy.asarray([1]), 1)
    with pytest.raises(NotImplementedError):
        cupy.multiply.at(cupy.ones(2), cupy.asarray([1]), 2.0)


def test_a_gpu_does_not_warn(x):
    assert np.isinf(cupy.log(cupy.zeros(1)).item())
    assert np.isnan(cupy.mean(cupy.zeros(0)).item())
    assert np.isinf((x / 0)[1].get()).all()


def test_a_singular_matrix_gives_nan():
    assert np.isnan(cupy.linalg.inv(cupy.zeros((2, 2))).get()).all()
    assert cupy.linalg.solve(cupy.zeros((2, 2)), cupy.ones((2, 3))).shape == (2, 3)
    with pytest.raises(np.linalg.LinAlgError):
        cupy.linalg.inv(cupy.ones((2, 3)))


def test_the_generator_has_cupys_methods_and_another_stream():
    generator = cupy.random.default_rng(0)
    assert generator.standard_normal((2, 3), dtype=np.float32).dtype == np.float32
    assert generator.random(4).get().tolist() != np.random.default_rng(0).random(4).tolist()
    for name in ("normal", "permutation", "shuffle", "choice", "spawn"):
        assert not hasattr(generator, name)


# ---- operators with other classes --------------------------------------------------------------------------------


class Refusing:
    __array_ufunc__ = None

    def __rmul__(self, other):
        return "mine"


class Taking:
    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return ufunc.__name__


class Ranking:
    __array_priority__ = 1000

    def __radd__(self, other):
        return "ranked"


def test_operators_give_way_as_cupys_do(x):
    assert x * Refusing() == "mine"
    assert x + Ranking() == "ranked"
    assert x @ Taking() == "matmul"
    assert Taking().__array_ufunc__(np.add, "__call__", x) == "add"
    with pytest.raises(TypeError):
        x + Refusing()


def test_operators_compute_what_numpy_computes(x, host):
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "gt", "ge", "eq", "ne"):
        function = getattr(operator, name)
        np.testing.assert_array_equal(function(x + 1, 2).get(), function(host + 1, 2))
        np.testing.assert_array_equal(function(2, x + 1).get(), function(2, host + 1))
        np.testing.assert_array_equal(function(x + 1, x + 2).get(), function(host + 1, host + 2))
    np.testing.assert_array_equal((-abs(x @ x.T)).get(), -abs(host @ host.T))
    y = x
    y -= 1
    assert y is x
    np.testing.assert_array_equal(x.get(), host - 1)


def test_copies_and_pickles(x, host):
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert type(y) is cupy.ndarray
        np.testing.assert_array_equal(y.get(), host)
        assert y.data.ptr != x.data.ptr


# ---- as device "cuda" of the library -----------------------------------------------------------------------------


def test_the_fixtures_give_a_device_and_its_array_module(device, xp, rng):
    x = backend.to_device(rng.random(3), device)
    assert backend.device_of(x) == device
    assert backend.array_module(x) is xp
    assert xp.__name__ == ("numpy" if device == "cpu" else "cupy")


def test_a_gradient_on_the_stand_in_needs_no_copy_and_no_wait(fake_cuda, rng):
    data = rng.standard_normal((4, 3))
    x = minidl.tensor(data, device="cuda", requires_grad=True)
    fake_cuda.stats.reset()
    (minidl.exp(x) * x).sum().backward()
    assert vars(fake_cuda.stats) == {**vars(fake_cuda.stats), "waits": 0, "to_device": 0, "to_host": 0}
    assert type(x.grad.data) is cupy.ndarray
    np.testing.assert_allclose(x.grad.cpu().numpy(), np.exp(data) * (data + 1), rtol=1e-12)


# ---- devices -----------------------------------------------------------------------------------------------------


def test_the_machine_has_one_gpu_unless_told_otherwise(x):
    assert cupy.cuda.is_available()
    assert cupy.cuda.runtime.getDeviceCount() == 1
    assert cupy.cuda.runtime.getDeviceProperties(0)["name"] == b"strict stand-in"
    assert x.device.id == 0
    with pytest.raises(RuntimeError, match="invalid device ordinal"), cupy.cuda.Device(1):
        pass
    with strictfake.devices(0):
        assert not cupy.cuda.is_available()


def test_arrays_live_on_the_gpu_that_was_current(x, host):
    with strictfake.devices(2):
        with cupy.cuda.Device(1):
            y = cupy.asarray(host)
            assert (y * 2).device == y.device == cupy.cuda.Device(1)
            assert y[0].device.id == 1
            with pytest.raises(ValueError, match=r"resides \(0\) is different from the current device \(1\)"):
                y + x
            moved = cupy.asarray(x)
        assert moved.device.id == 1
        assert stats.between_devices == 1
        with pytest.raises(ValueError, match=r"resides \(1\) is different from the current device \(0\)"):
            y * 2
        with pytest.raises(ValueError, match=r"resides \(1\) is different from the current device \(0\)"):
            y[0] = 1.0
        assert y.T[1:].reshape(2, 1, 2).device.id == 1  # a view needs no kernel, so no current device
        assert copy.deepcopy(y).device.id == 1


def test_the_current_gpu_belongs_to_the_thread():
    seen = []
    with strictfake.devices(2), cupy.cuda.Device(1):
        thread = threading.Thread(target=lambda: seen.append(cupy.cuda.runtime.getDevice()))
        thread.start()
        thread.join()
    assert seen == [0]


# ---- kernels -----------------------------------------------------------------------------------------------------


def test_an_elementwise_kernel_computes_what_its_c_says():
    kernel = cupy.ElementwiseKernel(
        "int64 row, raw uint8 a, int64 n", "T out", "out = (T)a[row * n + i % n] / (T)4; ", "rows"
    )
    rows = cupy.asarray([[2], [0]])
    out = cupy.empty((2, 3), np.float32)
    stats.reset()
    kernel(rows, cupy.arange(9, dtype=np.uint8), 3, out)
    np.testing.assert_array_equal(out.get(), np.float32([[6, 7, 8], [0, 1, 2]]) / 4)
    assert stats.launches == 2  # arange, and the kernel


def test_an_elementwise_kernel_divides_integers_as_c_does():
    kernel = cupy.ElementwiseKernel("T x, T y", "T out", "out = x / y")
    assert kernel(cupy.asarray([7, -7]), cupy.asarray([2, 2])).tolist() == [3, -3]
    assert kernel(cupy.asarray([7.0]), cupy.asarray([2.0])).tolist() == [3.5]


def test_an_elementwise_kernel_refuses_what_would_go_wrong(x, host):
    read = cupy.ElementwiseKernel("raw float32 a, int64 k", "float32 out", "out = a[k]")
    with pytest.raises(IndexError, match="reads beyond its 6 elements"):
        read(x, 6, cupy.empty(1, np.float32))
    with pytest.raises(TypeError, match=r"Type is mismatched\. a float64 float32"):
        read(cupy.zeros(3), 0, cupy.empty(1, np.float32))
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy\.ndarray'>"):
        read(host, 0, cupy.empty(1, np.float32))
    with pytest.raises(NotImplementedError):
        cupy.ElementwiseKernel("T x", "T out", "for (int k = 0; k < 3; k++) out += x")


# ---- the tables against the real package -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return pytest.importorskip(
        "cupy", reason="CuPy is not installed: nothing to compare the tables with", exc_type=ImportError
    )


@pytest.mark.parametrize("table", ["FUNCTIONS", "LINALG"])
def test_the_tables_state_the_signatures_of_the_real_package(real, table):
    module = real.linalg if table == "LINALG" else real
    for name, ours in cupy_signatures.signatures(getattr(cupy_signatures, table)).items():
        theirs = inspect.signature(getattr(module, name))
        assert list(ours.parameters) == list(theirs.parameters), name
        for key, parameter in ours.parameters.items():
            assert parameter.kind == theirs.parameters[key].kind, (name, key)
            assert (parameter.default is parameter.empty) == (theirs.parameters[key].default is parameter.empty), (
                name,
                key,
            )


@pytest.mark.parametrize(("table", "holder"), [("METHODS", "ndarray"), ("GENERATOR", "random.Generator")])
def test_the_tables_state_the_methods_of_the_real_package(real, table, holder):
    cls = operator.attrgetter(holder)(real)
    for name, ours in cupy_signatures.signatures(getattr(cupy_signatures, table)).items():
        first_line = (
            inspect.getdoc(getattr(cls, name)).splitlines()[0]
            if name != "view"
            else "view(self, dtype=None, type=None)"
        )
        stated = first_line.partition("(")[2].partition(")")[0]
        names = [part.split("=")[0].split()[-1].lstrip("*") for part in stated.split(", ") if part.strip()]
        assert list(ours.parameters) == names[1:], name


def test_every_elementwise_function_is_one_in_the_real_package(real):
    for name in cupy_signatures.UFUNCS.split():
        assert type(getattr(real, name)) is type(real.add), name


def test_the_other_names_exist_in_the_real_package(real):
    for name in (*strictfake.HOST, *strictfake.NAMES.split()):
        assert hasattr(real, name), name
    for name in (
        "Device",
        "is_available",
        "runtime.getDeviceCount",
        "runtime.getDevice",
        "runtime.getDeviceProperties",
    ):
        assert operator.attrgetter(name)(real.cuda), name
