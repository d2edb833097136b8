"""What CuPy 14.2 offers of NumPy's functions, with its own signatures, as far as a library like minidl may want it.

The strict stand-in (`strictfake`) is made from these tables; `test_strictfake` compares them with the real package
where it is installed. To use one more function of CuPy, copy its signature here.
"""

from __future__ import annotations

import inspect

# What `ufunc` calls take in CuPy: out, dtype and casting, nothing else (no `where`).
UFUNCS = """
abs absolute acos acosh add arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh
bitwise_and bitwise_count bitwise_invert bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
cbrt ceil copysign cos cosh deg2rad degrees divide equal exp exp2 expm1 fabs fix float_power floor floor_divide fmax
fmin fmod gcd greater greater_equal heaviside hypot i0 invert isfinite isinf isnan lcm ldexp left_shift less
less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor maximum minimum
mod multiply negative nextafter not_equal positive pow power rad2deg radians reciprocal remainder right_shift rint
sign signbit sin sinc sinh sqrt square subtract tan tanh true_divide trunc
"""

FUNCTIONS = """
all(a, axis=None, out=None, keepdims=False); allclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False)
amax(a, axis=None, out=None, keepdims=False); amin(a, axis=None, out=None, keepdims=False)
any(a, axis=None, out=None, keepdims=False); append(arr, values, axis=None)
arange(start, stop=None, step=1, dtype=None)
argmax(a, axis=None, dtype=None, out=None, keepdims=False); argmin(a, axis=None, dtype=None, out=None, keepdims=False)
argpartition(a, kth, axis=-1); argsort(a, axis=-1, kind=None); argwhere(a); around(a, decimals=0, out=None)
array_equal(a1, a2, equal_nan=False); array_split(ary, indices_or_sections, axis=0); ascontiguousarray(a, dtype=None)
asfortranarray(a, dtype=None); astype(x, dtype, /, *, copy=True); atleast_1d(*arys); atleast_2d(*arys)
average(a, axis=None, weights=None, returned=False, *, keepdims=False); bincount(x, weights=None, minlength=None)
broadcast_arrays(*args); broadcast_to(array, shape); clip(a, a_min, a_max, out=None); column_stack(tup)
concat(tup, axis=0, out=None, *, dtype=None, casting='same_kind'); convolve(a, v, mode='full'); copy(a, order='K')
concatenate(tup, axis=0, out=None, *, dtype=None, casting='same_kind'); count_nonzero(a, axis=None)
copyto(dst, src, casting='same_kind', where=None); cross(a, b, axisa=-1, axisb=-1, axisc=-1, axis=None)
cumprod(a, axis=None, dtype=None, out=None); cumsum(a, axis=None, dtype=None, out=None); diag(v, k=0); diagflat(v, k=0)
cumulative_prod(x, /, *, axis=None, dtype=None, out=None, include_initial=False); delete(arr, indices, axis=None)
cumulative_sum(x, /, *, axis=None, dtype=None, out=None, include_initial=False); dot(a, b, out=None)
diagonal(a, offset=0, axis1=0, axis2=1); diff(a, n=1, axis=-1, prepend=None, append=None)
digitize(x, bins, right=False); einsum(*operands, **kwargs); empty(shape, dtype=float, order='C')
empty_like(prototype, dtype=None, order='K', subok=None, shape=None); expand_dims(a, axis); extract(condition, a)
eye(N, M=None, k=0, dtype=float, order='C'); fill_diagonal(a, val, wrap=False); flatnonzero(a); flip(a, axis=None)
full(shape, fill_value, dtype=None, order='C'); full_like(a, fill_value, dtype=None, order='K', subok=None, shape=None)
histogram(x, bins=10, range=None, density=False, weights=None); hstack(tup, *, dtype=None, casting='same_kind')
identity(n, dtype=float); indices(dimensions, dtype=int); inner(a, b); ix_(*args); kron(a, b)
isclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False); isin(element, test_elements, assume_unique=False, invert=False)
linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0); matrix_transpose(x, /)
logspace(start, stop, num=50, endpoint=True, base=10.0, dtype=None, axis=0); max(a, axis=None, out=None, keepdims=False)
mean(a, axis=None, dtype=None, out=None, keepdims=False); meshgrid(*xi, **kwargs)
median(a, axis=None, out=None, overwrite_input=False, keepdims=False); min(a, axis=None, out=None, keepdims=False)
moveaxis(a, source, destination); nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None)
nanmax(a, axis=None, out=None, keepdims=False); nanmean(a, axis=None, dtype=None, out=None, keepdims=False)
nanmin(a, axis=None, out=None, keepdims=False); nansum(a, axis=None, dtype=None, out=None, keepdims=False); nonzero(a)
ones(shape, dtype=float, order='C'); ones_like(a, dtype=None, order='K', subok=None, shape=None)
outer(a, b, out=None); pad(array, pad_width, mode='constant', **kwargs); partition(a, kth, axis=-1)
permute_dims(a, axes=None); prod(a, axis=None, dtype=None, out=None, keepdims=False); put(a, ind, v, mode='wrap')
ptp(a, axis=None, out=None, keepdims=False); put_along_axis(arr, indices, values, axis); putmask(a, mask, values)
quantile(a, q, axis=None, out=None, overwrite_input=False, method='linear', keepdims=False, *, interpolation=None)
ravel(a, order='C'); ravel_multi_index(multi_index, dims, mode='wrap', order='C'); repeat(a, repeats, axis=None)
reshape(a, newshape, order='C', *, copy=None); roll(a, shift, axis=None); rot90(a, k=1, axes=(0, 1))
round(a, decimals=0, out=None); searchsorted(a, v, side='left', sorter=None); select(condlist, choicelist, default=0)
sort(a, axis=-1, kind=None); split(ary, indices_or_sections, axis=0); squeeze(a, axis=None)
stack(tup, axis=0, out=None, *, dtype=None, casting='same_kind'); swapaxes(a, axis1, axis2)
std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False); take_along_axis(a, indices, axis)
sum(a, axis=None, dtype=None, out=None, keepdims=False); take(a, indices, axis=None, out=None)
tensordot(a, b, axes=2); tile(A, reps); trace(a, offset=0, axis1=0, axis2=1, dtype=None, out=None)
transpose(a, axes=None); tri(N, M=None, k=0, dtype=float); tril(m, k=0); tril_indices(n, k=0, m=None); triu(m, k=0)
trapezoid(y, x=None, dx=1.0, axis=-1); triu_indices(n, k=0, m=None); unravel_index(indices, dims, order='C')
unique(ar, return_index=False, return_inverse=False, return_counts=False, axis=None, *, equal_nan=True); vdot(a, b)
var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False); vstack(tup, *, dtype=None, casting='same_kind')
where(condition, x=None, y=None); zeros(shape, dtype=float, order='C')
zeros_like(a, dtype=None, order='K', subok=None, shape=None)
matmul(*args, axes=None, axis=None, keepdims=False, casting='same_kind', dtype=None, signature=None, order='K', \
out=None)
"""

