"""Transports that break one rule each: what the conformance suite must find.

They are the network in memory behind a proxy, which does what the real one does but for what
a `Mutant` replaces. Each replacement is called with the proxy, whose ``real`` is the real one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio

from trio_wsk import CloseStyle, InspectPoint
from trio_wsk.testing._memory_readiness import MemoryReadiness, MemoryWatch
from trio_wsk.transports._contract import (
    NoDescriptorsError,
    PeerEnd,
    PeerFaultError,
    TransportFailedError,
)

from .harnesses import MemoryHarness

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk.transports import Transport

AFTER = InspectPoint.AFTER_HANDSHAKE
BEFORE = InspectPoint.BEFORE_HANDSHAKE


class Property:
    """Marks a replacement that is read, not called."""

    def __init__(self, read: Callable[[Any], object]) -> None:
        self.read = read


@attrs.frozen(kw_only=True)
class Mutant:
    """One broken rule, and the sentence that has to say so."""

    check: str
    """The name of the check that has to find it."""
    says: str
    """What its sentence must contain."""
    inspect_point: InspectPoint = AFTER
    transport: dict[str, Any] = attrs.field(factory=dict)
    request: dict[str, Any] = attrs.field(factory=dict)
    channel: dict[str, Any] = attrs.field(factory=dict)


class Proxy:
    """Does what the real one does, but for what is replaced."""

    def __init__(self, real: Any, replaced: dict[str, Any]) -> None:
        vars(self).update(real=real, replaced=replaced, memory=[])

    def __getattr__(self, name: str) -> Any:
        if name not in self.replaced:
            return getattr(self.real, name)
        replacement = self.replaced[name]
        if isinstance(replacement, Property):
            return replacement.read(self)
        return partial(replacement, self)


class TransportProxy(Proxy):
    """A transport with a defect, or with requests that have one."""

    def __init__(self, real: Any, mutant: Mutant) -> None:
        super().__init__(real, mutant.transport)
        vars(self).update(mutant=mutant)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in {"edge", "takes"}

        vars(self)[name] = value
        own = f"on_{name}"
        setattr(self.real, name, self.__getattr__(own) if own in self.replaced else value)

    def wrapped(self, request: Any) -> Any:
        """Give a request its defect."""
        return None if request is None else RequestProxy(request, self.mutant)

    def next_request(self) -> Any:
        """Return the next one, with its defect."""
        if "next_request" in self.replaced:
            return self.replaced["next_request"](self)
        return self.wrapped(self.real.next_request())


class RequestProxy(Proxy):
    """A request with a defect, or with a channel that has one."""

    def __init__(self, real: Any, mutant: Mutant) -> None:
        super().__init__(real, mutant.request)
        vars(self).update(mutant=mutant)

    def accept(self) -> Any:
        """Return the channel, with its defect."""
        if "accept" in self.replaced:
            return self.replaced["accept"](self)
        channel = self.real.accept()
        return Proxy(channel, self.mutant.channel) if self.mutant.channel else channel


class MutantHarness(MemoryHarness):
    """Makes transports with a defect."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.inspect_point)
        self.mutant = mutant

    def transport(self) -> Transport:
        """Make one."""
        return cast("Transport", TransportProxy(super().transport(), self.mutant))

    def fail_accept(self, transport: Transport, error: OSError) -> None:
        """Have the real one fail."""
        super().fail_accept(cast("Any", transport).real, error)


# --- Defects ----------------------------------------------------------------------------------


class Told:
    """A keeper in front of the real one, which hears what ``heard`` lets through."""

    def __init__(self, keeper: Any, heard: Callable[[Any, PeerEnd], object]) -> None:
        self.keeper = keeper
        self.heard = heard

    def peer_ended(self, request: Any, end: PeerEnd) -> None:
        """Pass on what is let through."""
        self.heard(self.keeper.peer_ended, end)

    def established(self, request: Any) -> None:
        """Pass it on."""
        self.keeper.established(request)


def telling(heard: Callable[[Any, PeerEnd], object]) -> dict[str, Any]:
    """Have ``heard(tell, end)`` decide what of a peer's end is told."""

    def watch_end(self: Any, readiness: Any, keeper: Any) -> None:
        self.real.watch_end(
            readiness, Told(keeper, lambda tell, end: heard(partial(tell, self), end))
        )

    return {"watch_end": watch_end}


def nothing(self: Any, *args: object, **kwargs: object) -> None:
    """Do nothing."""


