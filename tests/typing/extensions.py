"""What users write: observers and transports."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import assert_type

import trio_wsk
from trio_wsk import AbortReason, Address, CloseStyle, InspectId, InspectPoint
from trio_wsk.observers import (
    CloseStyleUnavailable,
    HandlerFailed,
    InspectorStraggles,
    LoggingObserver,
    Observer,
    Record,
    RequestAborted,
    RequestApproved,
    RequestPended,
    RequestRejected,
)
from trio_wsk.transports import (
    Channel,
    PeerEnd,
    PortableTransport,
    Readiness,
    RequestKeeper,
    Transport,
    TransportRequest,
    Watch,
)


def observe(record: Record) -> None:
    """A function is an observer; which record it is, it finds out."""
    assert_type(record.at, float)
    if isinstance(record, HandlerFailed):
        assert_type(record.error, BaseException)
        assert_type(record.remote_address, Address)
        record.at = 0  # type: ignore[misc]  # frozen


def observe_requests(record: Record) -> None:
    """What is told of connection requests has their number, and what has become of them."""
    if isinstance(record, RequestPended | RequestApproved):
        assert_type(record.inspect_id, InspectId)
        assert_type(record.remote_address, Address)
    if isinstance(record, RequestRejected):
        assert_type(record.reason, str)
        assert_type(record.close, CloseStyle)
    if isinstance(record, RequestAborted):
        assert_type(record.reason, AbortReason)
        record.reason = AbortReason.FIN  # type: ignore[misc]  # frozen
    if isinstance(record, CloseStyleUnavailable):
        assert_type(record.close, CloseStyle)
    if isinstance(record, InspectorStraggles):
        assert_type(record.inspect_id, InspectId)
        assert_type(record.seconds, float)


class Failures:
    """An object is one, too, with a say in what it is told."""

    records = frozenset({HandlerFailed})

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, record: Record) -> None:
        """Count."""
        self.count += 1


def observe_failures(record: HandlerFailed) -> None:
    """Isn't ready for the other records."""


def observed() -> None:
    """Observers of any kind go together."""
    kept: list[Record] = []
    observers: list[Observer] = [
        observe,
        observe_requests,
        Failures(),
        LoggingObserver(),
        kept.append,
    ]
    trio_wsk.open_listening_socket(0, observers=observers)
    trio_wsk.open_listening_socket(0, observers=[observe, kept.append])
    trio_wsk.open_listening_socket(0, observers=(Failures(),))

    trio_wsk.open_listening_socket(0, observers=[observe_failures])  # type: ignore[list-item]  # as it says
    trio_wsk.open_listening_socket(0, observers=observe)  # type: ignore[arg-type]  # not several


class Request(TransportRequest):
    """All that a request has to be."""

    @property
    def serial_number(self) -> int:
        """Count."""
        return 0

    @property
    def local_address(self) -> Address:
        """Say where."""
        return Address.parse("127.0.0.1:80")

    @property
    def remote_address(self) -> Address:
        """Say who."""
        return Address.parse("127.0.0.1:81")

    def accept(self) -> Channel:
        """Answer yes."""
        raise NotImplementedError

    def reset(self) -> None:
        """Answer no."""

    def was_reset(self) -> bool:
        """Say whether it is too late."""
        return False

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Say when its peer leaves."""
        keeper.peer_ended(self, PeerEnd.FIN)
        keeper.established(self)

    def unwatch_end(self) -> None:
        """Say no more."""

    def watch(self, channel: Channel) -> Watch:
        """Make its watch."""
        return Watch(channel.fileno())


class UnwatchedRequest(TransportRequest):
    """Lacks what tells that the peer leaves, and more."""


class Keeper:
    """All that a keeper of requests has to be."""

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:
        """Take note."""

    def established(self, request: TransportRequest) -> None:
        """Take note."""


class OneRequest(Transport):
    """All that a transport has to be."""

    async def bind(self) -> None:
        """Take the addresses."""

    def listen(self, readiness: Readiness) -> None:
        """Begin."""

    @property
    def local_addresses(self) -> Sequence[Address]:
        """Say where."""
        return ()

    def next_request(self) -> Request | None:
        """Give out a request."""
        return Request()

    def has_more(self) -> bool:
        """Say whether there is one."""
        return True

    def close(self) -> None:
        """End."""


class NoTransport(Transport):
    """Lacks everything."""


def carried() -> None:
    """Anyone's transport goes where the portable one goes."""
    trio_wsk.open_listening_socket(transport=OneRequest())
    trio_wsk.open_listening_socket(transport=PortableTransport.tcp(0))
    assert_type(OneRequest().next_request(), Request | None)
    assert_type(PortableTransport.tcp(0).public_sockets()[0].fileno(), int)

    transport = OneRequest()
    assert_type(transport.inspect_point, InspectPoint)
    assert_type(transport.inspect_at(InspectPoint.BEFORE_HANDSHAKE), None)
    assert_type(transport.close_styles(), frozenset[CloseStyle])

    NoTransport()  # type: ignore[abstract]  # as it says
    trio_wsk.open_listening_socket(transport="tcp")  # type: ignore[arg-type]  # not by name


async def asked(request: TransportRequest, readiness: Readiness) -> None:
    """A request can be watched, looked into and answered, whatever its transport."""
    assert_type(request.watch_end(readiness, Keeper()), None)
    assert_type(request.unwatch_end(), None)
    assert_type(request.peek(10), tuple[bytes, bool])
    assert_type(await request.wait_for_more(), None)
    assert_type(request.approve(), bool)
    assert_type(request.silence(), bool)
    assert_type(request.accept(), Channel)

    UnwatchedRequest()  # type: ignore[abstract]  # as it says
    request.watch_end(readiness, Failures())  # type: ignore[arg-type]  # no keeper of requests
