"""What TLS has agreed on, and who the peer says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, final, overload

from trio_wsk._protocols.answers import ClientHelloError, MoreNeeded, NotTLSError
from trio_wsk._protocols.client_hello import parse_client_hello
from trio_wsk._protocols.tls_records import LIMIT
from trio_wsk._vocabulary.arguments import check_flag

if TYPE_CHECKING:
    import ssl

__all__ = ["HELLO_MOST", "TLSInfo"]

HELLO_MOST: Final = LIMIT
"""How many of a client's first octets are enough to know the name that it asks for."""

_KEPT_MOST: Final = 4096
"""How many of them are kept until somebody asks for that name, which few do: reading it takes as
long as a tenth of the handshake. More than the longest ClientHello that there is, and a tenth of
what TLS keeps of a connection."""


@final
class TLSInfo:
    """What was agreed on in a TLS handshake; also when the connection is closed."""

    __slots__ = ("_hello", "_server_name", "_tls")

    def __init__(self, tls: ssl.SSLObject, received: bytearray) -> None:
        """Made when the handshake is over, never by you."""
        self._tls = tls
        self._server_name: str | None = None
        self._hello = bytes(received)  # until the name in it is read
        if len(received) > _KEPT_MOST:
            self._read_server_name()

    def __repr__(self) -> str:
        return f"<TLSInfo {self.version} {self.cipher} alpn={self.alpn!r} for {self.server_name!r}>"

    @property
    def version(self) -> str:
        """The protocol's version: ``"TLSv1.3"`` (`ssl.SSLSocket.version`)."""
        version = self._tls.version()
        assert version is not None
        return version

    @property
    def cipher(self) -> str:
        """The name of the cipher suite (the first that `ssl.SSLSocket.cipher` returns)."""
        cipher = self._tls.cipher()
        assert cipher is not None
        return cipher[0]

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on (`ssl.SSLSocket.selected_alpn_protocol`).

        None without ALPN, or if nothing was agreed on; see `ssl.SSLContext.set_alpn_protocols`.
        """
        return self._tls.selected_alpn_protocol()

    @property
    def server_name(self) -> str | None:
        """The name that the client has asked for (SNI, RFC 6066), in lower case.

        An international one is in its ASCII form (IDNA). None if it has asked for none, or for what
        is no name of a host.
        """
        if self._hello:
            self._read_server_name()
        return self._server_name

    def _read_server_name(self) -> None:
        self._server_name = _server_name_in(self._hello)
        self._hello = b""

    @overload
    def peer_certificate(self, *, binary: Literal[False] = False) -> dict[str, Any] | None: ...

    @overload
    def peer_certificate(self, *, binary: Literal[True]) -> bytes | None: ...

    def peer_certificate(self, *, binary: bool = False) -> dict[str, Any] | bytes | None:
        """Return the client's certificate (`ssl.SSLSocket.getpeercert`); None if it has sent none.

        A client sends one if it is asked to, by ``context.verify_mode``.

        Args:
          binary: Return it as DER-encoded octets.

        Raises:
          InvalidParameterError: ``binary`` is neither True nor False. (Yours.)
        """
        check_flag("binary", binary)
        return self._tls.getpeercert(binary)


def _server_name_in(received: bytes) -> str | None:
    """Return the name that a client has asked for with its ClientHello, if it can be one.

    The library tells it only through a callback of the context, which is the user's alone.
    """
    try:
        hello = parse_client_hello(received)
    except (ClientHelloError, NotTLSError):
        return None
    return None if isinstance(hello, MoreNeeded) else hello.server_name
