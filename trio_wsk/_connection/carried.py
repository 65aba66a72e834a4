"""What a request carries with it on its way to a connection: facts, and what it has to give back.

Most carry nothing, and pay nothing: a request that does has a `Carried`, made when it is first
needed. While it is a connection, its block has that by the number of its request.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import attrs

from trio_wsk._engine.pump import do_all
from trio_wsk._vocabulary.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._vocabulary.addresses import Address

    from .block import Block
    from .connection import Connection

__all__ = ["Carried", "Recovered"]


@attrs.frozen
class Recovered:
    """Who the peer is and where it has connected to, as a proxy between says."""

    remote_address: Address
    local_address: Address


@runtime_checkable
class Movable(Protocol):
    """What is given back in the end, and was taken for an address."""

    def __call__(self) -> object:
        """Give it back."""

    def move(self, address: Address) -> None:
        """Take note: it is for this address now."""


@final
class Carried:
    """What one request carries, to the end of its connection if it gets to be one.

    Args:
      block: Whose pump calls back.
      remote_address: The peer, for reports. (Its request would keep the channel.)
    """

    __slots__ = (
        "_block",
        "_callbacks",
        "_facts",
        "_is_over",
        "_owner",
        "_places",
        "recovered",
        "remote_address",
    )

    def __init__(self, block: Block, remote_address: Address) -> None:
        self.remote_address = remote_address
        """See `Concern`."""
        self.recovered: Recovered | None = None
        """The addresses that count in place of the kernel's, if there are others."""
        self._block = block
        self._facts: Facts | None = None
        self._places: list[Callable[[], object] | Movable] = []
        self._callbacks: list[Callable[[], object]] = []
        self._is_over = False
        self._owner: weakref.ref[Connection] | None = None

    @property
    def facts(self) -> Facts:
        """What was found out about the peer."""
        if self._facts is None:
            self._facts = Facts()
        return self._facts

    @property
    def says_something(self) -> bool:
        """Whether it can be asked for something: facts, or other addresses than the kernel's."""
        return self._facts is not None or self.recovered is not None

    def give_back(self, place: Callable[[], object] | Movable) -> None:
        """Have a place of ours be given back, once, by the call that ends it.

        Not in the pump, as callbacks are: it notes that there is one more, and raises nothing.
        """
        if self._is_over:
            place()
        else:
            self._places.append(place)

    def at_end(self, callback: Callable[[], object]) -> None:
        """Have something called when the request has ended, or its connection; soon if so."""
        self._callbacks.append(callback)
        if self._is_over:
            self._call_back()

    def recover(self, recovered: Recovered) -> None:
        """Have these addresses count from now on."""
        self.recovered = recovered
        self.remote_address = recovered.remote_address
        for each in self._places:
            if isinstance(each, Movable):
                each.move(recovered.remote_address)

    def belong_to(self, connection: Connection) -> None:
        """The request is a connection now, which ends it: also if nobody closes it."""
        number = connection._request.serial_number
        carried_by_number = self._block.carried
        carried_by_number[number] = self
        run_soon = self._block.home.run_soon

        def dropped(_: object) -> None:  # by the garbage collector, in any thread
            run_soon(lambda: carried_by_number.pop(number, self).end())

        self._owner = weakref.ref(connection, dropped)

    def end(self) -> None:
        """The request has ended, or its connection: give everything back, once."""
        self._is_over = True
        self._owner = None
        places, self._places = self._places, []
        for place in places:
            place()
        if self._callbacks:
            self._call_back()

    def _call_back(self) -> None:
        """Have the pump call what is to be called; without one, there is no better place."""
        callbacks, self._callbacks = self._callbacks, []
        if self._block.ended:
            self._call_each(callbacks)
        else:
            self._block.post(partial(self._call_each, callbacks))

    def _call_each(self, callbacks: list[Callable[[], object]]) -> None:
        context = self._block.context.copy()
        call = self._block.call
        do_all([partial(call, "at_end", self, context, _run, each) for each in callbacks])

    def _callback_failed(self, error: BaseException) -> None:
        """Take no note: nothing is left that could be ended for it."""


def _run(callback: Callable[[], object]) -> object:
    return callback()
