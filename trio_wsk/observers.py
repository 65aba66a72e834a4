"""Observers: who is told what happened.

An observer is called with a frozen record. Nothing in this package logs by itself: the
log line is one observer, `LoggingObserver`, and it is there by default for what an
operator must see.

An observer that needs only some kinds of record says so in its attribute ``records``;
records that nobody observes are never made.

Source: the "telemetry as contract" of Ranch and Thousand Island; RFC 5424 has the levels.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Protocol, runtime_checkable

from ._vocabulary import records
from ._vocabulary.arguments import check_plain_function, checked_count, checked_seconds
from ._vocabulary.errors import InvalidParameterError
from ._vocabulary.record_lines import line_of
from ._vocabulary.records import (
    AcceptBackoffEnded,
    AcceptBackoffStarted,
    AcceptErrorIgnored,
    CallbackFailed,
    CloseStyleUnavailable,
    ConnectionAccepted,
    ConnectionDropped,
    ConnectionEnded,
    ConnectionUnparked,
    DrainFinished,
    DrainStarted,
    HandlerFailed,
    HandshakeFailed,
    InspectorStraggles,
    ListenerFailed,
    NetworksRead,
    NetworksUnreadable,
    PeerLeft,
    Record,
    RequestAborted,
    RequestApproved,
    RequestPended,
    RequestRejected,
    RuleWouldReject,
    ServerStarted,
    SharedBack,
    SharedLost,
)

__all__ = [
    "AcceptBackoffEnded",
    "AcceptBackoffStarted",
    "AcceptErrorIgnored",
    "AccessLog",
    "CallbackFailed",
    "CloseStyleUnavailable",
    "ConnectionAccepted",
    "ConnectionDropped",
    "ConnectionEnded",
    "ConnectionUnparked",
    "DrainFinished",
    "DrainStarted",
    "HandlerFailed",
    "HandshakeFailed",
    "InspectorStraggles",
    "ListenerFailed",
    "LoggingObserver",
    "NetworksRead",
    "NetworksUnreadable",
    "Observer",
    "PeerLeft",
    "Record",
    "RequestAborted",
    "RequestApproved",
    "RequestPended",
    "RequestRejected",
    "RuleWouldReject",
    "ServerStarted",
    "SharedBack",
    "SharedLost",
]

_KINDS: Final[list[type[Record]]] = [getattr(records, name) for name in records.__all__]

# The records' home for users is here: so that tracebacks and documentation say so.
for _name in records.__all__:
    globals()[_name].__module__ = __name__
del _name


@runtime_checkable
class Observer(Protocol):
    """Anything that can be called with a record: a function will do.

    It runs where the thing happened, so it must be quick, must not wait and must not call
    back into the listening socket. What it raises is logged, and it is not called again;
    `KeyboardInterrupt` and `SystemExit` go on.
    If it has an attribute ``records`` (a collection of record classes), it is told of
    those alone.
    """

    def __call__(self, record: Record, /) -> object:
        """Take note of the record."""


class Observers:
    """The observers of one listening block, sorted by what they want to know."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        checked = [_checked(observer) for observer in observers]
        self.wanting: dict[type[Record], list[Observer]] = {}
        """The observers that want each kind of record; of a kind that is missing, make none."""
        for kind in _KINDS:
            wanting = [each for each in checked if _wants(each, kind)]
            if wanting:
                self.wanting[kind] = wanting

    def tell(self, record: Record) -> None:
        """Hand a record to everybody who wants its kind.

        What one of them raises is logged, and ends nothing; Ctrl-C and its like go on.
        """
        for observer in self.wanting.get(type(record), ()):
            try:
                observer(record)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is logged
                self._drop(observer)
                text = "the observer %r failed and is not called again"
                _write(_log, logging.ERROR, text, observer, error)

    def _drop(self, observer: Observer) -> None:
        for kind, wanting in list(self.wanting.items()):
            rest = [each for each in wanting if each is not observer]
            if rest:
                self.wanting[kind] = rest
            else:
                del self.wanting[kind]


def _write(
    logger: logging.Logger, level: int, text: str, argument: object, error: BaseException | None
) -> None:
    """Log a line; if a logger fails, a filter of somebody's perhaps, it goes to standard error.

    What reports may not end what it reports on, and the line is wanted all the same.
    """
    try:
        logger.log(level, text, argument, exc_info=error)
    except Exception as failure:  # noqa: BLE001 - as it says
        _write_last(level, text, argument, error)
        _write_last(logging.ERROR, "%s failed to log that", logger.name, failure)


