"""What happened, as frozen records for observers.

A record is made only when somebody observes its kind; counters are kept always. No
record holds a connection, a payload or anything else that keeps things alive, but for
the traceback of its ``error`` where it has one: it can be stored, compared and sent away.

`at` is seconds on Trio's clock (``trio.current_time()``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .verdict import InspectPoint

if TYPE_CHECKING:
    from .addresses import Address
    from .end_reason import EndReason
    from .verdict import AbortReason, CloseStyle, InspectId

__all__ = [
    "AcceptBackoffEnded",
    "AcceptBackoffStarted",
    "AcceptErrorIgnored",
    "CallbackFailed",
    "CloseStyleUnavailable",
    "ConnectionAccepted",
    "ConnectionDropped",
    "ConnectionEnded",
    "ConnectionUnparked",
    "DrainFinished",
    "DrainStarted",
    "HandlerFailed",
    "HandshakeFailed",
    "InspectorStraggles",
    "ListenerFailed",
    "NetworksRead",
    "NetworksUnreadable",
    "PeerLeft",
    "Record",
    "RequestAborted",
    "RequestApproved",
    "RequestPended",
    "RequestRejected",
    "RuleWouldReject",
    "ServerStarted",
    "SharedBack",
    "SharedLost",
]


@attrs.frozen(kw_only=True)
class Record:
    """Something that happened to a listening socket or to what came through it."""

    at: float
    """When, in seconds on Trio's clock."""


@attrs.frozen(kw_only=True)
class ConnectionAccepted(Record):
    """The transport handed over a connection; where it goes is not said yet."""

    remote_address: Address
    """The peer, as accept gave it."""


@attrs.frozen(kw_only=True)
class ConnectionDropped(Record):
    """An accepted connection was closed without being delivered to anybody."""

    remote_address: Address
    """The peer."""
    reason: str
    """A slug, as in ``statistics().dropped``: ``refused``, ``not-accepted``, …"""


@attrs.frozen(kw_only=True)
class ConnectionUnparked(Record):
    """A connection that was parked has been taken, by an accept, a server or the accept event."""

    remote_address: Address
    """The peer."""
    parked_at: float
    """Since when it had waited, in seconds on Trio's clock."""


@attrs.frozen(kw_only=True)
class ConnectionEnded(Record):
    """A delivered connection was closed on our side, whoever had ended it.

    Observers hear it of the connections of a server, closed callbacks of any with events. What
    went through `Connection.socket` is not counted.
    """

    remote_address: Address
    """The peer."""
    inspect_id: InspectId | None
    """What its request was inspected by; None without an inspector."""
    opened_at: float
    """When it was handed over, in seconds on Trio's clock."""
    octets_received: int
    """Octets received: `trio_wsk.Connection.octets_received`."""
    octets_sent: int
    """Octets that the kernel took; the peer may have got fewer."""
    reason: EndReason
    """How it ended."""
    error: BaseException | None
    """What broke it, as the operating system said, or what a callback or handler raised."""


@attrs.frozen(kw_only=True)
class RequestPended(Record):
    """An inspector wants to answer later; it is `ListeningSocket.inspect_complete` that will."""

    inspect_id: InspectId
    """Which request."""
    remote_address: Address
    """The peer."""


@attrs.frozen(kw_only=True)
class RequestApproved(Record):
    """An inspected request was let through; it is delivered next, or aborted."""

    inspect_id: InspectId
    """Which request."""
    remote_address: Address
    """The peer."""
    arrived_at: float
    """When the request had come, in seconds on Trio's clock."""


@attrs.frozen(kw_only=True)
class RequestRejected(Record):
    """An inspected request was refused."""

    inspect_id: InspectId
    """Which request."""
    remote_address: Address
    """The peer."""
    arrived_at: float
    """When the request had come, in seconds on Trio's clock."""
    reason: str
    """The verdict's slug, as in ``statistics().rejected``."""
    close: CloseStyle
    """How the peer was told."""
    stage: InspectPoint = InspectPoint.AFTER_HANDSHAKE
    """Who has refused it: who was asked before its handshake, or who was asked after it."""


@attrs.frozen(kw_only=True)
class RequestAborted(Record):
    """A request that was not rejected ended before it was delivered."""

    inspect_id: InspectId
    """Which request."""
    remote_address: Address
    """The peer."""
    reason: AbortReason
    """Who left, or who ended it."""


@attrs.frozen(kw_only=True)
class CloseStyleUnavailable(Record):
    """A peer could not be turned away as its verdict said, and was reset."""

    remote_address: Address
    """The peer."""
    close: CloseStyle
    """What the verdict said."""


@attrs.frozen(kw_only=True)
class InspectorStraggles(Record):
    """An inspector that was cancelled has not ended. Its request has; its answer is ignored.

    Leaving the listening block waits for it.
    """

    inspect_id: InspectId
    """Which request it was asked about."""
    remote_address: Address
    """The peer, which is gone."""
    seconds: float
    """How long ago it was cancelled, on Trio's clock."""


