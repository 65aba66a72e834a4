"""What a task is woken with when there is nothing to tell but that it is to look again.

Trio makes an `outcome.Value` for whoever is rescheduled without a value, and waking is what a
server does most: of a short request on an open connection that was a tenth. A value is for one use;
this can be used again and again, since there is nothing in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, final

from outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

__all__ = ["WOKEN"]

ResultT = TypeVar("ResultT")


@final
class _Woken(Outcome[None]):
    """The outcome None, for any number of uses."""

    __slots__ = ()

    def unwrap(self) -> None:
        """Return None."""

    def send(self, gen: Generator[ResultT, None, object]) -> ResultT:
        """Go on with a generator."""
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[ResultT, None]) -> ResultT:
        """Go on with an async generator."""
        return await agen.asend(None)


WOKEN: Final = _Woken()
