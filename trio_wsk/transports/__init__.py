"""Where connection requests come from.

`PortableTransport` is what ``open_listening_socket()`` makes by itself out of a port, a
path or sockets. Make one yourself to set what it has no argument for, such as options
that a socket needs before it is bound::

    transport = PortableTransport.tcp(8000, socket_options=[(IPPROTO_IP, IP_FREEBIND, 1)])
    async with open_listening_socket(transport=transport) as listening: ...

To make a transport of another kind, see `Transport`.
"""

from __future__ import annotations

from ._activation import listen_fds
from .portable import PortableTransport

__all__ = ["PortableTransport", "listen_fds"]

# So that tracebacks and documentation name the place to import them from.
PortableTransport.__module__ = __name__
listen_fds.__module__ = __name__
