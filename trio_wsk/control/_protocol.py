"""The lines of the protocol: a JSON object each way. Pure.

A request is ``{"command": ..., ...}``, its other members being the arguments. It is answered with
``{"ok": true, "result": ...}`` or ``{"ok": false, "error": "..."}``, in order.

Source: RFC 8259; JSON Lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

import attrs

__all__ = [
    "LONGEST_LINE",
    "Commands",
    "RefusedError",
    "Request",
    "answer",
    "answered",
    "refusal",
    "request_of",
]

LONGEST_LINE: Final = 4096
"""How many octets a request may have: a command, and a few names."""


class RefusedError(Exception):
    """A request can't be done; the text says why, and goes to who has asked."""


@attrs.frozen
class Request:
    """What somebody asks for."""

    command: str
    arguments: Mapping[str, object]

    def text(self, name: str, default: str | None = None) -> str:
        """Return an argument that is a text.

        Raises:
          RefusedError: it is none, or is missing without a default.
        """
        value = self.arguments.get(name, default)
        if not isinstance(value, str) or not value:
            raise RefusedError(f"{self.command} takes {name}, a text, not {json.dumps(value)}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return an argument that is a number, 0 or more.

        Raises:
          RefusedError: it is none, or is missing without a default.
        """
        value = self.arguments.get(name, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not cast("float", value) >= 0:
            raise RefusedError(
                f"{self.command} takes {name}, a number, 0 or more, not {json.dumps(value)}"
            )
        return cast("float", value)


class Commands(Protocol):
    """Who does what is asked for: in one process a `Control`, or a supervisor for its workers."""

    async def do(self, request: Request) -> object:
        """Do what was asked for, and return what JSON can say of it.

        Always a checkpoint.

        Raises:
          RefusedError: it can't be done.
        """


async def answered(commands: Commands, line: bytes) -> bytes:  # noqa: ASYNC910 - as its commands are
    """Do what a line asks for, and return the line that answers it."""
    try:
        return answer(await commands.do(request_of(line)))
    except RefusedError as refused:
        return refusal(str(refused))  # noqa: ASYNC910 - as above


def request_of(line: bytes) -> Request:
    """Read a request.

    Raises:
      RefusedError: it is none.
    """
    try:
        read: object = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RefusedError('that is no JSON; send {"command": "statistics"}') from None
    arguments = dict(cast("Mapping[str, object]", read)) if isinstance(read, Mapping) else {}
    command = arguments.pop("command", None)
    if not isinstance(command, str):
        raise RefusedError('that is no object with a command; send {"command": "statistics"}')
    return Request(command, arguments)


def _no_number(constant: str) -> float:
    """Refuse NaN and Infinity, which Python reads and RFC 8259 does not have."""
    raise ValueError(constant)


def answer(result: Any) -> bytes:  # noqa: ANN401 - whatever JSON can say
    """Write the line that answers a request that was done."""
    return json.dumps({"ok": True, "result": result}).encode() + b"\n"


def refusal(why: str) -> bytes:
    """Write the line that answers a request that was not done."""
    return json.dumps({"ok": False, "error": why}).encode() + b"\n"
