"""Checks on what is called with: mistakes that are told at the call, with the right one.

A type checker finds most of them. These are for callers without one, and for values that
come from a configuration file.
"""

from __future__ import annotations

import functools
import inspect
import math
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeGuard

from .errors import InvalidParameterError
from .status import EventMask

if TYPE_CHECKING:
    import attrs

__all__ = [
    "are_events",
    "check_async_function",
    "check_flag",
    "check_function",
    "check_plain_function",
    "checked_count",
    "checked_seconds",
    "function_slot",
    "is_time",
    "plain_function_slot",
    "shown",
    "whole_number",
]


def shown(value: object) -> str:
    """Return ``repr(value)``, for reports: they must not fail with what they report on."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is in the report
        return f"<{type(value).__name__}, whose repr() raises {type(error).__name__}>"


# --------------------------------------------------------------------------------- numbers


def whole_number(value: object) -> TypeGuard[int]:
    """Whether it is an `int`, and not a `bool`, which is a mistake wherever a number is meant."""
    return isinstance(value, int) and not isinstance(value, bool)


def checked_count(name: str, count: object, *, least: int, or_none: str = "") -> int:
    """Return a count.

    Args:
      name: What it is called.
      count: What was given.
      least: The least that it may be.
      or_none: What None would mean, where the caller takes that, too.

    Raises:
      InvalidParameterError: it is none, or less. (The caller's.)
    """
    if not whole_number(count) or count < least:
        raise InvalidParameterError(f"{name} is a count, {least} or more{or_none}, not {count!r}")
    return count


def is_time(value: object) -> TypeGuard[float]:
    """Whether it is a number, 0 or more, and so not NaN; it may be without end."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def checked_seconds(name: str, seconds: object, *, endless: str = "") -> float:
    """Return a time in seconds.

    Args:
      name: What it is called.
      seconds: What was given.
      endless: What ``math.inf`` means; without it, there has to be an end.

    Raises:
      InvalidParameterError: it is none, below zero, NaN, or without end. (The caller's.)
    """
    if is_time(seconds) and (endless or seconds < math.inf):
        return seconds
    more = f", or math.inf for {endless}" if endless else " and not without end"
    raise InvalidParameterError(
        f"{name} is a time in seconds, 0 or more{more}, not {seconds!r}; write {name}=5.0"
    )


def check_flag(name: str, flag: object) -> None:
    """Refuse what is neither True nor False: a text that says "no" counts as True.

    Raises:
      InvalidParameterError: it is neither. (The caller's.)
    """
    if not isinstance(flag, bool):
        raise InvalidParameterError(f"{name} is True or False, not {flag!r}")


def are_events(mask: object, among: int) -> bool:
    """Whether it is an `EventMask`, and has some of these events and no other."""
    return isinstance(mask, EventMask) and bool(mask) and not int(mask) & ~among


# ------------------------------------------------------------------------------- functions


def check_function(name: str, callback: object) -> None:
    """Refuse a callback, plain or async, that nobody could call, or that would do nothing.

    Raises:
      InvalidParameterError: it is no function, or a generator. (The caller's.)
    """
    if not callable(callback):
        raise InvalidParameterError(f"{name} takes a function, not {callback!r}")
    if _is_generator(_what_is_called(callback)):
        raise InvalidParameterError(
            f"{name} takes a function, not the generator {callback!r}, which would be made and"
            " never run: take the yield out of it"
        )


def check_plain_function(name: str, callback: object) -> None:
    """Refuse a callback that nobody could call, or that would have to be awaited.

    Raises:
      InvalidParameterError: it is no plain function. (The caller's.)
    """
    check_function(name, callback)
    if _is_async(callback):
        raise InvalidParameterError(
            f"{name} takes a plain function, not the async function {callback!r}: a callback"
            " starts things and never waits; let it start a task: nursery.start_soon(...)"
        )


def check_async_function(name: str, function: object) -> None:
    """Refuse a function that can be seen not to return anything to await.

    What a lambda, a decorated function or an object that can be called returns can't be told
    before it is called.

    Raises:
      InvalidParameterError: it is no async function. (The caller's.)
    """
    if not callable(function):
        raise InvalidParameterError(
            f"{name} is an async function that takes a connection, not {function!r}"
        )
    called = _what_is_called(function)
    if _is_generator(called):
        raise InvalidParameterError(
            f"{name} is an async function, not the generator {function!r}, which would be made and"
            f" never run: take the yield out of async def {_name(called)}(connection): ..."
        )
    if isinstance(called, type) and not hasattr(called, "__await__"):
        raise InvalidParameterError(
            f"{name} is an async function, not the class {function!r}, whose objects nobody can"
            " wait for"
        )
    if _is_plain(_behind_partials(function)):
        raise InvalidParameterError(
            f"{name} is an async function, not the plain {function!r}, which nobody can wait for:"
            f" write async def {_name(called)}(connection): ..."
        )


def function_slot(table: object, slot: attrs.Attribute[Any], callback: object) -> None:
    """Check a dispatch table's slot, as a validator of attrs: see `check_function`."""
    if callback is not None:
        check_function(f"{type(table).__name__}({slot.name}=...)", callback)


def plain_function_slot(table: object, slot: attrs.Attribute[Any], callback: object) -> None:
    """Check a dispatch table's slot, as a validator of attrs: see `check_plain_function`."""
    if callback is not None:
        check_plain_function(f"{type(table).__name__}({slot.name}=...)", callback)


def _what_is_called(callback: object) -> object:
    """Return the function that runs, behind partials and objects that can be called."""
    callback = _behind_partials(callback)
    if isinstance(callback, (FunctionType, MethodType, type)):
        return callback
    return getattr(type(callback), "__call__", callback)  # noqa: B004 - the function is wanted


def _behind_partials(callback: object) -> object:
    while isinstance(callback, functools.partial):
        callback = callback.func
    return callback


def _is_async(callback: object) -> bool:
    # The callback itself, too: it may be marked (`inspect.markcoroutinefunction`).
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
        _what_is_called(callback)
    )


def _is_generator(called: object) -> bool:
    if inspect.isasyncgenfunction(called):
        return True
    return inspect.isgeneratorfunction(called) and not _is_coroutine_of_old(called)


def _is_coroutine_of_old(called: object) -> bool:
    """Whether it is a generator that can be awaited (`types.coroutine`)."""
    code = getattr(called, "__code__", None)  # of a method, too
    return bool(code and code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _is_plain(function: object) -> bool:
    """Whether it is a ``def``, and not one that a decorator has put around an async function."""
    if not isinstance(function, (FunctionType, MethodType)) or _name(function) == "<lambda>":
        return False
    innermost = inspect.unwrap(function)
    return not inspect.iscoroutinefunction(innermost) and not _is_coroutine_of_old(innermost)


def _name(called: object) -> str:
    return getattr(called, "__name__", "handler")
