"""What an operation says when its inputs do not fit: who, the rule, what arrived, the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import device_of, is_array

# PyTorch's names of what is here called as in NumPy: said where one is missed.
# fmt: off
ELSEWHERE = {
    "view": "reshape", "permute": "transpose", "cat": "concatenate", "unsqueeze": "expand_dims", "clone": "copy()",
    "clamp": "clip", "numel": "size", "dim": "ndim", "long": "astype('int64')", "int": "astype('int32')", "t": ".T",
    "expand": "broadcast_to", "bmm": "matmul", "mm": "matmul", "mv": "matmul", "as_tensor": "tensor or from_numpy",
    "gather": "take_along_axis", "index_select": "take", "norm": "linalg.norm", "mul": "multiply", "sub": "subtract",
    "div": "divide", "pow": "power", "neg": "negative", "ne": "not_equal", "eq": "equal", "masked_fill": "where",
    "acos": "arccos", "asin": "arcsin", "atan": "arctan", "atan2": "arctan2", "new_zeros": "zeros_like",
    "add_": "copy_", "mul_": "copy_",
}
# fmt: on


def explain(op: Any, error: Exception, args: tuple, settings: dict[str, Any]) -> Exception:
    """Return the error that a forward raised with the name of the operation and what arrived in it."""
    if str(error).startswith(f"{op.name}:"):
        return error
    unknown = [k for k in settings if k not in op.settings]
    if "dim" in unknown or "keepdim" in unknown:
        return TypeError(f"{op.name}: dim= and keepdim= are called axis= and keepdims= here, as in NumPy")
    if unknown:
        return TypeError(f"{op.name}: unknown argument {unknown[0]}=; the settings are {list(op.settings)}")
    shapes = [np.shape(getattr(a, "array", a)) if not is_array(a) else a.shape for a in args]
    text = f"{op.name}: {error}"
    if len(shapes) > 1 and ("could not be broadcast" in text or "Shape mismatch" in text or "must match" in text):
        text = f"{op.name}: shapes {' and '.join(map(str, shapes))} do not broadcast together"
    elif len(shapes) < 6:
        given = "".join(f", {k}={v!r}" for k, v in settings.items() if np.size(v) < 9)
        text += f" (shapes {', '.join(map(str, shapes))}{given})"
    base = next(k for k in (np.exceptions.AxisError, IndexError, ValueError, TypeError) if isinstance(error, k))
    return base(text)


def mixed_devices(op: Any, args: tuple) -> TypeError:
    """Return the error for arrays of one operation that lie on several devices."""
    raw = [getattr(x, "array", x) for x in args]
    places = [device_of(a) if is_array(a) else "a number" for a in raw]
    target = next(p for p in places if p.startswith("cuda"))
    return TypeError(
        f"{op.name}: all arrays must be on one device, got {' and '.join(places)}; "
        f"move one with .to({target!r}) or .cpu()"
    )
