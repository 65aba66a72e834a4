"""Signals that ask a server to end: the first drains it, the second aborts it.

Python hears signals in the main thread, between any two of its steps. So what is called there only
takes note, and has the Trio run do the rest. From the second one on, signals have the effect that
they had before: a program that hangs can be ended by a third. (`trio.open_signal_receiver` would
keep that one, too. And of two receivers for one signal only the inner one would hear it, where a
process may have several servers: here all of them do.)
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from typing_extensions import Self

__all__ = ["ENDING_SIGNALS", "EndingSignals", "check_main_thread", "checked_signals"]

ENDING_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
"""What asks a process to end: Ctrl-C, service managers, and Ctrl-Break on Windows. SIGHUP is not
among them, which many take for "read the configuration again"."""

_HEARD: Final = signal.valid_signals() - {
    getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)
}


def checked_signals(signals: Collection[int]) -> tuple[int, ...]:
    """Return the signals.

    Raises:
      InvalidParameterError: that is no collection, or one of it is no signal that can be heard.
        (The caller's.)
    """
    given: object = signals  # by a caller without a type checker, perhaps
    if (
        isinstance(given, Collection)
        and not isinstance(given, (str, bytes))
        and all(whole_number(each) and each in _HEARD for each in given)
    ):
        return tuple(signals)
    raise InvalidParameterError(
        "signals takes several that a process can hear:"
        f" signals=[signal.SIGINT, signal.SIGTERM], not {signals!r}"
    )


def check_main_thread(what: str) -> None:
    """Refuse to hear signals where Python has none to tell of.

    Raises:
      RuntimeError: this is not the main thread. (The caller's.)
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            f"{what} hears signals, and Python tells of them in the main thread only: run it there,"
            " or give it signals=() and have the main thread call server.drain, by"
            " trio.from_thread.run(server.drain, trio_token=...)"
        )


@final
class EndingSignals:
    """Who hears that one server shall end, for as long as the block lasts; in the main thread.

    A signal that is ignored when the block is entered, as a shell has its background jobs ignore
    Ctrl-C, stays ignored. One that comes when it is too late to tell anybody is sent again when the
    block is left.

    Args:
      signals: Which to hear.
    """

    def __init__(self, signals: Collection[int]) -> None:
        self.heard: list[int] = []
        """What has come, in its order."""
        self._signals = signals
        self._token: trio.lowlevel.TrioToken | None = None
        self._calls: list[Callable[[], object]] = []
        self._called = 0

    def __enter__(self) -> Self:
        for number in self._signals:
            _hear_for(self, number)
        return self

    def __exit__(self, *_: object) -> None:
        self._calls = []
        self._withdraw()
        late = self.heard[self._called :]
        self._called = len(self.heard)
        for number in late:
            signal.raise_signal(number)

    def tell(self, *calls: Callable[[], object]) -> None:
        """In Trio: have the first called when the first signal comes, and so on, each once.

        At once, for signals that have come already and that nobody was told of. What is called
        runs in no task, and must not raise.
        """
        self._token = trio.lowlevel.current_trio_token()
        self._calls = [*calls]
        self._tell()

    def hear(self, number: int) -> None:
        """In the signal's handler: take note."""
        self.heard.append(number)
        if len(self.heard) > 1:
            self._withdraw()
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._tell)

    def _tell(self) -> None:
        for call in self._calls[self._called : len(self.heard)]:
            self._called += 1
            call()

    def _withdraw(self) -> None:
        for number in self._signals:
            _hear_no_more(self, number)


# The process has one handler for each signal, so who hears is kept for the process.

_hearing: Final[dict[int, list[EndingSignals]]] = {}
_before: Final[dict[int, Any]] = {}
"""The handlers that were there before ours, by signal."""


def _hear_for(hearer: EndingSignals, number: int) -> None:
    hearers = _hearing.setdefault(number, [])
    if not hearers:
        before = signal.getsignal(number)
        if before is signal.SIG_IGN:
            return
        if before is not _hear:
            # None if it was set outside of Python, which can't be put back.
            _before[number] = signal.SIG_DFL if before is None else before
        signal.signal(number, _hear)
    hearers.append(hearer)


def _hear_no_more(hearer: EndingSignals, number: int) -> None:
    hearers = _hearing.get(number, [])
    with suppress(ValueError):  # it has withdrawn before
        hearers.remove(hearer)
    if not hearers and signal.getsignal(number) is _hear:
        signal.signal(number, _before[number])


def _hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
    hearers = [*_hearing[number]]
    for hearer in hearers:
        hearer.hear(number)
    if not hearers:  # somebody has put this back who had replaced it, when we were gone
        signal.signal(number, _before[number])
        signal.raise_signal(number)
