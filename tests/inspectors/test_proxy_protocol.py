"""`ProxyProtocol`: who is trusted says whom he speaks for, and nobody else does."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

import trio_wsk
from tests.helpers.inspecting import REJECT
from tests.helpers.proxies import listening_socket, running_haproxy
from tests.helpers.ruling import IN, UNDECIDED, Gate, gate
from tests.helpers.support import connect, connect_now, fate_of, read_to_end, until
from trio_wsk import (
    Address,
    Connection,
    ConnectionRequest,
    InspectPoint,
    InvalidDeviceStateError,
    InvalidParameterError,
    open_listening_socket,
    open_server,
)
from trio_wsk.inspectors import (
    Need,
    ProxyHeader,
    ProxyProtocol,
    Rules,
    SourceLimit,
    deny,
    needs,
)
from trio_wsk.observers import ConnectionEnded, RequestRejected

if TYPE_CHECKING:
    from pathlib import Path

PROXY, STRANGER = "192.0.2.7", "198.51.100.7"
CLIENT = Address.tcp("203.0.113.9", 4711)
SITE = Address.tcp("203.0.113.80", 443)
TRUSTED = ["192.0.2.0/24"]
HEADERS = {"v1": ProxyHeader.v1(CLIENT, SITE), "v2": ProxyHeader.v2(CLIENT, SITE, checksum=True)}

LONG = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"

VERSIONS = pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
HOW = pytest.mark.parametrize("how", ["required", "optional"])


def rule_for(how: str, **options: Any) -> ProxyProtocol:
    """Make the rule for the trusted."""
    return ProxyProtocol(**{how: TRUSTED, **options})


async def come(at: Gate, *pieces: bytes, host: str = PROXY) -> Any:
    """Have somebody come and send these pieces, one after the other."""
    visitor = await at.come(host)
    for piece in pieces:
        await visitor.stream.send_all(piece)
        await at.look()
    return visitor


# --- Whom it speaks for -----------------------------------------------------------------------


@VERSIONS
async def test_header_that_has_come_needs_no_task(header: ProxyHeader) -> None:
    """The rule is plain then: a header is read and taken where the rule is asked."""
    rule = rule_for("required")
    answers = []

    async def arrived(request: ConnectionRequest) -> None:
        await request.peek(header.length + 4)

    def asked(request: ConnectionRequest) -> Any:
        answers.append(rule(request))
        return answers[-1]

    async with gate(Rules(arrived, asked)) as at:
        visitor = await come(at, bytes(header) + b"more")

        assert [None] == answers
        assert visitor.connection.remote_address == CLIENT
        assert await visitor.connection.receive_some() == b"more"


@VERSIONS
@HOW
async def test_addresses_are_those_that_the_header_says(header: ProxyHeader, how: str) -> None:
    """From then on the connection has them, and what the kernel says is there beside them."""
    async with gate(Rules(rule_for(how))) as at:
        visitor = await at.come(PROXY)
        proxys_own = visitor.stream.local_address
        await visitor.stream.send_all(bytes(header) + b"hello")
        connection = await at.listening.accept()

        assert [CLIENT, SITE] == [connection.remote_address, connection.local_address]
        assert proxys_own == connection.transport_remote_address
        assert 80 == connection.transport_local_address.port
        assert header == connection.facts[ProxyHeader]
        assert b"hello" == await connection.receive_some()

        connection.close()

        assert CLIENT == connection.remote_address


@VERSIONS
@given(cut=st.integers(0, 80))
@settings(max_examples=90, deadline=None)
def test_header_may_come_in_pieces(header: ProxyHeader, cut: int) -> None:
    """Wherever it is cut, nothing of it is left, and nothing behind it is missing."""
    octets = bytes(header) + b"hello"
    cut = min(cut, len(octets))

    async def main() -> None:
        async with gate(Rules(rule_for("required"))) as at:
            visitor = await at.come(PROXY)
            await visitor.stream.send_all(octets[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await visitor.stream.send_all(octets[cut:])
            connection = await at.listening.accept()
            received = b""
            while len(received) < 5:
                received += await connection.receive_some()

            assert b"hello" == received
            assert CLIENT == connection.remote_address

            connection.close()
            await visitor.stream.aclose()

    trio.run(main)


@pytest.mark.parametrize(
    "header", [ProxyHeader.local(), ProxyHeader.v1(None, None), ProxyHeader.v2(None, None)]
)
async def test_proxy_may_speak_for_itself(header: ProxyHeader) -> None:
    """A header without addresses is consumed, and the proxy's own address counts."""
    async with gate(Rules(rule_for("required"))) as at:
        visitor = await at.come(PROXY)
        await visitor.stream.send_all(bytes(header) + b"hello")
        connection = await at.listening.accept()

        assert visitor.stream.local_address == connection.remote_address
        assert header == connection.facts[ProxyHeader]
        assert b"hello" == await connection.receive_some()

        connection.close()


