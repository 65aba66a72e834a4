"""A real browser without a window, and what a test does in it: Chromium, over its own protocol.

Source: the Chrome DevTools Protocol.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from threading import Timer
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import open_websocket_url

from tests.helpers.foreign import foreign
from tests.helpers.programs import LONG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from trio_websocket import WebSocketConnection

LISTENS = "DevTools listening on "
LARGEST = 1 << 26


class Tab:
    """A tab of the browser."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.complaints: list[str] = []
        """What the console has shown as an error or a warning, and what was thrown."""
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, Any] = {}
        self._session: str | None = None
        self._is_loaded = False

    async def command(self, method: str, **parameters: Any) -> Any:
        """Have something done, and return what is answered."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._socket.send_message(json.dumps(message))
        while number not in self._answers:
            await self._receive()
        answer = self._answers.pop(number)

        assert "error" not in answer, answer

        return answer["result"]

    async def _receive(self) -> None:
        message = json.loads(await self._socket.get_message())
        if "id" in message:
            self._answers[message["id"]] = message
        elif message["method"] == "Page.loadEventFired":
            self._is_loaded = True
        elif message["method"] == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
        elif message["method"] == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(message["params"]["args"]))
        elif message["method"] == "Log.entryAdded":
            entry = message["params"]["entry"]
            self.complaints.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")

    async def begin(self) -> None:
        """Open the tab."""
        context = await self.command("Target.createBrowserContext", disposeOnDetach=True)
        target = await self.command("Target.createTarget", url="about:blank", **context)
        attached = await self.command(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")

    async def go(self, url: str) -> None:
        """Open a page, and wait until all of it is there."""
        self._is_loaded = False
        await self.command("Page.navigate", url=url)
        while not self._is_loaded:
            await self._receive()

    async def run(self, program: str) -> Any:
        """Run a piece of a program in the page; return what JSON says of its value."""
        done = await self.command(
            "Runtime.evaluate", expression=program, awaitPromise=True, returnByValue=True
        )

        assert "exceptionDetails" not in done, done

        return done["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until something holds in the page, and return it."""
        with trio.fail_after(LONG):
            while not (value := await self.run(condition)):  # noqa: ASYNC110 - nobody announces it
                await trio.sleep(0.02)
        return value

    async def looks_like(self, width: int, scheme: str = "light") -> None:
        """Give the page a width, and light or dark colours."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.command("Emulation.setEmulatedMedia", features=features)


@contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """Run Chromium, with a profile in a folder; yield where it listens to `opened`."""
    command = [
        foreign("chromium"),
        "--headless",
        "--no-sandbox",  # which root can't have; what it opens here is ours
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}",
    ]
    process = subprocess.Popen(  # noqa: S603 - found by `foreign`
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(folder)},
    )
    timer = Timer(LONG, process.kill)
    timer.start()
    with process:
        try:
            yield _address_in(process)
        finally:
            timer.cancel()
            process.kill()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Tab]:
    """Open a tab that shares nothing with others, in a browser that runs."""
    with trio.fail_after(LONG):
        async with open_websocket_url(url, max_message_size=LARGEST) as socket:
            tab = Tab(socket)
            await tab.begin()
            yield tab


def _address_in(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(LISTENS):
            return line.removeprefix(LISTENS).strip()
    raise AssertionError("the browser has ended")
