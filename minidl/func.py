"""Derivatives of plain functions: grad, value_and_grad, vjp, jvp, jacobian, hessian, hvp.

Arguments and results are arrays or tensors, or tuples, lists and dicts of them. Nothing has to be marked with
`requires_grad`, no `.grad` changes, and an argument that the result does not depend on gets zeros.
The results are Tensors; they record their own derivatives if the arguments do, so the functions nest:
`grad(grad(f))` is a second derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .engine import autograd
from .engine.backend import MODULES, as_array
from .engine.modes import enable_grad, is_grad_enabled
from .engine.node import Leaf
from .engine.tensor import Tensor, wrap
from .ops import copy, reshape, stack

Tree = Any  # an array or Tensor, or a tuple, list or dict of trees


# ---- trees -------------------------------------------------------------------------------------------------------


def flatten(tree: Tree) -> tuple[list, Callable[[list], Tree]]:
    """Return the leaves of a tree in order, and the function that builds the same tree around other leaves.

    >>> leaves, rebuild = flatten({"a": 1.0, "b": (2.0, 3.0)})
    >>> leaves, rebuild([10, 20, 30])
    ([1.0, 2.0, 3.0], {'a': 10, 'b': (20, 30)})
    """
    if isinstance(tree, dict):
        keys, parts = list(tree), [flatten(v) for v in tree.values()]
        return _join(parts, lambda xs: dict(zip(keys, xs, strict=True)))
    if isinstance(tree, (list, tuple)) and not _numbers(tree):
        kind = type(tree)
        build = kind._make if hasattr(kind, "_make") else kind
        return _join([flatten(v) for v in tree], build)
    return [tree], lambda leaves: leaves[0]


def matched(who: str, tree: Tree, like: Tree) -> list:
    """Return the leaves of a tree in the order of another's, dictionaries by key; ValueError if the structures differ.

    >>> matched("f", {"b": 1, "a": 2}, {"a": 10, "b": 20})
    [2, 1]
    """
    if isinstance(like, dict):
        if not isinstance(tree, dict) or set(tree) != set(like):
            got = sorted(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
            raise ValueError(
                f"{who}: the structure must match: needs a dictionary with the keys {sorted(map(str, like))}, got {got}"
            )
        return [leaf for key in like for leaf in matched(who, tree[key], like[key])]
    if isinstance(like, (list, tuple)) and not _numbers(like):
        if not isinstance(tree, (list, tuple)) or len(tree) != len(like):
            got = f"{len(tree)} of them" if isinstance(tree, (list, tuple)) else type(tree).__name__
            raise ValueError(f"{who}: the structure must match: needs {len(like)} entries, got {got}")
        return [leaf for part, other in zip(tree, like, strict=True) for leaf in matched(who, part, other)]
    if isinstance(tree, (dict, tuple)):
        raise ValueError(f"{who}: the structure must match: needs 1 array or Tensor, got a {type(tree).__name__}")
    return [tree]


def _numbers(tree: Any) -> bool:
    """Tell whether a list is nested Python numbers, one array in the making, rather than a tree of several."""
    return (
        isinstance(tree, list)
        and bool(tree)
        and all(isinstance(v, (int, float)) or (isinstance(v, list) and _numbers(v)) for v in tree)
    )


def _join(parts: list, build: Callable[[list], Tree]) -> tuple[list, Callable[[list], Tree]]:
    leaves = [leaf for found, _ in parts for leaf in found]

    def rebuild(values: list) -> Tree:
        rest = iter(values)
        return build([inner([next(rest) for _ in found]) for found, inner in parts])

    return leaves, rebuild


def _as_tensor(x: Any, who: str) -> Tensor:
    if isinstance(x, Tensor):
        return x
    return wrap(as_array(x, who=who))


def _inputs(tree: Tree, who: str) -> tuple[list[Tensor], Callable[[list], Tree]]:
    """Return fresh tensors that want a gradient, still connected to the caller's, and how to rebuild the tree."""
    leaves, rebuild = flatten(tree)
    fresh = []
    for leaf in leaves:
        t = _as_tensor(leaf, who)
        if t.dtype.kind != "f":
            raise TypeError(f"{who}: can only differentiate by floating arrays, got {t.dtype}; use .astype('float32')")
        # A recorded copy keeps the link to an outer derivative; a constant becomes a leaf of its own.
        fresh.append(copy(t) if t.requires_grad else t.detach().requires_grad_())
    return fresh, rebuild


