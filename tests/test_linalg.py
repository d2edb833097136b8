"""Linear algebra: the battery over minidl.linalg, and what is true of products, factorisations and norms."""

from __future__ import annotations

import functools
import inspect
import itertools
import operator

import numpy as np
import pytest

import battery
import cases_linalg
import minidl as md
import minidl.linalg as la
from minidl.engine.tensor import NUMPY_FUNCTIONS
from minidl.ops import products

ENTRIES = [*cases_linalg.ENTRIES, *cases_linalg.LINALG]
CASES = [case for entry in ENTRIES for case in entry.cases()]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
ROWS_MAY_REPEAT = {entry.name for entry in cases_linalg.ENTRIES} | {"norm"}  # others become singular


def op_of(entry):
    return getattr(products, entry.name, None) or getattr(la, entry.name)


# ---- the battery -----------------------------------------------------------------------------------------------------


@each_case
def test_the_value_is_numpys(case, rng):
    battery.check_value(op_of(case), case, rng)


@pytest.mark.parametrize("case", [case for case in CASES if case.orders], ids=str)
def test_derivatives_of_orders_1_to_3_are_those_of_differences(case, rng):
    battery.check_orders(op_of(case), case, rng)


@each_case
def test_the_gpu_computes_what_the_cpu_does_and_nothing_crosses_over(case, rng, fake_cuda):
    battery.check_device(op_of(case), case, rng, "cuda:0")
    battery.check_launches_only(op_of(case), case, rng, fake_cuda.stats)


@pytest.mark.gpu
@each_case
def test_a_real_gpu_computes_what_the_cpu_does(case, rng):
    battery.check_device(op_of(case), case, rng, "cuda:0")


@pytest.mark.parametrize(
    "check",
    [
        battery.check_layouts,
        battery.check_dtypes,
        battery.check_half_and_single,
        battery.check_inputs_unchanged,
        battery.check_ownership,
        battery.check_constants,
        battery.check_freed,
        battery.check_samplewise,
        battery.check_repeated,
    ],
    ids=lambda f: f.__name__,
)
@each_entry
def test_the_battery(check, entry, rng):
    if check is battery.check_repeated and entry.name not in ROWS_MAY_REPEAT:
        pytest.skip("a matrix whose rows are equal is singular")
    for case in entry.cases():
        try:
            check(op_of(entry), case, rng)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.finite], ids=lambda entry: entry.name)
def test_value_and_derivatives_are_finite_at_the_ends(entry):
    for sample in entry.finite:
        case = type(entry.cases()[0])(entry, sample)
        battery.check_finite(op_of(entry), case, case.arrays(None))


ERRORS = [(entry, error) for entry in ENTRIES for error in entry.errors]


@pytest.mark.parametrize(("entry", "error"), ERRORS, ids=[f"{e.name}-{i}" for i, (e, _) in enumerate(ERRORS)])
def test_bad_input_is_named(entry, error):
    with pytest.raises(error.kind, match=error.match):
        error.call(op_of(entry))


@each_case
def test_value_and_derivatives_are_pytorchs(case, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is an optional second opinion")
    if case.entry.torch is None:
        pytest.skip("PyTorch has no such function, or one that means something else")
    theirs = case.entry.torch(torch) if callable(case.entry.torch) else operator.attrgetter(case.entry.torch)(torch)
    arrays = case.arrays(rng)
    order = min(2, case.orders)
    outs, orders = battery.run(op_of(case), case, arrays, order)
    xs = [torch.tensor(a, requires_grad=True) for a in arrays]
    current = list(battery.outputs_of(case.entry.call(theirs, *xs, **case.sample.settings)))
    found = [current]
    for k in range(order):
        us = [torch.tensor(u) for u in battery.cotangents(tuple(y.detach().numpy() for y in current), k + 1)]
        pairs = [(y, u) for y, u in zip(current, us, strict=True) if y.requires_grad]
        more = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        ys, us = zip(*pairs, strict=True) if pairs else ((), ())
        current = list(torch.autograd.grad(ys, xs, us, **more)) if pairs else [torch.zeros_like(x) for x in xs]
        found.append(current)
    for ours, other in zip([outs, *orders], found, strict=True):
        for a, b in zip(ours, other, strict=True):
            battery.assert_equal(a.detach().numpy(), b.numpy(force=True), 1e-9, 1e-10)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.numpy in NUMPY_FUNCTIONS], ids=lambda e: e.name)
