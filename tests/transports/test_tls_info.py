"""What TLS has agreed on: the name that a client has asked for, which is read when asked for."""

from __future__ import annotations

import ssl

import pytest

from tests.helpers.client_hellos import Hello, server_name
from trio_wsk.transports._tls_info import TLSInfo

PADDING = 21
"""An extension that is as long as its client likes, RFC 7685."""


@pytest.mark.parametrize("padding", [0, 8000], ids=["short", "long"])
def test_name_is_known_after_what_it_stood_in_is_gone(padding: int) -> None:
    """It is the same however often it is asked for, and the client's octets are kept no longer."""
    received = bytearray(
        Hello(extensions=[server_name(b"example.com"), (PADDING, bytes(padding))]).octets()
    )
    info = TLSInfo(
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO()), received
    )
    received.clear()
    kept = len(info._hello)  # noqa: SLF001 - nothing else shows what is kept

    assert (kept == 0) is (padding > 4096)
    assert ["example.com"] * 2 == [info.server_name, info.server_name]
    assert not info._hello  # noqa: SLF001 - as above


def test_there_is_no_name_in_what_is_no_hello() -> None:
    """What can't be read has no name in it, and asking for one raises nothing."""
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())

    nameless = Hello(extensions=[]).octets()
    for received in (b"", b"GET / HTTP/1.1", nameless, nameless[:-1]):
        assert TLSInfo(tls, bytearray(received)).server_name is None
