"""Conditional accept before the handshake: row by row, against the real kernel, and on the wire.

Each test is run over IPv4 and IPv6, on the loopback interface and over a cable between two
namespaces, and with link-local addresses. What takes seconds is done on all of them at once.
"""

from __future__ import annotations

import math
import random
import socket
import struct
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.before_handshake import (
    CABLES,
    HANDSHAKE,
    NETWORKS,
    REFUSAL,
    SYN_ONLY,
    Client,
    Network,
    each_cable,
    each_network,
    everywhere,
    networks,
    opened,
    serving,
)
from tests.helpers.gated import ACK, FIN, RST, SYN
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import as_ordinary_user, in_own_namespace, set_sysctl
from tests.helpers.support import fate_of, read_to_end, take_into, until
from trio_wsk import (
    AbortReason,
    Address,
    CloseStyle,
    Connection,
    ConnectionDispatch,
    ConnectionRequest,
    EventMask,
    InspectPoint,
    Overflow,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk.observers import CloseStyleUnavailable, RequestApproved, RequestRejected
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


async def wait_for_cancellation(request: ConnectionRequest) -> InspectAction:
    """Inspect until it is cancelled."""
    await trio.sleep_forever()


UNDECIDED: dict[str, Any] = {"inspected": wait_for_cancellation, "pended": PEND}
"""Inspectors that leave a request without a verdict, by the state that it is in then."""

each_undecided = pytest.mark.parametrize("state", list(UNDECIDED))


async def talk(connection: Connection, client: trio.SocketStream) -> None:
    """Send something from either end to the other."""
    await connection.send_all(b"question")

    assert b"question" == await client.receive_some()

    await client.send_all(b"answer")

    assert b"answer" == await connection.receive_some()


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


# --- Who leaves -------------------------------------------------------------------------------


@each_network
@each_undecided
@in_own_namespace
async def test_reset_while_there_is_no_verdict_is_an_abort(network: str, state: str) -> None:
    """
    A reset with the number that follows the SYN's ends the request at once: its work is
    cancelled, its abort told once, and completing it is too late. Others change nothing.
    """
    async with opened(network, UNDECIDED[state]) as stage:
        client, request = await stage.inspected()
        scope = request.cancel_scope
        number = stage.number_of(client)
        client.close()
        for wrong in (number, number + 2, 0):
            stage.send(client.address, RST, wrong)
        await stage.expect(*SYN_ONLY, "client RST", "client RST", "client RST")
        await wait_all_tasks_blocked()

        assert None is request.aborted
        assert not scope.cancel_called

        stage.send(client.address, RST, number + 1)
        aborted = await stage.aborted()

        assert AbortReason.RESET is aborted.reason
        assert aborted is request.aborted
        assert scope.cancel_called
        assert Status.CONNECTION_ABORTED == stage.complete(request, ACCEPT)
        assert Status.CONNECTION_ABORTED == stage.complete(request, REJECT)

        await wait_all_tasks_blocked()

        assert [request.inspect_id] == stage.told_abort
        assert {"reset": 1} == dict(stage.statistics().aborted)
        assert ["client RST"] * 4 == stage.story()[1:]


@each_network
@in_own_namespace
async def test_reset_of_somebody_else_changes_nothing(network: str) -> None:
    """Another port with the right number is another peer."""
    async with opened(network, PEND) as stage:
        client, request = await stage.held()
        other = trio_wsk.Address.tcp(
            str(client.address.host), client.address.port ^ 1, client.address.scope_id
        )
        stage.send(other, RST, stage.number_of(client) + 1)
        await stage.expect("client RST", client=other)
        await wait_all_tasks_blocked()

        assert None is request.aborted
        assert Status.SUCCESS == stage.complete(request, ACCEPT)

        await client.connected()


@in_own_namespace
async def test_client_that_gives_up_is_missed_and_one_that_waits_is_not() -> None:
    """
    Closing says nothing on the wire: it is missed when it should have asked again and has not.
    Its work is cancelled, its abort told; who goes on asking goes on pending.
    """

    async def _body(network: Network) -> None:
        async with opened(network, wait_for_cancellation) as stage:
            gone, request = await stage.inspected()
            patient, other = await stage.inspected()
            gone.close()
            aborted = await stage.aborted()

            assert AbortReason.SILENT is aborted.reason
            assert request.inspect_id == aborted.inspect_id
            assert request.cancel_scope.cancel_called
            assert Status.CONNECTION_ABORTED == stage.complete(request, ACCEPT)
            assert [*SYN_ONLY] == stage.story(gone)
            assert None is other.aborted
            assert patient.is_waiting
            assert 1 == stage.statistics().pending
            assert 2 == len(stage.asked)

    await everywhere(_body)


@in_own_namespace
async def test_client_that_was_missed_wrongly_comes_back() -> None:
    """It was slow, and asks again: that is a new request, which can be let through."""

    async def _body(network: Network) -> None:
        async with opened(network, PEND) as stage:
            peer = network.peer(1111)
            stage.send(peer, SYN, 1000)
            aborted = await stage.aborted()

            assert AbortReason.SILENT is aborted.reason
            assert [*SYN_ONLY] == stage.story()

            stage.send(peer, SYN, 1000)
            await stage.when(lambda: len(stage.asked) == 2)
            first, second = stage.asked

            assert first.inspect_id != second.inspect_id
            assert Status.CONNECTION_ABORTED == stage.complete(first, ACCEPT)

            await stage.when(lambda: second.inspect_id in stage.listening.pending_inspections)

            assert Status.SUCCESS == stage.complete(second, ACCEPT)

            _, answer = await stage.expect("client SYN", "server SYN,ACK")
            stage.send(peer, ACK, 1001, acknowledgement=answer.sequence_number + 1)
            connection = await stage.listening.accept()

            assert second.inspect_id == connection.inspect_id
            assert peer == connection.remote_address
            connection.close()

    await everywhere(_body, CABLES)


@each_cable
@in_own_namespace
async def test_client_that_starts_anew_is_heard_when_it_is_missed(network: str) -> None:
    """A SYN of the same port with another number is a new request when the old one is over."""
    async with opened(network, PEND) as stage:
        peer = stage.network.peer(1111)
        stage.send(peer, SYN, 1000)
        await stage.when(lambda: len(stage.asked) == 1)
        aborted = await stage.aborted()
        stage.send(peer, SYN, 5000)
        await stage.when(lambda: len(stage.asked) == 2)

        assert AbortReason.SILENT is aborted.reason
        assert stage.asked[0].inspect_id == aborted.inspect_id
        assert stage.asked[1].inspect_id in stage.listening.pending_inspections
        assert ["client SYN"] * 2 == stage.story()


@each_network
@in_own_namespace
async def test_forged_number_does_not_end_what_a_client_has_asked_for(network: str) -> None:
    """
    SYNs of the same port with other numbers are dropped while the client may be there: nobody is
    asked again, and the client has its verdict.
    """
    async with opened(network, PEND) as stage:
        client, request = await stage.held()
        forged = [stage.number_of(client) + 1000 * number for number in range(1, 4)]
        for number in forged:
            stage.send(client.address, SYN, number)
        await stage.until(
            lambda segments: len([each for each in segments if each.flags == "SYN"]) >= 4,
            "forged SYNs",
        )
        await wait_all_tasks_blocked()

        assert [request] == stage.asked
        assert [] == stage.told_abort
        assert Status.SUCCESS == stage.complete(request, ACCEPT)

        await client.connected()
        (await stage.listening.accept()).close()


@each_cable
@in_own_namespace
async def test_number_that_was_let_in_opens_nothing_again(network: str) -> None:
    """
    Who was let in, and banned since, doesn't get in by the same port and number: such a SYN is
    dropped, and it renews nothing.
    """
    async with opened(network, ACCEPT) as stage:
        peer = stage.network.peer(1111)
        stage.send(peer, SYN, 1000)
        (_, answer) = await stage.expect("client SYN", "server SYN,ACK")
        stage.send(peer, ACK, 1001, acknowledgement=answer.sequence_number + 1)
        (await stage.listening.accept()).abort()
        await stage.expect("client SYN", "server SYN,ACK", "client ACK", "server RST,ACK")
        for _ in range(3):
            stage.send(peer, SYN, 1000)
        await stage.until(lambda segments: len(segments) == 7, "SYNs again")
        await wait_all_tasks_blocked()

        assert ["client SYN", "server SYN,ACK", "client ACK", "server RST,ACK"] == stage.story()
        assert 1 == len(stage.asked)


@each_network
@in_own_namespace
async def test_client_that_left_while_it_was_pended_is_not_delivered(network: str) -> None:
    """
    Approval is not delivery: it answers SYN,ACK with RST, which aborts its request at once, and
    whoever waits for a connection waits on.
    """
    async with opened(network, PEND) as stage:
        irp = stage.listening.queue_accept()
        client, request = await stage.held()
        scope = request.cancel_scope
        client.close()

        assert Status.SUCCESS == stage.complete(request, ACCEPT)

        aborted = await stage.aborted()
        await stage.expect("client SYN", "server SYN,ACK", "client RST")
        await wait_all_tasks_blocked()

        assert AbortReason.RESET is aborted.reason
        assert [request.inspect_id] == stage.told_abort
        assert not scope.cancel_called
        assert Status.CONNECTION_ABORTED == stage.complete(request, ACCEPT)
        assert irp.information is None
        assert 1 == stage.statistics().approved == len(stage.told(RequestApproved))
        assert {"reset": 1} == dict(stage.statistics().aborted)
        assert 0 == stage.statistics().pending == stage.statistics().accepted - 1


@in_own_namespace
async def test_approved_client_that_never_answers_is_aborted() -> None:
    """
    When the kernel has given its handshake up, its abort is told, and nothing is delivered. If it
    asks once more, that is a new request.
    """

    async def _body(network: Network) -> None:
        async with opened(network, ACCEPT) as stage:
            irp = stage.listening.queue_accept()
            peer = network.peer(1111)
            stage.send(peer, SYN, 1000)
            await stage.when(lambda: stage.told(RequestApproved))

            assert 1 == stage.statistics().pending

            aborted = await stage.aborted()
            await wait_all_tasks_blocked()

            assert AbortReason.SILENT is aborted.reason
            assert [stage.asked[0].inspect_id] == stage.told_abort
            assert "client SYN" == stage.story()[0]
            assert {"server SYN,ACK"} == set(stage.story()[1:])
            assert irp.information is None
            assert 0 == stage.statistics().pending

            stage.send(peer, SYN, 1000)
            await stage.when(lambda: len(stage.asked) == 2)

            assert 2 == len({request.inspect_id for request in stage.asked})

    with networks() as found:
        set_sysctl("net.ipv4.tcp_synack_retries", 0)
        async with trio.open_nursery() as nursery:
            for name in CABLES:
                nursery.start_soon(_body, found[name])


@each_cable
@in_own_namespace
async def test_repeated_syn_gets_the_same_answer_again(network: str) -> None:
    """The first answer was lost: SYN,ACK or RST is sent again, and nobody is asked again."""
    answers = [ACCEPT, REJECT]
    async with opened(network, lambda _: answers[len(stage.asked) - 1]) as stage:
        set_sysctl("net.ipv4.tcp_synack_retries", 0)  # by itself the kernel sends it once
        friend, stranger = stage.network.peer(1111), stage.network.peer(2222)
        for peer, answer in ((friend, "server SYN,ACK"), (stranger, "server RST,ACK")):
            stage.send(peer, SYN, 1000)
            await stage.expect("client SYN", answer, client=peer)
            stage.send(peer, SYN, 1000)
            await stage.expect("client SYN", answer, answer, client=peer)
        await wait_all_tasks_blocked()

        assert 2 == len(stage.asked)

        number = stage.segments(friend)[1].sequence_number + 1
        stage.send(friend, ACK, 1001, acknowledgement=number)
        connection = await stage.listening.accept()

        assert stage.asked[0].inspect_id == connection.inspect_id
        connection.close()


@each_network
@in_own_namespace
async def test_peer_that_leaves_while_it_is_parked_is_aborted(network: str) -> None:
    """It was let in, and nobody has taken its connection."""
    async with opened(network, ACCEPT) as stage:
        client, request = await stage.admitted()
        client.stream.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        client.close()
        aborted = await stage.aborted()

        assert AbortReason.RESET is aborted.reason
        assert [request.inspect_id] == stage.told_abort
        with pytest.raises(trio.WouldBlock):
            stage.listening.accept_nowait()


# --- Time, and the end ------------------------------------------------------------------------


@each_network
@each_undecided
@in_own_namespace
async def test_request_without_a_verdict_in_time_is_refused(network: str, state: str) -> None:
    """Its abort is told, its work is cancelled, and its client is refused."""
    async with opened(network, UNDECIDED[state], inspect_timeout=0.1) as stage:
        client, request = await stage.inspected()
        scope = request.cancel_scope
        aborted = await stage.aborted()
        await client.refused()

        assert AbortReason.TIMED_OUT is aborted.reason
        assert aborted.at >= request.deadline == request.arrived_at + 0.1
        assert scope.cancel_called
        assert Status.CONNECTION_ABORTED == stage.complete(request, ACCEPT)
        assert {"timed-out": 1} == dict(stage.statistics().aborted)
        assert [*REFUSAL] == stage.story()


@in_own_namespace
async def test_there_are_two_seconds_unless_somebody_says_otherwise() -> None:
    """Before the handshake the peer's connect() waits meanwhile."""
    async with opened("loopback4", PEND, inspect_timeout=None) as stage:
        _, request = await stage.held()

        assert request.arrived_at + 2 == request.deadline


@each_network
@pytest.mark.parametrize("end", ["aclose", "cancelled"])
@in_own_namespace
async def test_closing_refuses_everybody_and_tells_every_abort(network: str, end: str) -> None:
    """
    Whoever is pended, inspected, or has not even been asked about is refused at once; each abort
    is told before closing has ended, unless that is cancelled: then a little later.
    """

    def inspect(request: ConnectionRequest) -> Any:
        return PEND if len(stage.asked) % 2 else wait_for_cancellation(request)

    async with opened(network, inspect, max_pending=20) as stage:
        clients = [stage.arrive() for _ in range(25)]
        await stage.when(lambda: len(stage.asked) == 20)
        await wait_all_tasks_blocked()

        assert ["client SYN"] * 25 == stage.story()

        if end == "aclose":
            await stage.listening.aclose()
        else:
            with trio.CancelScope() as scope:
                scope.cancel()
                await stage.listening.aclose()
            await stage.aborted(20)
        answered = stage.story()

        assert 25 == answered.count("server RST,ACK")
        assert sorted(request.inspect_id for request in stage.asked) == sorted(stage.told_abort)
        assert {AbortReason.CLOSED} == {each.reason for each in stage.aborts}
        for client in clients:
            await client.refused()

            assert [*REFUSAL] == stage.story(client)
        assert Status.CONNECTION_ABORTED == stage.complete(stage.asked[0], ACCEPT)


@each_network
@in_own_namespace
async def test_closing_resets_who_was_let_in_and_not_who_was_taken(network: str) -> None:
    """An approved connection that nobody has is aborted; a delivered one is its owner's."""
    async with opened(network, ACCEPT) as stage:
        taken, _ = await stage.admitted()
        connection = stage.listening.accept_nowait()
        parked, request = await stage.admitted()
        await stage.listening.aclose()

        assert "reset" == await fate_of(parked.stream)
        assert [request.inspect_id] == stage.told_abort
        assert AbortReason.CLOSED is stage.aborts[0].reason
        await talk(connection, taken.stream)
        connection.close()


@each_cable
@in_own_namespace
async def test_closing_aborts_who_was_let_in_and_is_not_there_yet(network: str) -> None:
    """Its handshake is not over: it is aborted, and its connection never comes."""
    async with opened(network, ACCEPT) as stage:
        peer = stage.network.peer(1111)
        stage.send(peer, SYN, 1000)
        _, answer = await stage.expect("client SYN", "server SYN,ACK")
        await stage.listening.aclose()
        stage.send(peer, ACK, 1001, acknowledgement=answer.sequence_number + 1)
        await stage.until(lambda seen: "RST" in seen[-1].flags, "reset")

        assert [stage.asked[0].inspect_id] == stage.told_abort
        assert AbortReason.CLOSED is stage.aborts[0].reason


@in_own_namespace
async def test_abort_callback_may_look_the_request_up() -> None:
    """Until it has returned the request is there; after it there is nothing under its id."""
    looked_up = []
    async with opened("loopback6", PEND, inspect_timeout=0.1) as stage:
        stage.on_abort = lambda request: looked_up.append(
            (
                stage.listening.pending_inspections[request.inspect_id] is request,
                stage.complete(request, ACCEPT),
            )
        )
        _, request = await stage.held()
        await stage.aborted()

        assert [(True, Status.CONNECTION_ABORTED)] == looked_up
        assert request.inspect_id not in stage.listening.pending_inspections


# --- Limits -----------------------------------------------------------------------------------


@each_network
@each_undecided
@in_own_namespace
async def test_newcomers_wait_while_too_many_are_pending(network: str, state: str) -> None:
    """``overflow="wait"``: their SYNs are held, unasked, until there is room."""
    async with opened(network, UNDECIDED[state], max_pending=2) as stage:
        await stage.inspected()
        await stage.inspected()
        third, fourth = stage.arrive(), stage.arrive()
        await until(lambda: stage.statistics().backlog == 2)
        await wait_all_tasks_blocked()

        assert 2 == len(stage.asked) == stage.statistics().pending
        assert third.is_waiting
        assert fourth.is_waiting

        for number, client in enumerate(stage.clients[:2]):
            stage.send(client.address, RST, stage.number_of(client) + 1)
            await stage.when(lambda: len(stage.asked) == 3 + number)  # noqa: B023
        order = [request.remote_address for request in stage.asked]

        assert [client.address for client in stage.clients] == order
        assert 2 == stage.statistics().pending_most == stage.statistics().pending
        assert {} == dict(stage.statistics().dropped)


@each_network
@in_own_namespace
async def test_newcomers_are_refused_while_too_many_are_pending(network: str) -> None:
    """``overflow="reset"``: they are not asked about, and counted as dropped."""
    async with opened(network, PEND, max_pending=2, overflow="reset") as stage:
        await stage.held()
        await stage.held()
        third = stage.arrive()
        await third.refused()

        assert [*REFUSAL] == stage.story(third)
        assert 2 == len(stage.asked) == stage.statistics().pending
        assert {"overflowed": 1} == dict(stage.statistics().dropped)


@each_network
@each_undecided
@in_own_namespace
async def test_oldest_makes_room_while_too_many_are_pending(network: str, state: str) -> None:
    """``overflow="evict"``: its work is cancelled, its abort told, its client refused."""
    async with opened(network, UNDECIDED[state], max_pending=2, overflow="evict") as stage:
        oldest, request = await stage.inspected()
        scope = request.cancel_scope
        for _ in range(2):
            await stage.inspected()
        aborted = await stage.aborted()
        await oldest.refused()

        assert AbortReason.EVICTED is aborted.reason
        assert scope.cancel_called
        assert [*REFUSAL] == stage.story(oldest)
        assert 2 == stage.statistics().pending == stage.statistics().pending_most


@each_network
@in_own_namespace
async def test_nobody_is_asked_about_while_too_many_are_parked(network: str) -> None:
    """``max_parked``: newcomers' SYNs wait until somebody takes a connection."""
    async with opened(network, ACCEPT, max_parked=1) as stage:
        await stage.admitted()
        second = stage.arrive()
        await until(lambda: stage.statistics().backlog == 1)
        await wait_all_tasks_blocked()

        assert 1 == len(stage.asked)
        assert second.is_waiting

        connection = stage.listening.accept_nowait()
        await second.connected()

        assert stage.asked[0].inspect_id == connection.inspect_id
        assert 2 == len(stage.asked)
        connection.close()


@each_network
@pytest.mark.parametrize(("policy", "gone"), [("reset", 1), ("evict", 0)])
@in_own_namespace
async def test_approved_connection_beyond_what_may_be_parked(
    network: str, policy: Any, gone: int
) -> None:
    """``"reset"``: the newcomer goes; ``"evict"``: the oldest. It was let in, so it is aborted."""
    async with opened(network, ACCEPT, max_parked=1, overflow=Overflow(parked=policy)) as stage:
        await stage.admitted()
        await stage.inspected()
        aborted = await stage.aborted()
        connection = stage.listening.accept_nowait()

        assert AbortReason.EVICTED is aborted.reason
        assert stage.asked[gone].inspect_id == aborted.inspect_id
        assert stage.asked[1 - gone].inspect_id == connection.inspect_id
        assert "reset" == await fate_of(stage.clients[gone].stream)
        connection.close()


@each_network
@in_own_namespace
async def test_nobody_is_asked_about_ahead_of_an_accept_if_nothing_may_be_parked(
    network: str,
) -> None:
    """``max_parked=0``: the SYN waits for somebody who wants a connection."""
    async with opened(network, ACCEPT, max_parked=0) as stage:
        client = stage.arrive()
        await until(lambda: stage.statistics().backlog == 1)
        await wait_all_tasks_blocked()

        assert [] == stage.asked
        assert client.is_waiting

        connection = await stage.listening.accept()

        assert stage.asked[0].inspect_id == connection.inspect_id
        assert 0 == stage.statistics().parked_most
        connection.close()


@each_network
@in_own_namespace
async def test_paused_socket_asks_about_nobody(network: str) -> None:
    """Newcomers' SYNs wait; who is pending can be decided. Resumed, it asks about them."""
    async with opened(network, PEND) as stage:
        client, request = await stage.held()
        stage.listening.pause()
        newcomer = stage.arrive()
        await until(lambda: stage.statistics().backlog == 1)

        assert Status.SUCCESS == stage.complete(request, REJECT)

        await client.refused()
        await wait_all_tasks_blocked()

        assert 1 == len(stage.asked)
        assert [*SYN_ONLY] == stage.story(newcomer)

        stage.listening.resume()
        await stage.when(lambda: len(stage.asked) == 2)

        assert newcomer.address == stage.asked[1].remote_address


@each_network
@in_own_namespace
async def test_refusing_socket_asks_about_nobody(network: str) -> None:
    """Newcomers are refused without a question; who is pending stays."""
    async with opened(network, PEND) as stage:
        client, request = await stage.held()
        stage.listening.refuse()
        newcomer = stage.arrive()
        await newcomer.refused()

        assert [*REFUSAL] == stage.story(newcomer)
        assert 1 == len(stage.asked) == stage.statistics().pending
        assert {"refused": 1} == dict(stage.statistics().dropped)

        stage.listening.resume()
        await stage.held()

        assert Status.SUCCESS == stage.complete(request, ACCEPT)

        await client.connected()


@in_own_namespace
async def test_syns_beyond_the_backlog_come_again() -> None:
    """
    Of those who can't be asked about so many are held as the backlog has room for. The next one is
    dropped and counted; it asks again, and then there is room.
    """

    async def _body(network: Network) -> None:
        async with opened(network, PEND, gate={"backlog": 1}, max_pending=1) as stage:
            _, request = await stage.held()
            stage.arrive()
            await until(lambda: stage.statistics().backlog == 1)
            third = stage.arrive()
            await until(lambda: stage.statistics().transport["overflowed"])

            assert Status.SUCCESS == stage.complete(request, REJECT)

            await stage.when(lambda: len(stage.asked) == 2)

            assert Status.SUCCESS == stage.complete(stage.asked[1], REJECT)

            await stage.when(lambda: len(stage.asked) == 3)

            assert third.address == stage.asked[2].remote_address
            assert third.is_waiting
            assert 3 == stage.statistics().transport["held"]

    await everywhere(_body)


@in_own_namespace
async def test_kernel_drops_syns_beyond_the_limit_before_anybody_is_asked() -> None:
    """They are counted, and their senders try again."""

    async def _body(network: Network) -> None:
        async with opened(network, REJECT, gate={"most_syns_per_second": 2}) as stage:
            clients = [stage.arrive() for _ in range(6)]
            for client in clients:
                await client.refused()
            counted = stage.statistics().transport

            assert 6 == len(stage.asked) == counted["held"]
            assert len(stage.exchange()) - 12 == counted["limited"] > 0

    await everywhere(_body)


# --- Fast Open --------------------------------------------------------------------------------

_TCP_FASTOPEN_CONNECT = 30


def fast_open(sock: socket.socket) -> None:
    """Have the SYN wait for the first octets, and take them along."""
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1)


