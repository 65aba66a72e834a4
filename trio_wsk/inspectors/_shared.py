"""`Shared`: a limit, a rate or penalties for many processes and machines."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, final

import trio

from trio_wsk._engine.pump import Unwrapping
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.arguments import checked_seconds
from trio_wsk._vocabulary.errors import InvalidDeviceStateError, InvalidParameterError
from trio_wsk._vocabulary.need import Need
from trio_wsk._vocabulary.verdict import InspectAction, Verdict
from trio_wsk.observers import Observers, checked_observers

from ._courier import Courier
from ._ledgers import ledger_of
from ._rule import checked_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    import coredis
    from typing_extensions import Self

    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk.observers import Observer

    from ._limits import ConnectionLimit, SourceLimit
    from ._penalties import Penalties
    from ._rates import RateLimit, SourceRateLimit
    from ._redis_client import RedisClient
    from ._rule import Answer
    from ._sources import Source

if sys.version_info < (3, 11):
    pass

__all__ = ["Shared"]

RENEWALS: Final = 3
"""How often what is held is said again in the time of a lease: two of them may be lost."""


@final
class Shared:
    """A rule of these, for many processes and machines: they share it through Redis or Valkey.

    Each of them makes one, around a rule of its own that says what is too much, and enters it
    around what it serves::

        client = coredis.Redis("redis.example.org", connect_timeout=1, stream_timeout=1)
        async with client, Shared(client, SourceLimit(20)) as per_source:
            await trio_wsk.serve(handler, 8000, inspect=Rules(per_source))

    Then 20 connections of one source may be open in all of them together. Penalties are added to
    the rule itself (`Penalties.add`), and go to all.

    One decision is one round trip, and all that wait at the moment have the same one. It is made on
    the server, at once and by its clock. Where the rule of this process alone turns somebody away
    who has too many open, nobody is asked.

    Places are held by lease: renewed in batches as long as the process runs, and over by
    themselves when it was killed. A server that has lost them, since it was restarted or flushed,
    has them again with the next renewal, which is a third of a lease later at most.

    When the server has not answered in time, or with an error, it counts as lost: nobody waits for
    it any more, and each decision is made as ``when_lost`` says. It is tried again after a
    tenth of a second, then at longer intervals, of five seconds at most; once it has answered in
    time, it decides again. Who was let in meanwhile counts then, even if those are too many.

    It needs coredis, which ``pip install 'trio-wsk[redis]'`` brings, and Redis 6 or later.

    Args:
      client: A `coredis.Redis`, which ``Sentinel.primary_for`` gives, too, or a
        `coredis.RedisCluster`; entered before this, and best used for nothing else: connections
        that don't answer are broken. Of a cluster, one node that does not answer is enough to
        count as lost.
      rule: A `ConnectionLimit`, `SourceLimit`, `RateLimit`, `SourceRateLimit` or `Penalties`: what
        is too much, and how it is told. The other processes should have the same.
      name: What it is counted by, and what it is shared by: who gives the same name to a rule of
        the same kind shares it. Without one, that of the rule.
      prefix: What the keys on the server begin with.
      timeout: Seconds on Trio's clock for one decision. It waits for the batch that is on its way,
        and for the next one, so let it be more than two round trips.
      lease: Seconds on the server's clock until places are over that nobody renews.
      when_lost: How it is decided while the server is lost: ``"local"``, by the rule of this
        process alone; ``"pass"``, nobody is turned away; ``"reject"``, everybody is, with the
        reason ``shared-lost``.
      observers: Who is told that the server is lost (`~trio_wsk.observers.SharedLost`), and back
        (`~trio_wsk.observers.SharedBack`). If none of them is a
        `~trio_wsk.observers.LoggingObserver` there is one more, so that both are logged.

    Leave its block after the server's: then all connections have ended, and the others know it at
    once. If the block is cancelled, places end with their lease. Exceptions of the body come out
    bare. Who asks outside of the block gets `InvalidDeviceStateError`.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
      ImportError: there is no coredis. (The installation's.)
    """

    __slots__ = (
        "_block",
        "_courier",
        "_ledger",
        "_lost_verdict",
        "_observers",
        "_renewal",
        "_server",
        "_timeout",
        "close_styles",
        "fallbacks",
        "name",
        "needs",
        "rule",
        "when_lost",
    )

    counts_each: Final = True
    """Each request is one that the others hear of."""

    def __init__(
        self,
        client: coredis.Redis[Any] | coredis.RedisCluster[Any],
        rule: ConnectionLimit | SourceLimit | RateLimit | SourceRateLimit | Penalties,
        *,
        name: str | None = None,
        prefix: str = "trio_wsk",
        timeout: float = 0.05,
        lease: float = 10.0,
        when_lost: Literal["local", "pass", "reject"] = "local",
        observers: Iterable[Observer] = (),
    ) -> None:
        self._ledger = ledger_of(rule, _checked_lease(lease))
        self.rule: Final = rule
        """The rule of this process."""
        self.name: Final = checked_name(rule.name if name is None else name)
        """What it is counted by, and shared by."""
        self.needs: Final = Need.ADDRESSES
        """What it looks at."""
        self.close_styles: Final = rule.close_styles
        """How it turns peers away."""
        if when_lost not in ("local", "pass", "reject"):
            raise InvalidParameterError(
                f"when_lost is 'local', 'pass' or 'reject', not {when_lost!r}"
            )
        self.when_lost: Final = when_lost
        """How it is decided while the server is lost."""
        self.fallbacks: int = 0
        """How often it was decided that way."""
        self._timeout = _checked_timeout(timeout)
        self._renewal = lease / RENEWALS
        self._observers = Observers(checked_observers(observers))
        self._lost_verdict = Verdict(
            InspectAction.REJECT, "shared-lost", self._ledger.verdict.close
        )
        self._server = _server(client, f"{_checked_prefix(prefix)}:{self._ledger.kind}:{self.name}")
        self._courier: Courier | None = None
        self._block: AbstractAsyncContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"Shared({self.name})"

    @property
    def is_lost(self) -> bool:
        """Whether the server counts as lost at the moment; not outside of the block."""
        return self._courier is not None and self._courier.is_lost

    async def __aenter__(self) -> Self:
        """Begin to ask the server.

        Raises:
          InvalidDeviceStateError: it is entered already, the client is not, or another `Shared`
            has these penalties. (Yours.)

        Always a checkpoint.
        """
        if self._courier is not None:
            raise InvalidDeviceStateError(
                f"{self!r} is entered already: give it to several servers"
            )
        self._server.check_entered()
        block = self._running()
        await block.__aenter__()
        self._block = block
        return self

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, bool | None]:
        """Give back what is held, and ask nobody any more."""
        assert self._block is not None
        block, self._block = self._block, None
        return block.__aexit__(kind, error, traceback)

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        """Ask about a request; what this returns is to be awaited where the server is asked."""
        courier = self._courier
        if courier is None:
            raise InvalidDeviceStateError(
                f"{self!r} is asked outside of its block: serve inside of async with Shared(...)"
            )
        source = self._ledger.source_of(request)
        if source is None:
            return None
        if courier.is_lost:
            return self._without_server(request, source)
        if self._ledger.is_used_up(source):
            return self._ledger.verdict
        return self._ask(request, source, courier)

    async def _ask(self, request: ConnectionRequest, source: Source, courier: Courier) -> Answer:
        # Once more, and in the same moment in which it is taken: others came meanwhile.
        if self._ledger.is_used_up(source):
            return self._ledger.verdict  # noqa: ASYNC910 - an inspector's task needs none
        if not self._ledger.take(source):
            return self._ledger.without_room  # noqa: ASYNC910 - as above
        asked = courier.ask(source)
        try:
            await asked.event.wait()
        finally:
            if not asked.event.is_set():
                self._ledger.give_back(source)
                courier.withdraw(asked)
        if asked.answer is None:
            self._ledger.give_back(source)
            courier.note(source)
            return self._without_server(request, source)
        if not asked.answer:
            return self._ledger.verdict
        self._ledger.let_in(request, source)
        return None

    def _without_server(self, request: ConnectionRequest, source: Source) -> Answer:
        self.fallbacks += 1
        if self.when_lost == "reject":
            return self._lost_verdict
        if self.when_lost == "local":
            return self._ledger.alone(request, source)
        if self._ledger.take(source):
            self._ledger.let_in(request, source)
        return None

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        courier = Courier(
            self._server,
            self._ledger,
            timeout=self._timeout,
            renewal=self._renewal,
            lost=self._lost,
            back=self._back,
        )
        self._ledger.start(courier.note)
        self._courier = courier
        try:
            with Unwrapping():
                async with trio.open_nursery(strict_exception_groups=True) as nursery:
                    nursery.start_soon(courier.run, nursery)
                    nursery.start_soon(courier.renew)
                    yield
                    with trio.move_on_after(self._timeout):
                        await courier.wait_settled()
                    nursery.cancel_scope.cancel()
        finally:
            self._courier = None
            self._ledger.stop()

    def _lost(self, error: Exception | None) -> None:
        self._tell(records.SharedLost, error=error)

    def _back(self, seconds: float) -> None:
        self._tell(records.SharedBack, seconds=seconds)

    def _tell(self, kind: Callable[..., records.Record], **fields: object) -> None:
        self._observers.tell(kind(at=trio.current_time(), name=self.name, **fields))


def _server(client: object, prefix: str) -> RedisClient:
    from ._redis_client import RedisClient  # noqa: PLC0415 - only who shares needs coredis

    return RedisClient(client, prefix)


def _checked_prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or not prefix:
        raise InvalidParameterError(
            f"prefix is what keys begin with, such as 'my-fleet', not {prefix!r}"
        )
    return prefix


def _checked_timeout(timeout: float) -> float:
    if checked_seconds("timeout", timeout) == 0:
        raise InvalidParameterError("timeout is more than 0 seconds: write timeout=0.05")
    return timeout


def _checked_lease(lease: float) -> float:
    if checked_seconds("lease", lease) == 0:
        raise InvalidParameterError("lease is more than 0 seconds: write lease=10.0")
    return lease