@attrs.frozen(kw_only=True)
class AcceptErrorIgnored(Record):
    """Accepting one connection failed by its peer's or the network's fault; we went on."""

    errno_name: str
    """Such as ``ECONNABORTED``; accept(2) says what each means."""


@attrs.frozen(kw_only=True)
class AcceptBackoffStarted(Record):
    """The machine is out of descriptors or memory. Peers wait in the kernel's backlog meanwhile.

    Told once, when it starts, however often accepting is tried in vain. What to do:
    raise the limit (``ulimit -n``), or limit what is open at once (``max_connections``).

    Or accepting fails again and again, 256 times in a row, with an error that should have been one
    peer's: find out what forbids it (a security module, a filter of system calls).
    """

    errno_name: str
    """``EMFILE`` (this process), ``ENFILE`` (the machine), ``ENOMEM`` or ``ENOBUFS``; in the other
    case ``EPERM``, say, and then the policy is ``backoff``."""
    policy: str
    """``backoff`` or ``shed``."""


@attrs.frozen(kw_only=True)
class AcceptBackoffEnded(Record):
    """Accepting works again: told when the next peer has been accepted.

    None is told if the listening socket is closed before that.
    """

    seconds: float
    """From the first failure to the last one, in seconds."""
    attempts: int
    """How often accepting was tried in vain."""
    shed: int
    """How many peers were reset meanwhile, under the policy ``shed``."""


@attrs.frozen(kw_only=True)
class ListenerFailed(Record):
    """The listening socket itself has failed and takes no more connections."""

    error: BaseException
    """What the operating system said."""


@attrs.frozen(kw_only=True)
class CallbackFailed(Record):
    """A callback raised, or returned what means nothing. What it concerned was ended."""

    callback: str
    """Which: ``accept``, ``inspect``, ``abort``, ``receive``, ``disconnect``, ``send_backlog``,
    ``closed``, ``drain`` or ``on_completion``."""
    error: BaseException
    """What it raised, or a `TypeError` or `ValueError` that names what it returned."""
    remote_address: Address | None
    """The peer of the connection that was reset for it; None if it concerned none."""


@attrs.frozen(kw_only=True)
class HandlerFailed(Record):
    """A handler crashed. Its connection was reset; nothing else noticed."""

    error: BaseException
    """What it raised, without the parts that are no crash."""
    remote_address: Address
    """The peer whose connection was reset."""


@attrs.frozen(kw_only=True)
class PeerLeft(Record):
    """A handler ended because its own peer went away: no crash."""

    remote_address: Address
    """The peer."""


@attrs.frozen(kw_only=True)
class HandshakeFailed(Record):
    """A TLS handshake did not succeed; no handler was started, and nobody called."""

    remote_address: Address
    """The peer."""
    reason: str
    """``timeout``, ``peer-left`` or ``protocol``."""
    error: BaseException | None
    """What the handshake raised; None when it ran out of time."""


@attrs.frozen(kw_only=True)
class ServerStarted(Record):
    """A server listens, and takes connections."""

    local_addresses: tuple[Address, ...]
    """Where; with the port that the kernel chose, if it was asked to."""


@attrs.frozen(kw_only=True)
class DrainStarted(Record):
    """The server takes nobody but who waits already, and has told its connections to finish."""

    open_connections: int
    """How many were open."""
    grace: float
    """How many seconds they were given."""


@attrs.frozen(kw_only=True)
class DrainFinished(Record):
    """No connection of the server is left."""

    finished: int
    """How many ended by themselves."""
    reset: int
    """How many were still open when the grace ran out."""


@attrs.frozen(kw_only=True)
class RuleWouldReject(Record):
    """A rule in a dry run has had an objection, which has changed nothing."""

    inspect_id: InspectId
    """Which request."""
    remote_address: Address
    """The peer."""
    rule: str
    """What the rule is counted by."""
    reason: str
    """The slug that a rejection would have had."""


@attrs.frozen(kw_only=True)
class NetworksRead(Record):
    """A file of networks has changed, and was read."""

    path: str
    """Its path."""
    networks: int
    """How many are in it, the fewest that say it."""


@attrs.frozen(kw_only=True)
class NetworksUnreadable(Record):
    """A file of networks could not be read, or is broken: what it said before is still so."""

    path: str
    """Its path."""
    error: Exception
    """Why."""


@attrs.frozen(kw_only=True)
class SharedLost(Record):
    """The server through which a rule is shared does not answer: its fallback decides from now on.

    Told once, when it starts. What to do: look after the server, and the way to it.
    """

    name: str
    """What the rule is counted by."""
    error: Exception | None
    """What the client says; None if there was no answer in time."""


@attrs.frozen(kw_only=True)
class SharedBack(Record):
    """The server through which a rule is shared answers again, and decides."""

    name: str
    """What the rule is counted by."""
    seconds: float
    """For how long the fallback has decided, in seconds."""