def test_numpys_function_of_a_tensor_is_ours(entry, rng):
    for case in entry.cases():
        xs = battery.tensors(case.arrays(rng))
        pairs = zip(*(battery.outputs_of(case.call(f, *xs)) for f in (entry.numpy, op_of(entry))), strict=True)
        for dispatched, expected in pairs:
            assert type(dispatched) is md.Tensor
            battery.assert_equal(dispatched.detach().numpy(), expected.detach().numpy(), 0, 0, str(case))
            assert dispatched.requires_grad == expected.requires_grad


def test_every_name_of_the_namespace_has_an_entry_and_an_example():
    named = {entry.name for entry in ENTRIES}
    for name in la.__all__:
        if name != "LinAlgError":
            assert name in named | {"matmul"}
            assert ">>> " in (inspect.getdoc(getattr(la, name)) or "")
    assert {entry.name for entry in cases_linalg.LINALG} <= set(la.__all__)
    assert {entry.name for entry in cases_linalg.ENTRIES} == set(products.__all__)


# ---- truths ----------------------------------------------------------------------------------------------------------


def leaf(values, dtype="float64"):
    return md.tensor(np.asarray(values, dtype), requires_grad=True)


def gradient(y, x, **more):
    return md.autograd.grad(y, x, **more)[0]


def test_the_trace_is_that_of_numpys_namespace(rng):
    a = rng.standard_normal((3, 2, 4))
    for offset in (0, 1, -1):
        np.testing.assert_allclose(la.trace(md.tensor(a), offset=offset).numpy(), np.linalg.trace(a, offset=offset))
    np.testing.assert_allclose(np.linalg.trace(md.tensor(a)).numpy(), np.linalg.trace(a))


def test_results_have_numpys_names():
    x = leaf([[2.0, 1.0], [1.0, 3.0]])
    assert la.slogdet(x)._fields == ("sign", "logabsdet")
    assert la.eigh(x)._fields == ("eigenvalues", "eigenvectors")
    assert la.svd(x)._fields == ("U", "S", "Vh")
    assert la.qr(x)._fields == ("Q", "R")


