"""Observers: who is told what happened, and what gets into the log."""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import trio_wsk
from tests.helpers.support import connect_now, fate_of, read_to_end, until
from trio_wsk import Address, Connection, open_listening_socket, open_server
from trio_wsk._connection.block import Block
from trio_wsk._vocabulary import records as all_records
from trio_wsk._vocabulary.records import (
    AcceptBackoffEnded,
    AcceptBackoffStarted,
    CallbackFailed,
    ConnectionAccepted,
    DrainFinished,
    DrainStarted,
    HandlerFailed,
    ListenerFailed,
    PeerLeft,
    Record,
    ServerStarted,
)
from trio_wsk.inspectors import Penalties
from trio_wsk.observers import REPEAT_SECONDS, ConsoleObserver, LoggingObserver, Observer, Observers

if TYPE_CHECKING:
    from collections.abc import Iterator

PEER = Address.parse("192.0.2.1:7")

SAMPLES: list[Record] = [
    AcceptBackoffStarted(at=0, errno_name="EMFILE", policy="backoff"),
    AcceptBackoffStarted(at=0, errno_name="ENFILE", policy="shed"),
    AcceptBackoffEnded(at=0, seconds=1.5, attempts=3, shed=0),
    AcceptBackoffEnded(at=0, seconds=1.5, attempts=3, shed=9),
    CallbackFailed(at=0, callback="receive", error=ZeroDivisionError(), remote_address=PEER),
    CallbackFailed(at=0, callback="accept", error=ZeroDivisionError(), remote_address=None),
    HandlerFailed(at=0, error=ZeroDivisionError(), remote_address=PEER),
    ListenerFailed(at=0, error=OSError(9, "Bad file descriptor")),
]

NEWS: list[tuple[Record, str]] = [
    (ServerStarted(at=0, local_addresses=(PEER,)), "listening on 192.0.2.1:7"),
    (
        DrainStarted(at=0, open_connections=3, grace=2.5),
        "draining: open connections (3) are given 2.5 s to finish",
    ),
    (
        DrainStarted(at=0, open_connections=0, grace=math.inf),
        "draining: open connections (0) are given as long as they take to finish",
    ),
    (DrainFinished(at=0, finished=2, reset=1), "drained: 2 finished, 1 reset"),
]


def backoff(at: float) -> Record:
    """Make a record of a back-off at a time."""
    return AcceptBackoffStarted(at=at, errno_name="EMFILE", policy="backoff")


# --- Records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", all_records.__all__)
def test_records_are_frozen_and_told(name: str) -> None:
    """Every record is a frozen attrs class with `at`, and each of its fields has a docstring."""
    kind = getattr(all_records, name)

    assert issubclass(kind, Record)
    assert "at" in {field.name for field in attrs.fields(kind)}

    record = kind(**{field.name: 0 for field in attrs.fields(kind)})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        record.at = 1
    assert record == kind(**{field.name: 0 for field in attrs.fields(kind)})


def test_record_is_made_only_when_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that nobody wants is not even made."""
    monkeypatch.setattr("trio.current_time", lambda: 5.0)
    made: list[object] = []

    class Wanted(PeerLeft):
        def __attrs_post_init__(self) -> None:
            made.append(self)

    attrs.frozen(kw_only=True)(Wanted)

    class Others:
        records = frozenset({ListenerFailed})

        def __call__(self, record: Record) -> None:
            raise AssertionError("not asked for")

    heard: list[Record] = []
    nobody = Block.__new__(Block)
    nobody.observers = Observers([Others()])
    somebody = Block.__new__(Block)
    somebody.observers = Observers([Others(), heard.append])

    nobody.tell(PeerLeft, remote_address=PEER)
    somebody.tell(PeerLeft, remote_address=PEER)

    assert PeerLeft not in nobody.observers.wanting
    assert [PeerLeft(at=5.0, remote_address=PEER)] == heard
    assert [] == made


# --- Observers --------------------------------------------------------------------------------


def test_each_hears_what_it_asked_for() -> None:
    """An observer with `records` is told of those alone; one without, of everything."""
    everything: list[Record] = []
    some: list[Record] = []

    class Picky:
        records = (ListenerFailed,)

        def __call__(self, record: Record) -> None:
            some.append(record)

    observers = Observers([everything.append, Picky()])
    for sample in SAMPLES:
        observers.tell(sample)

    assert SAMPLES == everything
    assert SAMPLES[-1:] == some


def test_failing_observer_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises is logged once and not called again; the others go on."""
    calls: list[Record] = []
    heard: list[Record] = []

    class Failing:
        def __call__(self, record: Record) -> None:
            calls.append(record)
            raise ZeroDivisionError

        def __eq__(self, other: object) -> bool:
            return True  # equal to the others, and yet only this one is dropped

        __hash__ = object.__hash__

    observers = Observers([heard.append, Failing(), heard.append])
    observers.tell(SAMPLES[0])
    observers.tell(SAMPLES[1])

    assert 1 == len(calls)
    assert [SAMPLES[0]] * 2 + [SAMPLES[1]] * 2 == heard
    assert ["ZeroDivisionError"] == [
        record.exc_info[0].__name__
        for record in caplog.records
        if record.exc_info and record.exc_info[0]
    ]


