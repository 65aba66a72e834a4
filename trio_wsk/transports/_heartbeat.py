"""The sign of life of a peer that asks for a connection and hears nothing: SYN after SYN.

A client that has closed its socket meanwhile sends nothing at all. So who inspects before the
handshake knows only by the next SYN, when that is overdue, that the client has gone. One rule for
every transport, as pure as can be: no clock, no socket.

Beats are repeats of one SYN, with one sequence number. A SYN of the same addresses with another
number is no beat, and ends nothing: its sender may have started anew, or may be anybody who knows
the addresses. The request that came first keeps the place for as long as its client may be there,
and the next one has to wait until then. Else a forged SYN would end an inspection, and the next
true one the forged one's.

Times are seconds on one clock, which never goes back.

Source: RFC 6298, section 2; tcp(7), ``tcp_syn_retries``.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FIRST_REPEAT", "Heartbeat"]

FIRST_REPEAT: Final = 3.5
"""Within these seconds a client that is there has sent its first SYN again: Linux and Windows
after 1 s, others after 3 s (RFC 6298, section 2, and before that RFC 1122)."""

_ON_THE_WAY: Final = 1.0
"""Seconds that a SYN may be late."""


class Heartbeat:
    """When the SYNs of one request have come; to be inherited, so that it costs no object.

    Args:
      now: When the first one came.
    """

    __slots__ = ("_first_beat", "_last_beat", "_longest_gap")

    def __init__(self, now: float) -> None:
        self._first_beat = self._last_beat = now
        self._longest_gap = 0.0

    def beat(self, now: float) -> None:
        """Take note that the same SYN has come once more."""
        self._longest_gap = max(self._longest_gap, now - self._last_beat)
        self._last_beat = now

    @property
    def asks_again_until(self) -> float:
        """Until when a client that is still there has sent its SYN again.

        A client at most doubles the time between two. The longest time counts and not the last,
        because networks duplicate packets: of two SYNs that come together nothing follows.
        """
        return max(self._first_beat + FIRST_REPEAT, self._next_after(self._last_beat))

    def repeats_until(self, answered: float) -> float:
        """Say until when a client that was answered then, and has not heard, asks again."""
        return max(answered + FIRST_REPEAT, self._next_after(answered))

    def _next_after(self, beat: float) -> float:
        return beat + 2 * self._longest_gap + _ON_THE_WAY
