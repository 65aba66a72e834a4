"""What a client asks for over HTTP, and what it is answered. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, TypeAlias

import attrs

__all__ = ["NO_STORE", "TEXT", "Page", "Request", "Respond", "Send", "Stream"]

TEXT: Final = "text/plain; charset=utf-8"

NO_STORE: Final = ("Cache-Control", "no-store")
"""For what is true now only, and for whoever has asked."""


@attrs.frozen
class Request:
    """What a client asks for."""

    method: str
    path: str
    """The target without its query."""
    headers: Mapping[str, str]
    """By names in small letters; several of one name are one, with commas between them."""
    content: bytes = b""


@attrs.frozen
class Page:
    """What a client is answered, all at once."""

    content: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT
    headers: Sequence[tuple[str, str]] = ()
    """What else its head has."""


Send: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends a part, and waits until there is room for it."""


@attrs.frozen
class Stream:
    """What a client is answered bit by bit."""

    produce: Callable[[Send], Awaitable[object]]
    """Sends the parts; what it raises ends the connection."""
    content_type: str
    headers: Sequence[tuple[str, str]] = ()


Respond: TypeAlias = Callable[[Request], Awaitable[Page | Stream]]
"""Makes the answer."""
