"""Every operation passes the battery: see `battery` for the truths and `cases` for what they are tried on."""

from __future__ import annotations

import gc
import inspect

import numpy as np
import pytest

import battery
import cases_rearrange
import cases_shapes
import minidl as md
from cases import CASES, ELSEWHERE, ENTRIES, LINALG
from minidl import ops
from minidl.engine.op import Op

NAMES = sorted({entry.name for entry in ENTRIES})
DIFFERENTIABLE = [case for case in CASES if case.orders]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_differentiable = pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=[f"{e.name}-{i}" for i, e in enumerate(ENTRIES)])


def op_of(entry):
    return getattr(md, entry.name)


@pytest.fixture
def no_collector():
    """Run without the garbage collector."""
    gc.disable()
    yield
    gc.enable()


# ---- case by case ----------------------------------------------------------------------------------------------------


@each_case
def test_the_value_is_numpys(case, rng):
    battery.check_value(op_of(case), case, rng)


@each_differentiable
def test_derivatives_of_orders_1_to_3_are_those_of_differences(case, rng):
    battery.check_orders(op_of(case), case, rng)


@each_case
def test_the_gpu_computes_what_the_cpu_does_and_nothing_crosses_over(case, rng, fake_cuda):
    if case.name == "move":
        pytest.skip("it is itself the copy: see test_gradients_cross_between_devices_where_the_program_does")
    battery.check_device(op_of(case), case, rng, "cuda:0")
    if not case.waits and not case.transfers:
        battery.check_launches_only(op_of(case), case, rng, fake_cuda.stats)


@pytest.mark.gpu
@each_case
def test_a_real_gpu_computes_what_the_cpu_does(case, rng):
    if case.name != "move":
        battery.check_device(op_of(case), case, rng, "cuda:0")


# ---- operation by operation, over all its cases ----------------------------------------------------------------------


def over_cases(check, entry, rng, *more):
    for case in entry.cases():
        try:
            check(op_of(entry), case, rng, *more)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@each_entry
def test_the_layout_in_memory_does_not_matter(entry, rng):
    over_cases(battery.check_layouts, entry, rng)


@each_entry
def test_an_input_that_repeats_one_row_is_like_its_copy(entry, rng):
    over_cases(battery.check_repeated, entry, rng)


@each_entry
def test_every_float_stays_what_it_is(entry, rng):
    over_cases(battery.check_dtypes, entry, rng)


@each_entry
def test_float16_and_float32_are_float64_rounded(entry, rng):
    over_cases(battery.check_half_and_single, entry, rng)


@each_entry
def test_inputs_are_never_written_into(entry, rng):
    over_cases(battery.check_inputs_unchanged, entry, rng)


@each_entry
def test_a_leafs_gradient_is_its_own_writeable_array(entry, rng):
    over_cases(battery.check_ownership, entry, rng)


@each_entry
def test_the_graph_goes_with_its_result(entry, rng, no_collector):
    over_cases(battery.check_freed, entry, rng)


@each_entry
def test_nothing_is_recorded_of_constants(entry, rng):
    over_cases(battery.check_constants, entry, rng)


@each_entry
def test_samplewise_operations_keep_samples_apart(entry, rng):
    over_cases(battery.check_samplewise, entry, rng)


@each_entry
def test_value_and_derivatives_are_finite_at_the_ends(entry):
    for sample in entry.finite:
        case = type(entry.cases()[0])(entry, sample)
        battery.check_finite(op_of(entry), case, case.arrays(None))


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.scalars], ids=lambda e: e.name)
def test_numbers_are_weak(entry):
    battery.check_weak_scalars(op_of(entry))


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.method], ids=lambda e: e.name)
def test_the_method_is_the_function(entry, rng):
    for case in entry.cases():
        xs = battery.tensors(case.arrays(rng))
        as_method = case.call(lambda x, *rest, **settings: getattr(x, entry.method)(*rest, **settings), *xs)
        same(as_method, case.call(op_of(entry), *xs), case)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.numpy], ids=lambda e: e.name)
def test_numpys_function_of_a_tensor_is_ours(entry, rng):
    for case in entry.cases():
        xs = battery.tensors(case.arrays(rng))
        same(case.call(entry.numpy, *xs), case.call(op_of(entry), *xs), case)


def same(got, expected, case):
    """Check that two results are the same tensors."""
    for a, b in zip(battery.outputs_of(got), battery.outputs_of(expected), strict=True):
        assert type(a) is md.Tensor
        assert (a.dtype, a.requires_grad) == (b.dtype, b.requires_grad)
        battery.assert_equal(a.detach().numpy(), b.detach().numpy(), 0, 0, str(case))


ERRORS = [(entry, error) for entry in ENTRIES for error in entry.errors]


@pytest.mark.parametrize(("entry", "error"), ERRORS, ids=[f"{e.name}-{i}" for i, (e, _) in enumerate(ERRORS)])
def test_bad_input_is_named(entry, error):
    """The message names the operation, the rule and what arrived; the same for arrays and tensors."""
    for op in (op_of(entry), lambda *xs, **settings: op_of(entry)(*map(wrapped, xs), **settings)):
        with pytest.raises(error.kind, match=error.match):
            error.call(op)
        assert md.is_grad_enabled()


