"""What a task says to Trio's scheduler when it waits, and what it is woken with.

Waiting is what a server does most, and what each wait makes anew in Trio costs as much as the
receive that it is for: a coroutine, in it another one, an object that says what is wanted, and an
outcome. The scheduler keeps none of them. So what is wanted is said with an object that is used
again, which Trio's own wait has made, from one coroutine; and who is woken with nothing to tell but
that he is to look again is woken with one outcome for all.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Final, NewType, TypeVar, final

import trio
from outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

    Abort = Callable[[trio.lowlevel.RaiseCancelT], trio.lowlevel.Abort]

__all__ = ["WOKEN", "Trap", "let_others_run", "parked", "trap_of"]

ResultT = TypeVar("ResultT")

Trap = NewType("Trap", object)
"""What a task yields to the scheduler."""


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


def trap_of(abort: Abort) -> Trap:
    """Return what a task waits with to be rescheduled, for one wait after the other.

    Args:
      abort: As for `trio.lowlevel.wait_task_rescheduled`.
    """
    return _yielded_by(trio.lowlevel.wait_task_rescheduled(abort))  # noqa: ASYNC105 - sent into by hand


@types.coroutine
def parked(trap: Trap) -> Generator[Trap, Outcome[None], None]:
    """Wait to be rescheduled with `WOKEN`, as `trio.lowlevel.wait_task_rescheduled` does."""
    woken = yield trap
    if woken is not WOKEN:
        woken.unwrap()


@types.coroutine
def let_others_run() -> Generator[Trap, object, None]:
    """Do what `trio.lowlevel.cancel_shielded_checkpoint` does: a schedule point, and no more."""
    yield _CHECKPOINT


def _yielded_by(wait: Coroutine[object, object, object]) -> Trap:
    trap = Trap(wait.send(None))
    wait.close()
    return trap


_CHECKPOINT: Final = _yielded_by(trio.lowlevel.cancel_shielded_checkpoint())  # noqa: ASYNC105 - as above
