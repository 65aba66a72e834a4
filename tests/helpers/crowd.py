"""Crowds that want to be let in, as a program: what test_conditional_load sets on inspectors.

It needs nothing but Python, and comes to an end in bounded time.

``python -m tests.helpers.crowd wait PORT CLIENTS FIRST``: so many clients connect and wait. Each
prints its port on the way; half of them are to leave, and send FIRST before that. When a line comes
on stdin they leave, with resets, in random order; the others read what they are told. One JSON
object says what became of all.

``python -m tests.helpers.crowd flood PORT CLIENTS``: so many clients come and go, one after the
other, each in the next way of leaving; fewer, if that takes too long. One JSON object says how many
have left in which way.
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
from itertools import cycle, islice
from typing import Final

from tests.helpers.resetting import close_with_reset

PATIENCE: Final = 180
"""Seconds after which everything that is not finished is given up."""

FLOOD_SECONDS: Final = 20
"""How long a flood goes on at most."""


AT_ONCE: Final = 500
"""How many connect before the first of them has to be there; less than any backlog."""


def connect(port: int) -> socket.socket:
    """Begin to connect."""
    client = socket.socket()
    client.settimeout(0)
    client.connect_ex(("127.0.0.1", port))
    return client


def wait_all(clients: list[socket.socket], event: int, until: float) -> list[socket.socket]:
    """Wait until all are ready; return those that are not in time."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, event)
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(1):
                selector.unregister(key.fd)
        return [client for client in clients if client.fileno() in selector.get_map()]


def told(client: socket.socket) -> str:
    """Read what a client was told, to the end."""
    client.settimeout(PATIENCE)
    words = b""
    try:
        while data := client.recv(1 << 16):
            words += data
    except OSError as error:
        return type(error).__name__
    return words.decode()


def say(value: object) -> None:
    """Print one line."""
    print(json.dumps(value), flush=True)  # noqa: T201 - a program


def wait(port: int, count: int, first: bytes) -> None:
    """Have a crowd wait, and half of it leave."""
    until = time.monotonic() + PATIENCE
    clients: list[socket.socket] = []
    while len(clients) < count:
        batch = [connect(port) for _ in range(min(AT_ONCE, count - len(clients)))]
        if wait_all(batch, selectors.EVENT_WRITE, until):
            sys.exit("not all can connect")
        clients += batch
    leaving, staying = clients[::2], clients[1::2]
    for client in leaving:
        client.send(first)
    say(
        {
            "leaving": [client.getsockname()[1] for client in leaving],
            "staying": [client.getsockname()[1] for client in staying],
        }
    )
    sys.stdin.readline()
    random.Random(0).shuffle(leaving)  # noqa: S311 - it should be different, not secret
    for client in leaving:
        close_with_reset(client)
    say(Counter(told(client) for client in staying))


WAYS: Final = ("reset", "reset after data", "close", "close after data", "half", "wait")
"""How a client of a flood leaves: at once, or, at last, when the server has done with it."""


def come_and_go(port: int, way: str) -> None:
    """Be one client of a flood."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        if "data" in way:
            client.sendall(b"x")
        if way == "half":
            client.shutdown(socket.SHUT_WR)
        if way == "wait":
            client.sendall(b"nobody")
            told(client)
        if way.startswith("reset"):
            close_with_reset(client)


def flood(port: int, count: int) -> None:
    """Come and go, so many times if there is time for it."""
    until = time.monotonic() + FLOOD_SECONDS
    left: Counter[str] = Counter()
    for way in islice(cycle(WAYS), count):
        if time.monotonic() > until:
            break
        come_and_go(port, way)
        left[way] += 1
    say(left)


def main(kind: str, port: int, count: int, *first: str) -> None:
    """Send the crowd."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if kind == "wait":
        wait(port, count, "".join(first).encode())
    else:
        flood(port, count)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
