"""Section six row by row: each fact of conditional accept that can be shown is shown by a test."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.helpers.places import TESTS
from tests.helpers.section_six import SECTION_SIX, Row

IN_MEMORY = {"test_conditional_memory", "test_inspection_walk"}
"""The modules that need no socket."""

BEFORE_THE_HANDSHAKE = {"test_before_handshake", "test_before_handshake_failures"}
"""The modules in which a SYN is held."""

NOT_ON_THE_NETWORK = {
    "6.14": "options are refused before there is any",
}
"""Rows that inspection before the handshake can't show, and why."""


def by_number(row: Row) -> str:
    """Name a row."""
    return row.number


@cache
def names_in(module: str) -> frozenset[str]:
    """Return the names of the tests in a module, without importing it."""
    tree = ast.parse(next(TESTS.rglob(f"{module}.py")).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
    )


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
def test_named_tests_exist_where_they_are_said_to_be(row: Row) -> None:
    """A test that is renamed is renamed here too; what is shown in memory opens no socket."""
    for name in row.memory + row.real + row.before:
        module, _, test = name.partition("::")

        assert test in names_in(module)
        assert (module in IN_MEMORY) is (name in row.memory)
        assert (module in BEFORE_THE_HANDSHAKE) is (name in row.before)


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
