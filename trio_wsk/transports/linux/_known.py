"""Whom the kernel refuses by itself: the sources that rules know, in sets behind a gate.

For each rule that knows whom it refuses there is a rule in the kernel, in the same order, which
looks a SYN's source up in a set, and refuses it as the verdict would: nothing is held, and no
Python runs. Whom the kernel lets through the rule is asked about, as ever; so whatever can't be
put there (too many, no memory, not yet) is left to it, and changes nothing but the cost. What must
not be is that the kernel refuses whom the rule would let in: whoever is exempt comes first, and a
rule of which not all is there is not there at all.

Networks are replaced as a whole. A new set is filled, some hundred networks in each turn of the
loop, since each takes the kernel some microseconds; when it has all of them it takes the place of
the old one. Sources that are refused for a time go into a set one by one, and leave it by
themselves; what changes in one turn of the loop is said at once in the next.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

from trio_wsk._vocabulary.address_sets import ranges_of
from trio_wsk._vocabulary.refused import RefusedNetworks
from trio_wsk._vocabulary.verdict import CloseStyle

from ._expressions import is_from
from ._messages import NetlinkError
from ._rules import Table
from ._sets import KernelSet, range_elements, timed_element

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from trio_wsk._vocabulary.address_sets import AddressSet
    from trio_wsk._vocabulary.refused import NetworkList, Refused, RefusedSources, Source

    from ._messages import Change
    from ._nftables import Gate

    T = TypeVar("T")

__all__ = ["KnownSources"]

MOST_NETWORKS: Final = 1 << 18
"""Of one list; each takes the kernel some hundred octets, and some microseconds to take in."""

MOST_SOURCES: Final = 1 << 16
"""Of one rule: as many as it remembers, if it was not told otherwise."""

AT_ONCE: Final = 250
"""Networks or sources that the kernel is told of in one message, which it takes in in about a
millisecond; 64 KiB have room for twice as many."""

_LEAST: Final = 0.05
"""Seconds that are worth telling: below the tick of its clock the kernel would take them for
none, which means for ever."""
_MOST: Final = 1e6
"""Seconds: eleven days, of which the rule knows when they are over."""


@final
class KnownSources:
    """What the kernel refuses by itself before one listening socket.

    Args:
      gate: The rules of that socket; whoever closes it takes all of this along.
      refused: What its inspector's rules say, in their order.
    """

    def __init__(self, gate: Gate, refused: Sequence[Refused]) -> None:
        self._gate = gate
        self._token = trio.lowlevel.current_trio_token()
        self._filling: dict[_MirroredList, Iterator[None]] = {}
        self._is_running = False
        self._wards = [_Ward(gate, number, each) for number, each in enumerate(refused, 1)]
        self._lists = [each.listed for each in self._wards]
        self._timed = [each.timed for each in self._wards if each.timed is not None]
        self._unwatch: list[Callable[[], None]] = []

    def open(self) -> None:
        """Tell the kernel, and keep it told. Never raises."""
        for each in self._lists:
            self._unwatch.append(each.source.watch(partial(self._soon, self._refill, each)))
            self._filling[each] = each.fill()
        for timed in self._timed:
            self._unwatch.append(timed.refused.watch(partial(self._has_changed, timed)))
            timed.begin()
        self._go_on()

    def close(self) -> None:
        """Say nothing any more. Idempotent; the gate is closed next."""
        while self._unwatch:
            self._unwatch.pop()()
        self._filling.clear()

    def counters(self) -> dict[str, int]:
        """Return how many networks the kernel has, and how many sources it could not take."""
        return {
            "networks_in_kernel": sum(ward.networks for ward in self._wards),
            "sources_left_out": sum(timed.left_out for timed in self._timed),
        }

    # --- What changes ------------------------------------------------------------------

    def _soon(self, work: Callable[..., object], *args: object) -> None:
        """Do it in the next turn of the loop that the gate belongs to, whoever calls."""
        try:
            self._token.run_sync_soon(work, *args)
        except trio.RunFinishedError:
            pass  # and with it everything that is here

    def _has_changed(self, timed: _TimedSources, source: Source, until: float) -> None:
        if timed.note(source, until):
            self._soon(self._flush, timed)

    def _flush(self, timed: _TimedSources) -> None:
        if self._unwatch:
            timed.flush()

    def _refill(self, mirrored: _MirroredList) -> None:
        if self._unwatch:
            self._filling[mirrored] = mirrored.fill()
            self._go_on()

    # --- Filling sets ------------------------------------------------------------------

    def _go_on(self) -> None:
        """Begin; what is too much for one turn of the loop is left to a task."""
        if not self._is_running and self._has_more():
            self._is_running = True
            trio.lowlevel.spawn_system_task(self._run, name="trio_wsk: networks for the kernel")

    async def _run(self) -> None:  # noqa: ASYNC910 - a task of its own
        try:
            while True:
                await trio.lowlevel.checkpoint()
                if not self._has_more():
                    return
        finally:
            self._is_running = False

    def _has_more(self) -> bool:
        """Tell the kernel of some networks of each list; return whether there are more."""
        is_done = False
        for mirrored, filling in [*self._filling.items()]:
            try:
                next(filling)
            except (StopIteration, NetlinkError):
                del self._filling[mirrored]
                is_done = True
        if is_done:
            self._write_rules()
        return bool(self._filling)

    def _write_rules(self) -> None:
        """Have the kernel's rules be those whose sets are there, and take others away."""
        changes = [
            change
            for family in self._gate.families
            for change in self._rules(Table(self._gate.table, family), family)
        ]
        old = [each for mirrored in self._lists for each in mirrored.replaced]
        try:
            self._gate.change([*changes, *(each.take_away() for each in old)])
        except NetlinkError:
            return  # no memory, or closed: the rules that were there still are
        for mirrored in self._lists:
            mirrored.replaced.clear()
        self._gate.sets[:] = [each for each in self._gate.sets if each not in old]

    def _rules(self, table: Table, family: int) -> Iterator[Change]:
        name = f"known_{self._gate.serial}"
        yield table.clear(name)
        for ward in self._wards:
            if ward.is_there:
                yield table.jump(name, f"{ward.how}_{self._gate.serial}", *ward.condition(family))


