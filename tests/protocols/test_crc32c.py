"""Tests of `trio_wsk._protocols.crc32c`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.proxy_headers import slow_crc32c
from trio_wsk._protocols.crc32c import crc32c


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_checksums(octets: bytes, expected: int) -> None:
    """The checksum is the one of iSCSI's examples (RFC 3720, B.4), and of the usual test word."""
    assert crc32c(octets) == expected


@given(st.binary(max_size=300))
def test_checksum_is_that_of_the_division(octets: bytes) -> None:
    """The table gives what dividing bit by bit does."""
    assert crc32c(octets) == slow_crc32c(octets)
