"""
Networks of their own: one server and its client in each, and nothing else.

A server that has the kernel hold SYNs needs a right that root has, and that anybody has in
a network of their own; and the rules that it makes there cost no other server anything.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio_wsk

from ._processes import NotHereError

_NEW_NETWORK: Final = 0x40000000
_NEW_USER: Final = 0x10000000
"""CLONE_NEWNET and CLONE_NEWUSER; `os` has names for them since Python 3.12."""

_SET_FLAGS: Final = 0x8914
_UP_AND_RUNNING: Final = 0x41

_HERE: Final = "/proc/thread-self/ns/net"


class Network:
    """A network namespace with a loopback interface, which is up."""

    def __init__(self) -> None:
        """Take the one that this process is in."""
        self._fd = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be there while the block runs: what is started meanwhile stays there."""
        home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._fd)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)

    def close(self) -> None:
        """Let go of it; it ends with the last process in it."""
        os.close(self._fd)


@contextmanager
def own_network() -> Iterator[Network]:
    """Make a network, and stay where we are.

    Who may not do so is first made root of a user namespace. There is no way back from there,
    and none is needed: it takes away nothing that a benchmark uses.

    Raises:
      NotHereError: this process may have neither.
    """
    home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            _call("unshare", _NEW_NETWORK)
        except PermissionError:
            _become_root_of_our_own()
            os.close(home)
            home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            _call("unshare", _NEW_NETWORK)
        try:
            _set_loopback_up()
            network = Network()
        finally:
            _enter(home)
    except OSError as exc:
        raise NotHereError(f"no network namespace can be had here: {exc}") from exc
    finally:
        os.close(home)
    try:
        yield network
    finally:
        network.close()


def check_gate(network: Network) -> None:
    """See whether the kernel holds SYNs there for who asks.

    Raises:
      NotHereError: it doesn't.
    """
    with network.entered():
        report = trio_wsk.probe()
    if trio_wsk.InspectPoint.BEFORE_HANDSHAKE not in report.inspect_points:
        raise NotHereError(report.find("before-handshake").found)


def _become_root_of_our_own() -> None:
    """Enter a user namespace, and a network namespace that belongs to it."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _NEW_USER | _NEW_NETWORK)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path("/proc/self", name).write_text(line, encoding="ascii")
    _set_loopback_up()


def _set_loopback_up() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", _UP_AND_RUNNING)
        fcntl.ioctl(any_socket, _SET_FLAGS, request)


def _enter(network: int) -> None:
    _call("setns", network, _NEW_NETWORK)


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc[name](*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
