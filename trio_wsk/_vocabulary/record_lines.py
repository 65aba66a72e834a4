"""How records read, for who writes them to a log: one line each."""

from __future__ import annotations

import logging
import math
from functools import singledispatch
from typing import TYPE_CHECKING, Final

from . import records

if TYPE_CHECKING:
    from .records import Record

__all__ = ["Line", "line_of"]

_BACKOFF_POLICIES: Final = {
    "backoff": "peers wait in the backlog until it works again",
    "shed": "peers are reset until it works again",
}

Line = tuple[int, str, "BaseException | None"]
"""How a record reads: level, text, and the exception whose traceback belongs to it."""


@singledispatch
def line_of(record: Record) -> Line:
    """Return how a record reads."""
    return logging.INFO, str(record), None


@line_of.register(records.AcceptBackoffStarted)
def _(record: records.AcceptBackoffStarted) -> Line:
    policy = _BACKOFF_POLICIES[record.policy]
    return logging.WARNING, f"accepting failed with {record.errno_name}; {policy}", None


@line_of.register(records.AcceptBackoffEnded)
def _(record: records.AcceptBackoffEnded) -> Line:
    failures = f"failures: {record.attempts} in {record.seconds:.1f} s"
    shed = f", peers reset: {record.shed}" if record.shed else ""
    return logging.WARNING, f"accepting works again ({failures}{shed})", None


@line_of.register(records.HandlerFailed)
def _(record: records.HandlerFailed) -> Line:
    text = f"the handler of {record.remote_address} failed; its connection was reset"
    return logging.ERROR, text, record.error


@line_of.register(records.CallbackFailed)
def _(record: records.CallbackFailed) -> Line:
    whose = f" of {record.remote_address}" if record.remote_address is not None else ""
    return logging.ERROR, f"the {record.callback} callback{whose} failed", record.error


@line_of.register(records.InspectorStraggles)
def _(record: records.InspectorStraggles) -> Line:
    text = (
        f"the inspector of {record.remote_address} goes on {record.seconds:.1f} s after it was"
        " cancelled; leaving the block waits for it"
    )
    return logging.WARNING, text, None


@line_of.register(records.CloseStyleUnavailable)
def _(record: records.CloseStyleUnavailable) -> Line:
    text = f"{record.remote_address} was reset: {record.close} can't be had here"
    return logging.WARNING, text, None


@line_of.register(records.ListenerFailed)
def _(record: records.ListenerFailed) -> Line:
    # Its traceback is ours alone; the error itself comes out of the block as well.
    return logging.ERROR, f"the listening socket failed and is closed: {record.error}", None


@line_of.register(records.ServerStarted)
def _(record: records.ServerStarted) -> Line:
    where = ", ".join(str(address) for address in record.local_addresses)
    return logging.INFO, f"listening on {where}", None


@line_of.register(records.DrainStarted)
def _(record: records.DrainStarted) -> Line:
    grace = "as long as they take" if math.isinf(record.grace) else f"{record.grace:g} s"
    text = f"draining: open connections ({record.open_connections}) are given {grace} to finish"
    return logging.INFO, text, None


@line_of.register(records.DrainFinished)
def _(record: records.DrainFinished) -> Line:
    return logging.INFO, f"drained: {record.finished} finished, {record.reset} reset", None


@line_of.register(records.NetworksRead)
def _(record: records.NetworksRead) -> Line:
    return logging.INFO, f"{record.path} was read: {record.networks} networks", None


@line_of.register(records.NetworksUnreadable)
def _(record: records.NetworksUnreadable) -> Line:
    text = f"{record.path} can't be used, so what it said before still holds: {record.error}"
    return logging.WARNING, text, None


@line_of.register(records.SharedLost)
def _(record: records.SharedLost) -> Line:
    why = "in time" if record.error is None else f"({record.error})"
    text = f"no answer {why} from the server that {record.name} is shared by; it is decided without"
    return logging.WARNING, text, None


@line_of.register(records.SharedBack)
def _(record: records.SharedBack) -> Line:
    text = f"the server that {record.name} is shared by answers again, after {record.seconds:.1f} s"
    return logging.WARNING, text, None
