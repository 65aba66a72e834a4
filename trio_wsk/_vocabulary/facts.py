"""What was found out about a peer, by type: the facts that go from a request to its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    T = TypeVar("T")

__all__ = ["Facts"]


@final
class Facts:
    """What was found out about a peer, at most one value of each type.

    Rules add what they find to `ConnectionRequest.facts`, and who has the connection reads it from
    `Connection.facts`, with its type::

        request.facts.add(Country("NZ"))  # in a rule; `Country` is a class of yours
        country = connection.facts[Country]  # in the handler

    Iterating yields the values, in the order in which they were added.
    """

    __slots__ = ("_by_type",)

    def __init__(self) -> None:
        """Made by the listening socket, never by you."""
        self._by_type: dict[type[object], object] = {}

    def add(self, fact: object) -> None:
        """Add a value, under its type: ``type(fact)``, and no base class of that.

        It takes the place of an earlier one of the same type.
        """
        self._by_type[type(fact)] = fact

    def __getitem__(self, kind: type[T]) -> T:
        """Return the value of this type.

        Raises:
          KeyError: there is none.
        """
        return self._by_type[kind]  # type: ignore[return-value]  # that is how it was added

    def get(self, kind: type[T], default: T | None = None) -> T | None:
        """Return the value of this type, or the default if there is none."""
        return self._by_type.get(kind, default)  # type: ignore[return-value]  # as above

    def __contains__(self, kind: object) -> bool:
        """Whether there is a value of this type."""
        return kind in self._by_type

    def __iter__(self) -> Iterator[object]:
        return iter(list(self._by_type.values()))

    def __len__(self) -> int:
        return len(self._by_type)

    def __repr__(self) -> str:
        return f"Facts({list(self._by_type.values())!r})"
