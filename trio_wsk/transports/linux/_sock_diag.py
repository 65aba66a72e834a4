"""What became of a connection whose SYN was let through, asked of the kernel (sock_diag).

A lookup names all four of addresses and ports, costs the kernel one look into its tables, and
takes no privileges.

Source: sock_diag(7); ``inet_diag_find_one_icsk``, net/ipv4/inet_diag.c.
"""

from __future__ import annotations

import enum
import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

from ._messages import NetlinkError
from ._netlink import SOCK_DIAG, KernelRefusedError, NetlinkSocket

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address

__all__ = ["KernelState", "SocketLookup", "parse_state"]

_BY_FAMILY: Final = 20
"""SOCK_DIAG_BY_FAMILY: the question, and the answer."""
_TCP: Final = 6
_ANY_COOKIE: Final = 0xFFFFFFFF
_ALL_STATES: Final = 0xFFFFFFFF

_IPV4: Final = 2
_IPV6: Final = 10

# Family, protocol, extensions, states; then both ports, both addresses, interface and cookie.
_QUESTION: Final = struct.Struct("=BBBxI2s2s16s16sIII")
_STATE: Final = struct.Struct("=xB66xI")  # and the inode: 0 until somebody has accepted it
_ANSWER_SIZE: Final = 72
"""struct inet_diag_msg, which attributes may follow."""

_TIME_WAIT: Final = 6
_CLOSE: Final = 7
_LISTEN: Final = 10
_NEW_SYN_RECV: Final = 12
_SYN_RECV: Final = 3
_HIGHEST: Final = 13


class KernelState(enum.Enum):
    """How far a connection has come, on our side."""

    SYN_RECEIVED = "syn-received"
    """We have sent SYN-ACK, and wait for the peer's ACK."""
    ESTABLISHED = "established"
    """The handshake is over, and nobody has accepted it; what came after does not matter here."""
    GONE = "gone"
    """There is none that could still be accepted: only the listening socket, one that somebody has,
    or one that is over. accept() may still yield one that was reset after its handshake."""
    UNKNOWN = "unknown"
    """There is not even a listening socket: it is closed, or this kernel does not tell (it has no
    tcp_diag)."""


class SocketLookup:
    """Looks connections up.

    Raises:
      KernelRefusedError: this kernel has no sock_diag.
    """

    __slots__ = ("_socket",)

    def __init__(self) -> None:
        self._socket = NetlinkSocket(SOCK_DIAG)

    def state_of(self, local: Address, remote: Address) -> KernelState:
        """Say how far the connection between these two addresses has come.

        Link-local addresses need their scope id.

        Raises:
          KernelRefusedError: the kernel does not say.
          NetlinkError: its answer can't be read.
        """
        ours, theirs = local.host, remote.host
        assert ours is not None  # addresses of TCP have hosts
        assert theirs is not None
        question = _QUESTION.pack(
            _IPV4 if local.family == socket.AF_INET else _IPV6,
            _TCP,
            0,
            _ALL_STATES,
            local.port.to_bytes(2, "big"),
            remote.port.to_bytes(2, "big"),
            ours.packed,
            theirs.packed,
            remote.scope_id or local.scope_id,
            _ANY_COOKIE,
            _ANY_COOKIE,
        )
        try:
            answers = self._socket.request(
                _BY_FAMILY, question, step=f"look up the connection from {remote} to {local}"
            )
        except KernelRefusedError as error:
            if error.code == errno.ENOENT:
                return KernelState.UNKNOWN
            raise
        return parse_state(b"".join(answer.body for answer in answers))

    def close(self) -> None:
        """Close the lookup; idempotent."""
        self._socket.close()


def parse_state(body: bytes) -> KernelState:
    """Read the answer to a lookup.

    Raises:
      NetlinkError: it is cut short, or TCP has no such state.
    """
    if len(body) < _ANSWER_SIZE:
        raise NetlinkError(f"{len(body)} octets are too few for an answer about a connection")
    state, inode = _STATE.unpack_from(body)
    if not 1 <= state <= _HIGHEST:
        raise NetlinkError(f"TCP has no state {state}")
    if state in {_SYN_RECV, _NEW_SYN_RECV}:
        return KernelState.SYN_RECEIVED
    if state in {_LISTEN, _CLOSE, _TIME_WAIT}:
        return KernelState.GONE
    return KernelState.GONE if inode else KernelState.ESTABLISHED
