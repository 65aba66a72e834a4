"""The send queue of one connection: data, and the places of tasks that stand in line with theirs.

Few connections ever have one. The kernel is reached by the function that `SendQueue.flush` is
given, so nothing here knows a channel; nothing here calls user code.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.irp import complete, fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.irp import Irp
    from trio_wsk._vocabulary.errors import WskError

__all__ = ["ALL_SENT", "A_TASK_IS_NEXT", "NO_ROOM", "SendQueue"]

ALL_SENT: Final = 0
"""The queue is empty."""
NO_ROOM: Final = 1
"""The kernel takes no more now."""
A_TASK_IS_NEXT: Final = 2
"""It is the turn of a task that stood in line, and that has been told so."""


class _Piece:
    """One piece of data, or a task's place in the line."""

    __slots__ = ("irp", "size", "turn", "view")

    def __init__(self, data: bytes, irp: Irp[int] | None, size: int) -> None:
        self.view = memoryview(data)
        """What the kernel has not taken yet."""
        self.irp = irp
        self.size = size
        """How much it was at first, in octets."""
        self.turn: trio.Event | None = None
        """Set when the queue has come to the task that stands in line here."""


class SendQueue:
    """What is to be sent when the kernel takes more, in order."""

    __slots__ = ("_line", "_sent_waiters", "octets")

    def __init__(self) -> None:
        self._line: deque[_Piece] = deque()
        self.octets = 0
        """How many are unsent."""
        self._sent_waiters: trio.Event | None = None

    def append(self, rest: bytes, irp: Irp[int] | None, size: int) -> None:
        """Queue what the kernel has not taken.

        Args:
          rest: The octets.
          irp: Completed when they are sent.
          size: How many octets it then completes with.
        """
        self._line.append(_Piece(rest, irp, size))
        self.octets += len(rest)

    def flush(self, send: Callable[[memoryview, bool], int]) -> int:
        """Send until the kernel takes no more, or it is a task's turn.

        Args:
          send: Has the kernel take some octets, and returns how many; told whether they are the
            last. What it raises goes on, and what was to be sent stays.

        Returns:
          `ALL_SENT`, `NO_ROOM` or `A_TASK_IS_NEXT`.
        """
        line = self._line
        while line:
            first = line[0]
            if first.turn is not None:
                line.popleft()
                first.turn.set()
                return A_TASK_IS_NEXT
            taken = send(first.view, len(line) == 1) if first.view else 0
            self.octets -= taken
            first.view = first.view[taken:]
            if first.view:
                if not taken:
                    return NO_ROOM
                continue
            line.popleft()
            if first.irp is not None:
                complete(first.irp, first.size)
        return ALL_SENT

    def withdraw(self, irp: Irp[int], *, has_begun: bool = False) -> bool:
        """Take the data of an Irp back; False if some of it was sent, or it is not here.

        Args:
          irp: Whose data.
          has_begun: Whether some of the first data in line has been sent, although it counts in
            no part.
        """
        for piece in self._line:
            if piece.irp is irp and len(piece.view) == piece.size:
                if has_begun and piece is self._line[0]:
                    return False
                self._line.remove(piece)
                self.octets -= piece.size
                return True
        return False

    def drop(self, why: Callable[[], WskError]) -> None:
        """Send nothing of it any more, and tell everybody who waits for that.

        Args:
          why: Makes the error that one Irp fails with.
        """
        line, self._line = self._line, deque()
        self.octets = 0
        for piece in line:
            if piece.irp is not None:
                fail(piece.irp, why())
            if piece.turn is not None:
                piece.turn.set()
        self.tell_sent()

    def has_routines(self) -> bool:
        """Whether completion routines will have to be called for what is queued."""
        return any(piece.irp and piece.irp.on_completion for piece in self._line)

    async def wait_turn(self) -> None:
        """Stand in line: wait until what is queued now has been sent, and not what comes after."""
        place = _Piece(b"", None, 0)
        place.turn = trio.Event()
        self._line.append(place)
        try:
            await place.turn.wait()
        except BaseException:
            if place in self._line:
                self._line.remove(place)
            raise

    async def wait_sent(self) -> None:  # noqa: ASYNC910 - as it says
        """Wait until everything that is queued has been sent. A checkpoint, or it has been."""
        while self.octets:
            if self._sent_waiters is None:
                self._sent_waiters = trio.Event()
            await self._sent_waiters.wait()

    def tell_sent(self) -> None:
        """Have whoever is in `wait_sent` look again."""
        if self._sent_waiters is not None:
            self._sent_waiters.set()
            self._sent_waiters = None