@pytest.mark.parametrize("name", ["eig", "eigvals"])
def test_complex_results_are_refused_by_name(name):
    with pytest.raises(AttributeError, match=rf"linalg\.{name}: .*complex.*eigh"):
        getattr(la, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        la.nothing  # noqa: B018


def test_lists_and_numbers_take_the_dtype_of_the_tensor_beside_them():
    x = leaf([1.0, 2.0], "float32")
    by_list = products.dot(x, [3.0, 4.0]), products.einsum("i,i", x, [3, 4]), products.outer([1.0], x)
    for y in (*by_list, products.dot(2.0, x)):
        assert y.dtype == np.float32
    assert products.dot([1, 2], [3, 4]) == 11
    assert la.solve([[2.0, 0.0], [0.0, 4.0]], [1.0, 1.0]).tolist() == [0.5, 0.25]


def test_integers_are_inverted_as_floats_and_multiplied_as_integers():
    x = md.tensor([[2, 0], [0, 4]])
    assert la.inv(x).dtype == np.float64
    assert la.norm(x).dtype == np.float64
    assert products.einsum("ij,jk->ik", x, x).dtype == np.int64


# ---- einsum ----


def test_a_contraction_of_two_is_one_operation_and_calls_blas():
    a, b = leaf(np.ones((5, 2, 3))), leaf(np.ones((5, 3, 4)))
    y = products.einsum("bij,bjk->bki", a, b)
    assert y.node.parents == (a.node, b.node)


@pytest.fixture
def contractions(monkeypatch):
    """The subscripts of the products of two that einsum makes."""
    seen, original = [], products.product

    def watched(x, y, *, subscripts):
        seen.append(subscripts)
        return original(x, y, subscripts=subscripts)

    monkeypatch.setattr(products, "product", watched)
    return seen


@pytest.mark.parametrize(("optimize", "first"), [(True, "bc,cd"), ("greedy", "bc,cd"), (False, "ab,bc")])
def test_many_operands_are_multiplied_in_the_cheapest_order(contractions, optimize, first):
    matrices = [np.ones((2, 100)), np.ones((100, 100)), np.ones((100, 1))]
    products.einsum("ab,bc,cd->ad", *matrices, optimize=optimize)
    assert contractions[0].split("->")[0] in (first, ",".join(first.split(",")[::-1]))


def test_a_sum_is_taken_before_the_product(contractions):
    products.einsum("ij,kl->k", np.ones((2, 3)), np.ones((4, 5)))
    assert contractions == [",k->k"]


def test_matrices_that_lie_across_memory_are_multiplied_as_fast_as_others():
    assert products._for_blas(np, np.ones((4, 3, 2)).transpose(2, 0, 1)).flags.c_contiguous
    straight = np.ones((2, 3, 4)).transpose(0, 2, 1)
    assert products._for_blas(np, straight) is straight


@pytest.mark.parametrize("seed", range(40))
def test_einsum_of_random_subscripts_is_numpys(seed):
    rng = np.random.default_rng(seed)
    sizes = {i: int(rng.integers(1, 4)) for i in "abcde"}
    terms = ["".join(rng.choice(list("abcde"), rng.integers(0, 4))) for _ in range(rng.integers(1, 4))]
    letters = sorted(set("".join(terms)))
    out = "".join(rng.permutation([i for i in letters if rng.random() < 0.5])) if letters else ""
    text = ",".join(terms) + "->" + out
    arrays = [rng.standard_normal([sizes[i] for i in term]) for term in terms]
    np.testing.assert_allclose(products.einsum(text, *arrays), np.einsum(text, *arrays), rtol=1e-10, atol=1e-12)
    md.check_grad(lambda *xs: products.einsum(text, *xs), arrays, order=2)


# ---- determinants, at singular matrices ----


def leibniz(x):
    """The determinant as the sum over all permutations: a polynomial, without a division."""
    total = 0
    for order in itertools.permutations(range(len(x))):
        sign = (-1) ** sum(order[j] > order[i] for i in range(len(x)) for j in range(i))
        total = total + sign * functools.reduce(operator.mul, [x[i, j] for i, j in enumerate(order)])
    return total


@pytest.mark.parametrize(("n", "rank"), [(n, rank) for n in range(1, 6) for rank in range(n + 1)])
def test_the_determinant_has_its_derivatives_at_singular_matrices_too(n, rank, rng):
    a = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n))
    directions = rng.standard_normal((4, n, n))
    results = []
    for f in (la.det, leibniz):
        x = leaf(a)
        y, found = f(x), []
        for v in directions[:n]:
            g = gradient(y, x, create_graph=True)
            found.append(g.detach().numpy())
            y = (g * v).sum()
        results.append(found)
    for ours, exact in zip(*results, strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-11 * max(1, np.abs(exact).max()))


def test_the_gradient_of_a_determinant_is_the_matrix_of_cofactors():
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])  # singular
    cofactors = [[-3.0, 6.0, -3.0], [6.0, -12.0, 6.0], [-3.0, 6.0, -3.0]]
    np.testing.assert_allclose(gradient(la.det(x), x).numpy(), cofactors, rtol=1e-12)


def test_the_logarithm_of_a_huge_determinant_does_not_overflow():
    x = leaf(1e200 * np.eye(4))
    value = la.slogdet(x).logabsdet
    assert value.item() == pytest.approx(4 * np.log(1e200), rel=1e-14)
    np.testing.assert_allclose(gradient(value, x).numpy(), 1e-200 * np.eye(4))


def test_a_singular_matrix_has_the_logarithm_of_nothing():
    sign, value = la.slogdet(leaf(np.ones((2, 2))))
    assert (sign.item(), value.item()) == (0.0, -np.inf)
    with pytest.raises(la.LinAlgError, match="inv: Singular"):
        value.backward()


# ---- factorisations ----


