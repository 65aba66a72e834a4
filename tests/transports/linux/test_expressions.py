"""What rules consist of, as octets; what the octets do is seen where rules are."""

from __future__ import annotations

import sys

import pytest

from trio_wsk.transports.linux._expressions import queue, queue_target
from trio_wsk.transports.linux._messages import parse_attributes


@pytest.mark.parametrize("bypass", [False, True])
def test_both_ways_of_queueing_say_the_same(bypass: bool) -> None:  # noqa: FBT001
    """The number and the flag are where nftables and iptables look for them."""
    native = parse_attributes(parse_attributes(queue(0x1234, bypass))[1])
    target = parse_attributes(parse_attributes(queue_target(0x1234, bypass))[1])
    options = (0x1234, 1, bypass, 0)

    assert b"queue\0" == native[1]
    assert {1: b"\x12\x34", 2: b"\0\1", 3: bytes([0, bypass])} == parse_attributes(native[2])
    assert b"target\0" == target[1]
    assert {
        1: b"NFQUEUE\0",
        2: b"\0\0\0\3",
        3: b"".join(number.to_bytes(2, sys.byteorder) for number in options),
    } == parse_attributes(target[2])
