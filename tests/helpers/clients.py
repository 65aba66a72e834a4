"""Many clients of an echo server, as a program: what test_load sets on the examples.

Run ``python -m tests.helpers.clients PORT CLIENTS OCTETS RUDE``. It needs nothing but Python. All
clients connect and have one octet echoed; not before all are there do they go on. The good
ones send so many octets, each its own, compare what comes back with them, finish sending
and wait for the server to finish, too. Of the rude ones there are so many for each way of
leaving with a reset.

In the end one JSON object on stdout says how it went. It comes in bounded time.
"""

from __future__ import annotations

import json
import random
import resource
import selectors
import socket
import sys
import time
from collections import Counter
from typing import Final

from tests.helpers.resetting import reset_on_close

PATIENCE: Final = 180
"""Seconds after which everything that is not finished is given up."""

CHUNK: Final = 1 << 16
SHIFT: Final = 64
"""How far the content of one client is from the next one's, in the same random octets."""


PHASES: Final = ("connecting", "connected", "sending", "receiving", "finished")
"""When a rude client leaves: in the middle of each, and of what the server then does."""


class Client:
    """A client that sends its content, and compares what comes back."""

    def __init__(self, port: int, content: memoryview) -> None:
        self.content = content
        self.sent = 0
        self.received = 0
        self.fate: str | None = None
        """What has become of it, once it has ended; ``echoed`` is how good ones want to end."""
        self.sock = socket.socket()
        self.sock.settimeout(0)
        self.sock.connect_ex(("127.0.0.1", port))

    def is_talking(self, allowed: int) -> bool:
        """Whether it has something to do while it may send so many octets."""
        is_last_word = allowed == len(self.content)
        return self.fate is None and (is_last_word or self.received < allowed)

    def step(self, ready: int, allowed: int) -> None:
        """Send and receive what can be."""
        try:
            if ready & selectors.EVENT_WRITE and self.sent < allowed:
                self._send(allowed)
            if ready & selectors.EVENT_READ:
                self._receive()
        except OSError as error:
            self.end(f"{type(error).__name__} after {self.sent} sent, {self.received} received")

    def _send(self, allowed: int) -> None:
        self.sent += self.sock.send(self.content[self.sent : min(self.sent + CHUNK, allowed)])
        if self.sent == len(self.content):
            self.sock.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        data = self.sock.recv(CHUNK)
        end = self.received + len(data)
        if data != self.content[self.received : end]:
            self.end(f"not what was sent, between {self.received} and {end}")
        elif not data:
            complete = self.received == len(self.content)
            self.end("echoed" if complete else f"finished after {self.received}")
        self.received = end

    def end(self, fate: str) -> None:
        """Leave."""
        self.fate = fate
        self.sock.close()


class RudeClient(Client):
    """A client that leaves with a reset, in the middle of something."""

    def __init__(self, port: int, content: memoryview, phase: str, patience: int) -> None:
        super().__init__(port, content)
        self.phase = phase
        self.patience = patience
        """How many octets it is good for."""
        if phase == "connecting":
            self.leave()

    def step(self, ready: int, allowed: int) -> None:
        """Do what a good one does, until it is time."""
        if self.phase == "connected":
            self.leave()
            return
        super().step(ready, allowed)
        if self.fate is None and self.is_time():
            self.leave()

    def is_time(self) -> bool:
        """Whether the time has come."""
        if self.phase == "sending":
            return self.sent >= self.patience
        if self.phase == "receiving":
            return self.received >= self.patience
        return self.sent == len(self.content)

    def leave(self) -> None:
        """Leave with a reset."""
        reset_on_close(self.sock)
        self.end(f"left {self.phase}")


def crowd(port: int, clients: int, octets: int, rude: int) -> list[Client]:
    """Connect them all, the rude ones in between; which is where, is the same each time."""
    chance = random.Random(0)  # noqa: S311 - it should be different, not secret
    places: list[str | None] = [None] * clients + list(PHASES) * rude
    chance.shuffle(places)
    block = memoryview(chance.randbytes(octets + SHIFT * len(places)))
    crowd: list[Client] = []
    for number, phase in enumerate(places):
        content = block[SHIFT * number :][:octets]
        if phase is None:
            crowd.append(Client(port, content))
        else:
            crowd.append(RudeClient(port, content, phase, chance.randrange(1, octets)))
    return crowd


def talk(crowd: list[Client], allowed: int, until: float) -> None:
    """Let all talk who have something to say in so many octets."""
    with selectors.DefaultSelector() as selector:
        for client in crowd:
            if client.is_talking(allowed):
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                selector.register(client.sock, both, client)
        while selector.get_map() and time.monotonic() < until:
            for key, ready in selector.select(1):
                client = key.data
                client.step(ready, allowed)
                if not client.is_talking(allowed):
                    selector.unregister(key.fd)
                elif client.sent == allowed and key.events & selectors.EVENT_WRITE:
                    selector.modify(client.sock, selectors.EVENT_READ, client)


def main(port: int, clients: int, octets: int, rude: int) -> None:
    """Send the crowd, and say how it went."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    until = time.monotonic() + PATIENCE
    sent = crowd(port, clients, octets, rude)
    for allowed in (1, octets):
        talk(sent, allowed, until)
    fates = Counter(
        client.fate or f"stuck after {client.sent} sent, {client.received} received"
        for client in sent
    )
    print(json.dumps(fates))  # noqa: T201 - a program


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
