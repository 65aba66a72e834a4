"""A server that is short of descriptors: the program that test_no_descriptors talks to.

Run ``python -m tests.helpers.scarce_server POLICY STYLE READINESS``. What it has to say it writes
to stdout, one JSON object a line: records as they are made, and answers. It starts paused;
``R`` on stdin resumes it, ``?`` asks for its statistics, the end of stdin ends it. The log
goes to stderr.
"""

from __future__ import annotations

import errno
import json
import logging
import resource
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

import trio_wsk
from tests.helpers.scarcity import open_descriptors
from trio_wsk import observers
from trio_wsk._engine import choice as _choice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LIMIT: Final = 64
"""How many descriptors this process may have."""

GREETING: Final = b"come in\n"
"""What a client is sent when it has been accepted."""

LOG_PREFIX: Final = "log: "
"""What each line of the log starts with."""

IRPS: Final = 200
"""How many accepts are queued, where they are."""


def say(what: str, **more: object) -> None:
    """Write a line for the test."""
    print(json.dumps({"what": what, **more}, default=plain), flush=True)  # noqa: T201 - a program


def plain(value: Any) -> object:
    """Turn a mapping that is no dict into one, an error into its errno's name, a state into its."""
    if isinstance(value, OSError):
        return errno.errorcode[value.errno or 0]
    if isinstance(value, trio_wsk.ListeningState):
        return value.name
    return dict(cast("Mapping[str, object]", value))


class Telling:
    """An observer that says what it is told."""

    records: Final = frozenset(
        {
            observers.AcceptBackoffStarted,
            observers.AcceptBackoffEnded,
            observers.ListenerFailed,
        }
    )

    def __call__(self, record: observers.Record) -> None:
        """Say it."""
        say(type(record).__name__, **attrs.asdict(record))


class Turns(trio.abc.Instrument):
    """Counts how often Trio has gone round its loop: a spin shows here, whatever spins."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        """Count."""
        self.count += 1


async def greet_and_echo(connection: trio_wsk.Connection) -> None:
    """Greet a client, and echo what it says until it has finished."""
    await connection.send_all(GREETING)
    async for data in connection:
        await connection.send_all(data)


async def greet_and_echo_and_close(connection: trio_wsk.Connection) -> None:
    """Do so where nobody else closes the connection."""
    async with connection:
        await greet_and_echo(connection)


class Scarce:
    """The server, in the style that was asked for."""

    def __init__(self, policy: str) -> None:
        self.turns = Turns()
        self.listening: trio_wsk.ListeningSocket
        self.options: Final[dict[str, Any]] = {
            "host": "127.0.0.1",
            "on_no_descriptors": policy,
            "observers": [Telling()],
        }

    def started(self, listening: trio_wsk.ListeningSocket) -> None:
        """Say that clients may come; they are not accepted yet."""
        self.listening = listening
        listening.pause()
        say("listening", address=str(listening.local_addresses[0]))

    async def serve(self, asked: trio.lowlevel.FdStream) -> None:
        """Serve with `trio_wsk.serve`, a task per connection."""
        failure: list[OSError] = []

        async def serve(  # noqa: ASYNC128 - whom it hands the status to calls it
            task_status: trio.TaskStatus[trio_wsk.Server],
        ) -> None:
            try:
                await trio_wsk.serve(greet_and_echo, 0, task_status=task_status, **self.options)
            except OSError as error:
                failure.append(error)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            self.started(server.listening)
            nursery.start_soon(self.answer, asked, server.abort)
        for error in failure:
            raise error

    async def accept(self, asked: trio.lowlevel.FdStream) -> None:
        """Serve with a loop of awaited accepts."""
        async with (
            trio_wsk.open_listening_socket(0, **self.options) as listening,
            trio.open_nursery() as nursery,
        ):
            self.started(listening)
            nursery.start_soon(self.answer, asked, nursery.cancel_scope.cancel)
            while True:
                nursery.start_soon(greet_and_echo_and_close, await listening.accept())

    async def queue(self, asked: trio.lowlevel.FdStream) -> None:
        """Queue accepts, as many as there are clients, and say in the end what became of them."""
        irps: list[trio_wsk.Irp[trio_wsk.Connection]] = []
        try:
            async with trio_wsk.open_listening_socket(0, **self.options) as listening:
                self.started(listening)
                irps += [listening.queue_accept() for _ in range(IRPS)]
                await self.answer(asked, listening.pause)
        finally:
            say("irps", statuses=[irp.status.name for irp in irps])
            for irp in irps:
                if irp.information is not None:
                    irp.information.abort()

    async def answer(self, asked: trio.lowlevel.FdStream, end: Callable[[], object]) -> None:
        """Do as the test says, and end when it has nothing more to say."""
        async for letters in asked:
            for letter in letters.decode():
                if letter == "R":
                    self.listening.resume()
                else:
                    statistics = attrs.asdict(self.listening.statistics(), recurse=False)
                    say("statistics", turns=self.turns.count, **statistics)
        end()


async def main(policy: str, style: str) -> None:
    """Serve until stdin has ended, or the listening socket fails."""
    scarce = Scarce(policy)
    trio.lowlevel.add_instrument(scarce.turns)
    asked = trio.lowlevel.FdStream(0)
    _choice.task_readiness()  # shared by all awaited connections of a run, until it ends
    before = open_descriptors()
    try:
        await {"serve": scarce.serve, "accept": scarce.accept, "queue": scarce.queue}[style](asked)
    except OSError as error:
        say("failed", error=error)
    say("ended", before=before, after=open_descriptors())


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    logging.basicConfig(format=f"{LOG_PREFIX}%(levelname)s %(message)s")
    _choice.HAVE_EPOLL = sys.argv[3] == "epoll"
    trio.run(main, sys.argv[1], sys.argv[2])