def wrapped(x):
    """Return arrays as tensors, in lists too, and anything else as it is."""
    if isinstance(x, list):
        return [wrapped(a) for a in x]
    return (
        md.tensor(x, requires_grad=x.dtype.kind == "f") if isinstance(x, np.ndarray) and x.dtype.kind in "biuf" else x
    )


# ---- the table is complete -------------------------------------------------------------------------------------------


def test_every_public_operation_has_an_entry():
    covered = {id(getattr(ops, name)) for name in NAMES}
    elsewhere = {*ELSEWHERE, *(entry.name for entry in LINALG)}
    missing = [name for name in ops.__all__ if id(getattr(ops, name)) not in covered and name not in elsewhere]
    assert missing == []


def test_every_entry_is_a_public_operation():
    assert [name for name in NAMES if name not in ops.__all__ or getattr(md, name) is not getattr(ops, name)] == []


@each_entry
def test_the_table_says_truly_what_is_differentiable(entry):
    op = op_of(entry)
    if isinstance(op, Op):
        assert op.differentiable == (entry.orders > 0)
    assert entry.samples
    assert entry.orders in (0, 3), "every derivative is exact to any order"


def test_the_ends_are_tried_for_all_but_what_only_moves_elements():
    moving = {e.name for e in (*cases_shapes.ENTRIES, *cases_rearrange.ENTRIES)} | {"copy", "astype", "move", "dropout"}
    tried = {e.name for e in ENTRIES if e.finite}
    assert {e.name for e in ENTRIES if e.orders} - tried - moving == set()


def test_every_method_is_in_the_table():
    named = {e.method for e in ENTRIES} | {"flatten", "to", "cpu", "cuda", "float", "double"}
    assert set(ops.METHODS) - named == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_documented_with_an_example(name):
    assert ">>> " in (inspect.getdoc(getattr(ops, name)) or "")


def test_every_numpy_function_that_gives_way_is_in_the_table():
    from minidl.engine.tensor import NUMPY_FUNCTIONS

    others = {np.shape, np.ndim, np.size, np.allclose, np.zeros_like, np.ones_like, np.full_like}
    named = {entry.numpy for entry in (*ENTRIES, *LINALG) if entry.numpy} | others
    assert {f.__name__ for f in NUMPY_FUNCTIONS} - {f.__name__ for f in named} == set()


# ---- broadcasting, drawn at random -----------------------------------------------------------------------------------

hypothesis = pytest.importorskip("hypothesis")
hnp = pytest.importorskip("hypothesis.extra.numpy")
AT_RANDOM = hypothesis.settings(derandomize=True, deadline=None, max_examples=60, database=None)
BINARY = [entry.name for entry in ENTRIES if entry.scalars and entry.orders]


@AT_RANDOM
@hypothesis.given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=3))
@pytest.mark.parametrize("name", BINARY)
def test_gradients_have_the_shapes_of_their_inputs_however_these_broadcast(name, shapes):
    op, rng = getattr(md, name), np.random.default_rng(0)
    a, b = (np.asarray(rng.uniform(0.5, 2.0, shape)) for shape in shapes.input_shapes)
    x, y = battery.tensors([a, b])
    out = op(x, y)
    assert out.shape == shapes.result_shape
    out.backward(md.ones(out.shape, dtype="float64"))
    assert (x.grad.shape, y.grad.shape) == (a.shape, b.shape)
    # Broadcast by hand first, and no sum over broadcast axes is left to the engine.
    xx, yy = battery.tensors([np.broadcast_to(v, out.shape).copy() for v in (a, b)])
    op(xx, yy).backward(md.ones(out.shape, dtype="float64"))
    for t, full in ((x, xx), (y, yy)):
        lead = out.ndim - t.ndim
        axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(t.shape) if n == 1)
        np.testing.assert_allclose(t.grad.numpy(), full.grad.numpy().sum(axis=axes).reshape(t.shape), rtol=1e-12)


@AT_RANDOM
@hypothesis.given(hypothesis.strategies.data())
def test_an_index_takes_what_numpy_takes_and_puts_the_gradient_back_there(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    kinds = [hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)]
    if 0 not in shape:
        kinds.append(hnp.integer_array_indices(shape))
    kinds.append(hnp.arrays(np.bool_, shape))
    index = data.draw(hypothesis.strategies.one_of(kinds))
    a = np.random.default_rng(0).standard_normal(shape)
    x = md.tensor(a, requires_grad=True)
    y = x[index]
    np.testing.assert_array_equal(y.detach().numpy(), a[index])
    g = np.random.default_rng(1).standard_normal(y.shape)
    expected = np.zeros_like(a)
    np.add.at(expected, index, g)
    y.backward(g)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-13)
    md.check_grad(lambda t: t[index], a, order=2)
