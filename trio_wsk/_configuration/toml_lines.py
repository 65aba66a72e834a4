"""TOML files: what they say, and in which line.

Python's parser says nothing of lines once a file is right. But whatever stands in a file up to the
end of a line is a file, too, unless a value goes on in the next line: so a key begins behind the
last lines that are one without it.

Source: TOML 1.0; `tomllib`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

__all__ = ["MalformedFileError", "line_of", "parsed"]


class MalformedFileError(Exception):
    """A file is no TOML: why, with the line."""


def parsed(text: str) -> Mapping[str, Any]:
    """Parse a file.

    Raises:
      MalformedFileError: it is no TOML. (Its author's.)
      ImportError: on Python 3.10, there is no parser; the message says how to get it.
    """
    toml = _parser()
    try:
        found: Mapping[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise MalformedFileError(str(error)) from error
    return found


def line_of(key: str, text: str) -> int:
    """Say in which line of a file a key of its top level begins, counted from 1.

    Args:
      key: One that the file has.
      text: All of the file.
    """
    lines = text.splitlines(keepends=True)
    begins = 1
    for count in range(len(lines) + 1):
        try:
            known = parsed("".join(lines[:count]))
        except MalformedFileError:
            continue  # a value goes on
        if key in known:
            break
        begins = count + 1
    return begins


def _parser() -> ModuleType:
    try:
        return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as missing:
        raise ImportError(
            "a configuration file needs tomli on Python 3.10, which is not installed:"
            " pip install 'trio-wsk[toml]'"
        ) from missing
