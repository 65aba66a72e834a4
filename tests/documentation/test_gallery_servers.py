"""What the servers of the gallery promise beside their answers: limits, verdicts, ends."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.examples import example
from tests.helpers.resetting import close_with_reset
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect, fate_of, read_to_end, reset, until
from trio_wsk import ListenDispatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_wsk import Address, Server
    from trio_wsk.testing import MemoryHost, MemoryStream

PLACE = ("192.0.2.1", 80)


async def all_of(stream: MemoryStream) -> bytes:
    """Read to the end."""
    return b"".join([data async for data in stream])


# --- Key-value store ---------------------------------------------------------------------

key_value = example("key_value")


@asynccontextmanager
async def visiting_store(
    server: MemoryHost, client: MemoryHost
) -> AsyncIterator[tuple[Server, MemoryStream]]:
    """Serve a store without TLS, which makes no difference here, and connect a client."""
    transport = server.transport(80)
    async with (
        trio_wsk.open_server(
            key_value.Store().serve, transport=transport, idle_timeout=key_value.IDLE
        ) as serving,
        await client.connect(PLACE) as stream,
    ):
        yield serving, stream


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"SET a 3\nx\ny\nGET a\n", b"STORED\nVALUE 3\nx\ny\n"),
        (b"SET a 0\n\nGET a\n", b"STORED\nVALUE 0\n\n"),
        (b"SET a 1\n1\nSET a 1\n2\nGET a\n", b"STORED\nSTORED\nVALUE 1\n2\n"),
        (b"SET a 1\n1\nDELETE a\nDELETE a\n", b"STORED\nDELETED\nMISSING\n"),
        (b"SET a 1048577\n", b"ERROR a value has at most 1048576 octets\n"),
        (b"SET a -1\nGET a\n", b"ERROR that is no request\n"),
        (b"SET a 1\n12\nGET a\n", b"ERROR the value has more than 1 octets\n"),
        (b"hello\nGET a\n", b"ERROR that is no request\n"),
        (b"GET " + bytes(1000) + b"\n", b"ERROR a line has more than max_octets=512 octets"),
        (b"SET a 5\nhel", b"ERROR too slow\n"),
        (b"GE", b"ERROR too slow\n"),
        (b"GET a\n", b"MISSING\n"),
    ],
)
async def test_store_answers(
    said: bytes,
    answered: bytes,
    memory_server: MemoryHost,
    memory_client: MemoryHost,
    autojump_clock: MockClock,
) -> None:
    """
    What is no request, or goes too far, is the last that is answered: what comes after it might
    be a value.
    """
    async with visiting_store(memory_server, memory_client) as (_, client):
        await client.send_all(said)

        assert (await all_of(client)).startswith(answered)


async def test_store_gets_full(
    monkeypatch: pytest.MonkeyPatch,
    memory_server: MemoryHost,
    memory_client: MemoryHost,
    autojump_clock: MockClock,
) -> None:
    """There are so many values and no more; those that are there may change."""
    monkeypatch.setattr(key_value, "MOST_VALUES", 1)
    async with visiting_store(memory_server, memory_client) as (_, client):
        await client.send_all(b"SET a 1\n1\nSET b 1\n1\nSET a 1\n2\n")

        assert b"STORED\nFULL\nSTORED\n" == await all_of(client)


# --- SMTP --------------------------------------------------------------------------------

smtp = example("smtp_greeter")

GREETING = b"220 localhost ESMTP\r\n"


@asynccontextmanager
async def visiting_greeter(
    server: MemoryHost, client: MemoryHost, denied: str = "198.51.100.0/24"
) -> AsyncIterator[tuple[Server, MemoryStream]]:
    """Serve, and connect a client."""
    transport = server.transport(80)
    async with (
        trio_wsk.open_server(
            smtp.serve, transport=transport, inspect=smtp.rules([denied]), idle_timeout=smtp.IDLE
        ) as serving,
        await client.connect(PLACE) as stream,
    ):
        yield serving, stream


async def test_greeter_sends_early_talkers_away(
    memory_server: MemoryHost, memory_client: MemoryHost, autojump_clock: MockClock
) -> None:
    """Who speaks before the greeting is told so, at once, and is never a connection."""
    async with visiting_greeter(memory_server, memory_client) as (server, client):
        await client.send_all(b"EHLO x\r\n")

        assert b"554 5.5.1 you are hasty\r\n" == await all_of(client)
        assert trio.current_time() < smtp.PAUSE
        assert {"talked-early": 1} == server.statistics().listening.rejected
        assert 0 == server.statistics().served


async def test_greeter_sends_who_is_denied_away(
    memory_server: MemoryHost, memory_client: MemoryHost, autojump_clock: MockClock
) -> None:
    """Who is on the list doesn't wait to be told."""
    async with visiting_greeter(memory_server, memory_client, "192.0.2.2") as (server, client):
        assert b"554 5.7.1 you are not welcome\r\n" == await all_of(client)
        assert {"denied": 1} == server.statistics().listening.rejected


