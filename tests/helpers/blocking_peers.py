"""Peers that block: while they wait no task runs, and the kernel answers by itself."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import Address

PATIENCE: Final = 30
"""Seconds after which what a test waits for has failed to come."""


def connected(address: Address) -> socket.socket:
    """Connect a peer; on this machine the kernel answers without anybody's help."""
    peer = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        peer.settimeout(PATIENCE)
        peer.connect(address.sockaddr)
    except BaseException:
        peer.close()
        raise
    return peer


def fate_of(peer: socket.socket) -> str:
    """Read to the end, and say which one it was: ``fin`` or ``reset``."""
    try:
        while peer.recv(1 << 16):
            pass
    except ConnectionResetError:
        return "reset"
    return "fin"


def await_event(descriptor: int | socket.socket, event: int = select.POLLIN) -> None:
    """Wait until the kernel says so."""
    poll = select.poll()
    poll.register(descriptor, event)
    assert poll.poll(PATIENCE * 1000), "the kernel says nothing"


def spin_until(condition: Callable[[], object]) -> None:
    """Wait for what the kernel does by itself and announces to nobody."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
