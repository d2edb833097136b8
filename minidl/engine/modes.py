"""Which operations are recorded: `no_grad`, `enable_grad`, `set_grad_enabled`. Per thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .node import mode


class _GradMode:
    """A context manager and decorator, usable again and again and nested, that switches recording."""

    _enabled = True

    def __enter__(self) -> _GradMode:
        mode.outer.append(mode.record)
        switch(self._enabled)
        return self

    def __exit__(self, *exc: object) -> None:
        mode.record = mode.outer.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            name = type(self).__name__
            raise TypeError(f"{name}: a coroutine function runs after its decorator; use `with {name}():` in its body")
        if inspect.isgeneratorfunction(function):
            return self._wrap_generator(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapped

    def _wrap_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Let the mode hold while the generator's own text runs, and not while its consumer's does."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            resume: Callable[[], Any] = functools.partial(next, generator)
            while True:
                try:
                    with self:
                        item = resume()
                except StopIteration as stop:
                    return stop.value
                try:
                    resume = functools.partial(generator.send, (yield item))
                except GeneratorExit:
                    with self:
                        generator.close()
                    raise
                except BaseException as error:
                    resume = functools.partial(generator.throw, error)

        return wrapped


def switch(enabled: bool) -> None:
    """Record operations in this thread from now on, or do not."""
    mode.record = (2 if mode.watch else 1) if enabled else 0


class set_grad_enabled(_GradMode):
    """Switch recording on or off in this thread: by the call alone, as a context manager, or as a decorator.

    >>> x = tensor([1.0], requires_grad=True)
    >>> with set_grad_enabled(False):
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    def __init__(self, enabled: bool):
        self._enabled = bool(enabled)
        self._before: int | None = mode.record
        switch(self._enabled)

    def __enter__(self) -> set_grad_enabled:
        mode.outer.append(mode.record if self._before is None else self._before)
        self._before = None
        switch(self._enabled)
        return self

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:  # noqa: D102
        if self._before is not None:  # a decorator switches for its function only
            mode.record, self._before = self._before, None
        return super().__call__(function)


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
