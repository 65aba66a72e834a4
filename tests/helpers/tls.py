"""TLS in memory: a client's side of it, and a channel that a test writes to and reads from."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.serving import CA, server_context

__all__ = [
    "OLD",
    "VERSIONS",
    "ScriptedChannel",
    "TLSPeer",
    "client_context",
    "key_updates",
    "over_any_line",
    "pieces_of",
    "server_context",
]

Test = TypeVar("Test", bound=Callable[..., None])

OLD = ssl.TLSVersion.TLSv1_2
"""The other version that is spoken; without it, it is TLS 1.3."""

VERSIONS = pytest.mark.parametrize("version", [None, OLD], ids=["1.3", "1.2"])


def over_any_line(test: Test) -> Test:
    """Run a test with sizes of what is sent, and what the line below TLS is like."""
    unhurried = settings(
        max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    of_any_line = given(
        sizes=st.lists(st.one_of(st.integers(1, 100), st.integers(1, 200000)), max_size=8),
        loss=st.sampled_from([0.0, 0.1]),
        seed=st.integers(0, 3),
        old=st.booleans(),
    )
    return cast("Test", unhurried(of_any_line(test)))


def pieces_of(sizes: list[int]) -> list[bytes]:
    """Make pieces of these sizes, each of its own letter."""
    return [bytes([65 + count]) * size for count, size in enumerate(sizes)]


def client_context(
    version: ssl.TLSVersion | None = None, alpn: list[str] | None = None
) -> ssl.SSLContext:
    """Make a context that trusts server.test."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    if version is not None:
        context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


class ScriptedChannel:
    """A channel whose other end is the test: what has come, and what was sent.

    It gives what comes in the pieces in which it came. An empty piece is FIN, and an `OSError` is
    raised.
    """

    def __init__(self) -> None:
        self.comes: list[bytes | OSError] = []
        self.sent = bytearray()
        self.room: int | None = None
        """How many octets may be sent; None for as many as there are."""
        self.most = 1 << 30
        """How many go at once."""
        self.failure: OSError | None = None
        """What sending fails with."""
        self.has_finished = False
        self.is_closed = False

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return what has come, up to the end of a piece."""
        if not self.comes:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        piece = self.comes[0]
        if isinstance(piece, OSError):
            raise piece
        if not piece:
            return b""
        self.comes[:1] = [rest] if (rest := piece[bufsize:]) else []
        return piece[:bufsize]

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """TLS does not."""
        raise NotImplementedError

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0, /) -> int:
        """Take what there is room for."""
        if self.failure is not None:
            raise self.failure
        if self.room == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        taken = bytes(data[: min(self.most, len(data) if self.room is None else self.room)])
        if self.room is not None:
            self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def shutdown(self, how: int, /) -> None:
        """Take note."""
        if self.failure is not None:
            raise self.failure
        assert how == socket.SHUT_WR
        self.has_finished = True

    def close(self) -> None:
        """Take note."""
        self.is_closed = True

    def fileno(self) -> int:
        """There is no descriptor."""
        return -1


class TLSPeer:
    """A client over a `ScriptedChannel`.

    Args:
      channel: What its server has.
      context: The client's.
      name: Whom it asks for.
    """

    def __init__(
        self,
        channel: ScriptedChannel,
        context: ssl.SSLContext | None = None,
        name: str = "server.test",
    ) -> None:
        self._channel = channel
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(
            self._incoming, self._outgoing, server_hostname=name
        )

    def shake_hands(self) -> bytes:
        """Go on with the handshake; return what is to be said next."""
        self._hear()
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def encrypted(self, data: bytes) -> bytes:
        """Encrypt: one record, or a few."""
        for start in range(0, len(data), 1 << 14):
            self.tls.write(data[start : start + (1 << 14)])
        return self._outgoing.read()

    def good_bye(self) -> bytes:
        """Return what says close_notify."""
        self._hear()
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def received(self) -> bytes:
        """Return the plain octets that the server has sent; ``b"."`` stands for close_notify."""
        self._hear()
        octets = b""
        while True:
            try:
                data = self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                return octets
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                return octets + b"."
            octets += data

    def answers(self) -> bytes:
        """Return what hearing has made it say."""
        return self._outgoing.read()

    def _hear(self) -> None:
        self._incoming.write(bytes(self._channel.sent))
        self._channel.sent.clear()


def key_updates(key_log: Path, count: int) -> bytes:
    """Return KeyUpdates, each of which asks for one in return: what no library sends in numbers.

    They are the first that a client says after its handshake, over TLS_AES_256_GCM_SHA384.

    Source: RFC 8446, sections 4.6.3, 5.2, 5.3, 7.1 to 7.3.

    Args:
      key_log: What the client's context has logged (`ssl.SSLContext.keylog_filename`).
      count: How many.
    """
    (line,) = [
        line for line in key_log.read_text().splitlines() if "CLIENT_TRAFFIC_SECRET_0" in line
    ]
    secret = bytes.fromhex(line.split()[2])
    said = b""
    for _ in range(count):
        key, nonce = _expanded(secret, b"key", 32), _expanded(secret, b"iv", 12)
        header = b"\x17\x03\x03" + (6 + 16).to_bytes(2, "big")
        said += header + AESGCM(key).encrypt(nonce, b"\x18\0\0\x01\x01\x16", header)
        secret = _expanded(secret, b"traffic upd", 48)
    return said


def _expanded(secret: bytes, label: bytes, length: int) -> bytes:
    name = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0\x01"
    return hmac.digest(secret, info, hashlib.sha384)[:length]
