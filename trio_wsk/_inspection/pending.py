"""`PendingInspections`: what users see of the requests that wait for their verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, final

from trio_wsk._vocabulary.verdict import InspectId

from .request import ConnectionRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PendingInspections"]


class Found(Protocol):
    """Where the requests are."""

    def find(self, inspect_id: InspectId) -> ConnectionRequest | None:
        """Return the request of this number."""

    def requests(self) -> Iterator[ConnectionRequest]:
        """Go through what `find` finds."""

    def __len__(self) -> int:
        """How many these are."""


@final
class PendingInspections(Mapping[InspectId, ConnectionRequest]):
    """The requests of a listening socket that wait for their verdict; a view, always current.

    One that was aborted is still in it until its abort callback has returned.
    """

    __slots__ = ("_found",)

    def __init__(self, found: Found) -> None:
        """Made by the listening socket, never by you."""
        self._found = found

    def __getitem__(self, inspect_id: InspectId) -> ConnectionRequest:
        given: object = inspect_id  # anything may be looked for in a mapping
        request = self._found.find(given) if isinstance(given, InspectId) else None
        if request is None:
            raise KeyError(inspect_id)
        return request

    def __iter__(self) -> Iterator[InspectId]:
        return (request.inspect_id for request in self._found.requests())

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"PendingInspections({list(self)!r})"
