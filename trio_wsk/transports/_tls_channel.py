"""TLS over a channel, as a channel: the octets of one connection, encrypted on their way.

Whoever has it reads and writes plain octets, by the contract of every channel. Three things need
care:

* A read that gets less than it asked for says that nothing is left, and after `BlockingIOError` an
  edge follows. Here octets may be left in three places: in the kernel, received and not decrypted,
  and decrypted. So a read goes on until the channel below has no more, in this very call. Where it
  stops before, because it has done enough for one turn, or because an end is behind what it
  returns, nobody else would say so: it has itself looked at again (``again``).
* What `TLSChannel.send` has taken, the kernel has. A piece is encrypted once, and goes out in
  parts perhaps, so the octets in it count as taken when the last part has left. Until then the same
  octets have to be given again, as SSL_write(3) wants it, or the send has been given up.
* Reading makes TLS write: tickets, answers to a KeyUpdate, alerts. That goes with the next octets
  in either direction. A peer that makes us answer and does not read the answers is cut off.

TLS itself is the standard library's `ssl.SSLObject`; its errors become `OSError` here.

Source: RFC 8446, sections 4.6 and 6.1; SSL_read(3), SSL_write(3), SSL_shutdown(3).
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Final

from ._tls_info import HELLO_MOST, TLSInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._transport_request import Channel

    Octets = bytes | bytearray | memoryview

__all__ = ["TLSChannel"]

AT_ONCE: Final = 1 << 16
"""How many plain octets are encrypted, and sent, at once: four records, as much as so many send."""

_RECEIVED: Final = 1 << 15
"""How much is received at once: a whole record, with what it may have around it, and nearly two."""

_HEADER: Final = 5
"""How long a record's header is, in octets; its last two are the length of the rest."""

_FED: Final = 16
"""How many records TLS is given at once. One may be a KeyUpdate, which costs it new keys: 30 us."""

_IN_VAIN: Final = 2
"""How often a read gives TLS records without getting a plain octet: a large one comes in two parts
at most. A peer that sends nothing but KeyUpdates has done a millisecond of work then."""

_RECORDS: Final = 64
"""How many records one read decrypts at most: a peer may put each octet into one of its own."""

_OWED_MOST: Final = 2 * AT_ONCE
"""How much may wait to be sent, in octets: a piece, and as much that the peer alone wants."""

_DISCARDED: Final = 16
"""How often it is read before a connection is closed that never came to speak TLS."""

_PEEK: Final = int(socket.MSG_PEEK)