def _selected(args: tuple, argnums: int | tuple[int, ...], who: str) -> Tree:
    """Return the arguments to differentiate by: the one numbered, or a tuple of them."""
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    if not isinstance(numbers, (tuple, list)) or not all(isinstance(n, int) for n in numbers):
        raise TypeError(f"{who}: argnums must be an integer or a tuple of them, got {argnums!r}")
    for n in numbers:
        if not -len(args) <= n < len(args):
            raise ValueError(f"{who}: argnums={argnums} names argument {n}, but the function got {len(args)}")
    if len({n % len(args) for n in numbers}) < len(numbers):
        raise ValueError(f"{who}: argnums={argnums} names an argument twice")
    return args[argnums] if isinstance(argnums, int) else tuple(args[n] for n in numbers)


def _replaced(args: tuple, argnums: int | tuple[int, ...], value: Tree) -> list:
    new = list(args)
    pairs = [(argnums, value)] if isinstance(argnums, int) else zip(argnums, value, strict=True)
    for n, v in pairs:
        new[n] = v
    return new


def _outer(ys: tuple, xs: list[Tensor], recording: bool) -> bool:
    """Tell whether somebody outside wants the derivative of the result too.

    So it is if what was computed goes back to a leaf that is not one of the fresh inputs: an argument that is recorded,
    or a tensor that the function captured, such as the input of an enclosing derivative.
    """
    own = {x.node for x in xs}
    roots = [y.node for y in ys if y.node is not None]
    return recording and any(type(n) is Leaf and n not in own for n in autograd.history(roots))


# ---- gradients ---------------------------------------------------------------------------------------------------


