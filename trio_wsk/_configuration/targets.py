"""What ``package.module:name`` stands for."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Final

__all__ = ["TargetError", "found", "look_in_working_directory"]

_ALIKE: Final = 0.6


class TargetError(Exception):
    """A target leads nowhere: why."""


def look_in_working_directory() -> None:
    """Have modules looked for in the working directory first, as ``python -m`` does.

    Unless whoever has started Python has said that it is not to be trusted (``-P``).
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path and not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, here)


def found(target: str) -> object:
    """Import the module of a target, and return what it names there.

    Args:
      target: ``package.module:name``, or a name within a name after the colon.

    Raises:
      TargetError: there is no such module, or no such name in it. (The target's author's.)
      BaseException: what the module raises when it is imported. (The module's.)
    """
    module_name, _, names = target.partition(":")
    place: object = _imported(module_name)
    done = module_name
    for name in names.split("."):
        try:
            place = getattr(place, name)
        except AttributeError:
            raise TargetError(f"{done} has no {name!r}{_meant(place, name)}") from None
        done += ("." if ":" in done else ":") + name
    return place


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Of a module that exists, and imports one that doesn't, the author wants the traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise TargetError(
            f"there is no module {error.name!r}; modules are looked for in {Path.cwd()}, and where"
            " Python looks"
        ) from None


def _meant(place: object, name: str) -> str:
    public = [each for each in vars(place) if not each.startswith("_")] if _has_vars(place) else []
    close = get_close_matches(name, public, 1, _ALIKE)
    return f"; did you mean {close[0]!r}?" if close else ""


def _has_vars(place: object) -> bool:
    return hasattr(place, "__dict__")