@final
class _Ward:
    """One rule of ours, and the sets that the kernel's rule needs for it.

    Args:
      gate: Where it is.
      number: Which of the gate's it is.
      refused: What the rule says.
    """

    def __init__(self, gate: Gate, number: int, refused: Refused) -> None:
        self._refused = refused
        self.timed: _TimedSources | None = None
        """Sources that are refused for a time, if that is what the rule is about."""
        if isinstance(refused, RefusedNetworks):
            self.listed = _MirroredList(gate, f"networks_{gate.serial}_{number}", refused.listed)
            """Networks: those that are refused, or those that are exempt."""
        else:
            self.listed = _MirroredList(gate, f"exempt_{gate.serial}_{number}", refused.exempt)
            self.timed = _TimedSources(gate, f"sources_{gate.serial}_{number}", refused)
        self.how = "silence" if refused.close is CloseStyle.SILENT else "reset"
        """The chain that refuses, without its number."""

    @property
    def is_there(self) -> bool:
        """Whether the kernel has all that it has to know for this."""
        return bool(self.listed.sets) and (self.timed is None or bool(self.timed.sets))

    @property
    def networks(self) -> int:
        """How many networks the kernel refuses, or refuses all but."""
        return self.listed.count if self.timed is None else 0

    def condition(self, family: int) -> Iterator[bytes]:
        """Go on for packets of those that are refused."""
        listed, refused = self.listed.sets[family], self._refused
        whole = 8 * listed.octets
        if isinstance(refused, RefusedNetworks):
            return is_from(listed.name, listed.octets, whole, wanted=not refused.others)
        assert self.timed is not None
        return chain(
            is_from(listed.name, listed.octets, whole, wanted=False),
            is_from(self.timed.sets[family].name, listed.octets, refused.prefixes[listed.octets]),
        )


