"""Tests of `trio_wsk._protocols.ja4`, on what its specification says."""

from __future__ import annotations

from typing import Any

import pytest

from trio_wsk._protocols.ja4 import ja4_of


def numbers(text: str) -> list[int]:
    """Read numbers as the specification lists them."""
    return [int(part, 16) for part in text.split(",")]


EXAMPLE: dict[str, Any] = {
    "version": 0x0304,
    "cipher_suites": numbers(
        "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"
    ),
    "extensions": numbers(
        "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015"
    ),
    "alpn": b"h2",
    "signature_algorithms": numbers("0403,0804,0401,0503,0805,0501,0806,0601"),
}


def fingerprint(**changes: Any) -> tuple[str, str, str]:
    """Make the three parts of the example's fingerprint, with changes."""
    first, ciphers, extensions = ja4_of(**{**EXAMPLE, **changes}).split("_")
    return first, ciphers, extensions


def test_example_of_the_specification() -> None:
    """The fingerprint of the example is the one that the specification gives."""
    assert ja4_of(**EXAMPLE) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_no_signature_algorithms() -> None:
    """Without them the list of extensions ends without an underscore."""
    assert fingerprint(signature_algorithms=[])[2] == "6d807ffa2a79"


def test_nothing_at_all() -> None:
    """Where there is nothing, zeros stand, and no hash of nothing."""
    nothing: dict[str, Any] = {
        "cipher_suites": [],
        "extensions": [],
        "alpn": b"",
        "signature_algorithms": [],
    }

    assert ja4_of(version=0x0303, **nothing) == "t12i000000_000000000000_000000000000"


@pytest.mark.parametrize("what", ["cipher_suites", "extensions"])
def test_order_is_of_no_importance(what: str) -> None:
    """Browsers shuffle; the fingerprint stays."""
    assert fingerprint(**{what: EXAMPLE[what][::-1]}) == fingerprint()


def test_order_of_signature_algorithms_counts() -> None:
    """They are not sorted."""
    changed = fingerprint(signature_algorithms=EXAMPLE["signature_algorithms"][::-1])

    assert changed[2] != fingerprint()[2]


def test_server_name_and_alpn_are_in_the_first_part_only() -> None:
    """The last part is the same whomever the client wants, and whatever it speaks."""
    without = [kind for kind in EXAMPLE["extensions"] if kind not in {0, 16}]

    assert fingerprint(extensions=without, alpn=b"") == ("t13i151400", *fingerprint()[1:])


def test_counts_end_at_99() -> None:
    """Two digits are all there are."""
    many = list(range(100))

    assert fingerprint(cipher_suites=many, extensions=many)[0] == "t13d9999h2"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (0x0304, "13"),
        (0x0303, "12"),
        (0x0302, "11"),
        (0x0301, "10"),
        (0x0300, "s3"),
        (0x0002, "s2"),
        (0xFEFF, "d1"),
        (0xFEFD, "d2"),
        (0xFEFC, "d3"),
        (0x7F1C, "00"),
    ],
)
def test_versions(version: int, expected: str) -> None:
    """Each version has its two characters, and what is none has two zeros."""
    assert fingerprint(version=version)[0] == f"t{expected}d1516h2"


@pytest.mark.parametrize(
    ("alpn", "expected"),
    [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"", "00"),
        (b"\xab", "ab"),
        (b"\x20", "20"),
        (b"\xab\xcd", "ad"),
        (b"\x20\x61", "21"),
        (b"\x30\xab", "3b"),
        (b"\x61\x20", "60"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
    ],
)
def test_first_protocol(alpn: bytes, expected: str) -> None:
    """The first and the last letter or digit of it, or of its hexadecimal form."""
    assert fingerprint(alpn=alpn)[0] == f"t13d1516{expected}"
