"""Conditional accept before the handshake: row by row, against the real kernel, and on the wire.

Each test is run over IPv4 and IPv6, on the loopback interface and over a cable between two
namespaces, and with link-local addresses. What takes seconds is done on all of them at once.
"""

from __future__ import annotations

import random
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.before_handshake import (
    HANDSHAKE,
    NETWORKS,
    REFUSAL,
    SYN_ONLY,
    Client,
    Network,
    each_network,
    everywhere,
    networks,
    opened,
)
from tests.helpers.held_syns import each_undecided, talk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import as_ordinary_user, in_own_namespace, set_sysctl
from tests.helpers.support import take_into, until
from trio_wsk import (
    CloseStyle,
    Connection,
    ConnectionRequest,
    EventMask,
    InspectPoint,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk.observers import CloseStyleUnavailable, RequestRejected
from trio_wsk.transports._syn import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

each_way = pytest.mark.parametrize("way", ["plain", "async", "pended"])
"""How an inspector answers: see `answering`."""


def answering(way: str, answer: InspectAction | Verdict) -> Inspect:
    """Make an inspector that gives an answer in one of three ways."""

    async def inspect_later(request: ConnectionRequest) -> InspectAction | Verdict:
        await trio.lowlevel.checkpoint()
        return answer

    def pend(request: ConnectionRequest) -> InspectAction:
        async def complete() -> None:
            await trio.lowlevel.checkpoint()

            assert Status.SUCCESS == request.listening.inspect_complete(request.inspect_id, answer)

        trio.lowlevel.spawn_system_task(complete)
        return PEND

    return {"plain": lambda _: answer, "async": inspect_later, "pended": pend}[way]


# --- Asking, and yes --------------------------------------------------------------------------


@each_network
@each_way
@in_own_namespace
async def test_inspector_is_asked_before_the_client_is_connected(network: str, way: str) -> None:
    """
    When it is asked there is a SYN, and nothing else. The connection that it lets through is the
    same peer's, remembers the request's id, and works.
    """
    seen: list[tuple[bool, list[str]]] = []
    decide = answering(way, ACCEPT)

    def inspect(request: ConnectionRequest) -> Any:
        (client,) = stage.clients
        seen.append((client.is_waiting, stage.story()))
        return decide(request)

    async with opened(network, inspect) as stage:
        client, request = await stage.inspected()
        connection = await stage.listening.accept()
        await stage.expect(*HANDSHAKE)

        assert [(True, ["client SYN"])] == seen
        assert client.address == request.remote_address == connection.remote_address
        assert stage.address == request.local_address == connection.local_address
        assert request.inspect_id == connection.inspect_id
        assert InspectPoint.BEFORE_HANDSHAKE is request.inspect_point
        assert InspectPoint.BEFORE_HANDSHAKE is stage.listening.inspect_point

        await talk(connection, await client.connected())
        connection.close()


@each_network
@each_undecided
@in_own_namespace
async def test_nothing_is_answered_before_the_verdict(network: str, state: str) -> None:
    """However long it takes, SYN,ACK comes after the verdict, and at once."""
    verdict = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await verdict.wait()
        return ACCEPT

    async with opened(network, inspect if state == "inspected" else PEND) as stage:
        client, request = await stage.inspected()
        await wait_all_tasks_blocked()

        assert client.is_waiting
        assert [*SYN_ONLY] == stage.story()

        if state == "inspected":
            verdict.set()
        else:
            assert Status.SUCCESS == stage.complete(request, ACCEPT)
        await client.connected()
        await stage.expect(*HANDSHAKE)

        (await stage.listening.accept()).close()


def limited(sock: socket.socket) -> None:
    """Set what can be seen in a SYN."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 33)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x28)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)


_TIMESTAMPS, _SACK, _WINDOW_SCALE = 1, 2, 4
"""What the two ends have agreed on, in ``tcpi_options``."""


def agreed(client: Client) -> tuple[int, int]:
    """Return which options a client has, and its window scale."""
    info = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 7)
    return info[5] & 7, info[6] >> 4


@each_network
@in_own_namespace
async def test_request_says_what_is_in_the_syn(network: str) -> None:
    """What the client has set can be read, and everything is as it was on the wire."""
    async with opened(network, ACCEPT) as stage:
        client, request = await stage.inspected(limited)
        await client.connected()
        sent = parse(stage.segments()[0].packet)
        syn = request.syn

        assert syn is not None
        assert (1000, 33, 0x28 >> 2) == (syn.maximum_segment_size, syn.hop_limit, syn.dscp)
        assert (_TIMESTAMPS | _SACK | _WINDOW_SCALE, syn.window_scale) == agreed(client)
        assert (True, False) == (syn.sack_permitted, syn.timestamps is None)
        assert (b"", 0) == (syn.payload, syn.payload_length)
        assert (sent.options, sent.window) == (syn.options, syn.window)
        assert (sent.sequence_number, sent.control_bits) == (syn.sequence_number, syn.control_bits)
        assert (client.address, stage.address) == (syn.source, syn.destination)

        connection = stage.listening.accept_nowait()
        connection.close()


@each_network
@in_own_namespace
async def test_request_says_what_is_not_in_the_syn(network: str) -> None:
    """A client without an option is one without it."""
    async with opened(network, ACCEPT) as stage:
        with stage.network.at_client():
            for name in ("timestamps", "sack", "window_scaling"):
                set_sysctl(f"net.ipv4.tcp_{name}", 0)
        client, request = await stage.inspected()
        await client.connected()
        syn = request.syn

        assert syn is not None
        assert (False, None, None) == (syn.sack_permitted, syn.timestamps, syn.window_scale)
        assert (0, 0) == agreed(client)


@in_own_namespace
async def test_one_listening_socket_is_on_every_network() -> None:
    """Without a host it is everywhere, and each request says by which address it has come."""
    with networks() as found:
        async with opened(found["cable4"], ACCEPT, host=None) as stage:
            for name in NETWORKS:
                network = found[name]
                target = trio_wsk.Address.tcp(network.host, stage.address.port, network.scope_id)
                client = Client(network, target)
                stage.clients.append(client)
                await client.connected()
                connection = await stage.listening.accept()
                request = stage.asked[-1]

                assert request.inspect_id == connection.inspect_id
                assert target == request.local_address
                assert client.address == request.remote_address
                assert client.address == connection.remote_address
                connection.close()


@each_network
@each_way
@in_own_namespace
async def test_approved_connection_goes_the_way_of_any_other(network: str, way: str) -> None:
    """A queued accept has it first, else the accept event has it."""
    taken: list[Connection] = []
    async with opened(network, answering(way, ACCEPT), accept=take_into(taken)) as stage:
        stage.listening.enable_events(EventMask.ACCEPT)
        irp = stage.listening.queue_accept()
        await stage.inspected()
        await irp.wait()
        await stage.inspected()
        await until(lambda: taken)

        assert irp.information is not None
        assert stage.asked[0].inspect_id == irp.information.inspect_id
        assert stage.asked[1].inspect_id == taken[0].inspect_id
        assert {"accept": 1, "event": 1} == dict(stage.statistics().delivered)

        irp.information.close()
        taken[0].close()


@in_own_namespace
async def test_approved_request_has_no_deadline() -> None:
    """Whoever was let through has had a verdict in time, and waits for as long as it takes."""
    async with opened("cable4", ACCEPT, inspect_timeout=0.05) as stage:
        client, request = await stage.admitted()
        await trio.sleep_until(request.deadline + 0.05)
        connection = stage.listening.accept_nowait()

        assert request.inspect_id == connection.inspect_id
        await talk(connection, client.stream)
        connection.close()


@as_ordinary_user
async def test_ordinary_user_inspects_in_a_namespace_of_its_own() -> None:
    """It takes rights in the namespace, and not on the machine."""

    async def _body(network: Network) -> None:
        async with opened(network, PEND) as stage:
            client, request = await stage.held()
            await stage.expect(*SYN_ONLY)

            assert Status.SUCCESS == stage.complete(request, ACCEPT)

            connection = await stage.listening.accept()
            await talk(connection, await client.connected())
            connection.close()
            other, request = await stage.held()

            assert Status.SUCCESS == stage.complete(request, REJECT)

            await other.refused()

    await everywhere(_body)


# --- No ---------------------------------------------------------------------------------------


@each_network
@each_way
@in_own_namespace
async def test_rejected_client_is_refused(network: str, way: str) -> None:
    """RST answers its SYN, and nothing follows: no connection, no abort, nothing to complete."""
    async with opened(network, answering(way, Verdict(REJECT, "over-quota"))) as stage:
        irp = stage.listening.queue_accept()
        client, request = await stage.inspected()
        await client.refused()
        syn, reset = await stage.expect(*REFUSAL)
        await wait_all_tasks_blocked()

        assert syn.sequence_number + 1 == reset.acknowledgement
        assert (stage.address, client.address) == (reset.source, reset.destination)
        assert {"over-quota": 1} == dict(stage.statistics().rejected)
        assert [CloseStyle.RESET] == [each.close for each in stage.told(RequestRejected)]
        assert Status.NOT_FOUND == stage.complete(request, ACCEPT)
        assert irp.information is None
        assert [*REFUSAL] == stage.story()


@each_network
@in_own_namespace
async def test_each_attempt_is_a_new_request(network: str) -> None:
    """
    Who was rejected may try again, even from the same port: he is asked about anew, under
    another id, and no id comes twice.
    """
    answers = [REJECT, REJECT, ACCEPT]
    async with opened(network, lambda _: answers[len(stage.asked) - 1]) as stage:
        first, _ = await stage.inspected()
        await first.refused()
        port = first.address.port
        first.close()
        second, _ = await stage.inspected(lambda sock: sock.bind(("", port)))
        await second.refused()
        second.close()
        third, _ = await stage.inspected(lambda sock: sock.bind(("", port)))
        await third.connected()
        connection = await stage.listening.accept()
        ids = {request.inspect_id for request in stage.asked}

        assert first.address == second.address == third.address
        assert 3 == len(ids) == len({each.serial_number for each in ids})
        assert 1 == len({each.key for each in ids})
        assert stage.asked[2].inspect_id == connection.inspect_id
        assert [*REFUSAL, *REFUSAL, *HANDSHAKE] == stage.story()
        connection.close()


@in_own_namespace
async def test_silence_is_not_heard() -> None:
    """The client asks again, is not answered again, and nobody is asked about it again."""

    async def _body(network: Network) -> None:
        silence = Verdict(REJECT, "unwanted", close=CloseStyle.SILENT)
        async with opened(network, silence) as stage:
            client, _ = await stage.inspected()
            await stage.until(lambda seen: len(seen) > 1, "repetition")
            await wait_all_tasks_blocked()

            assert {"client SYN"} == set(stage.exchange())
            assert client.is_waiting
            assert 1 == len(stage.asked)
            assert {"unwanted": 1} == dict(stage.statistics().rejected)
            assert [CloseStyle.SILENT] == [each.close for each in stage.told(RequestRejected)]
            assert 0 == stage.statistics().close_fallbacks

    await everywhere(_body)


@pytest.mark.parametrize("close", [CloseStyle.FIN, b"421 busy\r\n"])
@in_own_namespace
async def test_style_that_cannot_be_had_falls_back_to_a_reset(close: CloseStyle | bytes) -> None:
    """There is no connection to end or to say anything on: the client is refused."""
    async with opened("cable6", Verdict(REJECT, close=close)) as stage:
        client, _ = await stage.inspected()
        await client.refused()

        assert 1 == stage.statistics().close_fallbacks == len(stage.told(CloseStyleUnavailable))
        assert [*REFUSAL] == stage.story()


@in_own_namespace
async def test_style_that_cannot_be_had_is_refused_if_the_inspector_declares_it() -> None:
    """Then it is known when the socket is opened."""

    class Polite:
        close_styles = frozenset({CloseStyle.MESSAGE})

        def __call__(self, request: ConnectionRequest) -> InspectAction:
            return ACCEPT

    with pytest.raises(trio_wsk.InvalidParameterError, match="can't be had before the handshake"):
        async with open_listening_socket(
            0,
            host="127.0.0.1",
            inspect=Polite(),
            inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        ):
            pytest.fail("it is open")


# --- Later ------------------------------------------------------------------------------------


@in_own_namespace
async def test_pended_client_is_answered_once_although_it_asks_again_and_again() -> None:
    """
    Two repetitions later, which takes two or three seconds by the kernel's version, there is one
    request and no answer. Then there is one SYN,ACK, and the connection works.
    """

    async def _body(network: Network) -> None:
        async with opened(network, PEND) as stage:
            client, request = await stage.held()
            seen = await stage.until(lambda seen: len(seen) >= 3, "second repetition")

            assert {"client SYN"} == set(stage.exchange())
            assert 1 == len({segment.sequence_number for segment in seen})
            assert client.is_waiting
            assert 1 == len(stage.asked) == stage.statistics().transport["held"]
            assert Status.SUCCESS == stage.complete(request, ACCEPT)

            stream = await client.connected()
            connection = await stage.listening.accept()
            await talk(connection, stream)
            _, answer, *_ = stage.segments()

            assert [*HANDSHAKE] == stage.story()[:3]
            assert 1 == stage.exchange().count("server SYN,ACK")
            assert "RST" not in " ".join(stage.exchange())
            assert seen[2].at < answer.at
            assert request.inspect_id == connection.inspect_id
            assert 1 == len(stage.asked) == stage.statistics().accepted
            connection.close()

    await everywhere(_body)


@each_network
@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@in_own_namespace
async def test_pended_request_is_kept_until_it_is_completed(
    network: str, answer: InspectAction
) -> None:
    """It is completed once; the second time there is nothing under its id, and nothing changes."""
    async with opened(network, PEND) as stage:
        client, request = await stage.held()

        assert [request] == list(stage.listening.pending_inspections.values())
        assert Status.SUCCESS == stage.complete(request, answer)
        assert Status.NOT_FOUND == stage.complete(request, ACCEPT)
        assert Status.NOT_FOUND == stage.complete(request, REJECT)
        assert 0 == len(stage.listening.pending_inspections)

        if answer is REJECT:
            await client.refused()

            assert [*REFUSAL] == stage.story()
        else:
            await client.connected()
            connection = await stage.listening.accept()

            assert request.inspect_id == connection.inspect_id
            assert Status.NOT_FOUND == stage.complete(request, REJECT)
            assert [*HANDSHAKE] == stage.story()

            connection.close()


@each_network
@in_own_namespace
async def test_completion_that_means_nothing_disturbs_nobody(network: str) -> None:
    """Another id, or what decides nothing: the request that pends goes on pending."""
    async with opened(network, PEND) as stage:
        client, request = await stage.held()
        other = trio_wsk.InspectId(request.inspect_id.key, request.inspect_id.serial_number + 1)

        assert Status.NOT_FOUND == stage.listening.inspect_complete(other, ACCEPT)
        assert Status.INVALID_PARAMETER == stage.complete(request, PEND)
        assert Status.INVALID_PARAMETER == stage.complete(request, None)

        await wait_all_tasks_blocked()

        assert client.is_waiting
        assert [*SYN_ONLY] == stage.story()


@each_network
@pytest.mark.parametrize(
    ("early", "final", "outcome"),
    [
        (ACCEPT, PEND, "connected"),
        (REJECT, PEND, "ECONNREFUSED"),
        (ACCEPT, REJECT, "ECONNREFUSED"),
        (REJECT, ACCEPT, "connected"),
    ],
)
@in_own_namespace
async def test_completion_may_come_before_the_inspector_has_answered(
    network: str, early: InspectAction, final: InspectAction, outcome: str
) -> None:
    """Nothing is sent until it has; if it decides by itself, that counts."""
    seen: list[list[str]] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        assert Status.SUCCESS == stage.complete(request, early)
        assert Status.NOT_FOUND == stage.complete(request, early)

        await wait_all_tasks_blocked()
        seen.append(stage.story())
        return final

    async with opened(network, inspect) as stage:
        client, _ = await stage.inspected()

        assert outcome == await client.outcome()
        assert [[*SYN_ONLY]] == seen


@each_network
@in_own_namespace
async def test_any_number_pends_at_once_and_completes_in_any_order(network: str) -> None:
    """Each gets its own answer, and those who are let in are delivered as they were approved."""
    order = random.Random(0)  # noqa: S311 - it should be different, not secret
    async with opened(network, PEND) as stage:
        clients = [stage.arrive() for _ in range(100)]
        await stage.when(lambda: len(stage.asked) == 100)

        assert [client.address for client in clients] == [
            request.remote_address for request in stage.asked
        ]
        assert ["client SYN"] * 100 == stage.story()

        pairs = list(zip(clients, stage.asked, strict=True))
        order.shuffle(pairs)
        approved = []
        for number, (client, request) in enumerate(pairs):
            if number % 2:
                assert Status.SUCCESS == stage.complete(request, ACCEPT)

                approved.append(request.inspect_id)
                await client.connected()
            else:
                assert Status.SUCCESS == stage.complete(request, REJECT)

                await client.refused()
        connections = [await stage.listening.accept() for _ in approved]

        assert approved == [connection.inspect_id for connection in connections]
        assert 100 == stage.statistics().pending_most
        assert 50 == stage.statistics().rejected["rejected"]
        for connection in connections:
            connection.close()


@each_network
@in_own_namespace
async def test_pended_request_blocks_nobody_behind_it(network: str) -> None:
    """Who comes later and is let through is there first."""
    answers = [PEND, ACCEPT]
    async with opened(network, lambda _: answers[len(stage.asked) - 1]) as stage:
        slow, request = await stage.held()
        quick, other = await stage.admitted()

        first = stage.listening.accept_nowait()

        assert slow.is_waiting
        assert [*HANDSHAKE] == stage.story(quick)
        assert other.inspect_id == first.inspect_id
        assert Status.SUCCESS == stage.complete(request, ACCEPT)

        second = await stage.listening.accept()

        assert request.inspect_id == second.inspect_id

        first.close()
        second.close()


@each_network
@in_own_namespace
async def test_there_is_nothing_to_peek_at(network: str) -> None:
    """Before the handshake a peer has sent no octets, and asking for them is a mistake."""
    mistakes = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        with pytest.raises(trio_wsk.InvalidDeviceStateError) as caught:
            await request.peek(1)
        mistakes.append(caught.value)
        return ACCEPT

    async with opened(network, inspect) as stage:
        await stage.admitted()

        assert 1 == len(mistakes)
