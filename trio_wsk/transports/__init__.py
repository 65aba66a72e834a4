"""Where connection requests come from.

`PortableTransport` is what ``open_listening_socket()`` makes by itself out of a port, a
path or sockets. Make one yourself to set what it has no argument for, such as options
that a socket needs before it is bound::

    transport = PortableTransport.tcp(8000, socket_options=[(IPPROTO_IP, IP_FREEBIND, 1)])
    async with open_listening_socket(transport=transport) as listening: ...

To make a transport of another kind, subclass `Transport` and `TransportRequest`.
"""

from __future__ import annotations

from trio_wsk._transport import (
    Channel,
    NoDescriptorsError,
    PeerFaultError,
    Transport,
    TransportFailedError,
    TransportRequest,
)

from ._activation import listen_fds
from .portable import PortableTransport

__all__ = [
    "Channel",
    "NoDescriptorsError",
    "PeerFaultError",
    "PortableTransport",
    "Transport",
    "TransportFailedError",
    "TransportRequest",
    "listen_fds",
]

# So that tracebacks and documentation name the place to import them from.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
