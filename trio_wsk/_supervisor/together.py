"""What several workers answer to one command, put together into one answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["together"]

_LISTS: Final = {"connections": "connections", "penalties": "sources"}
"""What is listed by a command, and would be no list of all if it were added up."""


def together(command: str, answers: Mapping[int, Any], most: int) -> Any:  # noqa: ANN401 - as JSON is
    """Put together what workers have answered.

    Args:
      command: What they were asked.
      answers: What each has answered, by its number: one or more.
      most: How many of what is listed are wanted.

    Returns:
      An answer in the shape in which one worker answers. Counts are added up; of what was the most
      at once it is the largest; and where they say different things, these stand one after the
      other. What is listed has the number of its ``worker``.
    """
    name = _LISTS.get(command)
    if name is None:
        return _merged(list(answers.values()))
    rest = [{key: each[key] for key in each if key != name} for each in answers.values()]
    listed = [
        {"worker": number, **entry} for number, each in answers.items() for entry in each[name]
    ]
    if name == "sources":
        listed.sort(key=lambda entry: -entry["seconds"])
    return {**_merged(rest), name: listed[:most]}


def _merged(values: Sequence[Any], name: str = "") -> Any:  # noqa: ANN401 - as above
    if all(isinstance(each, Mapping) for each in values):
        names = dict.fromkeys(key for each in values for key in each)
        return {key: _merged([each[key] for each in values if key in each], key) for key in names}
    known = [each for each in values if each is not None]
    if known and all(isinstance(each, (int, float)) for each in known):
        return max(known) if name.endswith("_most") or name == "threshold" else sum(known)
    said = list(dict.fromkeys(values))
    return said[0] if len(said) == 1 else ", ".join(map(str, said))
