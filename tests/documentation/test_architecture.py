"""The page for who carries on shows the package as it is."""

from __future__ import annotations

import re

import pytest

from tests.documentation import rooms
from tests.helpers.places import DOCS, PACKAGE, ROOT

PAGE = DOCS / "architecture.md"
PLACE = re.compile(r"`([\w./-]+(?:\.\w+|/))`")
"""A file, or a folder with a slash behind it."""


def places() -> list[str]:
    """Find what the page names, in the package or in the repository."""
    text = PAGE.read_text(encoding="utf-8")
    return sorted({each for each in PLACE.findall(text) if "/" in each})


@pytest.mark.parametrize("place", places())
def test_place_on_the_page_exists(place: str) -> None:
    """Each file and folder that the page names is there, in the package or in the repository."""
    assert any((where / place).exists() for where in (PACKAGE, PACKAGE.parent, ROOT))


def test_picture_shows_the_contracts() -> None:
    """
    The picture is the one that is drawn from the contracts now; `python -m
    tests.documentation.rooms` renews it.
    """
    pytest.importorskip("tomllib", reason="in the standard library since 3.11")

    assert rooms.as_it_should_be() == rooms.PICTURE.read_text(encoding="utf-8")


def test_connection_passes_rooms_that_are_drawn() -> None:
    """Each station of a connection's way is one of the rooms."""
    for station, name in enumerate(rooms.WAY, 1):
        assert f'font-weight="bold">{name}<' in rooms.PICTURE.read_text(encoding="utf-8")
        assert station == rooms.Room(name, "", ()).way


def test_what_is_not_built_is_not_drawn() -> None:
    """A name in parentheses is a place that is kept free."""
    assert ("one", "two") == rooms.on_one_line("one | (three) | two")
    assert () == rooms.on_one_line("(three)")
