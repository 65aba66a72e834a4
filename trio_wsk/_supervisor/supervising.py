"""The supervisor's life: from its sockets to its exit status, by the signals that it hears.

SIGINT and SIGTERM end it, a second one at once. SIGHUP reads the configuration again and puts new
workers in the place of the old ones, SIGUSR2 a new supervisor in its own place. Of these two only
one is done at a time; what comes meanwhile is done next, once.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._configuration.configuration import ConfigurationError
from trio_wsk._serving.arguments import DEFAULT_GRACE
from trio_wsk._serving.signals import ENDING_SIGNALS, EndingSignals, check_main_thread
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError

from .generation import Generation, StartFailedError, jobs_of
from .messages import Kind
from .sockets import more_queues, open_sockets, sockets_taken_over
from .takeover import Inheritance, NoSuccessorError, start_successor

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._configuration.configuration import Configuration

    from .sockets import KeptSockets

__all__ = ["supervise"]

_KILLED: Final = 128
"""What a shell adds to a signal's number."""


def supervise(read: Callable[[], Configuration]) -> None:
    """Run workers until a signal asks for the end: a program's last line.

    Args:
      read: Reads the configuration, now and for each new generation of workers.

    Returns when all workers have ended after a signal, or have left their sockets to a new
    supervisor.

    Raises:
      SystemExit: the workers can't start, or crash again and again; with the reason, so that the
        exit status is 1. Or a second signal has come: with 128 and its number.
      ConfigurationError: the configuration is wrong.
      RuntimeError: this is not the main thread. (Yours.)
    """
    check_main_thread("a supervisor")
    configuration = read()
    inherited = Inheritance.taken()
    with EndingSignals(ENDING_SIGNALS) as ending:
        supervisor = Supervisor(read, configuration, inherited)
        try:
            trio.run(supervisor.run, ending)
        except (BindError, InvalidParameterError, ConfigurationError) as error:
            raise SystemExit(str(error)) from error
    if len(ending.heard) > 1:
        raise SystemExit(_KILLED + ending.heard[1])
    if supervisor.failure is not None:
        raise SystemExit(supervisor.failure)


