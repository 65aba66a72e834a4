"""Arguments that can't be meant, by kind, and what one of them is told."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import attrs

from trio_wsk import ConnectionDispatch, EventMask, InvalidParameterError, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


async def wait(*_: object) -> None:
    """Be an async function."""


def work(*_: object) -> None:
    """Be a plain one."""


def each(*_: object) -> Iterator[None]:
    """Be a generator."""
    yield


async def each_slowly(*_: object) -> AsyncIterator[None]:
    """Be an async generator."""
    yield


class Waiting:
    """Objects that are called like an async function, and have a method that is one."""

    async def __call__(self, *_: object) -> None:
        """Wait."""

    async def method(self, *_: object) -> None:
        """Wait."""


class Working:
    """Objects with a plain method."""

    def method(self, *_: object) -> None:
        """Work."""


def repr_of_kind(thing: object) -> str:
    """Name a case, the same in every process."""
    return getattr(thing, "__name__", type(thing).__name__)


NO_FUNCTIONS: tuple[Any, ...] = (7, "work", b"", [work], Status.SUCCESS)
GENERATORS: tuple[Any, ...] = (
    each,
    each_slowly,
    functools.partial(each, 1),
    functools.partial(each_slowly, 1),
)
ASYNC: tuple[Any, ...] = (
    wait,
    Waiting(),
    Waiting().method,
    functools.partial(wait, 1),
    functools.partial(Waiting()),
)
PLAIN: tuple[Any, ...] = (work, Working().method, functools.partial(work, 1), Working)

NO_PLAIN_FUNCTIONS: tuple[Any, ...] = (*NO_FUNCTIONS, *GENERATORS, *ASYNC)
NO_INSPECTORS: tuple[Any, ...] = (*NO_FUNCTIONS, *GENERATORS)
NO_HANDLERS: tuple[Any, ...] = (None, *NO_FUNCTIONS, *GENERATORS, *PLAIN)

NO_NUMBERS: tuple[Any, ...] = ("5", b"5", True, False, [], object(), math.nan, -1, -math.inf)
NO_SECONDS: tuple[Any, ...] = (*NO_NUMBERS, -0.5)
NO_COUNTS: tuple[Any, ...] = (*NO_NUMBERS, 1.5, math.inf)
NO_FLAGS: tuple[Any, ...] = (None, 0, 1, "no", [])
NO_TEXTS: tuple[Any, ...] = (7, [], object(), b"x")
NO_OCTETS: tuple[Any, ...] = (None, "text", 7, [1], object())
NO_EVENTS: tuple[Any, ...] = (None, 0x40, "RECEIVE", True, math.nan, EventMask(0), [], object())
NO_DISPATCH: tuple[Any, ...] = (7, "receive", work, [], ConnectionDispatch)
NO_POLICIES: tuple[Any, ...] = (None, 1, "ignore", [], object())


@attrs.frozen
class Row:
    """What is wrong for one parameter, and what it is told."""

    wrong: tuple[object, ...]
    says: str
    """What the message has in it, besides the value."""
    kind: type[Exception] = InvalidParameterError


def octets(says: str) -> Row:
    """Make a row of one that Python and Trio have a `TypeError` for."""
    return Row(NO_OCTETS, says, TypeError)
