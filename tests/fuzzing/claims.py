"""What has to hold of any octets at all, for each parser, and octets to begin with.

A claim is called with octets. It returns if they are read or refused as they should be, and raises
if they are not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from tests.helpers.client_hellos import KYBER, Hello, in_records, message
from tests.helpers.proxy_headers import PROXY, TCP4, header, ipv4
from tests.helpers.reads import Call, check_reads
from tests.helpers.syns import IPV4, IPV6, OF_LINUX, extension
from tests.protocols.proxy_vectors import vectors
from trio_wsk._protocols.answers import MalformedError, MoreNeeded
from trio_wsk._protocols.client_hello import ClientHello, parse_client_hello
from trio_wsk._protocols.proxy_header import ProxyHeader, parse_proxy_header
from trio_wsk.transports._syn import NotASynError, Syn, parse, reset_of

__all__ = ["CLAIMS", "Claim"]

Parser = Callable[[bytes], Any]

LOOKS: Final = 16
"""At how many places octets are cut, to see that the answer doesn't depend on what comes later."""

PLAN_OCTETS: Final = 16
"""How many octets say what a reader is called with; the others it reads."""


@attrs.frozen
class Claim:
    """What must hold of any octets."""

    check: Callable[[bytes], None]
    start: list[bytes]
    """Octets that a fuzzer begins with."""
    longest: int
    """Longer octets find nothing that these don't."""


# --- Parsers of first octets --------------------------------------------------------------------


def answer_to(parse: Parser, octets: bytes) -> Any:
    """Parse, and return what came of it in a form that can be compared."""
    try:
        return parse(octets)
    except MalformedError as error:
        return type(error), error.reason


def check_answers(parse: Parser, octets: bytes) -> Any:
    """Return the answer; hold that what had come before all had gave the same one, or none yet.

    While there was none more was asked for, and not more than there is if all was in good order.
    """
    final: object = answer_to(parse, octets)
    for there in range(0, len(octets), max(1, len(octets) // LOOKS)):
        answer = answer_to(parse, octets[:there])
        if isinstance(answer, MoreNeeded):
            assert there < answer.at_least
            assert isinstance(final, (tuple, MoreNeeded)) or answer.at_least <= len(octets)
        else:
            assert answer == final
    return final


def read_everything(value: object) -> None:
    """Ask for all that a value can say, which it must be able to."""
    for name in dir(type(value)):
        if not name.startswith("_"):
            getattr(value, name)
    assert repr(value)


def check_proxy_header(octets: bytes) -> None:
    """A header is read as far as it goes, and is itself when it is read again."""
    found = check_answers(parse_proxy_header, octets)
    if isinstance(found, ProxyHeader):
        assert octets.startswith(bytes(found))
        assert parse_proxy_header(bytes(found)) == found
        read_everything(found)
        if found.ssl is not None:
            read_everything(found.ssl)


def check_proxy_line(octets: bytes) -> None:
    """The same, behind the word that version 1 begins with."""
    check_proxy_header(b"PROXY " + octets)


def check_proxy_tlvs(octets: bytes) -> None:
    """The same, behind the addresses of version 2, whose length is right."""
    check_proxy_header(header(PROXY, TCP4, ipv4("192.0.2.1", "198.51.100.2") + octets))


def check_client_hello(octets: bytes) -> None:
    """A ClientHello is read, and says all that it can say."""
    found = check_answers(parse_client_hello, octets)
    if isinstance(found, ClientHello):
        read_everything(found)
        kinds = [extension.kind for extension in found.extensions]
        assert len(kinds) == len(set(kinds))


def check_hello_body(octets: bytes) -> None:
    """The same, where the records and the header of the message are in good order."""
    check_client_hello(in_records(message(octets)))


# --- SYNs ---------------------------------------------------------------------------------------


def check_syn(packet: bytes) -> None:
    """A packet is a SYN that says all that it can say, a reset, or neither."""
    reset = reset_of(packet)
    try:
        found = parse(packet)
    except NotASynError:
        return
    assert reset is None
    assert packet.startswith(found.packet)
    assert parse(found.packet) == found
    check_syn_says(found)


def check_syn_says(syn: Syn) -> None:
    """What a SYN says fits together."""
    read_everything(syn)
    to, port, source, source_port, _ = syn.key
    assert (to, port) == (octets_of(syn.destination.host), syn.destination.port)
    assert (source, source_port) == (octets_of(syn.source.host), syn.source.port)
    assert len(syn.payload) <= syn.payload_length


def octets_of(host: Any) -> bytes:
    """Return an address as a packet has it."""
    return bytes(host.packed)


# --- Readers ------------------------------------------------------------------------------------


def check_reader(octets: bytes) -> None:
    """What a reader gives is what is there, however it was cut; the first octets say how."""
    plan, rest = octets[:PLAN_OCTETS], octets[PLAN_OCTETS:]
    half = PLAN_OCTETS // 2
    calls = [call_of(*each) for each in struct.iter_unpack("BB", plan[: len(plan) // 2 * 2][:half])]
    sizes = [1 + size % 8 for size in plan[half:]]
    trio.run(check_reads, rest, sizes, calls)


DELIMITERS: Final = (b"\r\n", b"a", b"ab", b"\r\n\r\n", b"aab", b"\0")


def call_of(kind: int, number: int) -> Call:
    """Make a call out of two octets."""
    name = ("line", "exactly", "until")[kind % 3]
    most = number % 24
    return Call(
        name,
        DELIMITERS[kind // 3 % len(DELIMITERS)] if name == "until" else b"\n",
        most if name == "exactly" else most + 1,
    )


# --- All of them --------------------------------------------------------------------------------


def proxy_vectors(*, version: int) -> list[bytes]:
    """Return the headers of one version, right and wrong ones."""
    return [each.octets for each in vectors() if each.name.startswith(f"v{version}")]


SYNS: Final = [
    *(attrs.evolve(each, options=OF_LINUX).octets for each in (IPV4, IPV6)),
    attrs.evolve(IPV4, payload=b"GET /", ip_options=bytes(8)).octets,
    attrs.evolve(IPV4, control_bits=0x14).octets,
    attrs.evolve(IPV6, extensions=(extension(0), extension(43), extension(60, 2))).octets,
]

CLAIMS: Final = {
    "proxy-header": Claim(check_proxy_header, proxy_vectors(version=2), 600),
    "proxy-line": Claim(
        check_proxy_line, [each.removeprefix(b"PROXY ") for each in proxy_vectors(version=1)], 120
    ),
    "proxy-tlvs": Claim(
        check_proxy_tlvs, [each[28:] for each in proxy_vectors(version=2) if len(each) > 28], 400
    ),
    "client-hello": Claim(
        check_client_hello, [Hello().octets(), Hello().octets(1, 40, 90), KYBER.octets()], 4000
    ),
    "hello-body": Claim(check_hello_body, [Hello().body(), Hello(extensions=None).body()], 1000),
    "syn": Claim(check_syn, SYNS, 200),
    "reader": Claim(
        check_reader,
        [
            bytes(range(PLAN_OCTETS)) + b"ab\r\n\r\naab\naaaa\0",
            b"\0\x09" * 4 + bytes(8) + b"one\r\ntwo\nthree\r\n",
        ],
        200,
    ),
}
"""By the name of each file in `corpus`."""
