"""Promises about the source itself: which part imports which, how long it is, and what it asks of CuPy."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import strictfake

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "minidl"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in SOURCES}

BASE = {"engine", "random", "compiler", "ops"}
TOOLS = {"func", "krylov"}
LIBRARY = BASE | TOOLS | {"creation", "linalg", "nn", "second_order", "optim", "data", "io", "_threads"}
ALLOWED = {  # part -> the parts it may import, besides itself
    "engine": set(),
    "random": {"engine"},
    "_cache": set(),
    "_frozen": {"random"},
    "compiler": {"engine", "_cache", "_frozen"},
    "ops": {"engine", "random", "compiler"},
    "creation": BASE,
    "func": BASE,
    "linalg": BASE,
    "krylov": BASE,
    "nn": BASE | TOOLS | {"_frozen"},
    "second_order": BASE | TOOLS | {"nn"},
    "optim": {"engine", "compiler", "krylov", "_frozen"},
    "data": {"engine", "random", "_cache"},
    "io": {"engine"},
    "_threads": set(),
    "train": LIBRARY,
    "viz": LIBRARY | {"train", "testing"},
    "testing": LIBRARY | {"train", "viz"},
    "_installation": LIBRARY | {"__init__"},
    "__main__": {"_installation"},
    "__init__": LIBRARY | {"train"},  # the public face
}
LIMITS = {"engine's core": 1000, "engine": 1475, "compiler": 1200, "ops": 2450, "nn": 2200, "all": 18000}
# What takes a derivative. Beside it the engine has devices, grad modes, hooks, anomaly mode, messages and check_grad.
CORE = {f"minidl/engine/{name}.py" for name in ("node", "op", "calls", "tensor", "gradient", "autograd")}
FILE_LIMIT = 400
FUNCTION_LIMIT = 60  # a screen


def name_of(path):
    return path.relative_to(ROOT).as_posix()


# ---- imports -----------------------------------------------------------------------------------------------------


def part_of(path):
    """The part of the library that a file belongs to: its folder, or its own name at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_parts(path, tree):
    """Yield (line, part) for each import of one part of minidl, wherever it stands in the file."""
    package = ["minidl", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            targets = [module] if len(module) > 1 else [[*module, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "minidl":
                part = target[1] if len(target) > 1 else ""
                yield node.lineno, part if part in ALLOWED else "__init__"  # a name of the public face


def forbidden_imports(path, tree):
    part = part_of(path)
    allowed = ALLOWED[part] | {part}
    return [
        f"{name_of(path)}:{line} imports {target}"
        for line, target in imported_parts(path, tree)
        if target not in allowed
    ]


def test_imports_run_one_way_only():
    assert {part_of(path) for path in SOURCES} <= set(ALLOWED), "a new part: say in ALLOWED what it may import"
    assert [fault for path, tree in TREES.items() for fault in forbidden_imports(path, tree)] == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("engine/op.py", "from ..ops import add"),
        ("engine/op.py", "def f():\n    from minidl.nn import Linear"),
        ("optim/sgd.py", "from ..ops.elementwise import exp"),
        ("data/loader.py", "from .. import nn"),
        ("nn/linear.py", "import minidl"),
        ("io.py", "from .nn import Module"),
    ],
)
def test_an_import_against_the_direction_is_found(place, line):
    assert len(forbidden_imports(PACKAGE / place, ast.parse(line))) == 1


def test_only_the_backend_names_cupy():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            called = isinstance(node, ast.Call) and "import" in ast.unparse(node.func)
            names += [arg.value for arg in node.args if isinstance(arg, ast.Constant)] if called else []
            loads = any(re.match(r"cupyx?(\.|$)", str(name)) for name in names)
            assert not loads or name_of(path) == "minidl/engine/backend.py", f"{name_of(path)}:{node.lineno}"


IMPORT_REPORT = """
import json, sys, time
t0 = time.process_time()
import numpy
t1 = time.process_time()
before = set(sys.modules)
import minidl
t2 = time.process_time()
new = sorted(set(sys.modules) - before)
print(json.dumps({"new": new, "numpy": t1 - t0, "minidl": t2 - t1}))
"""


@pytest.fixture(scope="module")
def import_reports():
    """What importing minidl loads and costs beyond NumPy, in fresh interpreters; the first one writes the byte code."""
    command = [sys.executable, "-c", IMPORT_REPORT]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    runs = [subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=env) for _ in range(4)]
    return [json.loads(run.stdout) for run in runs[1:]]


