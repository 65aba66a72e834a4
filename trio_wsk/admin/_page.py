"""The page: one document, with its style and its program in it, and what it may do in a browser.

Its policy lets run what stands in it, known by its hash, and nothing else; and lets it speak to
this server alone. Whatever is shown of a peer's is put in as text by the program.

Source: Content Security Policy Level 3, 2.3.1.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Final

__all__ = ["PAGE", "POLICY"]


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE: Final = _read("page.css")
_PROGRAM: Final = _read("page.js")

PAGE: Final = (
    _read("page.html").replace("/* style */", _STYLE).replace("/* program */", _PROGRAM).encode()
)
"""The document."""

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_PROGRAM)}",
        f"style-src {_hash(_STYLE)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What a browser lets it do."""
