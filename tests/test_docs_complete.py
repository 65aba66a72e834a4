"""The reference and the code name the same things."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .public_names import public_names

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
# `.. autoclass:: trio_wsk.Status` in an eval-rst block. MyST takes ```{autoclass} as well, but
# reads what autodoc writes as Markdown and so documents nothing, without a word.
DIRECTIVE = re.compile(r"^ *\.\. (?:auto|py:)?[a-z]+:: +(trio_wsk[\w.]+)", re.MULTILINE)

DOCUMENTED = {
    name
    for page in REFERENCE.rglob("*.md")
    for name in DIRECTIVE.findall(page.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", public_names())
def test_public_name_is_in_the_reference(name: str) -> None:
    """Every public name has a directive of its own on a page of `docs/reference`."""
    assert name in DOCUMENTED
