"""`Watcher`: the numbers of the page, as of each second, for all who watch.

They are asked for once, however many watch, and nothing is kept for anybody: who is slow gets the
latest next, and not what was before it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_wsk._looking.history import History
from trio_wsk._looking.readings import readings_of, silent_of
from trio_wsk.control._protocol import RefusedError, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_wsk._http.messages import Send
    from trio_wsk._looking.history import Point
    from trio_wsk.control._protocol import Commands

__all__ = ["INTERVAL", "Watcher"]

INTERVAL: Final = 1.0
"""Seconds between two looks."""

RATES: Final = ("accepted", "ended", "rejected", "dropped", "aborted", "handshake", "failed")
"""What is shown per second."""

MOST_REASONS: Final = 100
"""How many reasons are shown: those that come most now."""


@final
class Watcher:
    """Looks again and again.

    Args:
      commands: Who is asked.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._history = History()
        self._looks = 0
        self._is_over = False
        self._event = b""
        self._waiting = trio.lowlevel.ParkingLot()

    async def run(  # noqa: ASYNC910 - it is not over when it begins
        self, is_over: Callable[[], bool]
    ) -> None:
        """Look until it is over."""
        while not is_over():
            await self._look()
            await trio.sleep(INTERVAL)
        self._is_over = True
        self._waiting.unpark_all()

    async def _look(self) -> None:
        """Ask, and tell all who watch; what can't be answered now is not told."""
        try:
            workers: Any = await self._commands.do(Request("workers", {}))
        except RefusedError:
            return  # noqa: ASYNC910 - it was asked
        self._history.add(trio.current_time(), readings_of(workers), silent_of(workers))
        self._event = _event("now", self._now())
        self._looks += 1
        self._waiting.unpark_all()

    async def tell(self, send: Send) -> None:
        """Send the last minutes, and then what is new, as server-sent events, until it is over."""
        seen = 0
        await send(_event("minutes", _minutes(self._history.points)))
        while not self._is_over:
            if seen == self._looks:
                await self._waiting.park()
            else:
                seen = self._looks
                await send(self._event)

    def _now(self) -> object:
        history = self._history
        return {
            "point": _plain(history.points[-1]),
            "silent": history.silent,
            "places": [
                {
                    "worker": row.place.worker,
                    "process": row.reading.process,
                    "listener": row.place.listener,
                    "state": row.reading.state,
                    "accepted_rate": row.accepted_rate,
                    **row.reading.levels,
                }
                for row in history.rows()
            ],
            "reasons": [
                {"what": each.what, "why": each.why, "total": each.total, "rate": each.rate}
                for each in history.reasons()[:MOST_REASONS]
                if each.total
            ],
            "waits": [
                {"rule": each.rule, "waits": each.waits, "mean": each.mean}
                for each in history.waits()
            ],
        }


def _minutes(points: Iterable[Point]) -> object:
    return {"interval": INTERVAL, "points": [_plain(point) for point in points]}


def _plain(point: Point) -> object:
    return {
        "at": round(point.at, 3),
        **point.levels,
        **{f"{what}_rate": point.rate(what) for what in RATES},
    }


def _event(kind: str, value: object) -> bytes:
    """Write a server-sent event. JSON has no line ends of its own, which would end a field."""
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()
