"""TOML files, and the lines in which their keys begin."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk._configuration import toml_lines
from trio_wsk._configuration.toml_lines import MalformedFileError, line_of, parsed

VALUES = st.sampled_from(
    [
        "1",
        "'a'",
        "[1, 2]",
        "[\n  1,\n\n  2,\n]",
        '"""\nport = 3\n"""',
        "'''\n[a]\n'''",
        "{ a = 1 }",
        "true  # port = 5",
    ]
)
BETWEEN = st.lists(st.sampled_from(["", "# a comment = 1", "   ", "#"]), max_size=3)


@given(st.lists(st.tuples(BETWEEN, VALUES), min_size=1, max_size=6))
def test_key_begins_in_its_line(entries: list[tuple[list[str], str]]) -> None:
    """
    Whatever stands between keys, and however many lines a value has, also if these look like keys,
    a key begins in the line in which it was written.
    """
    lines: list[str] = []
    begins: dict[str, int] = {}
    for number, (between, value) in enumerate(entries):
        lines += between
        begins[f"key{number}"] = len(lines) + 1
        lines += f"key{number} = {value}".split("\n")
    text = "\n".join(lines)

    assert begins == {key: line_of(key, text) for key in parsed(text)}


def test_table_begins_in_its_line() -> None:
    """A table is a key, and so is a key with a dot in it."""
    text = "a = 1\n\n[tool.b]\nc = 1\n"

    assert 3 == line_of("tool", text)
    assert 1 == line_of("x", "x.y = 1\nx.z = 1\n")


def test_malformed_file_is_told_with_its_line() -> None:
    """What is no TOML is told with the line."""
    with pytest.raises(MalformedFileError, match="line 2"):
        parsed("a = 1\nb = \n")


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="the parser is Python's own since 3.11")
def test_missing_parser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.10, who lacks a parser is told which one to install."""
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ImportError, match=r"needs tomli .* pip install 'trio-wsk\[toml\]'"):
        toml_lines.parsed("a = 1")
