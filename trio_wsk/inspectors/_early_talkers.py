"""A rule about who speaks before a server has greeted that speaks first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._vocabulary.arguments import checked_seconds
from trio_wsk._vocabulary.need import Need
from trio_wsk._vocabulary.verdict import CloseStyle, InspectAction, Verdict

from ._rule import checked_name

if TYPE_CHECKING:
    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer, Rule

__all__ = ["early_talkers"]


def early_talkers(
    wait: float = 2.0,
    *,
    reason: str = "talked-early",
    close: CloseStyle | bytes = CloseStyle.RESET,
    name: str = "early-talkers",
) -> Rule:
    r"""Make a rule that turns away who speaks first where the server does: SMTP, FTP, SSH.

    A client of such a server waits for its greeting. Who sends something before that doesn't
    listen: a program that sends spam, or one that speaks another protocol.

    Everybody else waits as long, before the handler has them. So put the rules before it that turn
    peers away at once, and those that let in who needs no such test. As many wait at one time as
    ``max_pending=`` says. Who finishes without a word has not spoken.

    Args:
      wait: Seconds on Trio's clock, from when the rule is asked: less than ``inspect_timeout=``,
        or everybody runs out of that.
      reason: What is counted.
      close: How they are told; a greeting that says no, say: ``b"554 no\r\n"``. See `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)

    Source: Postfix's postscreen, which calls it the pregreet test; RFC 5321, section 4.3.1.
    """
    verdict = Verdict(InspectAction.REJECT, reason, close)
    return _EarlyTalkers(checked_name(name), checked_seconds("wait", wait), verdict)


@final
class _EarlyTalkers:
    def __init__(self, name: str, wait: float, verdict: Verdict) -> None:
        self.name: Final = name
        self.needs: Final = Need.OCTETS
        self.close_styles: Final = frozenset({verdict.style})
        self._wait = wait
        self._verdict = verdict

    def __repr__(self) -> str:
        return f"<rule {self.name}, {self._wait} s>"

    async def __call__(self, request: ConnectionRequest) -> Answer:
        spoken = b""
        with trio.move_on_after(self._wait):
            spoken = await request.peek(1)
        return self._verdict if spoken else None
