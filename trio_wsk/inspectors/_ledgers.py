"""What processes share of a rule: what each says about a source, and what the answer means.

Where places are shared, a process says how many it holds, and is told how many more it may have. So
whatever was lost, an answer or a whole server, is put right by the next word about that source.
Nothing here awaits, and nothing knows a server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from secrets import token_hex
from typing import TYPE_CHECKING, ClassVar, Final, final

import attrs

from trio_wsk._inspection import control
from trio_wsk._vocabulary.errors import InvalidDeviceStateError, InvalidParameterError

from ._limits import ConnectionLimit, SourceLimit
from ._penalties import Penalties
from ._rates import RateLimit, SourceRateLimit
from ._scripts import CLOCK, PENALTIES, PLACES, RATES, Script
from ._sources import MOST_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk._vocabulary.verdict import Verdict

    from ._rule import Answer
    from ._sources import Source

__all__ = ["Ledger", "ledger_of"]

EVERYBODY: Final = (0, 0)
"""The one source of rules that count all alike."""


class Ledger(ABC):
    """What is shared of one rule.

    Args:
      verdict: What the rule answers those that it turns away.
    """

    kind: ClassVar[str]
    """What tells its keys from those of other rules."""
    script: ClassVar[Script]
    """What the server runs."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict: Final = verdict
        """What it answers those that it turns away."""
        self.changed: Callable[[Source], object] = _nobody
        """Called when there is something to say about a source, whether anybody asks or not."""

    @property
    @abstractmethod
    def constants(self) -> Sequence[str | float]:
        """The first arguments of the script."""

    @abstractmethod
    def source_of(self, request: ConnectionRequest) -> Source | None:
        """Return what a request counts for; None if for nothing."""

    @abstractmethod
    def says(self, source: Source, waiting: int) -> Sequence[float]:
        """Return what is said about a source, for so many that wait for the answer."""

    @abstractmethod
    def settle(self, source: Source, answer: float, waiting: int) -> int:
        """Take note of the answer; return how many of those that wait are let through."""

    @abstractmethod
    def alone(self, request: ConnectionRequest, source: Source) -> Answer:
        """Decide without anybody else."""

    def start(self, changed: Callable[[Source], object]) -> None:
        """Tell from now on what has changed."""
        self.changed = changed

    def stop(self) -> None:
        """Tell nobody any more."""
        self.changed = _nobody

    def held(self) -> Collection[Source]:
        """Return the sources that something is held of, which has to be said again and again."""
        return ()

    def unheard(self, source: Source) -> None:  # noqa: B027 - not all need it
        """Take note that what was said about this source may not have been heard."""

    def is_used_up(self, source: Source) -> bool:  # noqa: ARG002 - where others may know more
        """Whether a source has too much already for all that is known here."""
        return False

    def take(self, source: Source) -> bool:  # noqa: ARG002 - where nothing is taken
        """Take what may be granted; False if there is no room for one source more."""
        return True

    def give_back(self, source: Source) -> None:  # noqa: B027 - as above
        """Give back what was taken."""

    @property
    def without_room(self) -> Answer:
        """What is answered if there is no room for one source more."""
        return None

    def let_in(  # noqa: B027 - as above
        self, request: ConnectionRequest, source: Source
    ) -> None:
        """Take note that a request is let through, for which something was taken."""


def _nobody(_: Source) -> None:
    """Hear nothing."""


# ---------------------------------------------------------------------------------- places


