"""A server toolkit for Trio, after Winsock Kernel's listening sockets.

Connections are awaited one queued accept at a time, or delivered to callbacks; either way
they live inside a nursery. Start with `serve`; `open_listening_socket` is what it is made of.
"""

from __future__ import annotations

from . import observers, transports
from ._addresses import Address, AddressSet
from ._connection import Connection
from ._dispatch import ConnectionDispatch, ListenDispatch
from ._errors import (
    BindError,
    ConnectionBrokenError,
    ForcedClosedError,
    InvalidDeviceStateError,
    InvalidParameterError,
    OperationCancelledError,
    SocketBusyError,
    SocketClosedError,
    WouldBlockError,
    WskError,
)
from ._irp import Irp
from ._listening import ListeningSocket, open_listening_socket
from ._serving import Server, open_server, serve, serve_events
from ._statistics import DrainReport, ListeningStatistics, ServerStatistics
from ._status import EventMask, Status

__all__ = [
    "Address",
    "AddressSet",
    "BindError",
    "Connection",
    "ConnectionBrokenError",
    "ConnectionDispatch",
    "DrainReport",
    "EventMask",
    "ForcedClosedError",
    "InvalidDeviceStateError",
    "InvalidParameterError",
    "Irp",
    "ListenDispatch",
    "ListeningSocket",
    "ListeningStatistics",
    "OperationCancelledError",
    "Server",
    "ServerStatistics",
    "SocketBusyError",
    "SocketClosedError",
    "Status",
    "WouldBlockError",
    "WskError",
    "observers",
    "open_listening_socket",
    "open_server",
    "serve",
    "serve_events",
    "transports",
]

# So that tracebacks and documentation name the place to import them from.
for _name in sorted({*__all__} - {"observers", "transports"}):
    globals()[_name].__module__ = __name__
del _name
