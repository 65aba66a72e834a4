"""Values that stand for nothing, sent so that servers don't forget to ignore what is new.

Source: RFC 8701.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GREASE", "without_grease"]

GREASE: Final = frozenset(range(0x0A0A, 0x10000, 0x1010))
"""0x0A0A, 0x1A1A, … 0xFAFA: of cipher suites, extensions, groups, …"""


def without_grease(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return the others."""
    if GREASE.isdisjoint(values):  # as all are but browsers', and at once
        return values
    return tuple(value for value in values if value not in GREASE)