def test_importing_minidl_loads_no_optional_package(import_reports):
    heavy = {"cupy", "numba", "matplotlib", "scipy", "safetensors", "tqdm", "torch", "threadpoolctl", "urllib.request"}
    assert {name for name in import_reports[0]["new"] if name in heavy or name.split(".")[0] in heavy} == set()


def test_importing_minidl_costs_little_beside_numpy(import_reports):
    foreign = [name for name in import_reports[0]["new"] if not name.startswith("minidl")]
    assert len(foreign) < 60, foreign
    ratios = [report["minidl"] / report["numpy"] for report in import_reports]
    assert min(ratios) < 2.5, f"importing minidl took {ratios} times as long as importing NumPy"


# ---- sizes -------------------------------------------------------------------------------------------------------


def statements(tree):
    """Count statements, not lines: how a call is broken over lines says nothing about how much there is to read."""
    found = (node for node in ast.walk(tree) if isinstance(node, (ast.stmt, ast.ExceptHandler)))
    return sum(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in found)


def docstring_lines(node):
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None:
        return set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return set()


def test_the_library_stays_small_enough_to_read(capsys):
    lines, code = Counter(), Counter()
    for path, tree in TREES.items():
        for key in (part_of(path), "all", *["engine's core"] * (name_of(path) in CORE)):
            lines[key] += len(path.read_text(encoding="utf-8").splitlines())
            code[key] += statements(tree)
    table = [f"{k:>14} {lines[k]:6} lines {code[k]:6} statements, limit {LIMITS.get(k, 0)}" for k in sorted(code)]
    with capsys.disabled():
        print("", *table, sep="\n")
    assert {key: code[key] for key, limit in LIMITS.items() if code[key] > limit} == {}


def test_no_file_is_long():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > FILE_LIMIT} == {}


def test_every_function_fits_a_screen():
    long = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1 - len(docstring_lines(node))
                if length > FUNCTION_LIMIT:
                    long[f"{name_of(path)}:{node.name}"] = length
    assert long == {}


# ---- what is asked of the array module ---------------------------------------------------------------------------


def attribute_path(node):
    """Return ["linalg", "solve"] for `xp.linalg.solve`; None for anything that does not start at `xp`."""
    path = []
    while isinstance(node, ast.Attribute):
        path.append(node.attr)
        node = node.value
    return path[::-1] if isinstance(node, ast.Name) and node.id == "xp" and path else None


def uses_of_xp(tree):
    """Yield (line, path, keywords) of each use of the array module: xp.f(...), xp.linalg.f, Op("f"), getattr(xp, "f").

    `keywords` is None where the use is not a call, else the names of the keyword arguments.
    """
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        path = attribute_path(node)
        if path and id(node) not in inner:
            call = called.get(id(node))
            yield node.lineno, path, None if call is None else [k.arg for k in call.keywords if k.arg]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            text = node.args[-1 if node.func.id == "getattr" else 0]
            through_xp = node.func.id == "Op" or ast.unparse(node.args[0]) == "xp"
            if (
                through_xp
                and node.func.id in ("Op", "getattr")
                and isinstance(text, ast.Constant)
                and isinstance(text.value, str)
            ):
                yield node.lineno, text.value.split("."), None


def faults_of(module, uses, where):
    """Return what of `uses` a module does not have: names, and keyword arguments."""
    faults = []
    for line, path, keywords in uses:
        target = module
        for name in path:
            target = getattr(target, name, None)
        if target is None:
            faults.append(f"{where}:{line} xp.{'.'.join(path)} does not exist")
        elif keywords:
            faults += [
                f"{where}:{line} xp.{'.'.join(path)} has no {k}=" for k in keywords if k not in keywords_of(target)
            ]
    return faults


