"""Asks a server for many at once: one batch at a time, for all that wait when it is sent.

Whoever waits does so for the batch that is on its way, if there is one, and for the next. When one
takes too long the server counts as lost: nobody waits any more, until a try has had its answer in
time. What is said then is what was not heard, so that the first answer puts that right, too.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

import trio

from ._breaker import Breaker
from ._sources import MOST_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from ._ledgers import Ledger
    from ._scripts import Script
    from ._sources import Source

__all__ = ["Asked", "Courier"]

MOST_AT_ONCE: Final = 256
"""How many sources of who waits are in one batch, and how many others: a server does nothing else
meanwhile, for about a millisecond."""

MOST_TRIED: Final = 16
"""How many sources a try is about: of a cluster, several nodes have them."""

PATIENCE: Final = 5.0
"""Seconds after which connections are broken that say nothing: TCP alone would keep them for a
quarter of an hour when the other machine has gone."""

PASSES: Final = 5
"""Turns of Trio's loop between octets that have arrived and who waits for them."""


class Server(Protocol):
    """Who is asked."""

    async def evaluate(
        self,
        script: Script,
        constants: Sequence[str | float],
        lines: Sequence[tuple[Source, Sequence[float]]],
    ) -> Sequence[float | Exception]:
        """Answer each line, or say why there is no answer."""

    def disconnect(self) -> None:
        """Have what is on its way fail."""


