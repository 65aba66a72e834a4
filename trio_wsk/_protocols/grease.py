"""Values that stand for nothing, sent so that servers don't forget to ignore what is new.

Source: RFC 8701.
"""

from __future__ import annotations

__all__ = ["is_grease"]


def is_grease(value: int) -> bool:
    """Whether a cipher suite, an extension, a group, … is one of 0x0A0A, 0x1A1A, … 0xFAFA."""
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF  # noqa: PLR2004 - see above
