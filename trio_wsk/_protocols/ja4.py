"""JA4: what a TLS client is, told by what its ClientHello offers.

Where the text and FoxIO's own programs differ, this is the text: of a first protocol that doesn't
begin and end with letters or digits it takes the first and the last hexadecimal digit, and the
programs of 2026 write 99.

Source: FoxIO's technical details of JA4 (TLS client fingerprinting, BSD 3-Clause),
https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md
"""

from __future__ import annotations

import hashlib
import string
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ja4_of"]

_VERSIONS: Final = {
    0x0304: "13",
    0x0303: "12",
    0x0302: "11",
    0x0301: "10",
    0x0300: "s3",
    0x0002: "s2",
    0xFEFF: "d1",
    0xFEFD: "d2",
    0xFEFC: "d3",
}
_SERVER_NAME: Final = 0x0000
_ALPN: Final = 0x0010
_HIGHEST_COUNT: Final = 99
_HASH_DIGITS: Final = 12
_ALPHANUMERIC: Final = frozenset((string.ascii_letters + string.digits).encode())


def ja4_of(
    *,
    version: int,
    cipher_suites: Sequence[int],
    extensions: Sequence[int],
    alpn: bytes,
    signature_algorithms: Sequence[int],
) -> str:
    """Make the fingerprint of a ClientHello that came over TCP.

    Args:
      version: The highest version that is offered.
      cipher_suites: All of them, GREASE apart.
      extensions: The types of all of them, GREASE apart.
      alpn: The first protocol that ALPN names, or ``b""``.
      signature_algorithms: All of them, GREASE apart, in the order of their appearance.
    """
    name = "d" if _SERVER_NAME in extensions else "i"
    counts = f"{_count(cipher_suites)}{_count(extensions)}"
    others = [kind for kind in extensions if kind not in {_SERVER_NAME, _ALPN}]
    offered = "_".join(filter(None, [_listed(sorted(others)), _listed(signature_algorithms)]))
    return (
        f"t{_VERSIONS.get(version, '00')}{name}{counts}{_first_and_last(alpn)}"
        f"_{_hashed(_listed(sorted(cipher_suites)))}_{_hashed(offered)}"
    )


def _count(values: Sequence[int]) -> str:
    return f"{min(len(values), _HIGHEST_COUNT):02}"


def _first_and_last(alpn: bytes) -> str:
    if not alpn:
        return "00"
    ends = {alpn[0], alpn[-1]}
    text = alpn.decode("latin-1") if ends <= _ALPHANUMERIC else alpn.hex()
    return text[0] + text[-1]


def _listed(values: Iterable[int]) -> str:
    return ",".join(f"{value:04x}" for value in values)


def _hashed(text: str) -> str:
    if not text:
        return "0" * _HASH_DIGITS
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
