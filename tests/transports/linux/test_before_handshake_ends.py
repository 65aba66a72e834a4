"""Conditional accept before the handshake: clients that leave, time that is up, and closing."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.before_handshake import (
    CABLES,
    REFUSAL,
    SYN_ONLY,
    Network,
    each_cable,
    each_network,
    everywhere,
    networks,
    opened,
)
from tests.helpers.gated import ACK, RST, SYN
from tests.helpers.held_syns import UNDECIDED, each_undecided, talk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import in_own_namespace, set_sysctl
from tests.helpers.resetting import reset_on_close
from tests.helpers.support import fate_of
from tests.helpers.undecided import wait_for_cancellation
from trio_wsk import AbortReason, ConnectionRequest, Status
from trio_wsk.observers import RequestApproved

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]


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
        reset_on_close(client.stream.socket)
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