async def test_rules_after_it_see_the_client() -> None:
    """Lists, limits and looks at octets that come after it are about the client."""
    seen: list[Any] = []

    @needs(Need.OCTETS)
    async def look(request: ConnectionRequest) -> None:
        seen.extend([await request.peek(5), request.remote_address, request.local_address])

    rules = Rules(deny([STRANGER]), rule_for("required"), deny([str(CLIENT.host)]), look)
    async with gate(rules) as at:
        denied = await come(at, bytes(HEADERS["v2"]))

        assert "denied" == denied.fate
        (record,) = [each for each in at.records if isinstance(each, RequestRejected)]
        assert CLIENT == record.remote_address

        header = ProxyHeader.v2(Address.tcp("203.0.113.10", 1), SITE)
        await come(at, bytes(header) + b"hello")

        assert [b"hello", header.source, SITE] == seen


async def test_chain_of_proxies_is_read_from_the_outside() -> None:
    """A second rule trusts whom the first one has found, and reads the next header."""
    inner, outer = Address.tcp("10.0.0.1", 1), ProxyHeader.v1(Address.tcp("10.0.0.1", 1), SITE)
    rules = Rules(rule_for("required"), ProxyProtocol(required=["10.0.0.0/8"]))
    async with gate(rules) as at:
        visitor = await at.come(PROXY)
        await visitor.stream.send_all(bytes(outer) + bytes(HEADERS["v2"]) + b"hello")
        connection = await at.listening.accept()

        assert inner == outer.source
        assert CLIENT == connection.remote_address
        assert b"hello" == await connection.receive_some()

        connection.close()


# --- Who is trusted ---------------------------------------------------------------------------


async def test_strangers_are_not_looked_at() -> None:
    """What somebody sends who isn't trusted is data, however much it looks like a header."""
    async with gate(Rules(rule_for("required"))) as at:
        visitor = await at.come(STRANGER)

        assert IN == visitor.fate

        await visitor.stream.send_all(bytes(HEADERS["v1"]))

        assert visitor.connection is not None
        assert bytes(HEADERS["v1"]) == await visitor.connection.receive_some()
        assert visitor.stream.local_address == visitor.connection.remote_address
        assert ProxyHeader not in visitor.connection.facts


