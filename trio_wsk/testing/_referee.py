"""The referee of a check keeps the time, and notes what a transport may not do at any time.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ._harness import TransportHarness

__all__ = ["Referee", "complaining"]

POLL_SECONDS: Final = 0.001
"""How soon one looks again for what nobody announces; then less and less often."""

POLLS: Final = 100
"""How often one looks at least within the time that is given."""


class Referee:
    """Gives everything a bounded time, and takes note of rules that were broken.

    Args:
      harness: Says how long to wait.
      complaints: Where the rules that were broken are noted down.
    """

    def __init__(self, harness: TransportHarness[Any], complaints: list[str]) -> None:
        self.harness: Final = harness
        self._complaints: Final = complaints

    def complain(self, sentence: str) -> None:
        """Note that a rule was broken, from where one can't raise."""
        self._complaints.append(sentence)

    @asynccontextmanager
    async def within(self, failure: str) -> AsyncIterator[None]:
        """Give what is in the block a bounded time; if that is over, it has failed so."""
        with trio.move_on_after(self.harness.patience) as scope:
            yield
        assert not scope.cancelled_caught, failure

    async def until(self, condition: Callable[[], object], failure: str) -> None:
        """Wait for what nobody announces."""
        seconds, longest = POLL_SECONDS, self.harness.patience / POLLS
        async with self.within(failure):
            while not condition():
                await trio.sleep(seconds)
                seconds = min(2 * seconds, max(longest, POLL_SECONDS))

    async def quiet(self) -> None:
        """Wait until what is going to happen has happened."""
        await trio.sleep(self.harness.quiet_seconds)
        await trio.testing.wait_all_tasks_blocked()


@contextmanager
def complaining(complaints: list[str]) -> Iterator[None]:
    """Raise the first complaint: what failed after it may have failed because of it."""
    try:
        yield
    except AssertionError as error:
        if complaints:
            raise AssertionError(complaints[0]) from error
        raise
    if complaints:
        raise AssertionError(complaints[0])
