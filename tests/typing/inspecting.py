"""Conditional accept: inspectors, verdicts, requests and completions."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from functools import partial
from ipaddress import IPv4Address
from typing import Any

import trio
from typing_extensions import assert_type

import trio_wsk
from trio_wsk import (
    AbortReason,
    Address,
    CloseStyle,
    Connection,
    ConnectionRequest,
    InspectAction,
    InspectId,
    InspectPoint,
    ListenDispatch,
    ListeningSocket,
    Overflow,
    PeerCredentials,
    Status,
    Verdict,
)
from trio_wsk.inspectors import DnsListing, DnsLists, DnsZone, Rules
from trio_wsk.observers import RequestAborted


def let_in(request: ConnectionRequest) -> InspectAction:
    """A plain inspector with a plain answer."""
    return InspectAction.ACCEPT


def judge(request: ConnectionRequest) -> Verdict:
    """A plain inspector with an answer in full."""
    return Verdict(InspectAction.REJECT, "over-quota", close=b"421 busy\r\n")


def either(request: ConnectionRequest) -> InspectAction | Verdict:
    """A plain inspector with an answer of either kind."""
    return judge(request) if request.remote_address.is_unix else let_in(request)


async def look_up(request: ConnectionRequest) -> InspectAction:
    """An async inspector with a plain answer."""
    return InspectAction.PEND


async def look_up_in_full(request: ConnectionRequest) -> Verdict:
    """An async inspector with an answer in full."""
    return Verdict(InspectAction.ACCEPT)


async def look_up_either(request: ConnectionRequest) -> InspectAction | Verdict:
    """An async inspector with an answer of either kind."""
    return await look_up(request)


def look_up_list(names: list[str], request: ConnectionRequest) -> InspectAction:
    """An inspector that is told more."""
    return InspectAction.REJECT


class Gate:
    """An object whose method inspects, and one that is an inspector itself."""

    def inspect(self, request: ConnectionRequest) -> InspectAction:
        """Inspect."""
        return InspectAction.ACCEPT

    async def __call__(self, request: ConnectionRequest) -> Verdict:
        """Inspect, slowly."""
        return Verdict(InspectAction.ACCEPT)


def say_yes(request: ConnectionRequest) -> bool:
    """Answers with what is no verdict."""
    return True


def say_one(request: ConnectionRequest) -> int:
    """Answers with a number."""
    return 1


def say_nothing(request: ConnectionRequest) -> None:
    """Answers with nothing."""


def perhaps(request: ConnectionRequest) -> InspectAction | None:
    """Answers now and then."""
    return None


async def say_yes_slowly(request: ConnectionRequest) -> bool:
    """Answers, in the end, with what is no verdict."""
    return True


def accept_connection(connection: Connection) -> InspectAction:
    """Wants a connection, of which there is none yet."""
    return InspectAction.ACCEPT


def inspectors(request: ConnectionRequest) -> None:
    """An inspector is plain or async, and answers with an action or a verdict."""
    trio_wsk.open_listening_socket(0, inspect=let_in)
    trio_wsk.open_listening_socket(0, inspect=judge)
    trio_wsk.open_listening_socket(0, inspect=either)
    trio_wsk.open_listening_socket(0, inspect=look_up)
    trio_wsk.open_listening_socket(0, inspect=look_up_in_full)
    trio_wsk.open_listening_socket(0, inspect=look_up_either)
    trio_wsk.open_listening_socket(0, inspect=partial(look_up_list, ["localhost"]))
    trio_wsk.open_listening_socket(0, inspect=Gate().inspect)
    trio_wsk.open_listening_socket(0, inspect=Gate())
    trio_wsk.open_listening_socket(0, inspect=lambda request: InspectAction.ACCEPT)
    trio_wsk.open_listening_socket(0, inspect=None)
    dispatch = ListenDispatch(inspect=let_in)
    ListenDispatch(inspect=look_up)
    if dispatch.inspect is not None:
        assert_type(
            dispatch.inspect(request),
            InspectAction | Verdict | Awaitable[InspectAction | Verdict],
        )

    trio_wsk.open_listening_socket(0, inspect=say_yes)  # type: ignore[arg-type]  # no verdict
    trio_wsk.open_listening_socket(0, inspect=say_one)  # type: ignore[arg-type]  # no verdict
    trio_wsk.open_listening_socket(0, inspect=say_nothing)  # type: ignore[arg-type]  # no verdict
    trio_wsk.open_listening_socket(0, inspect=perhaps)  # type: ignore[arg-type]  # not always one
    trio_wsk.open_listening_socket(0, inspect=say_yes_slowly)  # type: ignore[arg-type]  # none either
    trio_wsk.open_listening_socket(0, inspect=accept_connection)  # type: ignore[arg-type]  # as it says
    trio_wsk.open_listening_socket(0, inspect=InspectAction.ACCEPT)  # type: ignore[arg-type]  # not a function
    ListenDispatch(inspect=say_yes)  # type: ignore[arg-type]  # no verdict


def dns_lists(connection: Connection) -> None:
    """Lists are zones by name, or with a weight and networks of answers; what they say is typed."""
    lists = DnsLists("bad.test", DnsZone("good.test", -2, answers=["127.0.0.2", "127.0.1.0/24"]))
    trio_wsk.open_listening_socket(0, inspect=Rules(lists))
    assert_type(connection.facts[DnsListing].listed, Mapping[str, tuple[IPv4Address, ...]])
    assert_type(lists.lists[0].weight, float)
    DnsLists(7)  # type: ignore[arg-type]  # no zone
    DnsLists("bad.test", when_failed="open")  # type: ignore[arg-type]  # neither


def aborts() -> None:
    """The abort callback is plain, and told a number."""

    def abort(inspect_id: InspectId) -> None:
        assert_type(inspect_id.key, int)
        assert_type(inspect_id.serial_number, int)

    async def abort_slowly(inspect_id: InspectId) -> None:
        """Isn't plain, which the type of a callback whose answer is nobody's business can't say."""

    def abort_request(request: ConnectionRequest) -> None:
        """Wants the request itself."""

    ListenDispatch(inspect=let_in, abort=abort)
    ListenDispatch(inspect=let_in, abort=abort_slowly)  # refused when it is made
    ListenDispatch(inspect=let_in, abort=abort_request)  # type: ignore[arg-type]  # as it says


