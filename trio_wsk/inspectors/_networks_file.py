"""Networks in a file, which is read again when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.address_sets import AddressSet
from trio_wsk._vocabulary.arguments import checked_seconds
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.refused import NetworkList
from trio_wsk.observers import Observers, checked_observers

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.observers import Observer

__all__ = ["NetworksFile"]


@final
class NetworksFile:
    """The networks in a file, one on each line; ``#`` begins a comment.

    It is read when this is made, and again when you say `reload`, or, as long as `watch` runs, when
    it changes: all or nothing. Of a file that is broken then, nothing is taken, and what it said
    before still holds::

        blocked = NetworksFile("/etc/my-server/blocked.txt")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blocked.watch)
            await trio_wsk.serve(handler, 8000, inspect=Rules(deny(blocked)))

    Replace the file by renaming another one into its place, or half of it may be read.

    Args:
      path: The file.
      observers: Who is told that it was read again (`~trio_wsk.observers.NetworksRead`), or could
        not be (`~trio_wsk.observers.NetworksUnreadable`). If none of them is a
        `~trio_wsk.observers.LoggingObserver` there is one more, so that both are logged.

    Raises:
      OSError: it can't be read.
      InvalidParameterError: a line is no network; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str], *, observers: Iterable[Observer] = ()) -> None:
        self._path = Path(path)
        self._observers = Observers(checked_observers(observers))
        self._mark = _mark_of(self._path)
        self.listed: Final = NetworkList(_read(self._path))
        """The networks, for who wants to know when they change."""

    def __contains__(self, address: Address) -> bool:
        return address in self.listed.networks

    def __len__(self) -> int:
        """How many networks there are, the fewest that say it."""
        return len(self.listed.networks)

    def __repr__(self) -> str:
        return f"NetworksFile({str(self._path)!r})"

    async def reload(self) -> None:
        """Read the file again, in a thread.

        Raises:
          OSError: it can't be read: what it said before still holds.
          InvalidParameterError: a line is no network; as well.

        Always a checkpoint. If cancelled, what it said before still holds.
        """
        mark, networks = await trio.to_thread.run_sync(
            _read_with_mark, self._path, abandon_on_cancel=True
        )
        self._mark = mark
        self.listed.replace(networks)

    async def watch(self, *, every: float = 1.0) -> NoReturn:
        """Read the file again whenever it has changed; runs until it is cancelled.

        Args:
          every: Seconds on Trio's clock between two looks at its time and size.

        Raises:
          InvalidParameterError: it is no time. (Yours.)
        """
        checked_seconds("every", every)
        broken = told = self._mark
        while True:
            await trio.sleep(every)
            mark = _mark_of(self._path)
            if mark in {self._mark, broken}:
                continue
            try:
                await self.reload()
            except InvalidParameterError as error:
                broken = mark
                self._tell_unreadable(error)
            except OSError as error:  # it may be over the next time: no descriptors, say
                if mark != told:
                    self._tell_unreadable(error)
                told = mark
            else:
                told = self._mark
                self._tell(records.NetworksRead, networks=len(self))

    def _tell_unreadable(self, error: Exception) -> None:
        self._tell(records.NetworksUnreadable, error=error)

    def _tell(self, kind: Callable[..., records.Record], **fields: object) -> None:
        self._observers.tell(kind(at=trio.current_time(), path=str(self._path), **fields))


def _mark_of(path: Path) -> object:
    """Return what differs when a file has changed; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read_with_mark(path: Path) -> tuple[object, AddressSet]:
    # In this order: what changes between the two is read once more.
    return _mark_of(path), _read(path)


def _read(path: Path) -> AddressSet:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    texts = [line.partition("#")[0].strip() for line in lines]
    try:
        return AddressSet(filter(None, texts))
    except ValueError:
        pass
    for number, text in enumerate(texts, 1):
        if text:
            try:
                AddressSet([text])
            except ValueError as error:
                raise InvalidParameterError(f"{path}, line {number}: {error}") from None
    raise AssertionError("each line is a network, and all of them are none")
