"""The run: a service is loaded, and things happen to it; at the ends of each part it is weighed."""

from __future__ import annotations

import math
import random
import resource
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias, final

import attrs
import trio

from tests.helpers.changes import WORKERS, Changing, Load, connections_of, excess_of, load
from tests.helpers.counting_clients import Counted, Wanted
from tests.helpers.programs import LONG
from tests.helpers.supervised import Supervised, supervised

from .weights import HANDLER, Weight, weights_of

Action: TypeAlias = Callable[[Load], Awaitable[None]]

WARM: Final = 1000
"""How many clients a worker has answered, more or less, before it is put on the scales."""
KINDS: Final = "aaharaahfaar"
"""What clients do; see `Wanted`. Most are well-behaved, some slow, some reset, some flood."""
STEP: Final = 100
"""How many are answered between two things that happen."""
FEW: Final = 40
"""How many are answered while a worker has no descriptors: so few that not all who come can have
ended in that worker's queue by then."""
SPARE: Final = 3
"""How many connections a worker may have, at most, that is short of descriptors."""
PLACES: Final = ("--host", "127.0.0.1", "--port", "0")


@attrs.frozen
class Length:
    """How long one part of the run goes on: until either is reached."""

    rounds: float = math.inf
    """How often everything happens that may, once each, in an order that chance makes."""
    seconds: float = math.inf

    def is_over(self, rounds: int, seconds: float) -> bool:
        """Say whether so many rounds and seconds are enough."""
        return rounds >= self.rounds or seconds >= self.seconds


NONE: Final = Length(0)


@attrs.frozen
class Report:
    """What has been seen."""

    counted: list[Counted]
    """The clients, by part of the run."""
    happened: Mapping[str, int]
    """What was done to the service, and how often."""
    were_open: int
    """How many connections workers had that were killed."""
    weights: list[str]
    """Each process, before and after."""
    complaints: list[str]
    """What should not have been."""

    def lines(self) -> list[str]:
        """Say it all, for who reads it."""
        return [
            f"what has happened: {dict(self.happened)}",
            *(in_short(each) for each in self.counted),
            f"open in workers that were killed: {self.were_open}",
            *self.weights,
            *(f"WRONG: {each}" for each in self.complaints),
            *([] if self.complaints else ["nothing was lost or gained that should not have been"]),
        ]


@final
class Soak:
    """A service with two workers, and what happens to it.

    Args:
      server: Its supervisor.
      port: Where it listens.
      seed: Where chance begins.
      say: Is told what goes on.
    """

    def __init__(
        self, server: Supervised, port: int, seed: int, say: Callable[[str], object]
    ) -> None:
        self._changing = Changing(server)
        self._port = port
        self._chance = random.Random(seed)  # noqa: S311 - it has to come again
        self._say = say
        self._happened: Counter[str] = Counter()
        self._counted: list[Counted] = []
        self._weights: list[str] = []
        self._complaints: list[str] = []

    async def run(self, replacing: Length, steady: Length) -> Report:
        """Do it all: first with workers that are replaced, then with the last of them.

        Only who lives for long shows what it gains. So the supervisor is put on the scales at both
        ends of the first part, and the workers at both ends of the second one.
        """
        async with aclosing(self._changing):
            await self._load((), NONE)
            supervisor = await self._supervisor()
            await self._load((self._reload, self._kill, self._short, self._calm), replacing)
            self._compare("supervisor", supervisor, await self._supervisor(supervisor))
            await self._load((), NONE)
            before = await self._workers()
            await self._load((self._short, self._calm), steady)
            for worker, weight in (await self._workers()).items():
                self._compare(f"worker {worker}", before[worker], weight)
        return self._report()

    async def _load(self, actions: Sequence[Action], length: Length) -> None:
        """Have clients come, and everything happen, round after round."""
        began, rounds = trio.current_time(), 0
        async with load(Wanted(self._port, KINDS)) as clients:
            await clients.answers(WARM)
            while not length.is_over(rounds, trio.current_time() - began):
                for action in self._chance.sample(actions, len(actions)):
                    await action(clients)
                    await clients.answers(STEP)
                rounds += 1
                self._say(f"{dict(self._happened)}; {in_short(clients.counted)}")
            self._counted.append(await clients.end())

    # What happens.

    async def _reload(self, _: Load) -> None:
        self._happened["reload"] += 1
        await self._changing.reload()

    async def _kill(self, clients: Load) -> None:
        self._happened["kill"] += 1
        await self._changing.kill(self._chance.randrange(WORKERS))
        await clients.until_served_by(await self._changing.workers())

    async def _short(self, clients: Load) -> None:
        """Let a worker have hardly any more descriptors, for a while."""
        self._happened["no descriptors"] += 1
        worker = self._chance.choice(await self._changing.workers())
        before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        limit = lasting_descriptors(worker) + self._chance.randint(0, SPARE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, before[1]))
        await clients.answers(FEW)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)

    async def _calm(self, clients: Load) -> None:
        self._happened["nothing"] += 1
        await clients.answers(STEP)

    # What is seen.

    async def _supervisor(self, before: Weight | None = None) -> Weight:
        """Weigh it, and give it time to close what it had for workers that have just ended."""
        await self._changing.workers()
        weight = Weight.of(self._changing.supervisor)
        with trio.move_on_after(LONG):
            while before is not None and weight.descriptors != before.descriptors:
                await trio.sleep(0.01)
                weight = Weight.of(self._changing.supervisor)
        return weight

    async def _workers(self) -> dict[int, Weight]:
        return await weights_of(await self._changing.workers(), self._port)

    def _compare(self, who: str, before: Weight, after: Weight) -> None:
        self._weights.append(f"{who}: {before}, then {after}")
        self._complaints += [f"{who}: {each}" for each in after.complaints(before)]

    def _report(self) -> Report:
        were_open = self._changing.were_open
        for counted in self._counted:
            beyond = excess_of(counted, were_open)
            if beyond:
                self._complaints.append(f"lost, by worker: {beyond}, of {counted}")
        return Report(
            self._counted,
            self._happened,
            sum(were_open.values()),
            self._weights,
            self._complaints,
        )


def in_short(counted: Counted) -> str:
    """Say what clients have seen, in a line."""
    return (
        f"clients: {counted.begun} came, {counted.most} at once; {counted.answered} were answered"
        f" by {len(counted.by)} workers; lost: {dict(counted.lost)}; rude: {dict(counted.rude)}"
    )


def lasting_descriptors(pid: int) -> int:
    """Count a process's descriptors, but for connections; they have the lowest numbers."""
    return Weight.of(pid).descriptors - connections_of(pid)


@asynccontextmanager
async def soaked(
    folder: Path, seed: int, say: Callable[[str], object], *, patience: float = LONG
) -> AsyncIterator[Soak]:
    """Start the service; see `Soak`.

    Args:
      folder: Where.
      seed: Where chance begins.
      say: Is told what goes on.
      patience: Seconds after which the supervisor is killed.
    """
    (folder / "app.py").write_text(HANDLER, "utf-8")
    arguments = ["app:greet", *PLACES, "--workers", str(WORKERS), "--grace", "600"]
    async with supervised(folder, *arguments, patience=patience) as server:
        yield Soak(server, await server.port(), seed, say)
