"""Where connection requests come from.

`PortableTransport` is what ``open_listening_socket()`` makes by itself out of a port, a
path or sockets. Make one yourself to wrap it, say, or to choose it elsewhere::

    transport = PortableTransport.tcp(8000, host="localhost")
    async with open_listening_socket(transport=transport) as listening: ...

`LinuxTransport` is what it makes when requests are to be inspected before the handshake; it
has options of its own.

To make a transport of another kind, subclass `Transport` and `TransportRequest`, and hold it
against `trio_wsk.testing.check_transport`.
"""

# For the rooms above, the contract: others import from `_contract`, and take `_choosing`, which
# makes a transport of what a user has given, `_syn`, `_probe`, `_tcp_info`, and what has a
# connection speak TLS: `_tls_request`, `_tls_channel` and `_tls_info`. Transports of other rooms
# have `_accept_errors` and `_heartbeat` in common with ours.
#
# Never here: inspectors, who gets a connection, and what a connection is.

from __future__ import annotations

from trio_wsk._engine.readiness import Readiness, Watch
from trio_wsk._vocabulary.refused import NetworkList, RefusedNetworks, RefusedSources

from ._activation import listen_fds
from ._contract import (
    Channel,
    NoDescriptorsError,
    PeerEnd,
    PeerFaultError,
    RequestKeeper,
    Transport,
    TransportFailedError,
    TransportRequest,
)
from ._syn import Syn, TcpOption, Timestamps
from .linux.transport import LinuxTransport
from .portable import PortableTransport

__all__ = [
    "Channel",
    "LinuxTransport",
    "NetworkList",
    "NoDescriptorsError",
    "PeerEnd",
    "PeerFaultError",
    "PortableTransport",
    "Readiness",
    "RefusedNetworks",
    "RefusedSources",
    "RequestKeeper",
    "Syn",
    "TcpOption",
    "Timestamps",
    "Transport",
    "TransportFailedError",
    "TransportRequest",
    "Watch",
    "listen_fds",
]

# So that tracebacks and documentation name the place to import them from.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
