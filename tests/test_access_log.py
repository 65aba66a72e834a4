"""Tests of `trio_wsk.observers.AccessLog`."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.support import connect, fate_of, until
from trio_wsk import InspectAction, Verdict, open_server
from trio_wsk.observers import AccessLog
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from trio_wsk import Connection, ConnectionRequest

pytestmark = pytest.mark.usefixtures("no_leak")

HOST = "127.0.0.1"


def lines_of(caplog: pytest.LogCaptureFixture, logger: str) -> list[logging.LogRecord]:
    """Return what was written to one logger."""
    return [line for line in caplog.records if line.name == logger]


async def greet(connection: Connection) -> None:
    """Say hello, and hear the client out."""
    await connection.send_all(b"hello")
    async for _ in connection:
        pass


async def test_line_says_what_became_of_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    """
    At its end each connection is one line: who it was, how long, how many octets, how it ended;
    and its fields say the same to programs, with the time of the wall clock.
    """
    caplog.set_level(logging.INFO)
    before = datetime.now(timezone.utc)
    async with open_server(greet, 0, host=HOST, observers=[AccessLog()]) as server:
        async with await connect(server.local_addresses[0]) as client:
            name = client.socket.getsockname()
            await client.send_all(b"123")
            await client.send_eof()
            assert "fin" == await fate_of(client)
        await until(lambda: lines_of(caplog, "trio_wsk.access"))
    [line] = lines_of(caplog, "trio_wsk.access")
    fields: dict[str, Any] = vars(line)

    address = f"{HOST}:{name[1]}"
    assert f"{address} finished after {fields['seconds']:.3f} s, 3 octets in, 5 out" == (
        line.getMessage()
    )
    assert logging.INFO == line.levelno
    assert (address, "finished") == (fields["remote_address"], fields["outcome"])
    assert (3, 5) == (fields["octets_received"], fields["octets_sent"])
    assert before - timedelta(seconds=1) <= fields["opened"] <= fields["ended"]
    assert timedelta(seconds=fields["seconds"]) == pytest.approx(
        fields["ended"] - fields["opened"], abs=timedelta(milliseconds=1)
    )


async def test_line_says_why_one_was_not_let_in(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """Who was rejected has the verdict's reason, and who left meanwhile that it did."""
    caplog.set_level(logging.INFO)

    async def inspect(request: ConnectionRequest) -> InspectAction | Verdict:
        if str(request.remote_address.host) == "192.0.2.2":
            return Verdict(InspectAction.REJECT, "not-listed")
        await trio.sleep_forever()
        raise AssertionError

    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with open_server(greet, transport=transport, inspect=inspect, observers=[AccessLog()]):
        rejected = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        await trio.sleep(1)
        leaving = await network.host("192.0.2.3").connect(("192.0.2.1", 80))
        await trio.sleep(1)
        leaving.reset()
        await trio.sleep(1)
        await rejected.aclose()
    first, second = lines_of(caplog, "trio_wsk.access")

    assert first.getMessage().endswith("rejected: not-listed (reset)")
    assert second.getMessage().endswith("aborted: reset")
    assert ("rejected", "not-listed", "reset") == tuple(
        vars(first)[field] for field in ("outcome", "reason", "close")
    )
    assert ("aborted", "reset") == (vars(second)["outcome"], vars(second)["reason"])
    assert "opened" not in vars(first)


async def test_own_logger_and_level(caplog: pytest.LogCaptureFixture) -> None:
    """The lines go where they are told to, at the level that they are told."""
    caplog.set_level(logging.DEBUG)
    log = AccessLog(logging.getLogger("mail"), level=logging.DEBUG)
    async with open_server(greet, 0, host=HOST, observers=[log]) as server:
        client = await connect(server.local_addresses[0])
        await client.aclose()
        await until(lambda: lines_of(caplog, "mail"))
    [line] = lines_of(caplog, "mail")

    assert logging.DEBUG == line.levelno


async def test_nothing_is_written_that_nobody_wants(caplog: pytest.LogCaptureFixture) -> None:
    """A logger that is switched off costs no line."""
    caplog.set_level(logging.WARNING)
    async with open_server(greet, 0, host=HOST, observers=[AccessLog()]) as server:
        client = await connect(server.local_addresses[0])
        await client.aclose()
        await until(lambda: server.statistics().served)

    assert [] == lines_of(caplog, "trio_wsk.access")