def say(text: str) -> None:
    """Tell the operator."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@final
class Supervisor:
    """A supervisor at work.

    Args:
      read: Reads the configuration again.
      configuration: The one to begin with.
      inherited: What it has from the supervisor before it, if there is one.
    """

    def __init__(
        self,
        read: Callable[[], Configuration],
        configuration: Configuration,
        inherited: Inheritance | None,
    ) -> None:
        self.failure: str | None = None
        """Why it has ended, if nobody has asked for that."""
        self._read = read
        self._configuration = configuration
        self._inherited = inherited
        self._sockets: KeptSockets
        self._nursery: trio.Nursery
        self._serving: Generation | None = None
        self._generations: list[Generation] = []
        self._opening = trio.CancelScope()
        self._hearing = trio.CancelScope()
        """In which signals of change are heard: until the end."""

    async def run(self, ending: EndingSignals) -> None:
        """Open the sockets, start the workers, and do what the signals say."""
        ending.tell(self._end, self._abort)
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGUSR2) as signals:
            with self._opening:
                self._sockets = await self._opened()
            if self._opening.cancelled_caught:
                return
            try:
                async with trio.open_nursery() as self._nursery:
                    with self._hearing:
                        if await self._begin():
                            async for number in signals:
                                await self._change(number)
                say("drained" if self.failure is None else "ended")
            finally:
                self._sockets.close()

    async def _opened(self) -> KeptSockets:
        configuration, inherited = self._configuration, self._inherited
        if inherited is None:
            return await open_sockets(configuration, _workers(configuration))
        inherited.close()
        _check_place(_place(configuration), list(inherited.place))
        return sockets_taken_over(  # noqa: ASYNC910 - they are there
            configuration, inherited.descriptors
        )

    async def _begin(self) -> bool:
        """Start the first workers; say False if they don't start."""
        try:
            await self._start(self._configuration)
        except StartFailedError as error:
            self._fail(str(error))
            return False  # noqa: ASYNC910 - it was waited for
        where = ", ".join(map(str, self._sockets.addresses))
        say(f"listening on {where}, with {_counted(_workers(self._configuration))}")
        if self._inherited is not None:
            self._inherited.tell()
        return True

    async def _start(self, configuration: Configuration) -> None:
        """Start a generation, which serves when this returns, and put it in the old one's place."""
        workers = _workers(configuration)
        await more_queues(self._sockets, configuration, workers)
        dealt = self._sockets.dealt(workers)
        new = Generation(
            jobs_of(configuration, dealt, is_last=self._sockets.are_ours),
            grace=_grace(configuration),
            say=say,
            gave_up=self._fail,
        )
        self._generations.append(new)
        try:
            await self._nursery.start(self._run, new)
        except BaseException:
            self._generations.remove(new)
            raise
        self._configuration = configuration
        old, self._serving = self._serving, new
        if old is not None:
            old.end(Kind.LEAVE)

    async def _run(  # noqa: ASYNC128 - as for `Generation.run`
        self, generation: Generation, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await generation.run(task_status=task_status)
        if generation in self._generations:
            self._generations.remove(generation)

    # ------------------------------------------------------------------------- changes

    async def _change(self, number: int) -> None:
        if number == signal.SIGHUP:
            await self._reload()
        else:
            await self._upgrade()

    async def _reload(self) -> None:  # noqa: ASYNC910 - whoever calls it waits for signals
        say("reloading")
        try:
            configuration = self._read()
            _check_place(_place(configuration), _place(self._configuration))
            await self._start(configuration)
        except (ConfigurationError, StartFailedError, BindError) as error:
            say(f"not reloaded, the workers from before go on: {error}")
        else:
            late = await self._left()
            took_over = f"{_counted(_workers(configuration))} took over; those before finish{late}"
            say(f"reloaded: {took_over}")

    async def _upgrade(self) -> None:  # noqa: ASYNC910 - as well
        say("starting a new supervisor")
        try:
            place = _place(self._configuration)
            successor = await start_successor(place, self._sockets.descriptors)
        except NoSuccessorError as error:
            say(f"not replaced, this supervisor goes on: {error}")
        else:
            self._sockets.hand_over()
            for generation in self._generations:
                generation.end(Kind.LEAVE)
            late = await self._left()
            say(
                f"the new supervisor, process {successor}, took over; the workers here finish{late}"
            )
            self._end_all(Kind.LEAVE)

    async def _left(self) -> str:
        """Wait until the workers that were told to leave have done so; say which have not."""
        await trio.lowlevel.checkpoint()
        ending = [generation for generation in self._generations if generation.is_ending]
        late = [number for generation in ending for number in await generation.wait_left()]
        return "".join(f"; worker {number} of them does not answer" for number in late)

    # ----------------------------------------------------------------------------- ends

    def _end(self) -> None:
        if self._serving is not None:
            say(f"draining: open connections are given {_grace(self._configuration):g} s to finish")
        self._end_all(Kind.END)

    def _end_all(self, how: Kind) -> None:
        self._opening.cancel(reason="the supervisor ends")
        self._hearing.cancel(reason="the supervisor ends")
        for generation in self._generations:
            generation.end(how)

    def _abort(self) -> None:
        for generation in self._generations:
            generation.abort()

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self._end_all(Kind.END)


def _workers(configuration: Configuration) -> int:
    return configuration.workers or 1


def _grace(configuration: Configuration) -> float:
    return DEFAULT_GRACE if configuration.grace is None else configuration.grace


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"


def _place(configuration: Configuration) -> list[object]:
    """Return where a configuration listens: what no change can change."""
    names = ("port", "host", "path", "mode", "fd", "socket_name", "shared_queue")
    return [getattr(configuration, name) for name in names]


def _check_place(new: list[object], old: list[object]) -> None:
    if new != old:
        raise ConfigurationError(
            "the place to listen at is another one now, which takes a new start"
        )