def watch_once(self: Any, readiness: Any, keeper: Any) -> None:
    """Watch the first time only."""
    if not self.memory:
        self.memory.append(keeper)
        self.real.watch_end(readiness, keeper)


def tell_inside(self: Any, readiness: Any, keeper: Any) -> None:
    """Tell what is true already from inside ``watch_end``."""
    if without(PeerFaultError, (b"", False))("peek")(self, 1)[1]:
        keeper.peer_ended(self, PeerEnd.FIN)
    self.real.watch_end(readiness, keeper)


def tell_of_data(self: Any, readiness: Any, keeper: Any) -> None:
    """Take data for an end."""

    async def watch() -> None:
        while not self.real.peek(1)[0]:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(1)
        keeper.peer_ended(self, PeerEnd.FIN_AFTER_DATA)

    trio.lowlevel.spawn_system_task(watch)


def tell_early(self: Any, readiness: Any, keeper: Any) -> None:
    """Take a peer for silent before it can have asked again."""

    async def miss() -> None:
        await trio.sleep(0.1)
        keeper.peer_ended(self, PeerEnd.SILENT)

    self.real.watch_end(readiness, keeper)
    trio.lowlevel.spawn_system_task(miss)


def without(error: type[Exception], result: object) -> Callable[..., Any]:
    """Return ``result`` where an error would be raised, by whichever method."""

    def call(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any) -> Any:
            try:
                return getattr(self.real, name)(*args)
            except error:
                return result

        return method

    return call


def instead_of(error: type[Exception], other: Callable[[OSError], Exception]) -> dict[str, Any]:
    """Raise another error from ``next_request``."""

    def next_request(self: Any) -> Any:
        try:
            return self.wrapped(self.real.next_request())
        except error as found:
            raise other(cast("Any", found).error) from found

    return {"next_request": next_request}


async def bind_although_cancelled(self: Any) -> None:
    """Bind, and then say that it was cancelled."""
    with trio.CancelScope(shield=True):
        await self.real.bind()
    await trio.lowlevel.checkpoint()


async def bind_and_tell(self: Any) -> None:
    """Call ``edge`` at once."""
    await self.real.bind()
    self.edge()


def listen_anyhow(self: Any, readiness: Any) -> None:
    """Swallow what it means not to be bound."""
    without(Exception, None)("listen")(self, readiness)


def edge_twice(self: Any) -> None:
    """Say everything twice."""
    self.edge()
    self.edge()


def edge_inside(self: Any) -> Any:
    """Say that there is more from within ``next_request``."""
    request = self.wrapped(self.real.next_request())
    if request is not None:
        self.edge()
    return request


def last_in_first_out(self: Any) -> Any:
    """Hand out the newest first."""
    while (request := self.real.next_request()) is not None:
        self.memory.append(request)
    return self.wrapped(self.memory.pop()) if self.memory else None


def never_none(self: Any) -> Any:
    """Hand out the last request again when there is none."""
    request = self.real.next_request()
    if request is not None:
        self.memory.append(request)
    return self.wrapped(self.memory[-1]) if self.memory else None


def keep_only_the_newest(self: Any) -> Any:
    """Reset a request when the next one comes."""
    request = self.real.next_request()
    if request is not None:
        for older in self.memory:
            older.reset()
        self.memory.append(request)
    return self.wrapped(request)


def reset_the_next(self: Any) -> None:
    """Reset the request that is the next."""
    request = self.real.next_request()
    if request is not None:
        request.reset()


def approve_at_once(self: Any) -> Any:
    """Answer before anybody has decided."""
    request = self.real.next_request()
    if request is not None:
        request.approve()
    return self.wrapped(request)


def remember(self: Any) -> Any:
    """Note what was handed out."""
    request = self.wrapped(self.real.next_request())
    self.memory.append(request)
    return request


def close_all(self: Any) -> None:
    """Reset what was handed out, too."""
    self.real.close()
    for request in self.memory:
        if request is not None:
            request.real.reset()


def finish_by_closing(self: Any) -> None:
    """Close on top of what is unread."""
    self.real.accept().close()


def reset_and_say_silent(self: Any) -> bool:
    """Claim silence after a reset."""
    self.real.reset()
    return True


def raise_if_reset(self: Any) -> None:
    """Complain that there is nobody to answer."""
    if self.real.was_reset():
        raise ConnectionResetError
    self.real.reset()


