"""The workers that a supervisor has now, for who asks them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .generation import Generation
    from .process import Worker

__all__ = ["Crew"]


@final
class Crew:
    """The workers of all generations, by their numbers.

    Two that run at once never have one number.
    """

    def __init__(self) -> None:
        self.generations: list[Generation] = []
        """All that have not ended; those that are being started, too."""
        self.serving: Generation | None = None
        """The one that takes new connections."""

    def free_numbers(self) -> Iterator[int]:
        """Count from 1, and pass over what workers are called that run still."""
        taken = {number for each in self.generations for number in each.numbers}
        return (number for number in itertools.count(1) if number not in taken)

    def all(self) -> dict[int, Worker]:
        """Return all that serve, those that finish too."""
        serving = [each.serving for each in self.generations]
        return dict(sorted(pair for workers in serving for pair in workers.items()))

    def taking(self) -> dict[int, Worker]:
        """Return those that take new connections."""
        return {} if self.serving is None else self.serving.serving

    def missing(self) -> list[int]:
        """Return the numbers of those that should serve and don't: they have crashed."""
        there = self.taking()
        numbers = [] if self.serving is None else self.serving.numbers
        return [number for number in numbers if number not in there]

    def is_ending(self) -> bool:
        """Whether nobody is to take new connections any more."""
        return self.serving is None or self.serving.is_ending
