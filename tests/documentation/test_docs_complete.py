"""The reference and the code name the same things."""

from __future__ import annotations

import ast
import inspect
import re
from typing import TYPE_CHECKING

import pytest

from tests.helpers.parsers import reasons_of_parsers
from tests.helpers.places import DOCS
from tests.helpers.public_names import public_names
from trio_wsk import AbortReason, Verdict, pytest_plugin
from trio_wsk._connection import faults as _faults
from trio_wsk._delivery import accept_event, handing_over
from trio_wsk._inspection import lives
from trio_wsk._intake import intake
from trio_wsk._listening.stages import State
from trio_wsk._vocabulary import statistics as _statistics
from trio_wsk.inspectors import _client_hello

if TYPE_CHECKING:
    from types import ModuleType

REFERENCE = DOCS / "reference"
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


def test_fixtures_are_in_the_reference() -> None:
    """Every fixture of the plugin has a directive of its own, and there is no other."""
    tree = ast.parse(inspect.getsource(pytest_plugin))
    fixtures = {
        f"{pytest_plugin.__name__}.{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }

    assert fixtures == {
        name for name in DOCUMENTED if name.startswith(f"{pytest_plugin.__name__}.")
    }


def slugs(module: ModuleType, *functions: str) -> set[str]:
    """Find the slugs that a module hands to, or returns from, some of its own functions."""
    tree = ast.parse(inspect.getsource(module))
    places = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and getattr(node.func, "attr", None) in functions)
        or (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and node.name in functions
            and node.returns
        )
    ]
    texts = {
        inner.value
        for place in places
        for inner in ast.walk(place)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    }
    return {text for text in texts if re.fullmatch(r"[a-z]+(-[a-z]+)*", text)}


def reasons(page: str, heading: str) -> set[str]:
    """Read the first column of the table under a heading."""
    _, _, below = (REFERENCE / page).read_text(encoding="utf-8").partition(f"## {heading}\n")
    section, _, _ = below.partition("\n## ")
    return set(re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE))


def test_reasons_of_drops_are_in_the_reference() -> None:
    """The reasons for which connections are dropped are those of the reference."""
    modules = (accept_event, handing_over, intake, lives)
    expected = {slug for module in modules for slug in slugs(module, "drop", "dropped")}
    expected |= {state.value for state in State if state is not State.LISTENING}

    assert expected == reasons("listening.md", "Why connections are dropped")


def test_reasons_of_rejections_are_in_the_reference() -> None:
    """The reasons that the library itself gives for rejections are those of the reference."""
    verdicts = [each for each in vars(lives).values() if isinstance(each, Verdict)]
    expected = {verdict.reason for verdict in verdicts} | slugs(_statistics, "count_rejected")

    assert expected == reasons("conditional-accept.md", "Why requests are rejected")


def test_reasons_of_aborts_are_in_the_reference() -> None:
    """The reasons for which requests are aborted are those of the reference."""
    expected = {reason.value for reason in AbortReason}

    assert expected == reasons("conditional-accept.md", "Why requests are aborted")


def test_reasons_of_failed_handshakes_are_in_the_reference() -> None:
    """The reasons for which handshakes fail are those of the reference."""
    expected = slugs(_faults, "why_no_handshake")

    assert expected == reasons("serving.md", "Why handshakes fail")


def test_reasons_of_rules_about_tls_are_in_the_reference() -> None:
    """The reasons for which rules about TLS turn peers away are those of the reference."""
    expected = {each for each in reasons_of_parsers() if "proxy" not in each}
    expected |= slugs(_client_hello, "judge", "_wait")

    assert expected == reasons("inspectors.md", "What TLS clients say first")