def approve_and_forget(self: Any) -> bool:
    """Approve, and say that it goes on."""
    self.real.approve()
    return False


def approve_anybody(self: Any) -> bool:
    """Approve, and say that the connection is there."""
    self.real.approve()
    return True


def forget_who_left(self: Any) -> Any:
    """Know the peer only as long as it is there."""
    return self.real.local_address if self.real.was_reset() else self.real.remote_address


def peek_and_take(self: Any, count: int) -> tuple[bytes, bool]:
    """Take what was looked at."""
    data, is_all = self.real.peek(count)
    if data:
        self.real._end.take(len(data))  # noqa: SLF001 - no friend of its contract
    return data, is_all


def never_all(self: Any, count: int) -> tuple[bytes, bool]:
    """Look, and never see an end."""
    return self.real.peek(count)[0], False


async def spin(self: Any) -> None:
    """Come back at once."""
    await trio.lowlevel.checkpoint()


async def wait_for_ever(self: Any) -> None:
    """Never come back."""
    await trio.sleep_forever()


def upper(self: Any, size: int, flags: int = 0) -> bytes:
    """Receive, and change a bit."""
    data: bytes = self.real.recv(size, flags)
    return data.upper()


def take_always(self: Any, size: int, flags: int = 0) -> bytes:
    """Ignore MSG_PEEK."""
    data: bytes = self.real.recv(size)
    return data


def no_end(self: Any, size: int, flags: int = 0) -> bytes:
    """Go on waiting after FIN."""
    data: bytes = self.real.recv(size, flags)
    if not data:
        raise BlockingIOError
    return data


def send_nowhere(self: Any, data: bytes, flags: int = 0) -> int:
    """Take everything, and drop it."""
    return len(data)


class Deaf(MemoryReadiness):
    """A readiness that tells no edges."""

    def arm(self, watch: Any, edges: int) -> None:
        """Forget it."""


class Forgetful(MemoryReadiness):
    """A readiness that knows the future only."""

    def _tell_what_is_true(self, watch: Any, edges: int) -> None:
        pass

    async def wait(self, watch: Any, edge: int, *, passed: bool = False) -> None:
        """Park, whatever is true."""
        watch.interest |= edge
        await watch.park(edge)


class Clinging(MemoryReadiness):
    """A readiness that lets nobody go."""

    def disarm(self, watch: Any) -> None:
        """Leave it."""


def at_home_in(home: type[MemoryReadiness]) -> dict[str, Any]:
    """Have the channel waited for in another readiness."""

    def watch(self: Any, channel: Any) -> Any:
        return MemoryWatch(self.real._end, home())  # noqa: SLF001 - no friend of its contract

    return {"watch": watch}


def recv_a_little(self: Any, bufsize: int, flags: int = 0) -> Any:
    """Return less than there is."""
    return self.real.recv(bufsize if flags else min(bufsize, 7), flags)


def recv_deaf(self: Any, *args: Any) -> Any:
    """Hear of no edge while it receives."""
    watch = self.real.endpoint.watch
    if watch is None:
        return self.real.recv(*args)
    interest, watch.interest = watch.interest, 0
    try:
        return self.real.recv(*args)
    finally:
        watch.interest = interest


