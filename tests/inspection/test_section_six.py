"""Section six row by row: each fact of conditional accept that can be shown is shown by a test."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.helpers.places import TESTS
from tests.helpers.section_six import SECTION_SIX, Row

if TYPE_CHECKING:
    from pathlib import Path

MODULES_IN_MEMORY = ["inspection/test_conditional_memory*.py", "inspection/test_inspection_walk.py"]
"""Where no test needs a socket."""

MODULES_BEFORE_THE_HANDSHAKE = ["transports/linux/test_before_handshake*.py"]
"""Where a SYN is held."""

NOT_ON_THE_NETWORK = {
    "6.14": "options are refused before there is any",
}
"""Rows that inspection before the handshake can't show, and why."""


def by_number(row: Row) -> str:
    """Name a row."""
    return row.number


def modules_of_tests(*patterns: str) -> dict[str, Path]:
    """Return the names of the tests in these modules, and where each stands; no module is run."""
    return {
        node.name: path
        for pattern in patterns
        for path in sorted(TESTS.glob(pattern))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
    }


@pytest.fixture(scope="module")
def in_memory() -> dict[str, Path]:
    """The tests that open no socket."""
    return modules_of_tests(*MODULES_IN_MEMORY)


@pytest.fixture(scope="module")
def after_the_handshake(in_memory: dict[str, Path]) -> dict[str, Path]:
    """The tests on real sockets, on every system."""
    elsewhere = set(in_memory.values())
    inspecting = modules_of_tests("inspection/test_*.py")
    return {name: path for name, path in inspecting.items() if path not in elsewhere}


@pytest.fixture(scope="module")
def before_the_handshake() -> dict[str, Path]:
    """The tests on real sockets, on Linux, that look at the wire."""
    return modules_of_tests(*MODULES_BEFORE_THE_HANDSHAKE)


def test_table_has_every_row_once_and_in_order() -> None:
    """Nothing is left out."""
    expected = [
        *(f"6.{number}" for number in range(1, 17)),
        *(f"7.{number}" for number in range(1, 8)),
        *(f"8.{number}" for number in range(1, 7)),
    ]

    assert expected == [row.number for row in SECTION_SIX]


@pytest.mark.parametrize("row", SECTION_SIX, ids=by_number)
def test_row_that_can_be_shown_is_shown(row: Row) -> None:
    """
    By a test on real sockets: before the handshake, if a network can show it at all. A row that
    describes Windows alone would say so.
    """
    assert row.real or row.before or row.windows
    assert row.before or row.number in NOT_ON_THE_NETWORK


@pytest.mark.parametrize("row", SECTION_SIX, ids=by_number)
def test_named_tests_exist_where_they_are_said_to_be(
    row: Row,
    in_memory: dict[str, Path],
    after_the_handshake: dict[str, Path],
    before_the_handshake: dict[str, Path],
) -> None:
    """A test that is renamed is renamed here too; what is shown in memory opens no socket."""
    assert set(row.memory) <= in_memory.keys()
    assert set(row.real) <= after_the_handshake.keys()
    assert set(row.before) <= before_the_handshake.keys()


@pytest.mark.parametrize("row", SECTION_SIX, ids=by_number)
def test_row_is_a_statement_with_a_source(row: Row) -> None:
    """Whole sentences, and where each comes from."""
    assert row.fact.endswith(".")
    assert row.source


def test_every_row_of_the_handshake_is_shown_in_memory_too() -> None:
    """What no socket shows after the handshake is shown before it, and in memory."""
    of_the_handshake = [row for row in SECTION_SIX if not row.real]

    assert ["7.1", "7.3"] == [row.number for row in of_the_handshake]
    assert all(row.memory and row.before for row in of_the_handshake)
