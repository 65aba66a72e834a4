"""A list of two hundred thousand addresses, the same for all who are to look one up."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

COUNT: Final = 200_000

FIRST: Final = int(IPv4Address("11.0.0.0"))
APART: Final = 97
"""So far from one to the next, over ten of the largest networks: no two make one network."""

CLIENTS: Final = "127.0.0.0/8"
"""Where the load generator comes from."""


def addresses(*, clients: bool) -> Iterator[str]:
    """Yield the list, with those who come or without."""
    for number in range(COUNT):
        yield str(IPv4Address(FIRST + number * APART))
    if clients:
        yield CLIENTS
