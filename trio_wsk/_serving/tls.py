"""TLS around a handler: a handshake before it, under a deadline, and a good-bye after it."""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._connection import control
from trio_wsk._connection.faults import has_finished, why_no_handshake
from trio_wsk._vocabulary import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.block import Block
    from trio_wsk._connection.connection import Connection

    from .handlers import TLSHandler

__all__ = ["CLOSE_NOTIFY_TIMEOUT", "HandlerOverTLS"]

CLOSE_NOTIFY_TIMEOUT: Final = 5.0
"""Seconds for saying good-bye over TLS, after the handler has returned."""


class HandlerOverTLS:
    """A handler of TLS streams, as one of plain connections.

    Args:
      handler: What each stream is given to, once it has shaken hands.
      context: A server's, with a certificate.
      handshake_timeout: Seconds on Trio's clock for the handshake.
      https_compatible: Whether an end without close_notify is an end; see `trio.SSLStream`.
      block: The listening block that the connections live in.
      begun: Told of each that has shaken hands.
    """

    def __init__(
        self,
        handler: TLSHandler,
        context: ssl.SSLContext,
        *,
        handshake_timeout: float,
        https_compatible: bool,
        block: Block,
        begun: Callable[[Connection], None],
    ) -> None:
        self.handshake_failures: Counter[str] = Counter()
        """How many handshakes have failed, by reason."""
        self._handler = handler
        self._context = context
        self._handshake_timeout = handshake_timeout
        self._https_compatible = https_compatible
        self._block = block
        self._begun = begun
        block.is_under_tls = True

    async def handle(self, connection: Connection) -> None:
        """Shake hands, call the handler, and say good-bye."""
        stream = trio.SSLStream(
            connection,
            self._context,
            server_side=True,
            https_compatible=self._https_compatible,
        )
        if await self._shake_hands(stream):
            self._begun(connection)
            try:
                await self._handler(stream)
            except Exception as error:
                if has_finished(connection, error) and control.may_send(connection):
                    # That the peer has finished may get lost if the server is cancelled.
                    await self._say_good_bye(stream)  # noqa: ASYNC120 - as it says
                raise
            if control.may_send(connection):
                await self._say_good_bye(stream)

    async def _say_good_bye(  # noqa: ASYNC910 - `Handlers._run` needs none
        self, stream: trio.SSLStream[Connection]
    ) -> None:
        """Send close_notify, if it can still be sent: the handler may have ended its transport."""
        with (
            trio.move_on_after(CLOSE_NOTIFY_TIMEOUT),
            suppress(trio.ClosedResourceError),  # through the public socket
        ):
            _discard_received(stream)
            await stream.aclose()

    async def _shake_hands(self, stream: trio.SSLStream[Connection]) -> bool:
        """Do the TLS handshake; its failure is a count, not a crash."""
        error: Exception | None = None
        connection = stream.transport_stream
        control.shake_hands(connection)
        with trio.move_on_after(self._handshake_timeout):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as broken:
                error = broken
            else:
                control.shake_hands(connection, is_over=True)
                return True
        self._failed(connection, error)
        return False  # noqa: ASYNC910 - running out of time is a checkpoint, too

    def _failed(self, connection: Connection, error: Exception | None) -> None:
        reason = why_no_handshake(connection, error)
        self.handshake_failures[reason] += 1
        self._block.tell(
            records.HandshakeFailed,
            remote_address=connection.remote_address,
            reason=reason,
            error=error,
        )


def _discard_received(stream: trio.SSLStream[Connection]) -> None:
    """Throw away what was received and not read by the handler.

    Before it is, OpenSSL does not end (SSL_shutdown(3): "application data after close notify"), and
    Trio then closes without close_notify, so that the peer takes all it has got for a part.
    Trio shows what it has received nowhere in public.
    """
    received = getattr(stream, "_ssl_object", None)
    if received is not None:
        with suppress(ssl.SSLError):  # that there is no more, as a rule
            while received.read(1 << 16):
                pass
