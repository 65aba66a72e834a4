"""A server toolkit for Trio, after Winsock Kernel's listening sockets.

Connections are awaited one queued accept at a time, or delivered to callbacks, and can be
inspected before that; all of it lives inside a nursery. Start with `serve`;
`open_listening_socket` is what it is made of.
"""

from __future__ import annotations

from . import inspectors, observers, transports
from ._connection.connecting import connect
from ._connection.connection import Connection
from ._connection.dispatch import ConnectionDispatch, Taken
from ._engine.irp import Irp
from ._inspection.pending import PendingInspections
from ._inspection.request import ConnectionRequest
from ._listening.dispatch import ListenDispatch
from ._listening.listening import ListeningSocket
from ._listening.opening import open_listening_socket
from ._listening.options import EventServerOptions, ListeningOptions, ServerOptions
from ._listening.socket_streams import SocketStreams
from ._reading.reader import Reader
from ._serving.notifying import notify_service_manager
from ._serving.opening import open_server, serve, serve_events
from ._serving.running import run
from ._serving.server import Server
from ._vocabulary.address_sets import AddressSet
from ._vocabulary.addresses import Address
from ._vocabulary.connection_state import ConnectionState
from ._vocabulary.credentials import PeerCredentials
from ._vocabulary.end_reason import EndReason
from ._vocabulary.errors import (
    BindError,
    ConnectError,
    ConnectionBrokenError,
    EndOfStreamError,
    ForcedClosedError,
    IncompleteReadError,
    InspectPointError,
    InvalidDeviceStateError,
    InvalidParameterError,
    NoSocketError,
    OperationCancelledError,
    ReadLimitError,
    SocketBusyError,
    SocketClosedError,
    WouldBlockError,
    WskError,
)
from ._vocabulary.facts import Facts
from ._vocabulary.listening_state import ListeningState
from ._vocabulary.more import More
from ._vocabulary.statistics import DrainReport, ListeningStatistics, ServerStatistics
from ._vocabulary.status import EventMask, Status
from ._vocabulary.verdict import (
    AbortReason,
    CloseStyle,
    InspectAction,
    InspectId,
    InspectPoint,
    Overflow,
    Verdict,
)
from .transports._probe import Finding, ProbeReport, probe
from .transports._tls_info import TLSInfo

__all__ = [
    "AbortReason",
    "Address",
    "AddressSet",
    "BindError",
    "CloseStyle",
    "ConnectError",
    "Connection",
    "ConnectionBrokenError",
    "ConnectionDispatch",
    "ConnectionRequest",
    "ConnectionState",
    "DrainReport",
    "EndOfStreamError",
    "EndReason",
    "EventMask",
    "EventServerOptions",
    "Facts",
    "Finding",
    "ForcedClosedError",
    "IncompleteReadError",
    "InspectAction",
    "InspectId",
    "InspectPoint",
    "InspectPointError",
    "InvalidDeviceStateError",
    "InvalidParameterError",
    "Irp",
    "ListenDispatch",
    "ListeningOptions",
    "ListeningSocket",
    "ListeningState",
    "ListeningStatistics",
    "More",
    "NoSocketError",
    "OperationCancelledError",
    "Overflow",
    "PeerCredentials",
    "PendingInspections",
    "ProbeReport",
    "ReadLimitError",
    "Reader",
    "Server",
    "ServerOptions",
    "ServerStatistics",
    "SocketBusyError",
    "SocketClosedError",
    "SocketStreams",
    "Status",
    "TLSInfo",
    "Taken",
    "Verdict",
    "WouldBlockError",
    "WskError",
    "connect",
    "inspectors",
    "notify_service_manager",
    "observers",
    "open_listening_socket",
    "open_server",
    "probe",
    "run",
    "serve",
    "serve_events",
    "transports",
]

# So that tracebacks and documentation name the place to import them from.
for _name in sorted({*__all__} - {"inspectors", "observers", "transports"}):
    globals()[_name].__module__ = __name__
del _name
