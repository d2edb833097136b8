"""Every example in a docstring of the package gives what it says, those of operations included."""

from __future__ import annotations

import builtins
import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import minidl
from minidl.engine.op import Op

MODULES = [minidl] + [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(minidl.__path__, "minidl.")
    if not info.name.endswith("__main__")
]


def examples():
    """Return the docstrings with examples; these may use `md`, `np` and the public names without importing them."""
    public = {name: getattr(minidl, name) for name in minidl.__all__}
    no_builtins = {name: value for name, value in public.items() if not hasattr(builtins, name)}  # sum is Python's
    found = {}
    for module in reversed(MODULES):  # a part before the package that offers its names again
        names = {"md": minidl, "np": np, **no_builtins, **vars(module)}
        for test in doctest.DocTestFinder().find(module, globs=names):
            found[test.name] = test
        for name, value in vars(module).items():  # the finder looks at functions and classes only
            if isinstance(value, Op) and value.__doc__:
                names = {**names, **public}
                test = doctest.DocTestParser().get_doctest(value.__doc__, names, f"op.{name}", module.__file__, 0)
                found.setdefault(id(value), test)
    return sorted((test for test in found.values() if test.examples), key=lambda test: test.name)


EXAMPLES = examples()


@pytest.mark.parametrize("test", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_the_example_gives_what_it_says(test):
    report = []
    outcome = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    assert outcome.failed == 0, "".join(report)


def test_a_wrong_example_is_found():
    wrong = doctest.DocTestParser().get_doctest(">>> md.tensor([1.0]).item()\n2.0\n", {"md": minidl}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1


def test_examples_of_operations_and_of_functions_are_found():
    names = {test.name for test in EXAMPLES}
    assert {"op.add", "minidl", "minidl.engine.tensor.Tensor"} <= names