class _Places(Ledger):
    """Places that are held, until they are given back or their lease is over."""

    script = Script(CLOCK + PLACES)

    def __init__(self, most: int, lease: float, verdict: Verdict) -> None:
        super().__init__(verdict)
        self._most = most
        self._constants = (token_hex(8), lease, most)

    @property
    def constants(self) -> Sequence[str | float]:
        return self._constants

    @abstractmethod
    def count(self, source: Source) -> int:
        """Return how many places are taken here, by who waits for an answer, too."""

    def is_used_up(self, source: Source) -> bool:
        return self.count(source) >= self._most

    def says(self, source: Source, waiting: int) -> Sequence[float]:
        return self.count(source) - waiting, waiting

    def settle(self, source: Source, answer: float, waiting: int) -> int:
        granted = int(answer)
        for _ in range(waiting - granted):
            self.give_back(source)
        if granted > waiting:  # somebody did not wait for it
            self.changed(source)
        return min(granted, waiting)

    def alone(self, request: ConnectionRequest, source: Source) -> Answer:
        if self.is_used_up(source):
            return self.verdict
        if not self.take(source):
            return self.without_room
        self.let_in(request, source)
        return None


@final
class _PlacesInAll(_Places):
    kind = "connections"

    def __init__(self, limit: ConnectionLimit, lease: float) -> None:
        super().__init__(limit.most, lease, limit._verdict)
        self._limit = limit

    def source_of(self, request: ConnectionRequest) -> Source:  # noqa: ARG002 - all count alike
        return EVERYBODY

    def held(self) -> Collection[Source]:
        return (EVERYBODY,) if self._limit.open else ()

    def count(self, source: Source) -> int:  # noqa: ARG002 - there is one
        return self._limit.open

    def take(self, source: Source) -> bool:  # noqa: ARG002 - as above
        self._limit._take()
        return True

    def give_back(self, source: Source) -> None:  # noqa: ARG002 - as above
        self._limit._give_back()

    def let_in(self, request: ConnectionRequest, source: Source) -> None:  # noqa: ARG002
        control.give_back(request, self._leave)

    def _leave(self) -> None:
        self._limit._give_back()
        self.changed(EVERYBODY)


@final
class _PlacesBySource(_Places):
    kind = "connections-by-source"

    def __init__(self, limit: SourceLimit, lease: float) -> None:
        super().__init__(limit.most, lease, limit._verdict)
        self._limit = limit

    def source_of(self, request: ConnectionRequest) -> Source | None:
        return self._limit._sources.source_of(request.remote_address)

    def held(self) -> Collection[Source]:
        return self._limit._open

    def count(self, source: Source) -> int:
        return self._limit._open.get(source, 0)

    def take(self, source: Source) -> bool:
        return self._limit._take(source)

    def give_back(self, source: Source) -> None:
        self._limit._give_back(source)

    @property
    def without_room(self) -> Answer:
        return None if self._limit._passes_when_full else self.verdict

    def let_in(self, request: ConnectionRequest, source: Source) -> None:
        control.give_back(request, _SharedPlace(self, source))

    def move(self, source: Source, address: Address) -> Source | None:
        """Have a place be of another source; see `SourceLimit`."""
        other = self._limit._move(source, address)
        self.changed(source)
        if other is not None:
            self.changed(other)
        return other


@final
class _SharedPlace:
    """A place that others know of, too; see `_limits._Place`."""

    __slots__ = ("_ledger", "_source")

    def __init__(self, ledger: _PlacesBySource, source: Source) -> None:
        self._ledger = ledger
        self._source: Source | None = source

    def move(self, address: Address) -> None:
        """See `Movable`."""
        if self._source is not None:
            self._source = self._ledger.move(self._source, address)

    def __call__(self) -> None:
        """Give it back."""
        if self._source is not None:
            self._ledger.give_back(self._source)
            self._ledger.changed(self._source)


# ----------------------------------------------------------------------------------- rates


@final
class _Rates(Ledger):
    """Arrivals in a time. Those that are let through are counted here, too, for bad times."""

    kind = "rate"
    script = Script(CLOCK + RATES)

    def __init__(self, rule: RateLimit | SourceRateLimit) -> None:
        super().__init__(rule._verdict)
        self._rule = rule
        self._constants = (rule._rate._interval, rule._rate._tolerance)

    @property
    def constants(self) -> Sequence[str | float]:
        return self._constants

    def source_of(self, request: ConnectionRequest) -> Source | None:
        if isinstance(self._rule, RateLimit):
            return EVERYBODY
        return self._rule._sources.source_of(request.remote_address)

    def says(self, source: Source, waiting: int) -> Sequence[float]:  # noqa: ARG002 - nothing held
        return (waiting,)

    def settle(self, source: Source, answer: float, waiting: int) -> int:  # noqa: ARG002 - as above
        return min(int(answer), waiting)

    def alone(self, request: ConnectionRequest, source: Source) -> Answer:  # noqa: ARG002 - as above
        return self._rule(request)

    def let_in(self, request: ConnectionRequest, source: Source) -> None:  # noqa: ARG002 - as above
        self._rule(request)