@final
class Asked:
    """One decision that somebody waits for."""

    __slots__ = ("answer", "asked_at", "event", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.asked_at = trio.current_time()
        self.event = trio.Event()
        """Set when there is an answer, or will be none."""
        self.answer: bool | None = None
        """Whether the source is let through; None as long as nobody knows."""


Batch: TypeAlias = "dict[Source, list[Asked]]"


@final
class _Sent:
    """A batch on its way."""

    __slots__ = ("answers", "done")

    def __init__(self) -> None:
        self.answers: Sequence[float | Exception] = ()
        self.done = trio.Event()


@final
class Courier:
    """Carries questions about one rule to a server, and the answers back.

    Args:
      server: Who is asked.
      ledger: What is asked, and what the answers mean.
      timeout: Seconds for one batch, and for who waits for it.
      renewal: Seconds after which what is held is said again.
      lost: Told that the server is lost, and by what error; None if it was silent.
      back: Told after how many seconds it is back.
    """

    def __init__(
        self,
        server: Server,
        ledger: Ledger,
        *,
        timeout: float,
        renewal: float,
        lost: Callable[[Exception | None], object],
        back: Callable[[float], object],
    ) -> None:
        self._server = server
        self._ledger = ledger
        self._timeout = timeout
        self._renewal = renewal
        self._tell_lost = lost
        self._tell_back = back
        self._breaker = Breaker()
        self._waiting: Batch = {}
        self._changed: dict[Source, None] = {}
        self._out: Batch = {}
        self._work = trio.Event()
        self._delivered = trio.Event()

    @property
    def is_lost(self) -> bool:
        """Whether nobody is asked at the moment, since there was no answer."""
        return self._breaker.lost_at is not None

    def ask(self, source: Source) -> Asked:
        """Begin to ask about a source; wait for the event then."""
        asked = Asked(source)
        self._waiting.setdefault(source, []).append(asked)
        self._work.set()
        return asked

    def withdraw(self, asked: Asked) -> None:
        """Nobody waits for this any more, which has no answer yet."""
        for batch in (self._waiting, self._out):
            if asked in batch.get(asked.source, ()):
                batch[asked.source].remove(asked)
        self.note(asked.source)

    def note(self, source: Source) -> None:
        """Say something about a source soon, whether anybody asks or not."""
        self._changed[source] = None
        if len(self._changed) > MOST_SOURCES:
            del self._changed[next(iter(self._changed))]
        self._work.set()

    async def run(self, nursery: trio.Nursery) -> NoReturn:
        """Ask, until cancelled; whoever waits then has no answer."""
        try:
            while True:
                await self._wait_for_work()
                await self._deliver(nursery, self._take())
        finally:
            self._answer_nobody()

    async def renew(self) -> NoReturn:
        """Say again and again what is held, until cancelled."""
        while True:
            await trio.sleep(self._renewal)
            for source in self._ledger.held():
                self.note(source)

    async def wait_settled(self) -> None:
        """Wait until all is said, or nobody listens."""
        while (self._changed or self._waiting or self._out) and not self.is_lost:
            await self._delivered.wait()
        await trio.lowlevel.checkpoint()

    async def _wait_for_work(self) -> None:  # noqa: ASYNC910 - asking is one
        if self.is_lost:
            await trio.sleep_until(self._breaker.next_try)
        while not (self._changed or self._waiting):
            self._work = trio.Event()
            await self._work.wait()

    def _take(self) -> Batch:
        """Take what goes into the next batch: who waits first, and in a try nobody does."""
        sources = list(islice(self._waiting, MOST_AT_ONCE))
        batch = {source: self._waiting.pop(source) for source in sources}
        for source in batch:
            self._changed.pop(source, None)
        for source in list(islice(self._changed, MOST_TRIED if self.is_lost else MOST_AT_ONCE)):
            batch[source] = []
            del self._changed[source]
        return batch

    async def _deliver(self, nursery: trio.Nursery, batch: Batch) -> None:
        """Send a batch, and see to it that nobody waits for it too long."""
        self._out = batch
        asked_at = [each.asked_at for those in batch.values() for each in those]
        deadline = min(asked_at, default=trio.current_time()) + self._timeout
        lines = [(source, self._ledger.says(source, len(batch[source]))) for source in batch]
        sent = _Sent()
        nursery.start_soon(self._send, lines, sent)  # which is not cancelled: see `RedisClient`
        is_in_time = await _is_in_time(sent, deadline)
        if not is_in_time:
            self._lose(dict(batch), None)
            await self._outlast(sent)
        self._settle(batch, sent.answers, is_in_time=is_in_time)
        self._out = {}
        self._delivered.set()
        self._delivered = trio.Event()

    async def _send(self, lines: Sequence[tuple[Source, Sequence[float]]], sent: _Sent) -> None:
        sent.answers = await self._server.evaluate(
            self._ledger.script, self._ledger.constants, lines
        )
        sent.done.set()

    async def _outlast(self, sent: _Sent) -> None:
        """Wait for a batch that nobody waits for any more."""
        while True:
            with trio.move_on_after(PATIENCE):
                await sent.done.wait()
                return
            self._server.disconnect()

    def _settle(
        self, batch: Batch, answers: Sequence[float | Exception], *, is_in_time: bool
    ) -> None:
        failed: Batch = {}
        error: Exception | None = None
        for (source, those), answer in zip(batch.items(), answers, strict=True):
            if isinstance(answer, Exception):
                error, failed[source] = answer, those
                continue
            passing = self._ledger.settle(source, answer, len(those))
            for position, asked in enumerate(those):
                asked.answer = position < passing
                asked.event.set()
        if failed:
            self._lose(failed, error)
        elif is_in_time:
            self._found()

    def _lose(self, unheard: Batch, error: Exception | None) -> None:
        """Go on without the server: nobody has heard this, and nobody waits any more."""
        for source, those in unheard.items():
            self._ledger.unheard(source)
            self._let_go(those)
        # These come first: the next try is about them.
        self._changed = {**dict.fromkeys(unheard), **self._changed}
        is_news = self._breaker.failed(trio.current_time())
        self._answer_nobody()
        if is_news:
            self._tell_lost(error)

    def _found(self) -> None:
        seconds = self._breaker.answered(trio.current_time())
        if seconds is not None:
            for source in self._ledger.held():
                self.note(source)
            self._tell_back(seconds)

    def _answer_nobody(self) -> None:
        for batch in (self._waiting, self._out):
            for those in batch.values():
                self._let_go(those)
        self._waiting.clear()

    @staticmethod
    def _let_go(those: list[Asked]) -> None:
        for asked in those:
            asked.event.set()
        those.clear()


async def _is_in_time(sent: _Sent, deadline: float) -> bool:
    with trio.move_on_at(deadline):
        await sent.done.wait()
        return True
    # Perhaps it was us who were late, and the answer is there: then it is a few turns away.
    for _ in range(PASSES):
        await trio.lowlevel.checkpoint()
    return sent.done.is_set()