MUTANTS = [
    # Binding, listening, edges.
    Mutant(
        check="listen_comes_after_bind",
        says="listen() before bind() did not raise",
        transport={"listen": listen_anyhow},
    ),
    Mutant(
        check="bind_says_where",
        says="local_addresses is empty after bind()",
        transport={"local_addresses": Property(lambda self: [])},
    ),
    Mutant(
        check="cancelled_bind_closes",
        says="bind() was cancelled, and yet the transport listens",
        transport={"bind": bind_although_cancelled},
    ),
    Mutant(
        check="no_request_before_listen",
        says="edge was called before listen()",
        transport={"bind": bind_and_tell},
    ),
    Mutant(
        check="inspect_point_is_chosen_or_refused",
        says="where inspect_at() has left InspectPoint.BEFORE_HANDSHAKE",
        transport={"inspect_at": nothing},
    ),
    Mutant(
        check="close_styles_are_sound",
        says="CloseStyle.RESET is missing in close_styles()",
        transport={"close_styles": lambda self: frozenset({CloseStyle.FIN})},
    ),
    Mutant(
        check="edges_follow_nothing",
        says="after None no edge was told of the first peer",
        transport={"on_edge": nothing},
    ),
    Mutant(
        check="edges_follow_nothing",
        says="edge was called 2 times",
        transport={"on_edge": edge_twice},
    ),
    Mutant(
        check="edges_follow_nothing",
        says="edge was called from within next_request",
        transport={"next_request": edge_inside},
    ),
    Mutant(
        check="has_more_agrees",
        says="has_more() is true after next_request() returned None",
        transport={"has_more": lambda self: True},
    ),
    Mutant(
        check="has_more_agrees",
        says="has_more() is false although edge was called",
        transport={"has_more": lambda self: False},
    ),
    Mutant(
        check="look_finds_who_has_connected",
        says="after look() has_more() stays false",
        transport={"look": reset_the_next},
    ),
    Mutant(
        check="look_finds_who_has_connected",
        says="after look() there is no request",
        transport={"look": reset_the_next, "has_more": lambda self: True},
    ),
    # Requests.
    Mutant(
        check="requests_come_in_order",
        says="have connected, in this order",
        transport={"next_request": last_in_first_out},
    ),
    Mutant(
        check="requests_survive_until_answered",
        says="a peer could not send: its connection is broken",
        transport={"next_request": keep_only_the_newest},
    ),
    Mutant(
        check="numbers_never_repeat",
        says="a serial number was used again: [7, 7",
        request={"serial_number": Property(lambda self: 7)},
    ),
    Mutant(
        check="addresses_are_known",
        says="and local_address is 192.0.2.2",
        request={"local_address": Property(lambda self: self.real.remote_address)},
    ),
    Mutant(
        check="addresses_outlive_the_peer",
        says="has gone, and remote_address is 192.0.2.1",
        request={"remote_address": Property(forget_who_left)},
    ),
    Mutant(
        check="fault_of_one_peer_is_told",
        says="accept failed with ECONNABORTED, and no PeerFaultError was raised",
        transport={"next_request": without(PeerFaultError, None)("next_request")},
    ),
    Mutant(
        check="fault_of_one_peer_is_told",
        says="ECONNABORTED was told as TransportFailedError",
        transport=instead_of(PeerFaultError, TransportFailedError),
    ),
    Mutant(
        check="shortage_of_descriptors_is_told",
        says="EMFILE was told as PeerFaultError",
        transport=instead_of(NoDescriptorsError, PeerFaultError),
    ),
    Mutant(
        check="failed_transport_says_so",
        says="EBADF was told as PeerFaultError",
        transport=instead_of(TransportFailedError, PeerFaultError),
    ),
    Mutant(
        check="shed_needs_a_spare_and_a_peer",
        says="shed() is true, but nobody waits",
        transport={"shed": lambda self: True},
    ),
    Mutant(
        check="leave_says_what_it_does",
        says="leave() is false, and no request appears after it",
        transport={"leave": lambda self: self.real.close()},
    ),
    Mutant(
        check="leave_says_what_it_does",
        says="leave() is true, and a request has appeared after it",
        transport={"leave": lambda self: True},
    ),
    Mutant(
        check="leave_says_what_it_does",
        says="a peer could not send: its connection is broken",
        transport={"next_request": remember, "leave": close_all},
    ),
    Mutant(
        check="close_tells_those_in_the_queue",
        says="a peer that was turned away was not told",
        transport={"close": nothing},
    ),
    Mutant(
        check="close_ends_it",
        says="edge was called after close()",
        transport={"close": nothing},
    ),
    Mutant(
        check="close_ends_it",
        says="has_more() is true after close()",
        transport={"has_more": lambda self: True},
    ),
    Mutant(
        check="close_leaves_unanswered_requests_alone",
        says="a peer could not send: its connection is broken",
        transport={"next_request": remember, "close": close_all},
    ),
    # Answers.
    Mutant(
        check="reset_is_a_reset",
        says="a request was reset, and its peer saw fin, not reset",
        request={"reset": lambda self: self.real.finish()},
    ),
    Mutant(
        check="finish_is_an_end_in_good_order",
        says="a request was finished, and its peer saw reset, not fin",
        request={"finish": lambda self: self.real.reset()},
    ),
    Mutant(
        check="established_is_answered_again",
        says="the handshake is over, and approve() returned False",
        request={"approve": lambda self: self.real.approve() and False},
    ),
    Mutant(
        check="established_is_answered_again",
        says="an established request was reset, and its peer saw fin",
        inspect_point=BEFORE,
        request={"reset": lambda self: self.real.finish()},
    ),
    Mutant(
        check="established_hears_what_is_promised",
        says="less than close_styles()",
        transport={"close_styles_when_established": lambda self: frozenset({CloseStyle.RESET})},
    ),
    Mutant(
        check="established_hears_what_is_promised",
        says="an established request was finished, and its peer saw reset",
        inspect_point=BEFORE,
        request={"finish": lambda self: self.real.reset()},
    ),
    Mutant(
        check="established_hears_what_is_promised",
        says="silence() of an established request returned False",
        inspect_point=BEFORE,
        request={"silence": lambda self: bool(self.real.reset())},
    ),
    Mutant(
        check="established_hears_what_is_promised",
        says="silence() returned True, and its peer was told",
        inspect_point=BEFORE,
        request={"silence": reset_and_say_silent},
    ),
    Mutant(
        check="finish_is_no_reset_over_unread_data",
        says="a request with unread data was finished, and its peer saw reset",
        request={"finish": finish_by_closing},
    ),
    Mutant(
        check="silence_is_silence_or_a_reset",
        says="silence() returned True, and its peer was told",
        request={"silence": reset_and_say_silent},
    ),
    Mutant(
        check="silence_is_silence_or_a_reset",
        says="close_styles() has CloseStyle.SILENT, and silence() returned False",
        request={"silence": lambda self: bool(self.real.reset())},
    ),
    Mutant(
        check="answers_never_raise",
        says="reset() raised ConnectionResetError()",
        request={"reset": raise_if_reset},
    ),
    Mutant(
        check="approval_may_be_taken_back",
        says="a peer that was turned away was not told",
        request={"reset": nothing},
    ),
    Mutant(
        check="approval_of_who_has_gone",
        says="approve() returned False, but the handshake is over",
        request={"approve": approve_and_forget},
    ),
    Mutant(
        check="handshake_waits_for_the_answer",
        says="a peer was answered before its request was",
        inspect_point=BEFORE,
        transport={"next_request": approve_at_once},
    ),
    Mutant(
        check="one_peer_is_one_request",
        says="a peer that waits for its answer became a second request",
        inspect_point=BEFORE,
        transport={"next_request": never_none},
    ),
    Mutant(
        check="client_that_starts_anew_has_to_wait",
        says="a SYN became a request beside the one of its address",
        inspect_point=BEFORE,
        transport={"next_request": never_none},
    ),
    Mutant(
        check="client_that_starts_anew_has_to_wait",
        says="a SYN from the same address ended a request",
        inspect_point=BEFORE,
        request={"watch_end": tell_early},
    ),
    Mutant(
        check="approval_establishes",
        says="approve() returned False, and the keeper was never told",
        inspect_point=BEFORE,
        request={"approve": approve_and_forget},
    ),
    Mutant(
        check="connection_waits_for_who_takes_it",
        says="takes() was false, and approve() returned True",
        inspect_point=BEFORE,
        transport={"on_takes": lambda _: True},
    ),
    Mutant(
        check="connection_waits_for_who_takes_it",
        says="a connection did not come after take_established()",
        inspect_point=BEFORE,
        transport={"take_established": nothing},
    ),
    Mutant(
        check="no_octets_before_the_handshake",
        says="peek() before the handshake did not raise InvalidDeviceStateError",
        inspect_point=BEFORE,
        request={"peek": lambda self, count: (b"", False)},
    ),
    Mutant(
        check="no_octets_before_the_handshake",
        says="wait_for_more() before the handshake waits",
        inspect_point=BEFORE,
        request={"wait_for_more": wait_for_ever},
    ),
    Mutant(
        check="peer_that_gives_up_is_told",
        says="a peer has given up, and RESET or SILENT was not told",
        inspect_point=BEFORE,
        request={"watch_end": nothing},
    ),
    Mutant(
        check="peer_that_gives_up_after_approval_is_told",
        says="a peer has given up, and approve() returned True",
        inspect_point=BEFORE,
        request={"approve": approve_anybody},
    ),
    # The peer's end.
    Mutant(
        check="reset_is_told",
        says="a peer has reset, and RESET was not told",
        request={"watch_end": nothing},
    ),
    Mutant(
        check="reset_behind_data_is_told",
        says="a peer has sent something and reset, and FIN_AFTER_DATA was told instead of RESET",
        request=telling(lambda tell, end: tell(PeerEnd.FIN_AFTER_DATA)),
    ),
    Mutant(
        check="fin_is_told",
        says="a peer has finished, which was told already, and the keeper was told FIN",
        request=telling(lambda tell, end: [tell(end) for _ in range(2)]),
    ),
    Mutant(
        check="fin_after_data_is_told",
        says="a peer has sent something and finished, and FIN was told instead of FIN_AFTER_DATA",
        request=telling(lambda tell, end: tell(PeerEnd.FIN)),
    ),
    Mutant(
        check="close_is_told",
        says="a peer has closed, and RESET was told instead of CLOSED or FIN",
        request=telling(lambda tell, end: tell(PeerEnd.RESET)),
    ),
    Mutant(
        check="close_is_told",
        says="a peer has closed, which was told already, and the keeper was told [<PeerEnd.FIN",
        request=telling(lambda tell, end: [tell(end) for _ in range(2)]),
    ),
    Mutant(
        check="end_that_goes_further_is_told_again",
        says="a peer that had finished has reset, and RESET was not told",
        request=telling(lambda tell, end: end is PeerEnd.RESET or tell(end)),
    ),
    Mutant(
        check="end_is_told_when_it_is_true_already",
        says="watch_end told the end from inside the call",
        request={"watch_end": tell_inside},
    ),
    Mutant(
        check="end_is_told_when_it_is_true_already",
        says="a peer had finished before watch_end(), and FIN was not told",
        request={"watch_end": nothing},
    ),
    Mutant(
        check="end_is_told_to_who_watches_again",
        says="and watch_end() was called again, and FIN was not told",
        request={"watch_end": watch_once},
    ),
    Mutant(
        check="data_is_no_end",
        says="a peer has sent something, and the keeper was told FIN_AFTER_DATA",
        request={"watch_end": tell_of_data},
    ),
    Mutant(
        check="nothing_is_told_to_who_does_not_watch",
        says="the peer's end (fin) was told although nobody watched any more",
        request={"unwatch_end": nothing},
    ),
    Mutant(
        check="only_a_reset_was_a_reset",
        says="a peer has done nothing, and was_reset() is true",
        request={"was_reset": lambda self: True},
    ),
    # First octets.
    Mutant(
        check="peek_leaves_the_octets",
        says="a peer has sent b'first, second', and peek() saw b', second'",
        request={"peek": peek_and_take},
    ),
    Mutant(
        check="consume_takes_the_octets",
        says="7 octets were consumed, and peek() returned (b'first, second', False)",
        request={"consume": nothing},
    ),
    Mutant(
        check="end_is_all",
        says="a peer has finished, and peek() says: not all",
        request={"peek": never_all},
    ),
    Mutant(
        check="waiting_for_more_waits",
        says="wait_for_more() spins beside data that was seen already",
        request={"wait_for_more": spin},
    ),
    Mutant(
        check="unwatching_ends_a_wait_for_more",
        says="unwatch_end() was called, and wait_for_more() goes on waiting",
        request={"wait_for_more": wait_for_ever},
    ),
    Mutant(
        check="peek_says_that_its_peer_has_reset",
        says="a peer has reset, and peek() returned (b'', True)",
        request={"peek": without(PeerFaultError, (b"", True))("peek")},
    ),
    # Channels.
    Mutant(
        check="channel_never_waits",
        says="recv(1) returned b'' although nothing was sent",
        channel={"recv": without(BlockingIOError, b"")("recv")},
    ),
    Mutant(
        check="channel_carries_octets",
        says="what came is not what the peer has sent",
        channel={"recv": upper},
    ),
    Mutant(
        check="channel_peeks",
        says="6 octets that the peer has sent did not come",
        channel={"recv": take_always},
    ),
    Mutant(
        check="short_reads_are_what_they_are_said_to_be",
        says="short_read_is_all is true, recv(100) returned 7 and then 7 octets",
        channel={"recv": recv_a_little},
    ),
    Mutant(
        check="channel_says_when_its_peer_finishes",
        says="octets that the peer has sent did not come",
        channel={"recv": no_end},
    ),
    Mutant(
        check="channel_says_when_its_peer_resets",
        says="the peer has reset, and recv() returned b''",
        channel={"recv": without(ConnectionError, b"")("recv")},
    ),
    Mutant(
        check="shutdown_is_a_half_close",
        says="a peer did not get 100 octets",
        channel={"shutdown": nothing},
    ),
    Mutant(
        check="channel_closes",
        says="fileno() is 3 after close()",
        channel={"fileno": lambda self: 3},
    ),
    Mutant(
        check="channel_pushes_back",
        says="no back-pressure",
        channel={"send": send_nowhere},
    ),
    Mutant(
        check="abort_resets",
        says="a connection was aborted, and its peer saw fin",
        request={"abort": lambda self, channel: channel.close()},
    ),
    Mutant(
        check="backlog_is_a_count",
        says="ideal_send_backlog() is 0",
        request={"ideal_send_backlog": lambda self, channel: 0},
    ),
    Mutant(
        check="traffic_is_counted",
        says="octets were received, and traffic() did not grow",
        request={"traffic": lambda self, channel: (0, 0.0)},
    ),
    Mutant(
        check="traffic_is_timed",
        says="after a while traffic() says that an octet passed 0.0 s ago",
        request={"traffic": lambda self, channel: (0, 0.0)},
    ),
    # Waiting.
    Mutant(
        check="edges_come_to_the_sink",
        says="b'first' has come, and no READ edge was told",
        request=at_home_in(Deaf),
    ),
    Mutant(
        check="arming_tells_what_is_true",
        says="data was there before arm(READ), and no READ edge was told",
        request=at_home_in(Forgetful),
    ),
    Mutant(
        check="waiting_loses_nothing",
        says="data came between BlockingIOError and the wait, which never ended",
        request=at_home_in(Forgetful),
    ),
    Mutant(
        check="closing_the_watch_ends_waits",
        says="the watch was closed while a task waited for it, and its wait never ended",
        request=at_home_in(Clinging),
    ),
    # A whole listening socket.
    Mutant(
        check="listening_socket_accepts",
        says="octets were to come back",
        channel={"recv": upper},
    ),
    Mutant(
        check="listening_socket_awaits_large_uploads",
        says="not all came: an edge was lost",
        channel={"recv": recv_deaf},
    ),
    Mutant(
        check="listening_socket_indicates_large_uploads",
        says="not all came: an edge was lost",
        channel={"recv": recv_deaf},
    ),
    Mutant(
        check="listening_socket_has_events",
        says="a peer did not get 4 octets that were sent to it",
        request=at_home_in(Deaf),
    ),
    Mutant(
        check="listening_socket_asks_and_accepts",
        says="a peer was let through, and accept() never returned it",
        request={"approve": approve_and_forget},
    ),
    Mutant(
        check="listening_socket_asks_and_rejects",
        says="a peer was turned away with CloseStyle.FIN, and saw reset",
        request={"finish": lambda self: self.real.reset()},
    ),
    Mutant(
        check="listening_socket_has_last_words",
        says="a peer was to read b'421 busy', and read b''",
        channel={"send": send_nowhere},
    ),
    Mutant(
        check="listening_socket_completes_what_is_pended",
        says="2 peers have connected, and so many were not pended",
        request={"serial_number": Property(lambda self: 7)},
    ),
    Mutant(
        check="listening_socket_aborts_who_leaves",
        says="a peer left while it was pended, and nothing was told",
        request={"watch_end": nothing},
    ),
    Mutant(
        check="listening_socket_runs_out_of_time",
        says="a peer that was turned away was not told",
        request={"reset": nothing},
    ),
    Mutant(
        check="listening_socket_closes",
        says="a peer that was turned away was not told",
        request={"reset": nothing},
    ),
    Mutant(
        check="listening_socket_peeks",
        says="a peer was let through, and accept() never returned it",
        request={"peek": peek_and_take},
    ),
    Mutant(
        check="peek_leaves_the_octets",
        says="a peer has sent b'first, second', and peek() saw b', second'",
        inspect_point=BEFORE,
        request={"peek": peek_and_take},
    ),
    Mutant(
        check="reset_is_told",
        says="a peer has reset, and RESET was not told",
        inspect_point=BEFORE,
        request=telling(lambda tell, end: None),
    ),
    Mutant(
        check="listening_socket_asks_in_two_stages",
        says="a peer was to read b'421 busy', and read b''",
        inspect_point=BEFORE,
        transport={"close_styles": lambda self: self.real.close_styles_when_established()},
        channel={"send": send_nowhere},
    ),
    Mutant(
        check="listening_socket_withholds_the_handshake",
        says="a peer was answered before the verdict",
        inspect_point=BEFORE,
        transport={"next_request": approve_at_once},
    ),
]