def test_factors_multiply_to_the_matrix(rng):
    for shape in ((3, 3), (4, 2), (2, 4), (2, 3, 2)):
        a = rng.standard_normal(shape)
        u, s, vt = la.svd(a, full_matrices=False)
        np.testing.assert_allclose((u * s[..., None, :]) @ vt, a, atol=1e-13)
        q, r = la.qr(a)
        np.testing.assert_allclose(q @ r, a, atol=1e-13)
        p = la.pinv(a)
        np.testing.assert_allclose(a @ p @ a, a, atol=1e-12)
        m = a @ a.swapaxes(-1, -2) + np.eye(shape[-2])
        lower = la.cholesky(m)
        np.testing.assert_allclose(lower @ lower.swapaxes(-1, -2), m, atol=1e-13)
        w, v = la.eigh(m)
        np.testing.assert_allclose((v * w[..., None, :]) @ v.swapaxes(-1, -2), m, atol=1e-12)


def test_a_function_of_the_spectrum_has_its_derivatives_through_eigenvectors(rng):
    """exp(A) by eigenvectors has the derivatives of its power series."""
    a = rng.standard_normal((3, 3)) * 0.5

    def by_eigenvectors(x):
        w, v = la.eigh(x + x.T)
        return (v * md.exp(w)) @ v.T

    def by_series(x):
        term = total = md.tensor(np.eye(3))
        for k in range(1, 40):
            term = term @ (x + x.T) / k
            total = total + term
        return total

    u = rng.standard_normal((3, 3))
    results = []
    for f in (by_eigenvectors, by_series):
        x = leaf(a)
        first = gradient((f(x) * u).sum(), x, create_graph=True)
        second = gradient((first * u).sum(), x, create_graph=True)
        results.append([first, second, gradient((second * u).sum(), x)])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("f", [lambda x: la.eigh(x)[0], la.eigvalsh, lambda x: la.svd(x)[1], la.svdvals])