async def test_greeter_forgets_who_leaves_before_it_greets(
    memory_server: MemoryHost, memory_client: MemoryHost, autojump_clock: MockClock
) -> None:
    """A client that leaves while it waits is no connection, and takes its inspector with it."""
    async with visiting_greeter(memory_server, memory_client) as (server, client):
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()

        assert (0, 0) == (server.statistics().listening.pending, server.statistics().served)
        assert trio.current_time() < smtp.PAUSE


ENVELOPE = b"MAIL FROM:<a@b> SIZE=9\r\nRCPT TO:<c@d>\r\n"
GO_ON = b"250 2.1.0 go on\r\n250 2.1.5 go on\r\n"
DATA = b"354 go on, and end with a dot\r\n"


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"HELO x\r\nNOOP\r\nQUIT\r\nNOOP\r\n", b"250 localhost\r\n250 2.0.0 as you wish\r\n221 "),
        (ENVELOPE + b"DATA\r\n.\r\n", GO_ON + DATA + b"250 2.0.0 0"),
        (ENVELOPE + b"DATA\r\n..\r\n.\r\n", GO_ON + DATA + b"250 2.0.0 3"),
        (ENVELOPE + b"DATA\r\nx\n.\nMAIL\r\n.\r\nNOOP\r\n", GO_ON + DATA + b"554 5.6.0"),
        (ENVELOPE + b"DATA\r\n" + b"x\r\n" * 40 + b".\r\n", GO_ON + DATA + b"552 5.3.4"),
        (ENVELOPE + b"DATA\r\n" + b"x" * 2000, GO_ON + DATA + b"500 5.5.6"),
        (ENVELOPE + b"RSET\r\nDATA\r\n", GO_ON + b"250 2.0.0 forgotten\r\n503 5.5.1"),
        (b"RCPT TO:<c@d>\r\nDATA\r\n", b"503 5.5.1 from whom?\r\n503 5.5.1"),
        (ENVELOPE + b"RCPT TO:<e@f>\r\n" * 2, GO_ON + b"250 2.1.5 go on\r\n452 4.5.3"),
        (b"WHAT\r\n", b"500 5.5.2 what?\r\n421 4.4.2"),
        (b"x" * 1001, b"500 5.5.6"),
        (ENVELOPE + b"DATA\r\nx", GO_ON + DATA),
    ],
    ids=lambda said: said[:12].decode(errors="replace") if said[:1] != b"2" else "",
)
async def test_greeter_answers(
    said: bytes,
    answered: bytes,
    monkeypatch: pytest.MonkeyPatch,
    memory_server: MemoryHost,
    memory_client: MemoryHost,
    autojump_clock: MockClock,
) -> None:
    """Each command has its answer, and each limit; a line ends with CR LF, and nothing else."""
    monkeypatch.setattr(smtp, "LARGEST_MESSAGE", 100)
    monkeypatch.setattr(smtp, "MOST_RECIPIENTS", 2)
    monkeypatch.setattr(smtp, "deliver", lambda *message: f"250 2.0.0 {len(message[-1])}")
    async with visiting_greeter(memory_server, memory_client) as (_, client):
        assert GREETING == await client.receive_some()

        await client.send_all(said)

        assert (await all_of(client)).startswith(answered)


async def test_greeter_takes_a_message_that_has_begun(
    monkeypatch: pytest.MonkeyPatch,
    memory_server: MemoryHost,
    memory_client: MemoryHost,
    autojump_clock: MockClock,
) -> None:
    """A drain in the middle of a message waits for the rest of it, and says good-bye then."""
    monkeypatch.setattr(smtp, "deliver", lambda *_: "250 2.0.0 delivered")
    async with (
        trio.open_nursery() as nursery,
        visiting_greeter(memory_server, memory_client) as (server, client),
    ):
        assert GREETING == await client.receive_some()

        await client.send_all(ENVELOPE + b"DATA\r\nhello\r\n")
        await trio.sleep(1)
        nursery.start_soon(server.drain)
        await trio.sleep(10)
        await client.send_all(b"good-bye\r\n.\r\n")

        said = await all_of(client)
        assert said.endswith(b"250 2.0.0 delivered\r\n421 4.3.2 come back later\r\n")


# --- Proxy -------------------------------------------------------------------------------

proxy = example("proxy")


class Backend:
    """A backend that a test plays itself."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.address = sock.getsockname()

    def join(self) -> trio.SocketStream:
        """Take the next connection, which is there."""
        accepted, _ = self._sock.accept()
        return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


@asynccontextmanager
async def proxying(**options: Any) -> AsyncIterator[tuple[Server, Address, Backend]]:
    """Run the proxy before a backend; nothing is left of what it has opened."""
    with trio.fail_after(PATIENCE), socket.create_server(("127.0.0.1", 0)) as sock:
        dispatch = ListenDispatch(accept=partial(proxy.accept, *sock.getsockname()))
        async with trio_wsk.open_server(dispatch, 0, host="127.0.0.1", **options) as server:
            yield server, server.local_addresses[0], Backend(sock)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Have a client and a backend that talk through the proxy."""
    async with proxying() as (_, address, backend), await connect(address) as client:
        await client.send_all(b"hello")
        async with await trio.to_thread.run_sync(backend.join) as joined:
            assert b"hello" == await joined.receive_some()

            yield client, joined


