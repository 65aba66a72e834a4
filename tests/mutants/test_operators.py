"""Which mutants are made, and that there is what they are made of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers.places import PACKAGE, ROOT
from tests.mutants.__main__ import chosen
from tests.mutants.operators import mutants_of
from tests.mutants.targets import SAME, TARGETS, Target


def by_module(target: Target) -> str:
    """Name a target."""
    return Path(target.module).stem


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = b < c", ["a = b <= c"]),
        ("a = (b := c) is not d", ["a = (b := c) is d"]),
        ("a = b not in c", ["a = b in c"]),
        ("a = b and (c) and d", ["a = b or (c) and d", "a = b and (c) or d"]),
        ("a = not (b)", ["a = (b)"]),
        ("a = b + c", ["a = b - c"]),
        ("a = b if c else d", ["a = b if not c else d"]),
        ("a: Final = 64", ["a: Final = 64000"]),
        ("a = 1", ["a = 2"]),
        ("a = True", ["a = False"]),
        ("def f():\n    if a: b()", ["if not a: b()", "if a: pass"]),
        ("def f():\n    a.b += c", ["pass"]),
        ("def f():\n    del a[b]", ["pass"]),
        ("a = [Eye.LEFT, Eye.RIGHT]", ["a = [Eye.RIGHT, Eye.RIGHT]", "a = [Eye.LEFT, Eye.LEFT]"]),
        ("a = {\n  b: c,\n  d: e,\n}", ["nothing", "nothing"]),
        ("a = 'ä' if b else 'ö'", ["a = 'ä' if not b else 'ö'"]),
    ],
)
def test_faults(source: str, expected: list[str]) -> None:
    """Each is one small change, and what comes of it is a module."""
    mutants = mutants_of(source.encode())

    assert expected == [mutant.new for mutant in mutants]
    for mutant in mutants:
        ast.parse(mutant.source)


@pytest.mark.parametrize(
    "source",
    [
        "def f(a: int = b) -> list[3]:\n    '''Nothing.'''",
        "def f():\n    assert a > 1",
        "def f():\n    raise ValueError(a + b)",
        "class C:\n    def __repr__(self):\n        return a + b",
        "class C:\n    def __init__(self):\n        self.a = b",
        "if TYPE_CHECKING:\n    a = 1",
    ],
)
def test_what_is_left_alone(source: str) -> None:
    """No behaviour hangs on it, or whatever runs notices."""
    assert [] == mutants_of(source.encode())


@pytest.mark.parametrize("target", TARGETS, ids=by_module)
def test_there_is_what_mutants_are_made_of(target: Target) -> None:
    """Each module is there and has mutants, each of them can be imported, and so can its tests."""
    mutants = chosen(target)

    assert 0 < len(mutants) <= target.most
    for mutant in mutants:
        ast.parse(mutant.source)
    for name in target.tests:
        assert (ROOT / "tests" / name).is_file()


def test_what_is_no_fault_has_its_reason() -> None:
    """And it is a mutant of one of the modules that there are."""
    made = {
        f"{target.module} {mutant}"
        for target in TARGETS
        for mutant in mutants_of((PACKAGE / target.module).read_bytes())
    }

    assert not SAME.keys() - made
    assert all(reason.endswith(".") for reason in SAME.values())