def test_a_loss_of_eigenvalues_alone_has_a_finite_gradient_where_they_repeat(f):
    x = leaf(np.eye(3))
    np.testing.assert_allclose(gradient((f(x) ** 2).sum(), x).numpy(), 2 * np.eye(3), atol=1e-12)
    stack = leaf(np.stack([np.eye(2), np.diag([1.0, 2.0])]))
    np.testing.assert_allclose(gradient(f(stack).sum(), stack).numpy(), [np.eye(2)] * 2, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_the_derivative_of_eigenvectors_that_do_not_exist_is_no_number():
    """A finite one would be an arbitrary one."""
    x = leaf(np.eye(2))
    for vectors in (la.eigh(x).eigenvectors, la.svd(x).U):
        loss = (vectors[:, 0] * md.tensor([1.0, 2.0], dtype="float64")).sum()
        assert not np.isfinite(gradient(loss, x).numpy()).all()


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("f", [la.eigvalsh, la.svdvals])
def test_second_derivatives_where_eigenvalues_repeat_are_no_number_rather_than_a_wrong_one(f):
    """That of sum w^2 = sum A_ij^2 is 2 I; with 0 for 0 / 0 it would be 0 for the elements A_ij, i != j."""
    hessian = md.func.hessian(lambda x: (f(x) ** 2).sum())
    assert np.isnan(hessian(np.eye(2))).any()
    a = np.diag([1.0, 2.0])
    halves = np.diag([2.0, 1.0, 1.0, 2.0]) + np.fliplr(np.diag([0.0, 1.0, 1.0, 0.0]))  # A_01 and A_10 are one
    expected = halves if f is la.eigvalsh else 2 * np.eye(4)
    np.testing.assert_allclose(hessian(a).reshape(4, 4), expected, atol=1e-12)


@pytest.mark.parametrize("function", [la.cholesky, la.eigvalsh, lambda x: la.eigh(x).eigenvalues])
def test_the_gradient_of_a_symmetric_matrix_is_symmetric_and_half_of_it_is_read(function, rng):
    a = rng.standard_normal((3, 3))
    a = a @ a.T + np.eye(3)
    x, half = leaf(a), leaf(np.tril(a))
    y = function(x)
    np.testing.assert_allclose(function(half).detach().numpy(), y.detach().numpy(), atol=1e-12)
    g = gradient((y * md.tensor(rng.standard_normal(y.shape))).sum(), x).numpy()
    np.testing.assert_allclose(g, g.T, atol=1e-12)


def test_the_vectors_that_full_matrices_adds_have_no_derivative():
    x = leaf(np.arange(6.0).reshape(3, 2))
    u, s, vt = la.svd(x)
    assert (u.shape, s.shape, vt.shape) == ((3, 3), (2,), (2, 2))
    with pytest.raises(ValueError, match=r"svd: .*\(3, 2\).*full_matrices=False"):
        s.sum().backward()


def test_qr_of_dependent_columns_is_a_named_error_in_the_backward():
    q = la.qr(leaf(np.zeros((3, 2)))).Q
    with pytest.raises(la.LinAlgError, match="solve: Singular"):
        q.sum().backward()


# ---- least squares ----


@pytest.mark.parametrize(("shape", "columns"), [((4, 2), ()), ((4, 2), (3,)), ((2, 4), ()), ((3, 3), (2,))])
def test_least_squares_is_numpys_in_all_four_results(shape, columns, rng):
    a, b = rng.standard_normal(shape), rng.standard_normal((shape[0], *columns))
    for ours, theirs in zip(la.lstsq(md.tensor(a), md.tensor(b)), np.linalg.lstsq(a, b), strict=True):
        battery.assert_equal(ours.numpy(), theirs, 1e-10, 1e-12)
    md.check_grad(lambda x, y: la.lstsq(x, y)[:2], [a, b], order=3)


def test_least_squares_takes_stacks_of_matrices(rng):
    a, b = rng.standard_normal((2, 4, 2)), rng.standard_normal((2, 4, 1))
    x, residuals, rank, s = la.lstsq(a, b)
    for i in range(2):
        for ours, theirs in zip((x[i], residuals[i], rank[i], s[i]), np.linalg.lstsq(a[i], b[i]), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_the_shortest_solution_is_orthogonal_to_the_null_space(rng):
    a, b = rng.standard_normal((2, 4)), rng.standard_normal(2)
    x = la.lstsq(a, b)[0]
    np.testing.assert_allclose(np.linalg.svd(a)[2][2:] @ x, 0, atol=1e-13)
    np.testing.assert_allclose(a @ x, b, atol=1e-13)


def test_noise_in_float32_does_not_count_as_rank():
    a = np.outer([1.0, 2.0, 3.0], [1.0, 1.0 / 3.0]).astype(np.float32)
    assert la.lstsq(a, np.ones(3, np.float32))[2] == 1
    assert np.abs(la.pinv(a)).max() < 1


# ---- norms ----


@pytest.mark.parametrize("ord", [None, 0, 1, 2, 3, 1.5, 0.5, np.inf, -np.inf, -1])
def test_the_derivatives_of_the_norm_of_nothing_are_nothing(ord):
    x = leaf(np.zeros(3))
    y = la.norm(x, ord)
    first = gradient(y, x, create_graph=True)
    assert (y.item(), first.detach().numpy().tolist()) == (0.0, [0.0] * 3)
    if first.requires_grad:
        second = gradient(first.sum(), x, allow_unused=True)
        assert second is None or second.numpy().tolist() == [0.0] * 3


def test_one_row_of_zeros_does_not_disturb_the_others():
    x = leaf([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(gradient(la.norm(x, axis=1).sum(), x).numpy(), [[0.0, 0.0], [0.6, 0.8]], rtol=1e-15)


@pytest.mark.parametrize("ord", ["fro", "nuc", 1, 2, np.inf])
def test_the_gradient_of_a_matrix_norm_at_zero_is_zero(ord):
    x = leaf(np.zeros((3, 2)))
    assert not gradient(la.norm(x, ord), x).numpy().any()


@pytest.mark.parametrize("f", [lambda x: la.norm(x[0], 0), lambda x: la.matrix_power(x, 0).sum()])
def test_what_is_constant_where_it_has_a_derivative_has_the_derivative_zero(f):
    x = leaf([[3.0, 0.0], [np.nan, -np.inf]])
    y = f(x)
    assert y.requires_grad
    np.testing.assert_array_equal(gradient(y, x).numpy(), np.zeros((2, 2)))
    np.testing.assert_array_equal(md.func.hessian(f)(x), np.zeros((2, 2, 2, 2)))


def test_singular_values_that_tie_share_the_gradient():
    x = leaf(np.eye(4))
    np.testing.assert_allclose(gradient(la.norm(x, 2), x).numpy(), np.eye(4) / 4, atol=1e-12)