def keywords_of(function):
    """Return the keyword arguments a function of CuPy, or of the stand-in, takes."""
    name = getattr(function, "__name__", "")
    if isinstance(function, strictfake.ufunc) or type(function).__name__ == "ufunc":
        return {"out", "dtype", "casting"}
    if name == "einsum":
        return {"optimize", "dtype"}
    if isinstance(function, type):
        return {"dtype", "shape", "seed"}
    return set(inspect.signature(function).parameters) | ({"constant_values"} if name == "pad" else set())


def all_uses():
    return [(name_of(path), list(uses_of_xp(tree))) for path, tree in TREES.items()]


def test_everything_asked_of_xp_exists_in_the_stand_in():
    assert [fault for where, uses in all_uses() for fault in faults_of(strictfake.cupy, uses, where)] == []


def test_everything_asked_of_xp_exists_in_cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    assert [fault for where, uses in all_uses() for fault in faults_of(cupy, uses, where)] == []


def test_everything_asked_of_xp_exists_in_numpy():
    numpy = importlib.import_module("numpy")
    cupys_own = ("cuda", "ElementwiseKernel", "ReductionKernel", "RawKernel", "RawModule")  # never reached with NumPy
    named = [
        (where, [(line, path, None) for line, path, _ in uses if path[0] not in cupys_own])
        for where, uses in all_uses()
    ]
    assert [fault for where, uses in named for fault in faults_of(numpy, uses, where)] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("xp.insert(x, 0, 1)", "xp.insert does not exist"),
        ("xp.linalg.multi_dot([a, b])", "xp.linalg.multi_dot does not exist"),
        ("xp.sum(x, initial=0)", "xp.sum has no initial="),
        ("xp.take(x, i, mode='clip')", "xp.take has no mode="),
        ("xp.add(x, y, where=m)", "xp.add has no where="),
        ("geometric = Op('geomspace', None)", "xp.geomspace does not exist"),
        ("getattr(xp, 'vecdot')(a, b)", "xp.vecdot does not exist"),
    ],
)
def test_a_name_that_cupy_lacks_is_found(line, fault):
    assert [f.partition(" ")[2] for f in faults_of(strictfake.cupy, uses_of_xp(ast.parse(line)), "here")] == [fault]


# ---- the rest ----------------------------------------------------------------------------------------------------


def test_the_library_contains_no_assert():
    asserts = [(name_of(p), n.lineno) for p, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    assert asserts == []


def text_files():
    """The files of the project, as far as they are text."""
    hidden = {".git", ".hypothesis", ".venv", "venv", "build", "dist", "__pycache__", "runs"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(part in hidden or part.endswith(("_cache", ".egg-info")) for part in parts):
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_path_of_one_machine():
    machine = re.compile(r"(?<![\w.])(/(root|work|home/\w+|Users/\w+)/|[A-Z]:\\\\?Users\\)")
    found = [f"{name_of(p)}: {m.group()}" for p, text in text_files() for m in [machine.search(text)] if m]
    assert found == []


def test_every_public_name_exists_and_is_documented():
    minidl = importlib.import_module("minidl")
    for name in minidl.__all__:
        value = getattr(minidl, name)
        documented = callable(value) or inspect.ismodule(value)
        assert not documented or inspect.getdoc(value), f"minidl.{name} has no docstring"


def test_every_module_says_what_is_in_it():
    assert [name_of(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_the_readme_has_exactly_two_commands_to_start_with():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"(\$ )?(python3? -m )?pip install .*&&", line)] == [
        'pip install -e ".[examples]" && python examples/train_mlp.py',
        'pip install -e ".[test]" && pytest',
    ]


def test_the_package_ships_its_types_and_its_digits():
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "data" / "digits.csv.gz").is_file()
