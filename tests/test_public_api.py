"""Every public name has exactly one public home, and says there what it is."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

import trio_wsk
from tests.helpers.public_names import public_definitions, public_modules

if TYPE_CHECKING:
    from types import ModuleType

DEFINITIONS = public_definitions()


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_all_lists_public_names_once(module: ModuleType) -> None:
    """`__all__` of a public module holds names without an underscore, each once, sorted."""
    names: list[str] = list(module.__all__)

    assert sorted({name for name in names if not name.startswith("_")}) == sorted(names)


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_all_lists_names_that_exist(module: ModuleType) -> None:
    """`from module import *` works: `__all__` of a public module names nothing that is missing."""
    missing = [name for name in module.__all__ if not hasattr(module, name)]

    assert [] == missing


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definition_lives_where_users_import_it(name: str) -> None:
    """
    A public class or function calls itself by the name it is imported by, so that a
    traceback, a pickle and the documentation name one place, and it is the public one.
    """
    home, _, _ = name.rpartition(".")

    assert home == DEFINITIONS[name].__module__


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definition_has_a_docstring(name: str) -> None:
    """A public class or function has a docstring of its own, not one that it inherits."""
    docstring = vars(DEFINITIONS[name]).get("__doc__") or DEFINITIONS[name].__doc__

    assert docstring


def test_package_leaks_no_name() -> None:
    """What `trio_wsk` holds without an underscore is in its `__all__`, or is a submodule."""
    names = {
        name
        for name, thing in vars(trio_wsk).items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    }
    names.discard("annotations")  # what `from __future__ import annotations` leaves behind

    assert set() == names.difference(trio_wsk.__all__)
