"""Ctrl-C while a socket is being opened or closed."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_wsk
from tests.helpers.scarcity import named_descriptors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

PACKAGE = str(Path(trio_wsk.__file__).parent)


class Interrupter:
    """Sends this process SIGINT before one line of the package that is about to be executed."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        """How many lines have been executed."""

    def start(self, frame: FrameType, event: str, argument: object) -> Any:
        """Follow what is called in the package; for `sys.settrace`."""
        return self._follow if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _follow(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.seen += 1
            if self.seen == self.at:
                signal.raise_signal(signal.SIGINT)
        return self._follow


async def open_listening_socket(**place: Any) -> None:
    """Open a listening socket, and close it."""
    async with trio_wsk.open_listening_socket(**place):
        await trio.lowlevel.checkpoint()


async def open_server(**place: Any) -> None:
    """Open a server, and end it."""
    async with trio_wsk.open_server(leave, **place):
        await trio.lowlevel.checkpoint()


async def serve(**place: Any) -> None:
    """Serve until that is aborted."""
    await trio_wsk.serve(leave, task_status=Aborting(), **place)


class Aborting(trio.TaskStatus[trio_wsk.Server]):
    """Who is told that a server has started, and ends it."""

    def started(self, value: trio_wsk.Server | None = None) -> None:
        """End it."""
        assert value is not None
        value.abort()


async def leave(connection: trio_wsk.Connection) -> None:
    """Do nothing."""


def on_a_path(folder: Path) -> dict[str, Any]:
    """Listen on a path, with a mode."""
    return {"path": folder / "app.sock", "mode": 0o600}


def on_a_port(folder: Path) -> dict[str, Any]:
    """Listen on a port of two addresses."""
    return {"port": 0, "host": ["127.0.0.1", "127.0.0.2"]}


def on_sockets(folder: Path) -> dict[str, Any]:
    """Listen on a socket that exists."""
    return {"sockets": [socket.create_server(("127.0.0.1", 0))]}


@pytest.mark.parametrize(
    ("main", "place"),
    [
        (open_listening_socket, on_a_path),
        (open_listening_socket, on_a_port),
        (open_listening_socket, on_sockets),
        (open_server, on_a_path),
        (serve, on_a_path),
    ],
)
def test_ctrl_c_leaves_nothing(
    main: Callable[..., Awaitable[None]], place: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    """
    Whichever line of ours Ctrl-C comes in, while a socket is opened, listens, or is closed: it
    goes on as a KeyboardInterrupt, and neither a file nor a descriptor is left.
    """
    traced = sys.gettrace()
    before = named_descriptors()
    interrupter = Interrupter(0)
    while interrupter.seen >= interrupter.at:
        interrupter = Interrupter(interrupter.at + 1)

        async def run(interrupter: Interrupter = interrupter) -> None:
            options = place(tmp_path)
            sys.settrace(interrupter.start)
            try:
                await main(**options)
            finally:
                sys.settrace(traced)
                for sock in options.get("sockets", ()):
                    sock.close()  # which is ours if Ctrl-C came before it was taken

        is_interrupted = False
        try:
            trio.run(run)
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            sys.settrace(traced)
        left = sorted(named_descriptors() - before), sorted(tmp_path.iterdir())

        assert ([], []) == left, f"at line {interrupter.at}"
        assert is_interrupted is (interrupter.seen >= interrupter.at)

    assert interrupter.at > 100
