"""Where options come from: the command line, the environment, a file.

What each of them says is kept with where it stands, so that a mistake can be told there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import attrs

from .options import ENVIRONMENT, OPTIONS, Option
from .toml_lines import MalformedFileError, line_of, parsed

__all__ = ["FILE_VARIABLE", "Given", "Source", "command_line", "environment", "file"]

FILE_VARIABLE: Final = f"{ENVIRONMENT}CONFIG"
"""Names a file, as ``--config`` does."""

_ALIKE: Final = 0.7
"""From how much likeness on one name is taken for another."""


@attrs.frozen
class Given:
    """What was given for one option."""

    option: Option
    value: object
    """Not checked yet."""
    where: str
    """Where that stands, for who looks for a mistake."""


@attrs.frozen
class Source:
    """What one source says."""

    given: Mapping[str, Given] = attrs.field(factory=dict[str, Given])
    """By the names of options."""
    problems: tuple[str, ...] = ()
    """What is wrong with what is no option."""


def command_line(options: Mapping[str, str | None]) -> Source:
    """Take what the command line says.

    Args:
      options: The text for each option; None for those that are not there.
    """
    given = {
        name: Given(OPTIONS[name], OPTIONS[name].read(text), _flag(OPTIONS[name]))
        for name, text in options.items()
        if text is not None
    }
    return Source(given)


def _flag(option: Option) -> str:
    return option.flag if option.metavar is not None else f"the {option.name}"


def environment(variables: Mapping[str, str]) -> Source:
    """Take what the environment says; an empty variable says nothing.

    Other variables than ours may begin as ours do. One that is nearly ours is a mistake.
    """
    given = {
        name: Given(option, option.read(variables[option.variable]), option.variable)
        for name, option in OPTIONS.items()
        if variables.get(option.variable)
    }
    known = [*(option.variable for option in OPTIONS.values()), FILE_VARIABLE]
    return Source(given, tuple(_nearly_ours(variables, known)))


def _nearly_ours(variables: Mapping[str, str], known: list[str]) -> Iterator[str]:
    names = {name.removeprefix(ENVIRONMENT): name for name in known}
    for variable in sorted({*variables} - {*known}):
        if variable.startswith(ENVIRONMENT):
            word = variable.removeprefix(ENVIRONMENT)
            for meant in get_close_matches(word, names, 1, _ALIKE):
                yield f"{variable} is no variable of ours; did you mean {names[meant]}?"


def file(name: str) -> Source:
    """Take what a TOML file says.

    Raises:
      ImportError: see `parsed`.
    """
    try:
        text = Path(name).read_text(encoding="utf-8")
        found = parsed(text)
    except OSError as error:
        return Source(problems=(f"{name} can't be read: {error.strerror}",))
    except UnicodeDecodeError as error:
        return Source(problems=(f"{name} is no text in UTF-8: {error.reason}",))
    except MalformedFileError as error:
        return Source(problems=(f"{name}: {error}",))
    places = {key: f"{name}, line {line_of(key, text)}" for key in found}
    given = {
        key: Given(OPTIONS[key], value, places[key])
        for key, value in found.items()
        if key in OPTIONS
    }
    unknown = tuple(_unknown(key, places[key]) for key in found if key not in OPTIONS)
    return Source(given, unknown)


def _unknown(key: str, where: str) -> str:
    close = get_close_matches(key.replace("-", "_"), OPTIONS, 1, _ALIKE)
    meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPTIONS)}"
    return f"{where}: {key} is no option; {meant}"