def _write_last(level: int, text: str, argument: object, error: BaseException | None) -> None:
    """Hand a line to `logging.lastResort`, which asks no filter."""
    if logging.lastResort is not None:
        info = None if error is None else (type(error), error, error.__traceback__)
        line = logging.LogRecord(_log.name, level, __file__, 0, text, (argument,), info)
        with suppress(Exception):
            logging.lastResort.handle(line)


def _checked(observer: Observer) -> Observer:
    """Say now what would otherwise go wrong when the first thing happens."""
    if not callable(observer):
        raise InvalidParameterError(
            f"an observer is called with each record, so it can't be {observer!r};"
            " write observers=[print]"
        )
    if callable(getattr(observer, "observer", None)):
        raise InvalidParameterError(
            f"{observer!r} is no observer, and makes one: write observers=[....observer()]"
        )
    check_plain_function("observers=[...]", observer)
    wanted: object = getattr(observer, "records", None)
    if wanted is not None and not isinstance(wanted, Collection):
        raise InvalidParameterError(
            f"the attribute `records` of the observer {observer!r} is a collection of record"
            f" classes, such as {{ListenerFailed}}, not {wanted!r}"
        )
    return observer


def _wants(observer: Observer, kind: type[Record]) -> bool:
    wanted: Collection[type[Record]] | None = getattr(observer, "records", None)
    return wanted is None or kind in wanted


_log = logging.getLogger("trio_wsk")

REPEAT_SECONDS: Final = 5.0
"""How long an equal line is held back. Short enough to see that it goes on, long
enough that a flood of the same trouble doesn't fill a disk."""


NEWS: Final = frozenset({records.ServerStarted, records.DrainStarted, records.DrainFinished})
"""How a server begins and ends: what one wants to see of it when all is well."""