def enable_fast_open(network: Network, flags: int) -> None:
    """Say what both ends of a network do."""
    set_sysctl("net.ipv4.tcp_fastopen", flags)
    with network.at_client():
        set_sysctl("net.ipv4.tcp_fastopen", flags)


_EITHER_SIDE = 0x3
_WITHOUT_COOKIE = 0x204
_WITHOUT_BEING_ASKED = 0x400


@each_network
@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@in_own_namespace
async def test_first_octets_in_the_syn_are_seen_and_delivered(
    network: str, answer: InspectAction
) -> None:
    """
    TCP Fast Open, without cookies: the inspector has the octets before it answers; whoever
    accepts the connection receives them, once.
    """
    async with opened(network, PEND) as stage:
        enable_fast_open(stage.network, _EITHER_SIDE | _WITHOUT_COOKIE | _WITHOUT_BEING_ASKED)
        client = stage.arrive(fast_open)

        assert 5 == client.socket.send(b"hello")

        await stage.when(lambda: stage.asked)
        await stage.expect("client SYN (5 octets)")
        (request,) = stage.asked

        assert request.syn is not None
        assert (b"hello", 5) == (request.syn.payload, request.syn.payload_length)

        await stage.when(lambda: request.inspect_id in stage.listening.pending_inspections)

        assert Status.SUCCESS == stage.complete(request, answer)

        if answer is REJECT:
            await stage.expect("client SYN (5 octets)", "server RST,ACK")
            with pytest.raises(ConnectionRefusedError):
                client.socket.send(b"more")
        else:
            connection = await stage.listening.accept()

            assert request.inspect_id == connection.inspect_id
            assert b"hello" == await connection.receive_some()
            await talk(connection, client.stream)
            assert "client SYN (5 octets)" == stage.story()[0]
            connection.close()