async def test_proxy_hands_on_that_the_client_has_finished() -> None:
    """After a half-close the other direction goes on."""
    async with proxied() as (client, backend):
        await client.send_eof()

        assert b"" == await backend.receive_some()

        await backend.send_all(b"late answer")

        assert b"late answer" == await client.receive_some()

        await backend.send_eof()

        assert b"" == await client.receive_some()


async def test_proxy_hands_on_what_came_before_there_was_a_backend() -> None:
    """What a client says at once, with its end, waits for the backend; so does an end alone."""
    async with proxying() as (_, address, backend):
        for said in b"hello", b"":
            async with await connect(address) as client:
                await client.send_all(said)
                await client.send_eof()
                async with await trio.to_thread.run_sync(backend.join) as joined:
                    assert said == await read_to_end(joined)

                    await joined.send_all(b"answer")
                    await joined.send_eof()

                assert b"answer" == await read_to_end(client)


async def test_proxy_holds_up_who_sends_to_who_does_not_read() -> None:
    """A peer that doesn't read stalls the other one, and loses nothing."""
    async with proxied() as (client, backend):
        sent = 0
        with trio.move_on_after(PATIENCE):
            while sent < 1 << 27:
                with trio.move_on_after(0.5) as scope:
                    sent += await client.socket.send(bytes(65536))
                if scope.cancelled_caught:
                    break

        assert sent < 1 << 27

        received = 0
        while received < sent:
            received += len(await backend.receive_some())
        await client.send_all(b"end")

        assert b"end" == await backend.receive_some()


async def test_proxy_resets_the_client_when_the_backend_resets() -> None:
    """An error of one side is one of the other."""
    async with proxied() as (client, backend):
        reset(backend)

        assert "reset" == await fate_of(client)


async def test_proxy_resets_the_backend_when_the_client_resets() -> None:
    """Also in this direction: the backend needn't finish what nobody reads."""
    async with proxied() as (client, backend):
        reset(client)

        assert "reset" == await fate_of(backend)


async def test_proxy_leaves_nothing_behind() -> None:
    """When both have finished, or one has reset, both descriptors of the proxy are closed."""
    async with proxying() as (server, address, backend):
        before = open_descriptors()
        for number in range(4):
            client = await connect(address)
            joined = await trio.to_thread.run_sync(backend.join)
            if number == 3:
                close_with_reset(joined.socket)
            elif number == 2:
                reset(client)
            else:
                await (client, joined)[number].send_eof()
                assert b"" == await (joined, client)[number].receive_some()
            await client.aclose()
            await joined.aclose()
            await until(lambda: open_descriptors() == before)

        assert 0 == server.statistics().callback_failures


async def test_proxy_does_not_connect_for_who_has_left() -> None:
    """A client that leaves while its backend is looked for is not waited for by anybody."""
    with socket.socket() as backlog_full:
        backlog_full.bind(("127.0.0.1", 0))
        backlog_full.listen(0)
        place = backlog_full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.settimeout(0)
            each.connect_ex(place)
        dispatch = ListenDispatch(accept=partial(proxy.accept, *place))
        async with trio_wsk.open_server(dispatch, 0, host="127.0.0.1") as server:
            before = open_descriptors()
            client = await connect(server.local_addresses[0])
            await until(lambda: open_descriptors() == before + 3)  # of client, proxy, and attempt
            reset(client)
            await until(lambda: open_descriptors() == before)
        for each in fillers:
            each.close()


async def test_proxy_ends_both_when_nothing_passes() -> None:
    """A backend that says nothing holds neither the client nor the proxy for ever."""
    async with (
        proxying(idle_timeout=1) as (_, address, backend),
        await connect(address) as client,
        await trio.to_thread.run_sync(backend.join) as joined,
    ):
        assert b"" == await client.receive_some()

        await client.send_eof()

        assert b"" == await joined.receive_some()


async def test_proxy_lets_both_finish_when_it_drains() -> None:
    """A drain ends nothing in the middle: it doesn't know where that would be."""
    async with (
        trio.open_nursery() as nursery,
        proxying() as (server, address, backend),
        await connect(address) as client,
    ):
        await client.send_all(b"hello")
        async with await trio.to_thread.run_sync(backend.join) as joined:
            nursery.start_soon(server.drain)
            await server.listening.draining.wait()
            await joined.send_all(await joined.receive_some())

            assert b"hello" == await client.receive_some()

        assert b"" == await client.receive_some()