@final
class _MirroredList:
    """A list of networks, and the sets that the kernel has of it, one for each family."""

    def __init__(self, gate: Gate, name: str, source: NetworkList) -> None:
        self.source: Final = source
        """The list."""
        self.sets: dict[int, KernelSet] = {}
        """What rules may name, by family; empty if they may not."""
        self.replaced: list[KernelSet] = []
        """Sets that rules may still name, and should not any more."""
        self.count = 0
        """How many networks are in there."""
        self._gate = gate
        self._name = name
        self._serial = 0
        self._unfinished: dict[int, KernelSet] = {}

    def fill(self) -> Iterator[None]:
        """Make new sets, `AT_ONCE` networks in each step; when it ends they are the ones.

        Raises:
          NetlinkError: the kernel would not have them, and now there are none.
        """
        networks = self.source.networks
        self.replaced += self._unfinished.values()
        self._unfinished = {}
        if len(networks) > MOST_NETWORKS:
            self._install({}, 0)
            return
        try:
            self._unfinished = self._make_sets()
            told = 0
            for each, some in self._each_portion(networks):
                if told + len(some) > AT_ONCE:
                    yield
                    told = 0
                self._gate.change([each.add(_elements(each.octets, some))])
                told += len(some)
        except NetlinkError:
            self._install({}, 0)
            raise
        self._install(self._unfinished, len(networks))
        self._unfinished = {}

    def _each_portion(
        self, networks: AddressSet
    ) -> Iterator[tuple[KernelSet, list[tuple[int, int]]]]:
        for each in self._unfinished.values():
            for some in _portions(ranges_of(networks, each.octets)):
                yield each, some

    def _make_sets(self) -> dict[int, KernelSet]:
        self._serial += 1
        sets = {
            family: KernelSet(self._gate.table, family, f"{self._name}_{self._serial}")
            for family in self._gate.families
        }
        self._gate.change([each.make_ranges() for each in sets.values()])
        self._gate.sets += sets.values()
        return sets

    def _install(self, sets: dict[int, KernelSet], count: int) -> None:
        self.replaced += self.sets.values()
        self.sets, self.count = sets, count


@final
class _TimedSources:
    """Sources that are refused for a time, and the sets that the kernel has of them."""

    def __init__(self, gate: Gate, name: str, refused: RefusedSources) -> None:
        self.refused: Final = refused
        """The sources."""
        self.sets: dict[int, KernelSet] = {}
        """What rules may name, by family; empty if they may not."""
        self.left_out = 0
        """How many the kernel could not take."""
        self._gate = gate
        self._name = name
        self._noted: dict[Source, float] = {}

    def begin(self) -> None:
        """Make the sets, and put those in who are refused now."""
        sets = {
            family: KernelSet(self._gate.table, family, self._name)
            for family in self._gate.families
        }
        try:
            self._gate.change([each.make_timed(MOST_SOURCES) for each in sets.values()])
        except NetlinkError:
            return  # there is nothing to put them in
        self._gate.sets += sets.values()
        self.sets = sets
        self._noted = dict(self.refused.current())
        self.flush()

    def note(self, source: Source, until: float) -> bool:
        """Take note of what is to be told; return whether nothing was before."""
        is_first = not self._noted
        self._noted[source] = until
        return is_first

    def flush(self) -> None:
        """Tell the kernel what was noted. Never raises."""
        noted, self._noted = self._noted, {}
        now = trio.current_time()
        for each in self.sets.values():
            seconds = (
                (self._key(source, each.octets), min(until - now, _MOST))
                for source, until in noted.items()
                if source[0] == each.octets
            )
            for some in _portions(seconds):
                self._tell(each, some)

    def _key(self, source: Source, octets: int) -> bytes:
        host_bits = 8 * octets - self.refused.prefixes[octets]
        return (source[1] << host_bits).to_bytes(octets, "big")

    def _tell(self, kernel_set: KernelSet, some: Iterable[tuple[bytes, float]]) -> None:
        """Have these keys be in a set for so long, or not at all.

        The kernel refuses to take out what is not there, and may leave the time of what is. So all
        are put in, so that they are there; taken out; and put in.
        """
        refused = {key: int(left * 1000) for key, left in some if left >= _LEAST}
        admitted = [key for key, left in some if left < _LEAST]
        there = [timed_element(key, 1000) for key in (*refused, *admitted)]
        changes = [kernel_set.add(there), kernel_set.remove(there)]
        if refused:
            changes.append(kernel_set.add(timed_element(*each) for each in refused.items()))
        try:
            self._gate.change(changes)
        except NetlinkError:  # the set is full, most likely; then nothing has changed
            self.left_out += len(refused)
            for key in admitted:
                self._take_out(kernel_set, key)

    def _take_out(self, kernel_set: KernelSet, key: bytes) -> None:
        try:
            self._gate.change([kernel_set.remove([timed_element(key, 1000)])])
        except NetlinkError:
            pass  # it was not there


def _elements(octets: int, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for start, end in ranges:
        yield from range_elements(octets, start, end)


def _portions(several: Iterable[T]) -> Iterator[list[T]]:
    """Go through them, so many at once."""
    each = iter(several)
    while portion := list(islice(each, AT_ONCE)):
        yield portion