@each_network
@in_own_namespace
async def test_fast_open_has_cookies(network: str) -> None:
    """The first time a client asks for one; the second time it has that, and octets with it."""
    room = (socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    async with opened(network, ACCEPT, socket_options=[room]) as stage:
        enable_fast_open(stage.network, _EITHER_SIDE)
        first = stage.arrive(fast_open)
        connection = await stage.listening.accept()
        syn = stage.asked[0].syn

        assert syn is not None
        assert (b"", b"") == (syn.fast_open_cookie, syn.payload)

        await talk(connection, await first.connected())
        connection.close()
        second = stage.arrive(fast_open)

        assert 5 == second.socket.send(b"hello")

        connection = await stage.listening.accept()
        syn = stage.asked[1].syn

        assert syn is not None
        assert syn.fast_open_cookie
        assert b"hello" == syn.payload == await connection.receive_some()

        await talk(connection, await second.connected())
        connection.close()


# --- Servers ----------------------------------------------------------------------------------


async def echo(connection: Connection) -> None:
    """Send everything back."""
    async for data in connection:
        await connection.send_all(data)


def echo_by_events(connection: Connection) -> ConnectionDispatch:
    """Send everything back, without a task."""

    def receive(connection: Connection, data: bytes) -> None:
        connection.queue_send(bytes(data))

    return ConnectionDispatch(
        receive=receive, disconnect=lambda connection, abortive: connection.close()
    )


each_server = pytest.mark.parametrize("server", ["serve", "serve_events"])
HANDLERS: dict[str, Any] = {"serve": echo, "serve_events": echo_by_events}


@each_network
@each_server
@in_own_namespace
async def test_server_serves_whom_its_inspector_lets_in(network: str, server: str) -> None:
    """The others are refused, and those who leave are aborted."""
    answers = [ACCEPT, REJECT, PEND]
    async with serving(
        network, HANDLERS[server], lambda _: answers[len(stage.asked) - 1], way=server
    ) as (stage, it):
        friend, _ = await stage.inspected()
        stranger, _ = await stage.inspected()
        leaver, request = await stage.held()
        stream = await friend.connected()
        await stream.send_all(b"hello")

        assert b"hello" == await stream.receive_some()

        await stranger.refused()
        stage.send(leaver.address, RST, stage.number_of(leaver) + 1)
        aborted = await stage.aborted()

        assert request.inspect_id == aborted.inspect_id
        assert 1 == it.statistics().open_connections

        await stream.send_eof()

        assert b"" == await read_to_end(stream)

        report = await it.drain()

        assert trio_wsk.DrainReport(finished=0, reset=0) == report


@each_network
@each_server
@in_own_namespace
async def test_drain_waits_for_who_is_being_inspected(network: str, server: str) -> None:
    """Whoever is let in within the grace is served."""
    async with serving(network, HANDLERS[server], PEND, way=server) as (stage, it):
        clients = [(await stage.held())[0] for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(it.drain, grace=10))
            await wait_all_tasks_blocked()
            for request, answer in zip(stage.asked, (ACCEPT, REJECT, ACCEPT), strict=True):
                assert Status.SUCCESS == stage.complete(request, answer)
            outcomes = [await client.outcome() for client in clients]

            assert ["connected", "ECONNREFUSED", "connected"] == outcomes

            for client in (clients[0], clients[2]):
                await client.stream.send_all(b"hello")

                assert b"hello" == await client.stream.receive_some()

                await client.stream.send_eof()

                assert b"" == await read_to_end(client.stream)

        assert 2 == it.statistics().served
        assert {} == dict(it.statistics().listening.aborted)


@each_server
@in_own_namespace
async def test_drain_whose_grace_runs_out_refuses_who_is_being_inspected(server: str) -> None:
    """They are aborted, and whoever comes by then is refused by the kernel."""
    async with serving("cable6", HANDLERS[server], PEND, way=server) as (stage, it):
        client, _ = await stage.held()
        await it.drain(grace=0.05)
        await client.refused()
        late = stage.arrive()
        await late.refused()

        assert {"closed": 1} == dict(it.statistics().listening.aborted)
        assert [*REFUSAL, *REFUSAL] == stage.story()


@pytest.mark.parametrize("peer_does", ["answer", "nothing"])
@each_cable
@each_server
@in_own_namespace
async def test_drain_waits_for_handshakes_within_the_grace(
    server: str, network: str, peer_does: str
) -> None:
    """
    Who is let in and has not answered yet has the grace for it: then he is served, or else aborted
    as closed, which the abort callback is told once.
    """
    answers = peer_does == "answer"
    async with serving(network, HANDLERS[server], ACCEPT, way=server) as (stage, it):
        peer = stage.network.peer(1111)
        stage.send(peer, SYN, 1000)
        _, answer = await stage.expect(*HANDSHAKE[:2])
        number = answer.sequence_number + 1

        assert (1, 0) == (it.statistics().listening.pending, it.statistics().open_connections)

        reports: list[trio_wsk.DrainReport] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drain() -> None:
                reports.append(await it.drain(grace=math.inf if answers else 0.05))

            if answers:
                await wait_all_tasks_blocked()
                stage.send(peer, ACK, 1001, acknowledgement=number)
                await until(lambda: it.statistics().open_connections)
                stage.send(peer, FIN | ACK, 1001, acknowledgement=number)

        assert [trio_wsk.DrainReport(finished=int(answers), reset=0)] == reports
        assert ({} if answers else {"closed": 1}) == it.statistics().listening.aborted
        assert [request.inspect_id for request in stage.asked[answers:]] == stage.told_abort


@pytest.mark.parametrize("how", ["drain", "abort", "aclose"])
@in_own_namespace
async def test_end_leaves_to_the_next_process_who_is_not_connected(how: str) -> None:
    """
    Of a socket that others hold, too: who is held is aborted as closed, and not refused; when he
    asks again the kernel answers, as it does newcomers, and the next process has the connections.
    """

    async def _body(where: Network) -> None:
        made = socket.socket(Address.tcp(where.host, 0).family)
        made.bind(Address.tcp(where.host, 0, where.scope_id).sockaddr)
        made.listen()
        adopted: dict[str, Any] = {"port": None, "host": None, "sockets": [made.dup()]}
        async with serving(where, echo, PEND, **adopted) as (stage, it):
            held = [(await stage.held())[0] for _ in range(2)]
            if how == "drain":
                report = await it.drain(grace=10)

                assert trio_wsk.DrainReport(finished=0, reset=0) == report
            elif how == "abort":
                it.abort()
            else:
                await it.listening.aclose()

            assert {"closed": 2} == it.statistics().listening.aborted
            assert [True, True] == [client.is_waiting for client in held]

            clients = [stage.arrive(), *held]
            streams = [await client.connected() for client in clients]
            async with trio_wsk.open_server(echo, sockets=[made]) as after:
                for stream in streams:
                    await stream.send_all(b"hello")

                    assert b"hello" == await stream.receive_some()

                    await stream.aclose()

            assert 3 == after.statistics().served

    await everywhere(_body)


# --- What is counted --------------------------------------------------------------------------


@each_network
@in_own_namespace
async def test_transport_counts_what_it_holds(network: str) -> None:
    """One for each request, however it ends; nothing else has happened, so nothing is counted."""
    answers: list[InspectAction | Verdict] = [
        ACCEPT,
        REJECT,
        Verdict(REJECT, close=CloseStyle.SILENT),
        PEND,
    ]
    async with opened(network, lambda _: answers[len(stage.asked) - 1]) as stage:
        for _ in answers:
            await stage.inspected()
        await until(lambda: stage.statistics().parked)
        counted = dict(stage.statistics().transport)

        assert 4 == counted.pop("held")
        assert dict.fromkeys(counted, 0) == counted
        assert {
            "overflowed",
            "limited",
            "resets_unheard",
            "truncated",
            "strangers",
            "strangers_reset",
            "queue_lost",
            "queue_overruns",
            "verdicts_late",
            "not_syns",
            "unclaimed",
        } == set(counted)
