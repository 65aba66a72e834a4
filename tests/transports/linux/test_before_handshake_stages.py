"""Inspectors in two stages before a real kernel: the SYN first, and octets of the same request.

What follows from what is shown in memory, in ``test_two_stages.py``; here it is seen on the wire.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.before_handshake import (
    HANDSHAKE,
    REFUSAL,
    Network,
    Stage,
    each_network,
    everywhere,
    opened,
)
from tests.helpers.client_hellos import Hello, server_name
from tests.helpers.held_syns import talk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import in_own_namespace
from tests.helpers.support import until
from trio_wsk import AbortReason, CloseStyle, InspectPoint, Status, Verdict
from trio_wsk.inspectors import (
    UNRECOGNIZED_NAME,
    ConnectionLimit,
    Need,
    ProxyProtocol,
    Rules,
    SourceLimit,
    deny,
    early_talkers,
    needs,
    server_names,
)
from trio_wsk.observers import CloseStyleUnavailable, RequestRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import ConnectionRequest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

BEFORE: Final = InspectPoint.BEFORE_HANDSHAKE
AFTER: Final = InspectPoint.AFTER_HANDSHAKE


def in_second(answer: Any = None, octets: bytes = b"") -> Callable[[ConnectionRequest], Any]:
    """Make a rule that waits for these octets, and then gives an answer."""

    @needs(Need.OCTETS)
    async def look(request: ConnectionRequest) -> Any:
        if octets:
            assert octets == await request.peek(len(octets))
        return answer

    return look


async def second(stage: Stage) -> ConnectionRequest:
    """Wait until the second stage has pended a request."""
    await until(
        lambda: [
            each for each in stage.listening.pending_inspections.values() if each.stage is AFTER
        ]
    )
    await wait_all_tasks_blocked()
    (request,) = stage.listening.pending_inspections.values()
    return request


@each_network
@in_own_namespace
async def test_octets_are_looked_at_when_the_handshake_is_over(network: str) -> None:
    """
    The first stage sees the SYN, the second the first octets of the connection that came of it;
    they stay the connection's.
    """
    syns = []
    rules = Rules(lambda request: syns.append(request.syn), in_second(octets=b"question"))
    async with opened(network, rules) as stage:
        client, request = await stage.inspected()
        stream = await client.connected()
        assert syns == [request.syn] != [None]

        await stream.send_all(b"que")
        await stream.send_all(b"stion")
        connection = await stage.listening.accept()
        assert b"question" == await connection.receive_some()
        await talk(connection, stream)

        counted = stage.statistics()
        assert (1, 1, 1) == (counted.inspected, counted.let_on, counted.approved)
        assert [*HANDSHAKE] == stage.story()[:3]
        connection.close()


@each_network
@in_own_namespace
async def test_first_stage_refuses_before_anything_is_answered(network: str) -> None:
    """A source that is denied costs no handshake, and nobody looks for its octets."""
    async with opened(network, Rules(deny(["0.0.0.0/0", "::/0"]), in_second())) as stage:
        client, _ = await stage.inspected()
        await client.refused()

        assert [*REFUSAL] == stage.story()
        assert [BEFORE] == [each.stage for each in stage.told(RequestRejected)]


@pytest.mark.parametrize(
    ("close", "end"),
    [
        (CloseStyle.RESET, "server RST,ACK"),
        (CloseStyle.FIN, "server FIN,ACK"),
        (b"421 busy\r\n", "server FIN,PSH,ACK"),
    ],
    ids=["reset", "fin", "message"],
)
@in_own_namespace
async def test_second_stage_turns_away_as_a_connection_can_be(
    close: CloseStyle | bytes, end: str
) -> None:
    """With a reset, with FIN, and with a message, although the SYN was inspected."""
    verdict = Verdict(REJECT, "no", close)
    async with opened("cable6", Rules(in_second(verdict))) as stage:
        client, _ = await stage.inspected()
        stream = await client.connected()
        received = b""
        try:
            while data := await stream.receive_some():
                received += data
        except trio.BrokenResourceError:
            assert close is CloseStyle.RESET
        await stage.until(
            lambda seen: any("FIN" in each.flags or "RST" in each.flags for each in seen), end
        )

        assert (close if isinstance(close, bytes) else b"") == received
        (rejected,) = stage.told(RequestRejected)
        assert ("no", AFTER, verdict.style) == (rejected.reason, rejected.stage, rejected.close)
        assert [] == stage.told(CloseStyleUnavailable)
        assert [*HANDSHAKE] == stage.story()[:3]


@in_own_namespace
async def test_second_stage_can_be_silent() -> None:
    """What is not to be answered isn't, after the handshake either."""
    verdict = Verdict(REJECT, "no", CloseStyle.SILENT)
    async with opened("cable4", Rules(in_second(verdict, b"hello"))) as stage:
        client, _ = await stage.inspected()
        stream = await client.connected()
        await stream.send_all(b"hello")
        await stage.when(lambda: stage.told(RequestRejected))

        assert [CloseStyle.SILENT] == [each.close for each in stage.told(RequestRejected)]
        assert not any("FIN" in each or "server RST" in each for each in stage.story())


