"""Which ports of a host are taken."""

from __future__ import annotations

import errno
import os
from itertools import chain
from typing import TYPE_CHECKING, Final

from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError

from ._segments import Key, address_of

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address

    from ._carrier import Carrier, Listener

__all__ = ["Ports", "checked_port"]

_FIRST: Final = 32768
_LAST: Final = 60999
"""Linux's choice of ports for those who ask for none (ip_local_port_range)."""

_HIGHEST: Final = 0xFFFF


class Ports:
    """The ports of one host."""

    def __init__(self, carrier: Carrier, octets: bytes) -> None:
        self.carrier = carrier
        self._octets = octets
        self.next: int = _FIRST
        """The port that is tried first when any will do."""

    def key_to(self, octets: bytes, port: int) -> Key:
        """Choose the port that a connection comes from.

        Raises:
          OSError: all are taken by connections to the same place (EADDRNOTAVAIL).
        """
        carrier = self.carrier
        own = self._octets
        for candidate in chain(range(self.next, _LAST + 1), range(_FIRST, self.next)):
            key = (own, candidate, octets, port)
            end = carrier.ends.get(key)
            if (end is None or end.remains) and (own, candidate) not in carrier.bound:
                self.next = _FIRST if candidate == _LAST else candidate + 1
                return key
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def bind(self, listener: Listener, port: int) -> Address:
        """Give a port to a listening socket.

        Raises:
          BindError: somebody has it (EADDRINUSE).
        """
        carrier = self.carrier
        own = self._octets
        if not port:
            candidates = chain(range(self.next, _LAST + 1), range(_FIRST, self.next))
            port = next((each for each in candidates if (own, each) not in carrier.bound), 0)
            self.next = _FIRST if port == _LAST else port + 1
        if not port or (own, port) in carrier.bound:
            error = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            raise BindError.from_oserror(
                error,
                str(address_of(own, port)),
                "another transport of this host listens there; take another port, or port 0",
            ) from error
        carrier.bound[own, port] = listener
        return address_of(own, port)

    def release(self, listener: Listener, port: int) -> None:
        """Take the port back."""
        if self.carrier.bound.get((self._octets, port)) is listener:
            del self.carrier.bound[self._octets, port]


def checked_port(port: int) -> int:
    """Return the port, if it is one."""
    if not whole_number(port) or not 0 <= port <= _HIGHEST:
        raise InvalidParameterError(f"port={port!r} is no TCP port: they go from 0 to {_HIGHEST}")
    return port
