"""`ElementwiseKernel` of the strict stand-in: a body of simple C assignments, read as Python, one element at a time."""

from __future__ import annotations

import ast
import re

import numpy as np

from strictfake_array import is_number, machine, ndarray, new, stats

TYPES = {"float": np.float32, "double": np.float64, "int": np.int32, "long long": np.int64, "bool": np.bool_}
FUNCTIONS = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt, "fabs": np.abs, "min": np.minimum, "max": np.maximum}


class Cast:
    """A C type in an expression; `T**x` stands for the cast `(T)x`, since both bind tighter than any other operator."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)

    def __pow__(self, value):
        return self.dtype.type(value)


class Raw:
    """A `raw` parameter: the whole array, flat. A GPU would read beyond its end without a word."""

    def __init__(self, name, array):
        self.name, self.flat = name, array.reshape(-1)

    def __getitem__(self, i):
        if not 0 <= i < self.flat.size:
            raise IndexError(f"strictfake: {self.name}[{i}] reads beyond its {self.flat.size} elements")
        return self.flat[i]


class IntegerDivision(ast.NodeTransformer):
    """Divide as C does: two integers give an integer, rounded towards zero."""

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            return ast.Call(ast.Name("divide", ast.Load()), [node.left, node.right], [])
        return node


def divide(a, b):
    whole = isinstance(a, (int, np.integer)) and isinstance(b, (int, np.integer))
    return int(a / b) if whole else a / b


class ElementwiseKernel:
    """cupy.ElementwiseKernel for bodies such as `out = (T)a[i % n] * x`; anything richer is a NotImplementedError."""

    def __init__(self, in_params, out_params, operation, name="kernel", **options):
        self.name = name
        self.params = [self._param(text) for text in f"{in_params}, {out_params}".split(",")]
        self.n_in = len(in_params.split(","))
        types = {kind for _, kind, _ in self.params} | set(TYPES)
        python = (
            re.sub(rf"\(({'|'.join(types)})\)\s*(?=[\w(])", r"\1**", operation)
            .replace("&&", " and ")
            .replace("||", " or ")
        )
        try:
            tree = ast.parse("\n".join(part.strip() for part in python.split(";") if part.strip()))
        except SyntaxError as error:
            raise NotImplementedError(f"strictfake: cannot read the C of {name}: {operation}") from error
        self.code = compile(ast.fix_missing_locations(IntegerDivision().visit(tree)), name, "exec")

    @staticmethod
    def _param(text):
        *modifiers, kind, name = text.split()
        return "raw" in modifiers, kind, name

    def __call__(self, *args, size=None):
        given = [*args, *[None] * (len(self.params) - len(args))]
        kinds = {}
        for x, (_, kind, name) in zip(given, self.params, strict=True):
            if x is None:
                continue
            if not isinstance(x, ndarray) and not is_number(x):
                raise TypeError(f"Unsupported type {type(x)}")
            if isinstance(x, ndarray):
                self._check(x, kind, name, kinds)
        shapes = [
            x.shape for x, (raw, _, _) in zip(given, self.params, strict=True) if isinstance(x, ndarray) and not raw
        ]
        shape = np.broadcast_shapes(*shapes) if size is None else (size,)
        for k in range(self.n_in, len(given)):
            if given[k] is None:
                given[k] = new(np.empty(shape, kinds.get(self.params[k][1]) or self.params[k][1]))
            elif given[k].shape != shape:
                raise ValueError("Out shape is mismatched")
        self._run(given, shape, kinds)
        stats.launches += 1
        return given[self.n_in] if len(given) == self.n_in + 1 else tuple(given[self.n_in :])

    def _check(self, x, kind, name, kinds):
        if x._device != machine.current:
            raise ValueError(f"Array device must be same as the current device: {x._device} and {machine.current}")
        wanted = kinds.setdefault(kind, x.dtype) if len(kind) == 1 else np.dtype(TYPES.get(kind, kind))
        if x.dtype != wanted:
            raise TypeError(f"Type is mismatched. {name} {x.dtype} {wanted}")

    def _run(self, given, shape, kinds):
        names = [name for _, _, name in self.params]
        casts = {kind: Cast(dtype) for kind, dtype in {**TYPES, **kinds}.items()}
        fixed = {**FUNCTIONS, **casts, "divide": divide}
        elementwise = {}
        for x, (raw, _, name) in zip(given[: self.n_in], self.params, strict=False):
            if raw:
                fixed[name] = Raw(name, x._a)
            elif isinstance(x, ndarray):
                elementwise[name] = np.broadcast_to(x._a, shape).reshape(-1)
            else:
                fixed[name] = x
        outs = [(name, x._a.reshape(-1), x) for name, x in zip(names[self.n_in :], given[self.n_in :], strict=True)]
        for i in range(int(np.prod(shape))):
            scope = {**fixed, **{name: flat[i] for name, flat in elementwise.items()}, "i": i}
            exec(self.code, scope)
            for name, flat, _ in outs:
                flat[i] = scope[name]
        for _, flat, x in outs:
            x._a[...] = flat.reshape(shape)
