"""Inspectors that do no more than their form asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trio_wsk import ConnectionRequest, InspectAction

Inspector = Callable[[ConnectionRequest], InspectAction | Awaitable[InspectAction]]


def make_inspector(form: str, verdict: InspectAction) -> Inspector:
    """Make one, ``sync`` or ``async``, that says the same to everybody."""

    def answer(_request: ConnectionRequest) -> InspectAction:
        return verdict

    async def _answer(_request: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        return verdict

    forms: dict[str, Inspector] = {"sync": answer, "async": _answer}
    return forms[form]


def inspector_asked_for(arguments: list[str]) -> Inspector | None:
    """Make the one that the command line names, if it does, which lets everybody in."""
    return make_inspector(arguments[0], InspectAction.ACCEPT) if arguments else None
