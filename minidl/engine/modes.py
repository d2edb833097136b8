"""Which operations are recorded: `no_grad`, `enable_grad`, `set_grad_enabled`. Per thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .node import mode



class set_grad_enabled:
    """Switch recording on or off in this thread: as a context manager, as a decorator, or by the call alone.

    >>> x = tensor([1.0], requires_grad=True)
    >>> with set_grad_enabled(False):
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    def __init__(self, enabled: bool):
        self._before = mode.record
        self._enabled = bool(enabled)
        self._switch()

    def _switch(self) -> None:
        mode.record = (2 if mode.watch else 1) if self._enabled else 0

    def __enter__(self) -> set_grad_enabled:
        return self

    def __exit__(self, *exc: object) -> None:
        mode.record = self._before


class _GradMode:
    """A context manager and decorator, usable again and again and nested, that switches recording."""

    _enabled = True

    def __init__(self) -> None:
        self._stack: list[int] = []

    def __enter__(self) -> _GradMode:
        self._stack.append(mode.record)
        mode.record = (2 if mode.watch else 1) if self._enabled else 0
        return self

    def __exit__(self, *exc: object) -> None:
        mode.record = self._stack.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(function):
            return self._wrap_generator(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with type(self)():
                return function(*args, **kwargs)

        return wrapped

    def _wrap_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            # The mode holds while the generator's own text runs and not while its consumer's does.
            generator, sent = function(*args, **kwargs), None
            while True:
                try:
                    with type(self)():
                        item = generator.send(sent)
                except StopIteration as stop:
                    return stop.value
                sent = yield item

        return wrapped


class no_grad(_GradMode):
    """Do not record operations: a context manager, or a decorator. Nests; only this thread is affected.

    >>> x = tensor([1.0], requires_grad=True)
    >>> with no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    _enabled = False


class enable_grad(_GradMode):
    """Record operations, inside a `no_grad()` block too."""


def is_grad_enabled() -> bool:
    """Tell whether operations are recorded in this thread."""
    return bool(mode.record)