@in_own_namespace
async def test_either_stage_pends_and_resumes() -> None:
    """Completed with yes, the first lets the SYN on, and the second the connection."""

    async def _body(network: Network) -> None:
        async with opened(network, Rules(lambda _: PEND, in_second(PEND))) as stage:
            client, request = await stage.held()
            assert client.is_waiting
            assert Status.SUCCESS is stage.complete(request, ACCEPT)
            stream = await client.connected()
            assert request is await second(stage)

            assert Status.SUCCESS is stage.complete(request, ACCEPT)
            connection = await stage.listening.accept()
            await talk(connection, stream)
            assert Status.NOT_FOUND is stage.complete(request, ACCEPT)
            connection.close()

    await everywhere(_body)


@pytest.mark.parametrize("way", ["reset", "fin"])
@in_own_namespace
async def test_who_leaves_in_the_second_stage_is_aborted(way: str) -> None:
    """The peer's end is noticed as that of any connection, and what was taken is given back."""
    limit = ConnectionLimit(1)
    async with opened("loopback6", Rules(limit, in_second(octets=b"hello"))) as stage:
        client, request = await stage.inspected()
        stream = await client.connected()
        await until(lambda: request.stage is AFTER)
        assert 1 == limit.open
        if way == "reset":
            client.stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER
            client.close()
        else:
            await stream.send_eof()
        record = await stage.aborted()

        assert {"reset": AbortReason.RESET, "fin": AbortReason.FIN}[way] is record.reason
        await until(lambda: not limit.open)


@in_own_namespace
async def test_who_never_answers_our_yes_is_aborted() -> None:
    """The handshake of a forged SYN never ends: in its time it is aborted, never asked about."""
    limit = ConnectionLimit(9)
    async with opened("cable4", Rules(limit, in_second()), inspect_timeout=1.0) as stage:
        stage.send(stage.network.peer(4321), 0x02, 1000)
        record = await stage.aborted()

        assert AbortReason.TIMED_OUT is record.reason
        assert (1, 1) == (stage.statistics().let_on, stage.statistics().inspected)
        await until(lambda: not limit.open)


@in_own_namespace
async def test_closing_resets_those_in_the_second_stage() -> None:
    """They are connections, and are told."""
    async with opened("loopback4", Rules(in_second(octets=b"hello"))) as stage:
        client, request = await stage.inspected()
        stream = await client.connected()
        await until(lambda: request.stage is AFTER)
        await stage.listening.aclose()

        assert [AbortReason.CLOSED] == [each.reason for each in stage.aborts]
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


@in_own_namespace
async def test_limit_before_the_handshake_and_proxy_after_it() -> None:
    """
    One source may have two at once: the third is refused by its SYN. Of the two, the PROXY headers
    are read, and consumed.
    """
    limit = SourceLimit(2)
    rules = Rules(limit, ProxyProtocol(required=["127.0.0.0/8"]))
    async with opened("loopback4", rules) as stage:
        clients = [(await stage.inspected())[0] for _ in range(2)]
        streams = [await client.connected() for client in clients]
        third, _ = await stage.inspected()
        await third.refused()
        for number, stream in enumerate(streams):
            header = f"PROXY TCP4 203.0.113.{number} 198.51.100.1 1000 80\r\n".encode()
            await stream.send_all(header + b"hello")
        connections = [await stage.listening.accept() for _ in streams]

        assert {"203.0.113.0", "203.0.113.1"} == {
            str(connection.remote_address.host) for connection in connections
        }
        for connection in connections:
            assert b"hello" == await connection.receive_some()
            connection.close()
        await until(lambda: not len(limit))


@in_own_namespace
async def test_host_names_are_asked_for_after_the_handshake() -> None:
    """
    Who asks for a name that is ours is let in with his ClientHello unread; who asks for another one
    gets an alert of TLS. The SYN of either was held.
    """
    rules = Rules(deny([]), server_names("example.com", close=UNRECOGNIZED_NAME))
    async with opened("cable6", rules) as stage:
        client, _ = await stage.inspected()
        stream = await client.connected()
        await stream.send_all(Hello().octets())
        connection = await stage.listening.accept()
        assert Hello().octets() == await connection.receive_some()
        connection.close()

        other, _ = await stage.inspected()
        stream = await other.connected()
        await stream.send_all(Hello(extensions=[server_name(b"example.net")]).octets())
        assert UNRECOGNIZED_NAME == await stream.receive_some()


@in_own_namespace
async def test_early_talker_is_told_no() -> None:
    """Who speaks before the greeting gets a message; deny lists have spared it of others."""
    rules = Rules(deny([]), early_talkers(5.0, close=b"554 no\r\n"))
    async with opened("loopback4", rules) as stage:
        client, _ = await stage.inspected()
        stream = await client.connected()
        await stream.send_all(b"EHLO me\r\n")

        assert b"554 no\r\n" == await stream.receive_some()
        await stage.when(lambda: stage.told(RequestRejected))
        assert {"talked-early": 1} == stage.statistics().rejected