def value_and_grad(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function computing (f(*args), gradient of f by the arguments numbered argnums).

    f must return a Tensor of one element (or that and anything else, with `has_aux=True`: ((value, aux), gradient)).
    The gradient has the structure of the argument; a tuple of argnums gives a tuple.

    >>> value_and_grad(lambda x: (x * x).sum())(np.array([1.0, 2.0]))
    (tensor(5., dtype=float64), tensor([2., 4.], dtype=float64))
    """

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        recording = is_grad_enabled()
        with enable_grad():
            xs, rebuild = _inputs(_selected(args, argnums, "grad"), "grad")
            result = f(*_replaced(args, argnums, rebuild(xs)), **kwargs)
            if has_aux and not (isinstance(result, (tuple, list)) and len(result) == 2):
                raise TypeError(
                    f"grad: with has_aux=True the function must return (value, aux), got {type(result).__name__}"
                )
            value, aux = result if has_aux else (result, None)
            _one_element(value, "grad")
            outer = _outer((value,), xs, recording)
            gradients = _pull((value,), xs, None, outer)
        if not outer:
            value = value.detach()
            leaves, rebuild_aux = flatten(aux)
            aux = rebuild_aux([x.detach() if isinstance(x, Tensor) else x for x in leaves])
        return ((value, aux) if has_aux else value), rebuild(list(gradients))

    return wrapped


def _one_element(value: Any, who: str) -> None:
    if not isinstance(value, Tensor) or value.size != 1:
        shape = value.shape if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{who}: the function must return a Tensor of one element, got {shape}; use jacobian, or sum() it"
        )


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function computing the gradient of f by the arguments numbered argnums.

    >>> grad(grad(lambda x: x**3))(np.array(2.0))
    tensor(12., dtype=float64)
    """
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


def _pull(ys: tuple, xs: list[Tensor], cotangents: Any, create: bool) -> tuple[Tensor, ...]:
    """Return u' J with zeros for what is not reached, whether or not anything was recorded."""
    reached = [i for i, y in enumerate(ys) if y.requires_grad]
    if not reached:
        return tuple(_zeros(x) for x in xs)
    us = None if cotangents is None else [cotangents[i] for i in reached]
    return autograd.vjp([ys[i] for i in reached], xs, us, create_graph=create)


def _zeros(t: Tensor) -> Tensor:
    return wrap(MODULES[type(t.array)].zeros_like(t.array))


# ---- products with the Jacobian ----------------------------------------------------------------------------------


def vjp(f: Callable[..., Any], *primals: Tree) -> tuple[Tree, Callable[[Tree], tuple]]:
    """Return f(*primals) and the function u -> u' J, a tuple with one entry a primal.

    >>> y, pullback = vjp(lambda x: x * x, np.array([1.0, 2.0]))
    >>> pullback(np.array([1.0, 10.0]))
    (tensor([ 2., 40.], dtype=float64),)
    """
    recording = is_grad_enabled()
    with enable_grad():
        xs, rebuild = _inputs(primals, "vjp")
        result = f(*rebuild(xs))
    ys, rebuild_y = _outputs(result, "vjp")
    outer = _outer(ys, xs, recording)

    def pullback(cotangents: Tree) -> tuple:
        us = [_as_tensor(u, "vjp") for u in matched("vjp", cotangents, result)]
        for u, y in zip(us, ys, strict=True):
            if u.shape != y.shape:
                raise ValueError(f"vjp: a cotangent must have its output's shape {y.shape}, got {u.shape}")
        create = outer or any(u.requires_grad for u in us)
        with enable_grad():
            return rebuild(list(_pull(ys, xs, us, create)))

    return rebuild_y([y if outer else y.detach() for y in ys]), pullback


def jvp(f: Callable[..., Any], primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
    """Return (f(*primals), J v), the derivative of f in the direction of tangents, by two reverse passes.

    >>> jvp(lambda x: x * x, (np.array([1.0, 2.0]),), (np.array([1.0, 10.0]),))[1]
    tensor([ 2., 40.], dtype=float64)
    """
    _check_tuple("jvp", primals=primals, tangents=tangents)
    recording = is_grad_enabled()
    with enable_grad():
        xs, rebuild = _inputs(tuple(primals), "jvp")
        ys, rebuild_y = _outputs(f(*rebuild(xs)), "jvp")
        vs = [_as_tensor(v, "jvp") for v in matched("jvp", tangents, primals)]
        for x, v in zip(xs, vs, strict=True):
            if x.shape != v.shape:
                raise ValueError(f"jvp: a tangent must have its primal's shape {x.shape}, got {v.shape}")
        outer = _outer((*ys, *vs), xs, recording)
        products = [_zeros(y) for y in ys]
        reached = [i for i, y in enumerate(ys) if y.requires_grad]
        if reached:
            found = autograd.jvp([ys[i] for i in reached], xs, vs, create_graph=outer)
            for i, p in zip(reached, found, strict=True):
                products[i] = p
    return rebuild_y([y if outer else y.detach() for y in ys]), rebuild_y(products)


def _check_tuple(who: str, **named: Any) -> None:
    for name, value in named.items():
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{who}: {name} must be a tuple with one entry an argument, got {type(value).__name__}")


def _outputs(result: Tree, who: str) -> tuple[tuple[Tensor, ...], Callable[[list], Tree]]:
    leaves, rebuild = flatten(result)
    for y in leaves:
        if not isinstance(y, Tensor):
            raise TypeError(f"{who}: the function must return Tensors, got {type(y).__name__}")
    return tuple(leaves), rebuild


def hvp(f: Callable[..., Any], primals: tuple, tangents: tuple) -> Tree:
    """Return the product of the Hessian of f with tangents, one entry a primal (one primal: its entry alone).

    Reverse over reverse: the derivative of g(x)' v, two passes whatever the dimension (Pearlmutter 1994).

    >>> hvp(lambda x: (x**3).sum(), (np.array([1.0, 2.0]),), (np.array([1.0, 1.0]),))
    tensor([ 6., 12.], dtype=float64)
    """
    _check_tuple("hvp", primals=primals, tangents=tangents)
    recording = is_grad_enabled()
    with enable_grad():
        xs, rebuild = _inputs(tuple(primals), "hvp")
        vs = [_as_tensor(v, "hvp") for v in matched("hvp", tangents, primals)]
        if [x.shape for x in xs] != [v.shape for v in vs]:
            raise ValueError(
                f"hvp: tangents must have the primals' shapes {[x.shape for x in xs]}, got {[v.shape for v in vs]}"
            )
        value = f(*rebuild(xs))
        _one_element(value, "hvp")
        outer = _outer((value, *vs), xs, recording)
        gradients = _pull((value,), xs, None, True)
        products = _pull(gradients, xs, vs, outer)
    result = rebuild(list(products))
    return result[0] if len(primals) == 1 else result


# ---- whole matrices ----------------------------------------------------------------------------------------------


def jacobian(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Return a function computing the Jacobian of f by the arguments numbered argnums, one reverse pass a row.

    For an output of shape s and an argument of shape t each entry has the shape s + t: J[i, j] = dy_i / dx_j.

    >>> jacobian(lambda x: x * x)(np.array([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]], dtype=float64)
    """

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        recording = is_grad_enabled()
        with enable_grad():
            xs, rebuild = _inputs(_selected(args, argnums, "jacobian"), "jacobian")
            y = f(*_replaced(args, argnums, rebuild(xs)), **kwargs)
            if not isinstance(y, Tensor):
                raise TypeError(f"jacobian: the function must return one Tensor, got {type(y).__name__}")
            outer = _outer((y,), xs, recording)
            rows = [_pull((y,), xs, [_unit(y, i)], outer) for i in range(y.size)]
            blocks = [_stacked([row[k] for row in rows], y, x) for k, x in enumerate(xs)]
        return rebuild(blocks)

    return wrapped


def _unit(y: Tensor, i: int) -> Tensor:
    """Return the cotangent that selects element i of y, in C order."""
    array = MODULES[type(y.array)].zeros_like(y.array).reshape(-1)
    array[i] = 1
    return wrap(array.reshape(y.shape))


def _stacked(rows: list[Tensor], y: Tensor, x: Tensor) -> Tensor:
    if not rows:
        return wrap(MODULES[type(x.array)].zeros(y.shape + x.shape, x.dtype))
    return reshape(stack(rows), y.shape + x.shape)


def hessian(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Return a function computing the matrix of second derivatives of f, which returns one element.

    For an argument of shape t the result has the shape t + t; for a tuple of argnums, or a tree, it is a tree of rows
    of such blocks. Row i is the gradient of gradient i: double backprop.

    >>> hessian(lambda x: x[0] ** 2 * x[1])(np.array([1.0, 3.0]))
    tensor([[6., 2.],
            [2., 0.]], dtype=float64)
    """

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        gradients, rebuild = flatten(grad(f, argnums)(*args, **kwargs))
        rows = []
        for k in range(len(gradients)):

            def component(*inner: Any, k: int = k, **named: Any) -> Tensor:
                return flatten(grad(f, argnums)(*inner, **named))[0][k]

            rows.append(jacobian(component, argnums)(*args, **kwargs))
        return rebuild(rows)

    return wrapped


__all__ = ["flatten", "grad", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]
