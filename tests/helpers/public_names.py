"""What `trio_wsk` makes public: for the tests that hold code and documentation to the same set."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import GenericAlias
from typing import TYPE_CHECKING

import trio_wsk

if TYPE_CHECKING:
    from types import ModuleType


def public_modules() -> list[ModuleType]:
    """Return the package and every module below it that no underscore makes private."""
    below = pkgutil.walk_packages(trio_wsk.__path__, prefix="trio_wsk.")
    names = [found.name for found in below if "._" not in found.name]
    return [trio_wsk, *map(importlib.import_module, names)]


def public_names() -> dict[str, object]:
    """Return what the public modules list, by the name that users import."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in public_modules()
        for name in module.__all__
    }


def public_definitions() -> dict[str, object]:
    """Return the public classes and functions: what has a home and a docstring of its own."""
    return {
        name: thing
        for name, thing in public_names().items()
        if (inspect.isclass(thing) and not isinstance(thing, GenericAlias))  # as on Python 3.10
        or inspect.isfunction(thing)
    }
