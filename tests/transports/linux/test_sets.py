"""What sets of addresses consist of, as octets; what they do is seen where rules know sources."""

from __future__ import annotations

from trio_wsk.transports.linux._messages import (
    parse_attribute_list,
    parse_attributes,
    parse_number,
)
from trio_wsk.transports.linux._rules import IPV4, IPV6
from trio_wsk.transports.linux._sets import KernelSet, range_elements, timed_element


def read(*elements: bytes) -> list[tuple[bytes, dict[int, bytes]]]:
    """Read elements: the key, and the other attributes of each."""
    found = []
    for _, element in parse_attribute_list(b"".join(elements)):
        parts = parse_attributes(element)
        key = parse_attributes(parts.pop(1))[1]
        found.append((key, parts))
    return found


def test_range_is_two_elements() -> None:
    """Its first address, and the first one after it, which is marked as an end."""
    elements = range_elements(4, 0x0A000000, 0x0A000100)

    assert [(b"\x0a\0\0\0", {}), (b"\x0a\0\1\0", {3: b"\0\0\0\1"})] == read(*elements)


def test_range_up_to_the_last_address_has_no_end() -> None:
    """After the last address there is none, in either family."""
    assert [(b"\xff\xff\xff\0", {})] == read(*range_elements(4, 0xFFFFFF00, 1 << 32))
    assert [(bytes(16), {})] == read(*range_elements(16, 0, 1 << 128))


def test_key_has_its_time_in_milliseconds() -> None:
    """As 64 bits in the network's order, and nothing else."""
    assert [(b"\x7f\0\0\1", {4: bytes(6) + b"\x03\xe8"})] == read(
        timed_element(b"\x7f\0\0\1", 1000)
    )


def test_sets_say_what_their_keys_are() -> None:
    """Of four octets or sixteen, ranges or keys with a time of which there is a most."""
    ranges = KernelSet("table", IPV4, "set").make_ranges()
    timed = KernelSet("table", IPV6, "set").make_timed(300)

    def numbers(attributes: bytes) -> dict[int, int]:
        parts = parse_attributes(attributes)

        assert (b"table\0", b"set\0") == (parts[1], parts[2])

        return {kind: parse_number(parts[kind], 4) for kind in (3, 4, 5)}

    assert (IPV4, {3: 4, 4: 7, 5: 4}) == (ranges.family, numbers(ranges.attributes))
    assert (IPV6, {3: 16, 4: 8, 5: 16}) == (timed.family, numbers(timed.attributes))
    assert b"\0\0\1\x2c" == parse_attributes(parse_attributes(timed.attributes)[9])[1]


def test_elements_come_and_go_by_their_set() -> None:
    """Both say which set it is, and list the elements."""
    where = KernelSet("table", IPV4, "set")
    element = timed_element(b"\x7f\0\0\1", 1000)
    for change in (where.add([element]), where.remove([element])):
        parts = parse_attributes(change.attributes)

        assert (b"table\0", b"set\0", element) == (parts[1], parts[2], parts[3])

    assert [12, 14] == [where.add([]).kind, where.remove([]).kind]
