"""What was found out about a key, for a while, and who is finding it out at the moment."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

from trio_wsk._inspection import control

from ._times import Times

if TYPE_CHECKING:
    from trio_wsk._inspection.request import ConnectionRequest

__all__ = ["Kept"]

K = TypeVar("K")
V = TypeVar("V")


@final
class Kept(Generic[K, V]):
    """Values that are kept for a time each, so that many ask once.

    Args:
      most: How many are kept; beyond that, the one that was found first goes.
    """

    __slots__ = ("_asking", "_found", "_most", "_times")

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[K, tuple[float, V]] = OrderedDict()  # oldest first
        self._times = Times(self._found.clear)
        self._asking: dict[K, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._found)

    def known(self, key: K) -> tuple[float, V] | None:
        """Return until when the value is kept, and the value; None if there is none."""
        now = self._times.now()
        known = self._found.get(key)
        if known is None or known[0] > now:
            return known
        del self._found[key]
        return None

    def keep(self, key: K, value: V, seconds: float) -> None:
        """Keep a value so long."""
        now = self._times.now()
        self._found.pop(key, None)
        if len(self._found) >= self._most:
            self._found.popitem(last=False)
        self._found[key] = now + seconds, value

    def is_asked(self, key: K) -> bool:
        """Whether somebody finds this one out."""
        return key in self._asking

    def asking(self, key: K, request: ConnectionRequest) -> ExitStack:
        """Be who finds it out, from now on, until what this returns is left.

        Or until the request ends, if its inspection goes on all the same, or is not even begun.
        Now, since the pump may take others of that key before it runs this one's task.
        """
        ended = self._asking[key] = trio.Event()
        over = partial(self._over, key, ended)
        control.give_back(request, over)
        stack = ExitStack()
        stack.callback(over)
        return stack

    async def wait_asked(self, key: K) -> None:  # noqa: ASYNC910 - an inspector's task needs none
        """Wait until nobody finds it out, however that has ended."""
        while (ended := self._asking.get(key)) is not None:
            await ended.wait()

    def _over(self, key: K, ended: trio.Event) -> None:
        if self._asking.get(key) is ended:
            del self._asking[key]
        ended.set()