# ------------------------------------------------------------------------------- penalties


@attrs.define
class _Due:
    """What is still to be said of the penalties of a source."""

    forgiven: bool = False
    """Whether all that were before were taken from it."""
    added: float = 0.0
    """Seconds to be added."""
    merges: bool = False
    """Whether something was said already that perhaps was not heard: then nothing is added, and it
    has as many seconds at least as it has here."""


@final
class _SharedPenalties(Ledger):
    """Penalties: what is added here goes to the others, and what they say is known here, too."""

    kind = "penalties"
    script = Script(CLOCK + PENALTIES)

    def __init__(self, penalties: Penalties) -> None:
        super().__init__(penalties._verdict)
        self._penalties = penalties
        self._due: OrderedDict[Source, _Due] = OrderedDict()
        self._said: dict[Source, _Due] = {}

    @property
    def constants(self) -> Sequence[str | float]:
        return (self._penalties.most_seconds,)

    def start(self, changed: Callable[[Source], object]) -> None:
        if self._penalties._heard_by is not None:
            raise InvalidDeviceStateError("these penalties are shared already: by one Shared only")
        super().start(changed)
        self._penalties._heard_by = self._heard

    def stop(self) -> None:
        super().stop()
        self._penalties._heard_by = None

    def source_of(self, request: ConnectionRequest) -> Source | None:
        return self._penalties._sources.source_of(request.remote_address)

    def says(self, source: Source, waiting: int) -> Sequence[float]:  # noqa: ARG002 - all alike
        due = self._due.pop(source, None)
        if due is None:
            return 0, 0, 0
        self._said[source] = due
        least = self._penalties._remaining(source) if due.merges else 0
        return int(due.forgiven), least, due.added

    def settle(self, source: Source, answer: float, waiting: int) -> int:
        self._said.pop(source, None)
        if source not in self._due:
            self._penalties._learn(source, answer)
        return waiting if answer <= self._penalties.threshold else 0

    def unheard(self, source: Source) -> None:
        said = self._said.pop(source, None)
        if said is not None:
            newer = self._due.get(source, said)
            self._due[source] = _Due(forgiven=said.forgiven or newer.forgiven, merges=True)

    def alone(self, request: ConnectionRequest, source: Source) -> Answer:  # noqa: ARG002 - as it is
        return self._penalties(request)

    def _heard(self, source: Source, seconds: float | None) -> None:
        """Take note of what was added, or that all was forgiven."""
        due = self._due.get(source)
        if seconds is None or due is None:
            due = self._due[source] = _Due(forgiven=seconds is None)
        if not due.merges:
            due.added += seconds or 0.0
        if len(self._due) > MOST_SOURCES:
            self._due.popitem(last=False)
        self.changed(source)


def ledger_of(rule: object, lease: float) -> Ledger:
    """Return what is shared of a rule.

    Raises:
      InvalidParameterError: nothing is. (The caller's.)
    """
    if isinstance(rule, ConnectionLimit):
        return _PlacesInAll(rule, lease)
    if isinstance(rule, SourceLimit):
        return _PlacesBySource(rule, lease)
    if isinstance(rule, (RateLimit, SourceRateLimit)):
        return _Rates(rule)
    if isinstance(rule, Penalties):
        return _SharedPenalties(rule)
    raise InvalidParameterError(
        "rule is a ConnectionLimit, a SourceLimit, a RateLimit, a SourceRateLimit or Penalties, not"
        f" {rule!r}"
    )
