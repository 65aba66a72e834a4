"""What the README shows works, and what it refers to is there."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio

import trio_wsk
from tests.helpers.places import DOCS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


@pytest.fixture
def shown() -> dict[str, Any]:
    """Run the README's programs, up to where ``__main__`` is asked for; give their names."""
    names: dict[str, Any] = {"__name__": "readme"}
    for block in BLOCK.findall(README):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own page
    return names


async def test_first_program_echoes(shown: dict[str, Any]) -> None:
    """The handler of the first program sends back what it receives."""
    async with trio_wsk.open_server(shown["echo"], 0, host="127.0.0.1") as server:
        port = server.local_addresses[0].port
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"hello")

            assert b"hello" == await client.receive_some()


async def test_second_program_lets_in_who_is_polite(shown: dict[str, Any]) -> None:
    """The inspector lets in who says HELO, and tells everybody else what to say."""
    echo, inspect = shown["echo"], shown["inspect"]
    async with trio_wsk.open_server(echo, 0, host="127.0.0.1", inspect=inspect) as server:
        port = server.local_addresses[0].port
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"HELO there")

            assert b"HELO there" == await client.receive_some()
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"GET / HTTP/1.1")

            assert b"say HELO first\r\n" == await client.receive_some()
            assert b"" == await client.receive_some()


@pytest.mark.parametrize("place", sorted({*LINK.findall(README)}))
def test_what_the_readme_links_to_exists(place: str) -> None:
    """A link leads to a file of the repository, or to another site."""
    assert place.startswith("https://") or (ROOT / place).exists()


def test_what_an_index_shows_links_only_to_other_sites() -> None:
    """Where there is no repository around the README, paths stand in place of links to files."""
    tomllib = pytest.importorskip("tomllib", reason="in the standard library since 3.11")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = pyproject["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    published = README
    for each in hook["substitutions"]:
        published = re.sub(each["pattern"], each["replacement"], published)

    assert "docs/explanation/serve-tcp.md" in published
    assert all(link.startswith("https://") for link in LINK.findall(published))


def test_readme_shows_readers_nothing_else() -> None:
    """Nothing is hidden in it: who reads the file itself reads what the page shows."""
    assert "<!--" not in README


def test_landing_page_shows_the_same_programs() -> None:
    """What the documentation begins with is code that the README shows, and that is run here."""
    landing = (DOCS / "index.md").read_text(encoding="utf-8")

    assert all(block.rstrip() in README for block in BLOCK.findall(landing))
    assert BLOCK.findall(landing)


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("idle timeout", "how-to/limits.md"),
        ("rate limit", "how-to/admission-rules.md"),
        ("graceful shutdown", "how-to/drain-on-signals.md"),
        ("access log", "how-to/observe.md"),
    ],
)
def test_search_finds_the_page_by_the_words_of_others(words: str, page: str) -> None:
    """A page has the words that its readers know for its matter, in its index and in its text."""
    _, directive, text = (DOCS / page).read_text(encoding="utf-8").split("```", 2)

    assert words in directive
    assert words in text.lower()