@pytest.mark.parametrize(
    ("sent", "required", "optional"),
    [
        ([b"GET / HTTP/1.1\r\n"], "no-proxy-header", IN),
        ([b"P", b"OST / HTTP/1.1\r\n"], "no-proxy-header", IN),
        ([b"PROXY nonsense\r\n"], "proxy-v1-malformed", "proxy-v1-malformed"),
        ([b"PROXY TCP4 "], "proxy-header-late", "proxy-header-late"),
        ([], "proxy-header-late", IN),
        ([bytes(HEADERS["v2"])[:-1] + b"x"], "proxy-checksum-wrong", "proxy-checksum-wrong"),
        ([LONG], "proxy-header-too-long", "proxy-header-too-long"),
    ],
)
@HOW
async def test_what_is_no_header(
    sent: list[bytes],
    required: str,
    optional: str,
    how: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """
    Who has to send one and doesn't is turned away; who may, is let in as he is, unless he has begun
    one. Nothing is waited for longer than its time.
    """
    async with gate(Rules(rule_for(how))) as at:
        visitor = await come(at, *sent)
        while visitor.fate == UNDECIDED:
            await trio.sleep(1)
            await at.look()

        assert {"required": required, "optional": optional}[how] == visitor.fate
        assert 6 >= trio.current_time()
        if visitor.connection is not None and sent:
            assert b"".join(sent) == await visitor.connection.receive_some()


@pytest.mark.parametrize("sent", [b"PROXY TCP4", b"\r\n\r\n\0"])
async def test_header_that_is_cut_is_turned_away(sent: bytes) -> None:
    """A peer that finishes in the middle of a header has sent none."""
    async with gate(Rules(rule_for("optional"))) as at:
        visitor = await come(at, sent)
        await visitor.stream.send_eof()
        await at.look()

        assert "proxy-header-cut" == visitor.fate


async def test_peer_that_leaves_without_a_word_has_left() -> None:
    """A check whether the port is open is an abort, like anywhere else."""
    async with gate(Rules(rule_for("required"))) as at:
        visitor = await at.come(PROXY)
        await visitor.stream.aclose()
        await at.look()

        assert "fin" == visitor.fate


async def test_before_the_handshake_it_is_asked_when_that_is_over() -> None:
    """Its header is read, and consumed, of a request whose SYN was inspected."""
    rules = Rules(deny([STRANGER]), rule_for("required"))
    async with gate(rules, InspectPoint.BEFORE_HANDSHAKE) as at:
        visitor = await at.come(PROXY)
        await visitor.stream.send_all(bytes(HEADERS["v2"]) + b"hello")
        connection = await at.listening.accept()

        assert CLIENT == connection.remote_address
        assert b"hello" == await connection.receive_some()

        connection.close()


# --- Places that were taken before ------------------------------------------------------------


async def test_place_of_a_limit_before_it_moves_to_the_client() -> None:
    """What was counted for the balancer's address is the client's as soon as that is known."""
    limit = SourceLimit(2)
    async with gate(Rules(limit, rule_for("required"))) as at:
        visitor = await come(at, b"PROXY ")

        assert [1, 0] == [limit.open_from(Address.tcp(PROXY, 1)), limit.open_from(CLIENT)]

        await visitor.stream.send_all(bytes(HEADERS["v1"])[6:])
        await at.look()

        assert IN == visitor.fate
        assert [0, 1] == [limit.open_from(Address.tcp(PROXY, 1)), limit.open_from(CLIENT)]

        await visitor.leave()

        assert 0 == len(limit)


async def test_limit_behind_it_counts_the_client() -> None:
    """One client behind a balancer has its own limit, and keeps no other out."""
    limit = SourceLimit(1)
    async with gate(Rules(rule_for("required"), limit)) as at:
        other = ProxyHeader.v2(Address.tcp("203.0.113.10", 1), SITE)
        headers = HEADERS["v1"], HEADERS["v2"], other

        assert [IN, "too-many-from-source", IN] == [
            (await come(at, bytes(header))).fate for header in headers
        ]
        assert 2 == len(limit)


async def test_place_that_moves_where_there_is_no_room_is_not_counted() -> None:
    """The table keeps its bound; what could not move is free, and counted as overflowed."""
    limit = SourceLimit(9, most_sources=1)
    async with gate(Rules(limit, rule_for("required"))) as at:
        first = await come(at, bytes(HEADERS["v1"]))

        assert "too-many-from-source" == (await at.come(PROXY)).fate

        await first.leave()
        visitors = [await come(at, b"PROXY ") for _ in range(2)]
        await visitors[0].stream.send_all(bytes(HEADERS["v1"])[6:])
        await at.look()

        assert 1 == len(limit)
        assert 2 == limit.overflowed

        for each in visitors:
            await each.leave()

        assert 0 == len(limit)


# --- Over real sockets ------------------------------------------------------------------------


async def test_server_and_its_records_know_the_client() -> None:
    """A handler over TLS, its end and the log of it are about the client."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority = trustme.CA()
    authority.issue_cert("server.test").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    ends: list[ConnectionEnded] = []
    told: list[object] = []

    async def handler(connection: Connection) -> None:
        told.append(connection.remote_address)
        await connection.send_all(b"hello, " + await connection.receive_some())

    def observe(record: Any) -> None:
        if isinstance(record, ConnectionEnded):
            ends.append(record)

    async with open_server(
        handler,
        0,
        host="127.0.0.1",
        inspect=Rules(ProxyProtocol(required=["127.0.0.0/8"])),
        ssl_context=context,
        observers=[observe],
    ) as server:
        client = connect_now(server.local_addresses[0])
        await client.send_all(bytes(HEADERS["v2"]))
        stream = trio.SSLStream(client, trusting, server_hostname="server.test")
        await stream.send_all(b"you")

        assert b"hello, you" == await stream.receive_some()

        await stream.aclose()
        await until(lambda: ends)

    assert [CLIENT] == told
    assert [CLIENT] == [each.remote_address for each in ends]


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
async def test_haproxy_says_whom_it_speaks_for(tmp_path: Path, options: str) -> None:
    """Behind HAProxy the connection is the client's, and the limit counts the client."""
    limit = SourceLimit(1)

    async def handler(connection: Connection) -> None:
        await connection.send_all(f"{connection.remote_address} {limit.open_from(CLIENT)}".encode())

    async with open_server(
        handler,
        0,
        host="127.0.0.1",
        inspect=Rules(ProxyProtocol(required=["127.0.0.0/8"]), limit),
    ) as server:
        with listening_socket() as front:
            config = (
                f"listen it\n  bind fd@{{0}}\n  server us {server.local_addresses[0]} {options}\n"
            )
            with running_haproxy(tmp_path, config, front):
                client = connect_now(Address.from_sockaddr(front.family, front.getsockname()))
                own = Address.from_sockaddr(front.family, client.socket.getsockname())

                assert f"{own} 0".encode() == await read_to_end(client)

                await client.aclose()


async def test_header_comes_through_a_unix_socket(tmp_path: Path) -> None:
    """Who is on the other end of a Unix socket is in no network; what is true of him is said."""
    path = tmp_path / "s"
    named = ProxyHeader.v2(Address.unix("/run/client"), Address.unix("/run/server"))
    async with open_listening_socket(
        path=path, inspect=Rules(ProxyProtocol(unix="required"))
    ) as listening:
        for header in (HEADERS["v1"], named):
            client = await connect(Address.unix(str(path)))
            await client.send_all(bytes(header) + b"hello")
            connection = await listening.accept()

            assert header.source == connection.remote_address
            assert b"hello" == await connection.receive_some()

            connection.close()
            await client.aclose()
        client = await connect(Address.unix(str(path)))
        await client.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await fate_of(client)

        assert {"no-proxy-header": 1} == listening.statistics().rejected

        await client.aclose()


# --- Sending ----------------------------------------------------------------------------------


async def test_header_is_sent_before_anything_else() -> None:
    """A relay says whom it speaks for, once, and first."""
    async with open_listening_socket(
        0, host="127.0.0.1", inspect=Rules(ProxyProtocol(required=["127.0.0.0/8"]))
    ) as listening:
        backend = await trio_wsk.connect("127.0.0.1", listening.local_addresses[0].port)
        await backend.send_proxy_header(HEADERS["v2"])
        await backend.send_all(b"hello")
        connection = await listening.accept()

        assert CLIENT == connection.remote_address
        assert b"hello" == await connection.receive_some()
        with pytest.raises(InvalidDeviceStateError, match="before anything else"):
            await backend.send_proxy_header(HEADERS["v2"])

        connection.close()
        backend.close()


def test_who_trusts_nobody_is_told() -> None:
    """A rule without anybody to trust would do nothing."""
    with pytest.raises(InvalidParameterError, match="trusts nobody"):
        ProxyProtocol()
    assert {REJECT} == {ProxyProtocol(unix="optional")._rejected("x").action}  # noqa: SLF001