LINALG = """
cholesky(a); det(a); eigh(a, UPLO='L'); eigvalsh(a, UPLO='L'); inv(a); lstsq(a, b, rcond=None); matrix_power(M, n)
matrix_rank(M, tol=None); norm(x, ord=None, axis=None, keepdims=False); pinv(a, rcond=1e-15); qr(a, mode='reduced')
slogdet(a); solve(a, b); svd(a, full_matrices=True, compute_uv=True); matrix_transpose(a)
"""

METHODS = """
all(axis=None, out=None, keepdims=False); any(axis=None, out=None, keepdims=False); copy(order='C')
argmax(axis=None, out=None, dtype=None, keepdims=False); argmin(axis=None, out=None, dtype=None, keepdims=False)
argpartition(kth, axis=-1); argsort(axis=-1, kind=None); clip(min=None, max=None, out=None); conj()
astype(dtype, order='K', casting=None, subok=None, copy=True); cumprod(axis=None, dtype=None, out=None)
cumsum(axis=None, dtype=None, out=None); diagonal(offset=0, axis1=0, axis2=1); dot(b, out=None); fill(value)
flatten(order='C'); max(axis=None, out=None, keepdims=False); mean(axis=None, dtype=None, out=None, keepdims=False)
min(axis=None, out=None, keepdims=False); nonzero(); prod(axis=None, dtype=None, out=None, keepdims=None)
ravel(order='C'); repeat(repeats, axis=None); reshape(*shape, order='C', copy=None); round(decimals=0, out=None)
searchsorted(v, side='left', sorter=None); sort(axis=-1, kind=None); squeeze(axis=None); swapaxes(axis1, axis2)
std(axis=None, dtype=None, out=None, ddof=0, keepdims=False); sum(axis=None, dtype=None, out=None, keepdims=False)
trace(offset=0, axis1=0, axis2=1, dtype=None, out=None); transpose(*axes); view(dtype=None, type=None)
var(axis=None, dtype=None, out=None, ddof=0, keepdims=False)
"""

GENERATOR = """
random(size=None, dtype=float, out=None); standard_normal(size=None, dtype=float, out=None)
standard_exponential(size=None, dtype=float, method='inv', out=None); exponential(scale=1.0, size=None)
integers(low, high=None, size=None, dtype=int, endpoint=False); binomial(n, p, size=None); poisson(lam=1.0, size=None)
"""


def signatures(table: str) -> dict[str, inspect.Signature]:
    """Read a table of signatures: name -> inspect.Signature."""
    entries = (
        entry.strip().partition("(") for line in table.splitlines() for entry in line.split("; ") if entry.strip()
    )
    return {name: inspect.signature(eval(f"lambda {rest[:-1]}: None")) for name, _, rest in entries}