class Refuses(logging.Filter):
    """A filter that fails, and counts how often it was asked."""

    asked = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Fail."""
        self.asked += 1
        raise RuntimeError("the filter")


@pytest.fixture
def refuses() -> Iterator[Refuses]:
    """Have the package's logger fail for the length of a test."""
    refuses = Refuses()
    logger = logging.getLogger("trio_wsk")
    logger.addFilter(refuses)
    yield refuses
    logger.removeFilter(refuses)


def test_logger_that_fails_loses_no_line(
    refuses: Refuses, capsys: pytest.CaptureFixture[str]
) -> None:
    """What could not be logged is on standard error, with why; and the next one is logged again."""
    observers = Observers([LoggingObserver(repeat_seconds=0)])
    for _ in range(2):
        observers.tell(SAMPLES[4])
    said = capsys.readouterr().err

    assert 2 == refuses.asked
    assert 2 == said.count("the receive callback of 192.0.2.1:7 failed\n")
    assert 2 == said.count("ZeroDivisionError\n")
    assert 2 == said.count("RuntimeError: the filter\n")


def test_observer_and_logger_may_both_fail(
    refuses: Refuses, capsys: pytest.CaptureFixture[str]
) -> None:
    """The observer is dropped all the same, and both errors are on standard error."""

    def failing(record: Record) -> None:
        raise ZeroDivisionError

    observers = Observers([failing])
    observers.tell(SAMPLES[0])
    said = capsys.readouterr().err

    assert {} == observers.wanting
    assert "failing" in said
    assert "ZeroDivisionError\n" in said
    assert "RuntimeError: the filter\n" in said


