"""Whether an `ssl.SSLContext` can serve: told when a server is opened, not to its first client.

A context says nowhere whether it has a certificate. So it is tried: it is given a client's first
message, in memory, from a client that takes anything. A context that can serve answers; how the
client likes the answer is of no interest.
"""

from __future__ import annotations

import ssl
from typing import Final

from trio_wsk._vocabulary.errors import InvalidParameterError

__all__ = ["check_server_context"]

_RIGHT_CALL: Final = (
    "write context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH);"
    " context.load_cert_chain(certificate_file, key_file)"
)

_NOTHING_TO_SHOW: Final = frozenset({"NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL"})
"""How OpenSSL says that a server has neither a certificate nor a key that both sides know: the
second for one that insists on TLS 1.3."""


def check_server_context(context: ssl.SSLContext) -> None:
    """Refuse a context that can't serve anybody.

    One that has an ``sni_callback`` may choose another context for each client: it is not tried,
    since the callback is its owner's.

    Raises:
      InvalidParameterError: it is a client's, or has no certificate. (The caller's.)
    """
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise InvalidParameterError(f"ssl_context is a client's, not a server's; {_RIGHT_CALL}")
    if context.sni_callback is None and not _answers(context):
        raise InvalidParameterError(f"ssl_context has no certificate; {_RIGHT_CALL}")


def _answers(context: ssl.SSLContext) -> bool:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    try:
        client.set_ciphers("ALL:@SECLEVEL=0")
    except ssl.SSLError:  # Python with another library than OpenSSL, which knows no such levels
        return True
    if _answers_client(context, client):
        return True
    if not hasattr(client, "set_psk_client_callback"):  # before Python 3.13
        return False
    # It may have keys that both sides know in place of a certificate. For TLS 1.3 it has answered
    # in another way, and for TLS 1.2 it is asked for them after its answer: not at all here.
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_psk_client_callback(lambda _: (None, b"a key"))
    return _answers_client(context, client)


def _answers_client(context: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    """Whether a server with this context has an answer to a client's first message."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.wrap_bio(to_client, to_server).do_handshake()
    except ssl.SSLWantReadError:
        pass
    try:
        context.wrap_bio(to_server, to_client, server_side=True).do_handshake()
    except ssl.SSLError as error:
        return error.reason not in _NOTHING_TO_SHOW
    return True
