"""What was found out about a key, for a while, and who is finding it out at the moment."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Kept"]

K = TypeVar("K")
V = TypeVar("V")


@final
class Kept(Generic[K, V]):
    """Values that are kept for a time each, so that many ask once.

    Args:
      most: How many are kept; beyond that, the one that was found first goes.
    """

    __slots__ = ("_asking", "_found", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[K, tuple[float, V]] = OrderedDict()  # oldest first
        self._asking: dict[K, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._found)

    def known(self, key: K) -> tuple[float, V] | None:
        """Return until when the value is kept, and the value; None if there is none."""
        known = self._found.get(key)
        if known is None or known[0] > trio.current_time():
            return known
        del self._found[key]
        return None

    def keep(self, key: K, value: V, seconds: float) -> None:
        """Keep a value so long."""
        self._found.pop(key, None)
        if len(self._found) >= self._most:
            self._found.popitem(last=False)
        self._found[key] = trio.current_time() + seconds, value

    def being_asked(self, key: K) -> trio.Event | None:
        """Return what says that whoever finds this one out has ended; None if nobody does."""
        return self._asking.get(key)

    @contextmanager
    def asking(self, key: K) -> Iterator[None]:
        """Be who finds it out; who waits for that goes on at the end, however it ends."""
        ended = self._asking[key] = trio.Event()
        try:
            yield
        finally:
            del self._asking[key]
            ended.set()
