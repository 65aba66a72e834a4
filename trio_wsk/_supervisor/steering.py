"""What is asked of all workers, as if they were one server: the supervisor's commands.

Each worker is asked at the same time, and has a few seconds: one that hangs holds up nobody. What
they answer is put together; or one of them is asked, by its number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_wsk.control._control import MOST_LISTED
from trio_wsk.control._protocol import RefusedError

from .asking import NoAnswerError
from .together import together

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk.control._protocol import Request

    from .crew import Crew
    from .process import Worker

__all__ = ["PATIENCE", "WorkersControl", "ask_all", "open_connections"]

PATIENCE: Final = 5.0
"""Seconds that a worker has for an answer: one that takes longer has its loop held up."""

_OF_LISTENING: Final = frozenset({"pause", "refuse", "resume"})
"""What a worker that finishes can't do any more."""

Answers = dict[int, Any]
"""By worker: what it has answered, a `RefusedError` or a `NoAnswerError`."""


async def ask_all(
    workers: Mapping[int, Worker], command: str, arguments: Mapping[str, object]
) -> Answers:
    """Ask workers, all at once; return what each has answered, or why it has not.

    Args:
      workers: Whom, by number.
      command: As on the control socket.
      arguments: As well.
    """
    line = json.dumps({**arguments, "command": command}).encode()
    answers: Answers = {}
    async with trio.open_nursery() as nursery:
        for number, worker in workers.items():
            nursery.start_soon(_ask, number, worker, line, answers)
    return {number: answers[number] for number in workers}


async def open_connections(workers: Mapping[int, Worker]) -> dict[int, int | None]:
    """Ask workers how many connections are open; None for each that does not answer."""
    answers = await ask_all(workers, "statistics", {})
    return {
        number: None
        if isinstance(answer, Exception)
        else sum(server["open_connections"] for server in answer.values())
        for number, answer in answers.items()
    }


async def _ask(  # noqa: ASYNC910 - it asks
    number: int, worker: Worker, line: bytes, answers: Answers
) -> None:
    try:
        answer: Any = json.loads(await worker.questions.ask(line, PATIENCE))
    except NoAnswerError as error:
        answers[number] = error
    else:
        answers[number] = answer["result"] if answer["ok"] else RefusedError(answer["error"])


@final
class WorkersControl:
    """Does the commands of a control socket for all workers.

    Args:
      crew: The workers.
      drain: Has the service drain, and end.
    """

    def __init__(self, crew: Crew, drain: Callable[[], object]) -> None:
        self._crew = crew
        self._drain = drain

    async def do(self, request: Request) -> object:
        """Do what was asked for, in all workers, or in the one that is named.

        Raises:
          RefusedError: it can't be done, or not in each of them.
        """
        await trio.lowlevel.checkpoint()
        match request.command:
            case "workers":
                return await self._list()
            case "drain":
                self._drain_all(request)
                return None
            case "abort" if "worker" not in request.arguments and len(self._crew.all()) > 1:
                raise RefusedError("abort takes worker, which connections show beside the id")
        arguments = {key: each for key, each in request.arguments.items() if key != "worker"}
        most = int(request.number("most", MOST_LISTED))
        answers = await ask_all(self._asked(request), request.command, arguments)
        return together(request.command, _results(answers), most)

    def _asked(self, request: Request) -> Mapping[int, Worker]:
        workers = self._crew.all()
        if "worker" not in request.arguments:
            return self._crew.taking() if request.command in _OF_LISTENING else workers
        number = request.number("worker")
        if number not in workers:
            known = ", ".join(map(str, workers)) or "none"
            raise RefusedError(f"there is no worker {number:g}, but {known}")
        return {int(number): workers[int(number)]}

    async def _list(self) -> object:
        workers = self._crew.all()
        answers = await ask_all(workers, "workers", {})
        return [_listed(number, workers[number], answer) for number, answer in answers.items()]

    def _drain_all(self, request: Request) -> None:
        if request.arguments:
            raise RefusedError(
                "drain takes no arguments with workers: all of them drain, within the grace that"
                " the service was started with"
            )
        self._drain()


def _listed(number: int, worker: Worker, answer: Any) -> object:  # noqa: ANN401 - as JSON is
    """Return what a worker says of itself, with its number; or that it says nothing."""
    if isinstance(answer, Exception):
        return {"worker": number, "process": worker.pid, "statistics": None, "rules": None}
    return {**answer[0], "worker": number}


def _results(answers: Answers) -> Answers:
    """Return what was answered, if each has answered.

    Raises:
      RefusedError: one has not, or there is none.
    """
    if not answers:
        raise RefusedError("no worker serves now")
    for number, answer in answers.items():
        if isinstance(answer, RefusedError):
            raise answer
        if isinstance(answer, NoAnswerError):
            raise RefusedError(f"worker {number} {answer}")
    return answers
