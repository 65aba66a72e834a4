"""What the explanations put into tables is what the code does."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import trio_wsk
from trio_wsk import Connection, Status, WskError
from trio_wsk._transport import NoDescriptorsError, PeerFaultError
from trio_wsk.transports import _accept_errors

from .support import connect, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAGES = Path(__file__).parent.parent / "docs" / "explanation"
ERRORS = {
    name: thing
    for name in trio_wsk.__all__
    if isinstance(thing := getattr(trio_wsk, name), type)
    and issubclass(thing, WskError)
    and thing is not WskError
}


def rows(page: str) -> list[list[str]]:
    """Return the cells of a page's tables."""
    lines = (PAGES / page).read_text("utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]


def test_accept_errors_are_those_of_the_table_that_decides() -> None:
    """Each errno of the code's table is in the page's, with what is done about it."""
    done = {
        "counted; on to the next": PeerFaultError,
        "`on_no_descriptors`": NoDescriptorsError,
    }
    page = {
        errno: done[what]
        for names, _, what in rows("accept-errors.md")
        for errno in re.findall(r"`(E\w+)`", names)
    }

    assert _accept_errors._FAILURE_BY_NAME == page  # noqa: SLF001 - the table is the subject


def test_errors_by_fault_are_all_errors() -> None:
    """Every error has one row, and there is no other."""
    page = (PAGES / "errors-by-fault.md").read_text("utf-8")
    named = re.findall(r"\n\| `(\w+Error)` \|", page)

    assert sorted(ERRORS) == sorted(named)


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_what_its_row_says(name: str) -> None:
    """An error inherits from what the page says, and has the status that it says."""
    (row,) = (row for row in rows("errors-by-fault.md") if row[0] == f"`{name}`")
    other = row[1].strip("`")
    also = {
        "ValueError": ValueError,
        "RuntimeError": RuntimeError,
        "OSError": OSError,
        "—": WskError,
    }.get(other) or getattr(trio, other.removeprefix("trio."))

    assert issubclass(ERRORS[name], also)
    assert Status[row[2].strip("`")] is ERRORS[name].status


# --- Ending --------------------------------------------------------------------------------------


async def seen_by(client: trio.SocketStream) -> tuple[bytes, str]:
    """Return what the peer receives, and how it ends."""
    received = b""
    try:
        async for data in client:
            received += data
    except trio.BrokenResourceError:
        return received, "reset"
    return received, "FIN"


async def send_eof(connection: Connection) -> None:
    """FIN alone."""
    await connection.send_eof()


async def aclose(connection: Connection) -> None:
    """The end in good order."""
    await connection.aclose()


async def plainly(call: Callable[[Connection], object], connection: Connection) -> None:
    """Do something that doesn't wait."""
    call(connection)


ENDS = [
    ("send_eof()", send_eof, b"", (b"", "FIN")),
    ("disconnect()", partial(plainly, Connection.disconnect), b"", (b"", "FIN")),
    (
        "disconnect(data=...)",
        partial(plainly, partial(Connection.disconnect, data=b"bye")),
        b"",
        (b"bye", "FIN"),
    ),
    ("aclose()", aclose, b"", (b"", "FIN")),
    ("aclose()", aclose, b"unread", (b"", "reset")),
    ("close()", partial(plainly, Connection.close), b"", (b"", "FIN")),
    ("close()", partial(plainly, Connection.close), b"unread", (b"", "reset")),
    ("abort()", partial(plainly, Connection.abort), b"", (b"", "reset")),
    (
        "disconnect(abortive=True)",
        partial(plainly, partial(Connection.disconnect, abortive=True)),
        b"",
        (b"", "reset"),
    ),
]


@pytest.mark.parametrize(("call", "end", "unread", "seen"), ENDS)
async def test_end_of_a_connection_is_what_its_row_says(
    call: str,
    end: Callable[[Connection], Awaitable[None]],
    unread: bytes,
    seen: tuple[bytes, str],
) -> None:
    """The peer sees FIN or a reset, as the page's first table says, depending on unread input."""
    assert any(call in did for did, _ in (row[:2] for row in rows("ending.md")))

    with trio.fail_after(10):
        async with (
            trio_wsk.open_listening_socket(0, host="127.0.0.1") as listening,
            await connect(listening.local_addresses[0]) as client,
            await listening.accept() as connection,
        ):
            if unread:
                await client.send_all(unread)
                await trio.lowlevel.wait_readable(connection.socket)
            await end(connection)

            assert seen == await seen_by(client)


async def answers(connection: Connection) -> None:
    """Answer, and return without having read all."""
    await connection.receive_some(1)
    await connection.send_all(b"too large")


async def crashes(connection: Connection) -> None:
    """Raise, without having read all."""
    await connection.receive_some(1)
    raise KeyError(connection)


async def waits(_: Connection) -> None:
    """Wait to be cancelled."""
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("did", "handler", "seen"),
    [
        ("return from a handler", answers, (b"too large", "FIN")),
        ("raise from a handler", crashes, (b"", "reset")),
        ("cancel a handler", waits, (b"", "reset")),
    ],
)
async def test_end_of_a_handler_is_what_its_row_says(
    did: str, handler: Callable[[Connection], Awaitable[None]], seen: tuple[bytes, str]
) -> None:
    """The peer sees FIN or a reset, as the page's first table says, even with input unread."""
    assert did in (row[0] for row in rows("ending.md"))

    with trio.fail_after(10):
        async with (
            trio_wsk.open_server(handler, 0, host="127.0.0.1") as server,
            await connect(server.local_addresses[0]) as client,
        ):
            await client.send_all(b"unread" * 1000)
            if handler is waits:
                await until(lambda: server.statistics().open_connections)
                server.abort()

            assert seen == await seen_by(client)