class LoggingObserver:
    """Writes what an operator must see to `logging`, and no flood of it.

    That is what goes wrong, as WARNING and ERROR, and as INFO that a server listens, that it drains
    and that it has drained.
    Lines of one kind come at most once in ``repeat_seconds``; the next one says how many
    were held back. Everything else that happens is in ``statistics()``. What the logger itself
    fails to write goes to standard error (``logging.lastResort``).

    Args:
      logger: Where to; the logger ``trio_wsk`` by default.
      repeat_seconds: Seconds on Trio's clock; ``math.inf`` writes each kind once.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    records: Final = frozenset(
        {
            records.AcceptBackoffEnded,
            records.AcceptBackoffStarted,
            records.CallbackFailed,
            records.CloseStyleUnavailable,
            records.HandlerFailed,
            records.InspectorStraggles,
            records.ListenerFailed,
            records.NetworksRead,
            records.NetworksUnreadable,
            *NEWS,
        }
    )

    def __init__(
        self, logger: logging.Logger | None = None, *, repeat_seconds: float = REPEAT_SECONDS
    ) -> None:
        self.logger: Final[logging.Logger] = _log if logger is None else _checked_logger(logger)
        """Where to."""
        self._repeat_seconds = checked_seconds(
            "repeat_seconds", repeat_seconds, endless="each kind once"
        )
        self._last: dict[object, float] = {}
        self._held_back: dict[object, int] = {}

    def __call__(self, record: Record) -> None:
        """Write the record as one line, if its kind has not just been written."""
        level, text, error = line_of(record)
        kind = (type(record), type(error))
        last = self._last.get(kind)
        # Another Trio run has another clock: there the time may be before the last line's.
        is_repeated = last is not None and 0 <= record.at - last < self._repeat_seconds
        if is_repeated and type(record) not in NEWS:
            self._held_back[kind] = self._held_back.get(kind, 0) + 1
            return
        self._last[kind] = record.at
        held_back = self._held_back.pop(kind, 0)
        if held_back:
            text += f" (and {held_back} more of this kind since the last such line)"
        _write(self.logger, level, "%s", text, error)


def checked_observers(observers: Iterable[Observer]) -> list[Observer]:
    """Return the observers, with one for the log if there is none.

    Raises:
      InvalidParameterError: there can't be several in it. (The caller's.)
    """
    given: object = observers
    if not isinstance(given, Iterable):
        raise InvalidParameterError(
            f"observers takes several, so write observers=[...], not observers={observers!r}"
        )
    checked = list(observers)
    if not any(isinstance(observer, LoggingObserver) for observer in checked):
        checked.append(LoggingObserver())
    return checked


class ConsoleObserver:
    """Writes how a server begins and ends to standard error: for a program that has no log."""

    records: Final = NEWS

    def __call__(self, record: Record) -> None:
        """Write the record as one line."""
        if sys.stderr is not None:
            print(line_of(record)[1], file=sys.stderr, flush=True)  # noqa: T201 - as it says


def _checked_logger(logger: logging.Logger) -> logging.Logger:
    if not isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
        raise InvalidParameterError(
            f"logger is a logger, such as logging.getLogger('mail'), not {logger!r}"
        )
    return logger


# ------------------------------------------------------------------------------ access log


class AccessLog:
    """Writes one line for each connection, at its end, whatever that was.

    ``192.0.2.7:50001 finished after 1.250 s, 120 octets in, 3400 out``; one that was turned away
    has the reason of its verdict: ``192.0.2.7:50001 rejected: not-listed (reset)``. What a line
    says is in the fields of its `logging.LogRecord` as well (``extra=``), for programs:

    * ``remote_address``, as text;
    * ``opened`` and ``ended``, by the wall clock, as aware `datetime.datetime` in UTC; who was not
      let in has no ``opened``;
    * ``seconds`` between the two, ``octets_received``, ``octets_sent``;
    * ``outcome``: ``finished``, or another of `trio_wsk.EndReason`; ``rejected``, ``aborted``,
      ``dropped``;
    * ``reason``, of who was not let in: the slug that is counted in ``statistics()``;
    * ``close``, of who was rejected: how the peer was told.

    It is told of connections of servers, of requests that were inspected, and of connections that
    nobody got. A connection that you have awaited from a listening socket is yours, and so is
    the line when you end it.

    Args:
      logger: Where to; the logger ``trio_wsk.access`` by default.
      level: At which level.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    records: Final = frozenset(
        {
            records.ConnectionDropped,
            records.ConnectionEnded,
            records.RequestAborted,
            records.RequestRejected,
        }
    )

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.INFO) -> None:
        self._logger = _access_log if logger is None else _checked_logger(logger)
        self._level = checked_count("level", level, least=1)

    def __call__(self, record: Record) -> None:
        """Write the line, if the logger wants one of that level."""
        if self._logger.isEnabledFor(self._level):
            text, fields = _access(record)
            ended = datetime.now(timezone.utc)
            fields["ended"] = ended
            if "seconds" in fields:
                fields["opened"] = ended - timedelta(seconds=fields["seconds"])
            self._logger.log(self._level, "%s %s", fields["remote_address"], text, extra=fields)


_access_log = logging.getLogger("trio_wsk.access")

Access = tuple[str, dict[str, Any]]
"""What an access log says of a record: the text behind the address, and the fields."""


def _access(record: Record) -> Access:
    if isinstance(record, records.ConnectionEnded):
        return _ended(record)
    if isinstance(record, records.RequestRejected):
        text, fields = _not_let_in(record, "rejected", record.reason)
        fields["close"] = record.close.value
        return f"{text} ({record.close.value})", fields
    if isinstance(record, records.RequestAborted):
        return _not_let_in(record, "aborted", record.reason.value)
    assert isinstance(record, records.ConnectionDropped)
    return _not_let_in(record, "dropped", record.reason)


def _ended(record: records.ConnectionEnded) -> Access:
    outcome, seconds = record.reason.value, record.at - record.opened_at
    counts = f"{record.octets_received} octets in, {record.octets_sent} out"
    return f"{outcome} after {seconds:.3f} s, {counts}", {
        "remote_address": str(record.remote_address),
        "outcome": outcome,
        "seconds": seconds,
        "octets_received": record.octets_received,
        "octets_sent": record.octets_sent,
    }


def _not_let_in(
    record: records.RequestRejected | records.RequestAborted | records.ConnectionDropped,
    outcome: str,
    reason: str,
) -> Access:
    return f"{outcome}: {reason}", {
        "remote_address": str(record.remote_address),
        "outcome": outcome,
        "reason": reason,
    }
