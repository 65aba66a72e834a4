"""The supervisor's life: from its sockets to its exit status, by the signals that it hears.

SIGINT and SIGTERM end it, a second one at once. SIGHUP reads the configuration again and puts new
workers in the place of the old ones, SIGUSR2 a new supervisor in its own place. Of these two only
one is done at a time; what comes meanwhile is done next, once.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._configuration.configuration import ConfigurationError
from trio_wsk._configuration.places import place_in_words
from trio_wsk._configuration.ready import check_extras
from trio_wsk._serving.arguments import DEFAULT_GRACE
from trio_wsk._serving.signals import ENDING_SIGNALS, EndingSignals, check_main_thread
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError
from trio_wsk.transports._service_manager import ServiceManager

from .crew import Crew
from .doors import open_doors
from .generation import Generation, StartFailedError, jobs_of
from .messages import Kind
from .notifying import Notifying
from .sockets import more_queues, open_sockets, sockets_taken_over
from .steering import WorkersControl, open_connections
from .storing import Store
from .takeover import Inheritance, NoSuccessorError, start_successor
from .watching import reloading, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchfiles._rust_notify import RustNotify

    from trio_wsk._configuration.configuration import Configuration

    from .doors import Doors
    from .measuring import Measuring
    from .process import Worker
    from .sockets import KeptSockets

__all__ = ["supervise"]

_CHANGING_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR2)

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
    check_extras(configuration)
    inherited = Inheritance.taken()
    changes = watch(configuration, say)
    with _unheard_changes(), EndingSignals(ENDING_SIGNALS) as ending:
        try:
            supervisor = Supervisor(read, configuration, inherited, changes)
            trio.run(supervisor.run, ending)
        except (BindError, InvalidParameterError, ConfigurationError) as error:
            raise SystemExit(str(error)) from error
    if len(ending.heard) > 1:
        raise SystemExit(_KILLED + ending.heard[1])
    if supervisor.failure is not None:
        raise SystemExit(supervisor.failure)


@contextmanager
def _unheard_changes() -> Iterator[None]:
    """Have signals of change do nothing where the supervisor doesn't hear them.

    Trio sends those again that have come too late for its receiver, and what they would do then is
    to kill. A handler, since to be ignored is something that workers would inherit.
    """
    before = [(number, signal.signal(number, lambda *_: None)) for number in _CHANGING_SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


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
      changes: Tells of sources that change, if that is a reason to reload.
    """

    def __init__(
        self,
        read: Callable[[], Configuration],
        configuration: Configuration,
        inherited: Inheritance | None,
        changes: RustNotify | None,
    ) -> None:
        self.failure: str | None = None
        """Why it has ended, if nobody has asked for that."""
        self._read = read
        self._configuration = configuration
        self._inherited = inherited
        self._changes = changes
        self._sockets: KeptSockets
        self._doors: Doors
        self._nursery: trio.Nursery
        self._crew = Crew()
        self._measuring = _measuring(configuration, self._crew)
        self._opening = trio.CancelScope()
        self._hearing = trio.CancelScope()
        """In which signals of change are heard: until the end."""
        manager = ServiceManager.found()
        self._store = Store(manager, say)
        self._notifying = Notifying(manager, self._status, self._pulse, begins=inherited is None)
        self._is_ending = False
        self._last_failure: str | None = None
        """Why a change was not made, if the last one was not."""

    async def run(self, ending: EndingSignals) -> None:
        """Open the sockets, start the workers, and do what the signals say."""
        ending.tell(self._end, self._abort)
        with trio.open_signal_receiver(*_CHANGING_SIGNALS) as signals:
            with self._opening:
                await self._open()
            if self._opening.cancelled_caught:
                return
            try:
                async with self._notifying.told(), trio.open_nursery() as self._nursery:
                    with self._hearing:
                        async with reloading(self._changes, say):
                            if await self._begin():
                                async for number in signals:
                                    await self._change(number)
                say("drained" if self.failure is None else "ended")
            finally:
                if self._store.keeps_any:
                    self._sockets.hand_over()
                self._sockets.close()
                self._doors.close()

    async def _open(self) -> None:  # noqa: ASYNC910 - where they are inherited nothing is waited for
        self._sockets = await self._opened()
        inherited = None if self._inherited is None else self._inherited.doors
        try:
            self._doors = await open_doors(self._configuration, inherited)
        except BaseException:
            self._sockets.close()
            raise

    async def _opened(self) -> KeptSockets:
        configuration, inherited = self._configuration, self._inherited
        if inherited is None:
            stored = await self._store.taken(configuration)
            if stored:
                return sockets_taken_over(configuration, stored)
            return await open_sockets(configuration, _workers(configuration))
        inherited.close()
        _check_place(_places(configuration), list(inherited.place))
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
        commands = WorkersControl(self._crew, self._end)
        await self._nursery.start(self._doors.serve, commands, self._measuring)
        for line in self._doors.lines():
            say(line)
        say(f"listening on {self._where()}, with {_counted(_workers(self._configuration))}")
        if self._inherited is not None:
            await self._inherited.tell()
            self._notifying.takes_over()
        self._tell_ready()
        return True

    def _tell_ready(self) -> None:
        """Tell the service manager that all workers serve, and have it keep all sockets."""
        self._store.keep(self._sockets, self._configuration, self._notifying)
        self._notifying.ready()

    async def _start(self, configuration: Configuration) -> None:
        """Start a generation, which serves when this returns, and put it in the old one's place."""
        workers = _workers(configuration)
        queues = len(self._sockets.queues)
        await more_queues(self._sockets, configuration, workers)
        dealt = self._sockets.dealt(workers)
        jobs = jobs_of(configuration, dealt, is_last=self._sockets.are_ours)
        new = Generation(
            dict(zip(self._crew.free_numbers(), jobs, strict=False)),
            grace=_grace(configuration),
            say=say,
            ended=_nobody_asks if self._measuring is None else self._measuring.ended,
            gave_up=self._fail,
        )
        self._crew.generations.append(new)
        try:
            await self._nursery.start(self._run, new)
        except BaseException:
            self._crew.generations.remove(new)
            self._sockets.forget(queues)
            raise
        self._configuration = configuration
        old, self._crew.serving = self._crew.serving, new
        if old is not None:
            old.end(Kind.LEAVE)

    async def _run(  # noqa: ASYNC128 - as for `Generation.run`
        self, generation: Generation, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await generation.run(task_status=task_status)
        if generation in self._crew.generations:
            self._crew.generations.remove(generation)
        if not self._crew.generations:
            self._doors.stop()

    async def _pulse(self) -> tuple[bool, str]:
        """Say whether all workers that take connections answer, and how many are open in all."""
        asked = self._crew.all()
        found = await open_connections(asked)
        taking = self._crew.taking()
        # One that has ended meanwhile is being started again, or has left its place to another.
        silent = [n for n in found if found[n] is None and taking.get(n) is asked[n]]
        if silent:
            return False, ", ".join(f"worker {number} does not answer" for number in silent)
        count = sum(filter(None, found.values()))
        return True, f"{count} connection{'s' * (count != 1)} open"

    # ------------------------------------------------------------------------- changes

    async def _change(self, number: int) -> None:
        if number == signal.SIGHUP:
            await self._reload()
        else:
            await self._upgrade()

    async def _reload(self) -> None:  # noqa: ASYNC910 - whoever calls it waits for signals
        say("reloading")
        self._notifying.reloading()
        try:
            configuration = self._read()
            _check_place(_places(configuration), _places(self._configuration))
            await self._start(configuration)
        except (ConfigurationError, StartFailedError, BindError) as error:
            self._last_failure = f"not reloaded: {error}"
            say(f"not reloaded, the workers from before go on: {error}")
        else:
            self._last_failure = None
            late = await self._left()
            took_over = f"{_counted(_workers(configuration))} took over; those before finish{late}"
            say(f"reloaded: {took_over}")
        self._tell_ready()

    async def _upgrade(self) -> None:  # noqa: ASYNC910 - as well
        say("starting a new supervisor")
        try:
            place = _places(self._configuration)
            successor = await start_successor(
                place,
                self._sockets.descriptors,
                self._doors.descriptors,
                self._notifying.succeeded_by,
            )
        except NoSuccessorError as error:
            self._last_failure = f"not replaced: {error}"
            say(f"not replaced, this supervisor goes on: {error}")
        else:
            self._sockets.hand_over()
            self._doors.hand_over()
            for generation in self._crew.generations:
                generation.end(Kind.LEAVE)
            late = await self._left()
            say(
                f"the new supervisor, process {successor}, took over; the workers here finish{late}"
            )
            self._end_all(Kind.LEAVE)

    async def _left(self) -> str:
        """Wait until the workers that were told to leave have done so; say which have not."""
        await trio.lowlevel.checkpoint()
        ending = [generation for generation in self._crew.generations if generation.is_ending]
        late = [number for generation in ending for number in await generation.wait_left()]
        return "".join(f"; worker {number} of them does not answer" for number in late)

    def _where(self) -> str:
        return ", ".join(map(str, self._sockets.addresses))

    def _status(self) -> str:
        """Return the line for an operator who asks the service manager."""
        what = "draining" if self._is_ending else f"listening on {self._where()}"
        status = f"{what}; {_counted(_workers(self._configuration))}"
        reason = self.failure or self._last_failure
        return status if reason is None else f"{status}; {reason}"

    # ----------------------------------------------------------------------------- ends

    def _end(self) -> None:
        if self._crew.serving is not None:
            say(f"draining: open connections are given {_grace(self._configuration):g} s to finish")
        self._end_all(Kind.END)

    def _end_all(self, how: Kind) -> None:
        self._is_ending = True
        self._notifying.stopping()
        self._opening.cancel(reason="the supervisor ends")
        self._hearing.cancel(reason="the supervisor ends")
        for generation in self._crew.generations:
            generation.end(how)

    def _abort(self) -> None:
        for generation in self._crew.generations:
            generation.abort()

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self._end_all(Kind.END)


def _measuring(configuration: Configuration, crew: Crew) -> Measuring | None:
    """Have what workers count added up, if that is wanted."""
    if configuration.metrics is None:
        return None
    from .measuring import Measuring  # noqa: PLC0415 - it needs an extra

    return Measuring(crew)


def _nobody_asks(number: int, worker: Worker) -> None:
    """Take no note of a worker that has ended."""


def _workers(configuration: Configuration) -> int:
    return configuration.workers or 1


def _grace(configuration: Configuration) -> float:
    return DEFAULT_GRACE if configuration.grace is None else configuration.grace


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"


def _places(configuration: Configuration) -> list[object]:
    """Return where all is that can be spoken to: what no change can change."""
    beside = [configuration.control, configuration.admin, configuration.admin_token_file]
    return [*place_in_words(configuration), *beside, configuration.metrics]


def _check_place(new: list[object], old: list[object]) -> None:
    if new != old:
        raise ConfigurationError(
            "the place to listen at is another one now, which takes a new start"
        )