def verdicts() -> None:
    """A verdict has an action, a reason and a way to tell the peer, and is frozen."""
    verdict = Verdict(InspectAction.REJECT, "over-quota", CloseStyle.FIN)
    assert_type(verdict.action, InspectAction)
    assert_type(verdict.reason, str)
    assert_type(verdict.close, CloseStyle | bytes)
    assert_type(verdict.style, CloseStyle)

    Verdict()  # type: ignore[call-arg]  # there is no answer without an action
    Verdict(True)  # type: ignore[arg-type]  # noqa: FBT003 - an action is no bool
    Verdict(InspectAction.REJECT, 421)  # type: ignore[arg-type]  # a reason is a slug
    Verdict(InspectAction.REJECT, close="421 busy")  # type: ignore[arg-type]  # a message is octets
    verdict.reason = "other"  # type: ignore[misc]  # frozen


async def requested(request: ConnectionRequest) -> None:
    """A request tells who, where and when, and gives its first octets."""
    assert_type(request.inspect_id, InspectId)
    assert_type(request.local_address, Address)
    assert_type(request.remote_address, Address)
    assert_type(request.peer_credentials, PeerCredentials | None)
    assert_type(request.arrived_at, float)
    assert_type(request.deadline, float)
    assert_type(request.listening, ListeningSocket)
    assert_type(request.context, object)
    assert_type(request.cancel_scope, trio.CancelScope)
    assert_type(request.aborted, RequestAborted | None)
    assert_type(await request.peek(10), bytes)
    if request.aborted is not None:
        assert_type(request.aborted.reason, AbortReason)

    await request.peek(b"GET")  # type: ignore[arg-type]  # a count
    request.inspect_id = InspectId(1, 2)  # type: ignore[misc]  # nobody's to change


def completed(
    listening: ListeningSocket, inspect_id: InspectId, request: ConnectionRequest
) -> None:
    """What was pended is completed by number, with either kind of answer."""
    assert_type(listening.inspect_complete(inspect_id, InspectAction.ACCEPT), Status)
    assert_type(listening.inspect_complete(inspect_id, judge(request)), Status)
    pending: Mapping[InspectId, ConnectionRequest] = listening.pending_inspections
    assert_type(pending[inspect_id], ConnectionRequest)
    assert_type(list(listening.pending_inspections), list[InspectId])
    assert_type(listening.inspect_point, InspectPoint)

    listening.inspect_complete(inspect_id, True)  # type: ignore[arg-type]  # noqa: FBT003 - no verdict
    listening.inspect_complete(7, InspectAction.ACCEPT)  # type: ignore[arg-type]  # no number of ours
    listening.inspect_complete(inspect_id)  # type: ignore[call-arg]  # no answer
    pending[inspect_id] = listening  # type: ignore[index]  # a view


def connected(connection: Connection) -> None:
    """A connection remembers which request it was."""
    assert_type(connection.inspect_id, InspectId | None)


async def serve_it(connection: Connection) -> None:
    """A handler."""


async def options() -> None:
    """The options of conditional accept go with every way to listen."""
    overflow = Overflow(pending="reset", parked="evict")
    trio_wsk.open_listening_socket(
        0,
        inspect=let_in,
        inspect_point=InspectPoint.AFTER_HANDSHAKE,
        inspect_timeout=5,
        max_pending=10,
        overflow=overflow,
        abort_on_half_close=True,
    )
    trio_wsk.open_server(serve_it, 0, inspect=look_up, overflow="evict", max_pending=3)
    await trio_wsk.serve(serve_it, 0, inspect=judge, inspect_timeout=0.5)
    await trio_wsk.serve_events(ListenDispatch(inspect=let_in), 0, abort_on_half_close=False)

    trio_wsk.open_listening_socket(0, inspect=let_in, overflow="drop")  # type: ignore[arg-type]  # no such policy
    trio_wsk.open_listening_socket(0, inspect=let_in, inspect_point="before")  # type: ignore[arg-type]  # a member
    trio_wsk.open_listening_socket(0, inspect=let_in, inspect_timeout="5")  # type: ignore[arg-type]  # seconds
    Overflow("evict")  # type: ignore[call-arg]  # for which limit?
    Overflow(pending="drop")  # type: ignore[arg-type]  # no such policy
    overflow.pending = "wait"  # type: ignore[misc]  # frozen


def widened(answer: Any) -> Verdict:
    """What has no type goes anywhere; it is checked when it comes."""
    return Verdict(answer)