@pytest.mark.parametrize("last", [None, logging.Handler()])
def test_last_resort_may_be_missing_or_fail(
    last: logging.Handler | None, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing is written, and nothing ends either."""
    monkeypatch.setattr(logging, "lastResort", last)  # one that can't emit
    monkeypatch.setattr(logging, "raiseExceptions", False)
    LoggingObserver()(SAMPLES[0])

    assert 1 == refuses.asked


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_concerns_the_process_goes_on(error: type[BaseException]) -> None:
    """Ctrl-C inside an observer is no failure of the observer."""

    def interrupted(record: Record) -> None:
        raise error

    observers = Observers([interrupted])
    with pytest.raises(error):
        observers.tell(SAMPLES[0])

    assert SAMPLES[0].__class__ in observers.wanting


def test_observer_that_is_dropped_is_asked_nothing_more() -> None:
    """What it wants to hear was asked once: nothing of it runs while another one is dropped."""

    class Moody:
        asked = 0

        @property
        def records(self) -> set[type[Record]]:
            self.asked += 1
            return {ListenerFailed}

        def __call__(self, record: Record) -> None:
            """Say nothing."""

    def failing(record: Record) -> None:
        raise ZeroDivisionError

    moody = Moody()
    observers = Observers([moody, failing])
    asked = moody.asked
    observers.tell(SAMPLES[0])

    assert asked == moody.asked
    assert {ListenerFailed: [moody]} == observers.wanting


async def test_crash_whose_report_fails_ends_its_own_connection_alone(
    refuses: Refuses, capsys: pytest.CaptureFixture[str]
) -> None:
    """A handler crashes, an observer and a filter fail over it, and the server goes on."""

    def observe(record: Record) -> None:
        if isinstance(record, HandlerFailed):
            raise LookupError("the observer")  # noqa: TRY004 - not for its type

    async def handler(connection: Connection) -> None:
        if await connection.receive_some() == b"crash":
            raise ZeroDivisionError("the handler")
        await connection.send_all(b"served")

    async with open_server(handler, 0, host="127.0.0.1", observers=[observe]) as server:
        async with connect_now(server.local_addresses[0]) as client:
            await client.send_all(b"crash")
            assert "reset" == await fate_of(client)
        async with connect_now(server.local_addresses[0]) as client:
            await client.send_all(b"x")
            assert b"served" == await read_to_end(client)

    said = capsys.readouterr().err
    for text in ("the handler", "the observer", "the filter"):
        assert f": {text}\n" in said
    assert refuses.asked


def test_observer_that_fails_while_it_fails() -> None:
    """An observer that causes a record and fails in it, too, is dropped once and for all."""
    calls = 0

    def recursive(record: Record) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            observers.tell(record)
        raise ZeroDivisionError

    observers = Observers([recursive])
    observers.tell(SAMPLES[0])
    observers.tell(SAMPLES[0])

    assert 3 == calls


@pytest.mark.parametrize("observer", [None, "log"])
def test_what_cannot_be_called_is_refused(observer: Any) -> None:
    """Something that can't be called is refused when it is given."""
    with pytest.raises(trio_wsk.InvalidParameterError, match=repr(observer)):
        Observers([observer])


def test_what_makes_an_observer_is_none() -> None:
    """Penalties can be called, with a request: given as an observer they would fail silently."""
    with pytest.raises(
        trio_wsk.InvalidParameterError, match=r"write observers=\[\.*observer\(\)\]"
    ):
        Observers([Penalties()])  # type: ignore[list-item]


def test_nonsense_in_records_is_refused() -> None:
    """`records` that is no collection is refused when it is given, not when something happens."""

    class Wrong:
        records = ListenerFailed

        def __call__(self, record: Record) -> None:
            """Never called."""

    with pytest.raises(trio_wsk.InvalidParameterError, match="ListenerFailed"):
        Observers([Wrong()])


def test_a_function_is_an_observer() -> None:
    """Any function is one, and so is the logging observer."""
    assert isinstance(print, Observer)
    assert isinstance(LoggingObserver(), Observer)


# --- The log ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_lines_read_well(sample: Record, caplog: pytest.LogCaptureFixture) -> None:
    """Each record that an operator must see is one line, with the traceback that belongs to it."""
    LoggingObserver()(sample)
    (line,) = caplog.records

    assert line.levelno >= logging.WARNING
    assert "\n" not in line.getMessage()
    assert "trio_wsk" == line.name

    error = getattr(sample, "error", None)
    has_traceback = error is not None and not isinstance(sample, ListenerFailed)

    assert has_traceback == bool(line.exc_info)
    if address := getattr(sample, "remote_address", None):
        assert str(address) in line.getMessage()


@pytest.mark.parametrize(("news", "text"), NEWS)
def test_news_are_told_quietly(news: Record, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """That a server begins or ends is a line for who wants to know, and each time is one."""
    caplog.set_level(logging.INFO)
    observer = LoggingObserver()
    observer(news)
    observer(news)

    assert 2 * [("trio_wsk", logging.INFO, text)] == caplog.record_tuples


@pytest.mark.parametrize(("news", "text"), NEWS)
def test_news_can_be_told_without_a_log(
    news: Record, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's standard error gets the same line, if the program has one."""
    ConsoleObserver()(news)

    assert ("", f"{text}\n") == capsys.readouterr()

    monkeypatch.setattr(sys, "stderr", None)
    ConsoleObserver()(news)

    assert ("", "") == capsys.readouterr()


def test_lines_of_one_kind_are_rare(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand records of one kind in a moment are one line; the next one counts them."""
    observer = LoggingObserver()
    for number in range(1000):
        observer(backoff(100 + number / 1000))

    assert 1 == len(caplog.records)

    observer(backoff(100 + REPEAT_SECONDS))

    assert 2 == len(caplog.records)
    assert "999 more" in caplog.records[1].getMessage()

    observer(backoff(100 + 3 * REPEAT_SECONDS))

    assert "more" not in caplog.records[2].getMessage()


def test_kinds_do_not_hold_each_other_back(caplog: pytest.LogCaptureFixture) -> None:
    """Records of different kinds, and crashes of different kinds, each get their line."""
    observer = LoggingObserver()
    for error in (ZeroDivisionError(), KeyError(), ZeroDivisionError()):
        observer(HandlerFailed(at=1, error=error, remote_address=PEER))
    observer(backoff(1))

    assert 3 == len(caplog.records)


def test_another_runs_clock(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that is used in a second Trio run, whose clock is behind, isn't silent there."""
    observer = LoggingObserver()
    observer(backoff(1_000_000))
    observer(backoff(10))

    assert 2 == len(caplog.records)


def test_own_logger(caplog: pytest.LogCaptureFixture) -> None:
    """Where the lines go and how rare they are can be chosen."""
    observer = LoggingObserver(logging.getLogger("mine"), repeat_seconds=0)
    observer(backoff(1))
    observer(backoff(1))

    assert ["mine", "mine"] == [line.name for line in caplog.records]


async def test_replaces_the_default(caplog: pytest.LogCaptureFixture) -> None:
    """Without a LoggingObserver there is a default one; with yours, that is the only one."""
    for observers in ([], [LoggingObserver(logging.getLogger("mine"))]):
        async with open_listening_socket(0, host="127.0.0.1", observers=observers) as listening:
            irp = listening.queue_accept(on_completion=lambda _: 1 / 0)
            irp.cancel()
            await listening.aclose()

    assert ["trio_wsk", "mine"] == [line.name for line in caplog.records]


async def test_what_is_normal_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Connections that come and go leave no line."""
    heard: list[Record] = []
    async with open_listening_socket(0, host="127.0.0.1", observers=[heard.append]) as listening:
        client = connect_now(listening.local_addresses[0])
        connection = await listening.accept()
        await until(lambda: heard)
        await connection.aclose()
        await client.aclose()

    assert [] == caplog.records
    assert ConnectionAccepted(at=heard[0].at, remote_address=connection.remote_address) == heard[0]