class TLSChannel:
    """A channel that speaks TLS over another one, as a server.

    Args:
      inner: What it goes over.
      context: A server's, with a certificate.
      https_compatible: Whether the end of what is below is an end, and there is no good-bye.
      again: Has the channel's edge to read told soon, as if it had come.
    """

    __slots__ = (
        "_again",
        "_ahead",
        "_has_ended",
        "_has_said_good_bye",
        "_hello",
        "_https_compatible",
        "_incoming",
        "_needs_good_bye",
        "_outgoing",
        "_owed",
        "_promised",
        "_read_failure",
        "_received",
        "_send_failure",
        "_tls",
        "_until_header",
        "info",
        "inner",
    )

    def __init__(
        self,
        inner: Channel,
        context: ssl.SSLContext,
        *,
        https_compatible: bool,
        again: Callable[[], object],
    ) -> None:
        self.inner: Channel = inner
        """What it goes over."""
        self.info: TLSInfo | None = None
        """What was agreed on, once the handshake is over."""
        self._https_compatible = https_compatible
        self._needs_good_bye = not https_compatible
        self._again = again
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._hello = bytearray()
        self._received = b""  # and not given to TLS yet
        self._until_header = 0  # octets of it, and of what comes next
        self._ahead = b""  # decrypted, and not read yet
        self._owed = b""  # encrypted, and not sent yet
        self._promised = 0  # plain octets in it, which count as taken when all of it has left
        self._has_ended = False  # the peer has, in good order
        self._has_said_good_bye = False
        self._read_failure: OSError | None = None  # there is nothing more to be read
        self._send_failure: OSError | None = None  # which nobody has heard of

    # --- The handshake -----------------------------------------------------------------

    def shake_hands(self) -> bool:
        """Do one step of the handshake: as much as one message of the peer makes us do.

        Returns:
          Whether it is over. If not, there is more to do at once.

        Raises:
          BlockingIOError: the peer is to speak, or to read if `owes`; an edge says when.
          ssl.SSLError: there is no agreement, or this is no TLS.
          EOFError: the peer has finished in the middle of it.
          OSError: the connection is broken.
        """
        if self.info is None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._pay()  # with the alert that says why
                raise
            else:
                self.info = TLSInfo(self._tls, self._hello)
                self._hello.clear()
        if not self._flush():
            raise _would_block()
        if self.info is None:
            if len(self._received) < _HEADER:
                data = self.inner.recv(_RECEIVED)
                if not data:
                    raise EOFError
                self._received += data
                if len(self._hello) <= HELLO_MOST:
                    self._hello += data
            self._feed()
        return self.info is not None

    # --- Receiving ---------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return up to ``bufsize`` plain octets; ``b""`` after the peer's close_notify.

        ``MSG_PEEK`` is the one flag that means something here.
        """
        data = self._read(bufsize)
        if flags & _PEEK:
            self._ahead = data + self._ahead
        return data

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive into ``buffer``; return how many octets, 0 after the peer's close_notify."""
        with memoryview(buffer).cast("B") as view:
            data = self.recv(nbytes or view.nbytes, flags)
            view[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        """Read what is there, up to a size, and send what that makes TLS say."""
        read: list[bytes] = []
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            if len(data) == size:
                return data
            read.append(data)
            size -= len(data)
        try:
            try:
                if self._read_failure is not None:
                    raise _fresh(self._read_failure)
                self._decrypt_into(read, size)
            finally:
                if self._owed or self._outgoing.pending:
                    self._pay()
        except BlockingIOError:
            if not read:
                raise
        except OSError as error:
            self._read_failure = _fresh(error)
            if not read:
                raise
            self._again()
        return read[0] if len(read) == 1 else b"".join(read)

    def _decrypt_into(self, read: list[bytes], left: int) -> None:
        """Decrypt until there is no more, also below, or it is enough.

        Raises:
          BlockingIOError: there is no more, also below.
        """
        incoming, tls = self._incoming, self._tls
        records = in_vain = 0
        is_short = False
        while left and not self._has_ended:
            if incoming.pending or tls.pending():
                data = self._decrypt(left)
                if data:
                    read.append(data)
                    left -= len(data)
                    records, in_vain = records + 1, 0
                    if records == _RECORDS:
                        self._again()
                        return
            elif is_short and read and len(self._received) < _HEADER:
                return
            elif in_vain == _IN_VAIN:
                self._again()
                raise _would_block()
            else:
                in_vain += 1
                if len(self._received) < _HEADER:
                    is_short = self._receive()
                self._feed()
        if self._has_ended and read:
            self._again()

    def _decrypt(self, size: int) -> bytes:
        """Decrypt one record, or return nothing: it is not complete, or the peer has ended."""
        try:
            data = self._tls.read(size)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as error:
            self._pay()  # with the alert that says why
            raise _in_our_words(error) from error
        if not data:
            self._has_ended = True
        return data

    def _receive(self) -> bool:
        """Receive for TLS to decrypt; return whether that was all."""
        data = self.inner.recv(_RECEIVED)
        if data:
            self._received += data
        else:
            if self._send_failure is not None:  # which is why, and the system has told it once
                raise _fresh(self._send_failure)
            if self._needs_good_bye:
                raise OSError(errno.EPROTO, "the peer has ended without TLS's good-bye")
            self._has_ended = True
        return len(data) < _RECEIVED

    def _feed(self) -> None:
        """Give TLS a few records of what was received: it does all it is given at once."""
        received, header = self._received, self._until_header
        for _ in range(_FED):
            if header + _HEADER > len(received):
                break
            header += _HEADER + int.from_bytes(received[header + 3 : header + _HEADER], "big")
        self._incoming.write(received[:header])
        self._received = received[header:]
        self._until_header = max(header - len(received), 0)

    # --- Sending -----------------------------------------------------------------------

    @property
    def has_part(self) -> bool:
        """Whether a part of a record has come, and the rest of it has not."""
        return bool(self._received or self._until_header)

    @property
    def owes(self) -> bool:
        """Whether something waits for room to be sent."""
        return bool(self._owed or self._outgoing.pending)

    @property
    def is_halfway(self) -> bool:
        """Whether what was given to `send` last is encrypted, and counts as taken in no part."""
        return self._promised > 0

    def give_up(self) -> None:
        """What `send` was given last, and has taken in no part, will not be given again."""
        self._promised = 0

    def send(self, data: Octets, flags: int = 0, /) -> int:
        """Encrypt and send some of ``data``; return how many octets have left."""
        if self._send_failure is not None:
            raise _fresh(self._send_failure)
        if (self._owed or self._outgoing.pending) and not self._flush(flags):
            raise _would_block()
        taken, self._promised = self._promised, 0
        size = len(data)
        if size <= AT_ONCE and not taken:  # as nearly always
            taken = self._send_piece(data, flags)
        else:
            with memoryview(data) as view:
                while taken < size:
                    with view[taken : taken + AT_ONCE] as piece:
                        sent = self._send_piece(piece, flags)
                    if not sent:
                        break
                    taken += sent
        if not taken and size:
            raise _would_block()
        return taken

    def _send_piece(self, piece: Octets, flags: int) -> int:
        """Send a piece; return how many octets are in it, or 0 if it has not left entirely."""
        try:
            encrypted = self._tls.write(piece)
        except ssl.SSLError as error:  # also a handshake in the middle (TLS 1.2), which is refused
            raise _in_our_words(error) from error
        if self._flush(flags):
            return encrypted
        self._promised = encrypted
        return 0

    def _flush(self, flags: int = 0) -> bool:
        """Send what is encrypted; return whether all of it has left."""
        outgoing, owed = self._outgoing, self._owed
        while owed or outgoing.pending:
            if not owed:
                self._owed = owed = outgoing.read()
            try:
                sent = self.inner.send(owed, flags)
            except BlockingIOError:
                return False
            self._owed = owed = owed[sent:]
        return True

    def _pay(self) -> None:
        """Send what TLS has to say by itself, if it goes.

        What goes wrong with that is told to who sends next, and to who has read all there is.
        """
        try:
            if self._flush():
                return
        except OSError as error:
            self._owed = b""
            self._outgoing.read()
            self._send_failure = _fresh(error)
        if len(self._owed) + self._outgoing.pending > _OWED_MOST:
            raise OSError(errno.EPROTO, "the peer has TLS answer, and does not read the answers")

    # --- The end -----------------------------------------------------------------------

    def shutdown(self, how: int, /) -> None:
        """``SHUT_WR``: send close_notify, and then FIN, as `say_good_bye` does.

        Raises:
          BlockingIOError: the good-bye has no room yet. Call it again at the next edge.
        """
        try:
            if how != socket.SHUT_RD and not self.say_good_bye():
                raise _would_block()
            self.inner.shutdown(how)
        except BlockingIOError:
            raise
        except OSError:
            if not self._has_ended:
                raise

    def waive_good_bye(self) -> None:
        """Take the end of what is below for the peer's end from now on."""
        self._needs_good_bye = False

    def say_good_bye(self) -> bool:
        """Send close_notify, if it was not sent; return whether it has left.

        A peer that has said good-bye itself may have gone since, and need not hear ours.
        """
        try:
            self._encrypt_good_bye()
            return self._flush()
        except OSError:
            if not self._has_ended:
                raise
            return True

    def _encrypt_good_bye(self) -> None:
        if self._has_said_good_bye or self.info is None or self._https_compatible:
            return
        self._has_said_good_bye = True
        # OpenSSL looks for the peer's as well, and must find no data: it would not end then.
        while (self._incoming.pending or self._tls.pending()) and not self._has_ended:
            self._ahead += self._decrypt(_RECEIVED)
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # the peer has not said good-bye, as a rule
        except ssl.SSLError as error:
            raise _in_our_words(error) from error

    def close(self) -> None:
        """Say good-bye if that goes at once, and give the channel up. Never raises."""
        try:
            if self.info is None:
                self._discard()
            elif not self.is_halfway:
                self.say_good_bye()
        except OSError:
            pass
        self.inner.close()

    def _discard(self) -> None:
        """Throw away what has come: an alert must not be lost by a reset, for unread input."""
        for _ in range(_DISCARDED):
            if not self.inner.recv(_RECEIVED):
                break

    def fileno(self) -> int:
        """Return the descriptor of what it goes over."""
        return self.inner.fileno()


def _fresh(error: OSError) -> OSError:
    """Return the same error without its traceback, which would hold whoever it has passed."""
    return OSError(*error.args)


def _would_block() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _in_our_words(error: ssl.SSLError) -> OSError:
    """Say an error of TLS as one of the connection: its numbers are no errnos."""
    return OSError(errno.EPROTO, f"TLS: {error.reason or error}")
