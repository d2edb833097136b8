"""The same formula as one compiled loop over the elements, where Numba is installed.

A kernel of NumPy calls reads and writes the cache once an operation; a compiled loop keeps a whole formula in
registers. The loop is written as Python text too, one line an operation, and Numba compiles it to machine code. Only
operations that IEEE 754 defines to the last bit are taken (no exp, no log), and no reordering is allowed (`fastmath`
stays off), so the results are bitwise those of the NumPy kernel.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._cache import cache_folder
from .formula import COMPARE, LOGICAL, Value

WORTHWHILE = 30_000  # elements: below that a step costs less than what starting Numba takes in a short run
_EXACT = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", **COMPARE}
# fmt: off
_CALLS = {"sqrt": "math.sqrt", "absolute": "abs", "maximum": "np.maximum", "minimum": "np.minimum",
          "isnan": "math.isnan", "isfinite": "math.isfinite"}
# fmt: on


def available(elements: int) -> bool:
    """Tell whether the loop shall be used for so many elements: MINIDL_FUSE=numpy|numba, else by size and Numba.

    >>> available(10)
    False
    """
    choice = os.environ.get("MINIDL_FUSE", "auto")
    if choice not in ("auto", "numpy", "numba"):
        raise ValueError(f"MINIDL_FUSE: must be numpy or numba, got {choice!r}")
    if choice == "numba":
        return True
    return choice == "auto" and elements >= WORTHWHILE and importlib.util.find_spec("numba") is not None


def loop_source(
    code: list[Value], arrays: tuple[str, ...], numbers: dict[Value, str], new: dict[str, Value]
) -> str | None:
    """Return the text of the loop `loop(*arrays, *numbers)`; None if an operation has no exact scalar form.

    code     the operations of the program, in order
    numbers  the numbers that meet arrays, and their names
    new      the value that each array is overwritten with
    """
    names = dict(numbers)
    lines: list[str] = []
    for value in code:
        if value.kind not in ("array", "mask"):
            continue
        operands = []
        for x in value.inputs:
            if x.op == "input" and x.kind == "array":
                operands.append(f"{x.name}[i]")
            elif x in names:
                operands.append(names[x])
            else:
                return None
        text = _scalar(value.op, operands)
        if text is None:
            return None
        names[value] = f"t{len(lines)}"
        lines.append(f"{names[value]} = {text}")
    lines += [f"{name}[i] = {names[value]}" for name, value in new.items()]
    head = f"def loop({', '.join([*arrays, *numbers.values()])}):\n    for i in range({arrays[0]}.size):\n"
    return "import math\n\nimport numpy as np\n\n\n" + head + "".join(f"        {line}\n" for line in lines)


def _scalar(op: str, x: list[str]) -> str | None:
    """Return an operation on scalars as text, or None if it is not exact in both NumPy and Numba."""
    if op in _EXACT:
        return f"{x[0]} {_EXACT[op]} {x[1]}"
    if op in LOGICAL:
        return f"{x[0]} {LOGICAL[op]} {x[1]}"
    if op in _CALLS:
        return f"{_CALLS[op]}({', '.join(x)})"
    if op == "negative":
        return f"-{x[0]}"
    if op == "square":
        return f"{x[0]} * {x[0]}"
    if op == "copy":
        return x[0]
    if op == "logical_not":
        return f"not {x[0]}"
    return f"{x[1]} if {x[0]} else {x[2]}" if op == "where" else None


def compiled(source: str) -> Callable[..., None]:
    """Return the machine code of a loop, from the cache folder if it was compiled before.

    Numba caches only what lies in a real file, so the text is written to one named by its hash.
    """
    numba: Any = importlib.import_module("numba")
    path = _stored(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"compiled: cannot load the kernel {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # Numba looks it up there when it loads the machine code of an earlier run
    spec.loader.exec_module(module)
    # error_model="numpy": 1/0 is inf, as in NumPy; without it every division has a branch and nothing is vectorised.
    return numba.njit(cache=True, error_model="numpy", nogil=True)(module.loop)


def _stored(source: str) -> Path:
    """Write the text of a kernel to the cache folder, or to a temporary one where that cannot be written."""
    name = f"minidl_loop_{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            if not path.exists() or path.read_text() != source:
                draft = folder / f".{name}.{os.getpid()}"
                draft.write_text(source)
                os.replace(draft, path)
            return path
        except OSError:
            continue
    raise RuntimeError("compiled: neither the cache folder nor a temporary one can be written; set MINIDL_FUSE=numpy")


def _folders() -> Iterator[Path]:
    with suppress(RuntimeError):  # the home folder may be unknown
        yield cache_folder() / "kernels"
    yield Path(tempfile.mkdtemp(prefix="minidl_"))
