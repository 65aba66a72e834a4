"""Clients in a process of their own, which come again and again and count what they lose.

Run ``python -m tests.helpers.counting_clients OPTIONS``, the options being those of `Wanted` in
JSON. It writes what it has counted to stdout, as JSON, one line after each so many ends. When
stdin has ended no client begins any more; those that have begun come to their end, and the last
line is the whole account.

A client of whom a server is worthy gets what it came for, or is counted as lost: refused, reset, or
without an answer. The server greets each with a line that says which process it is, hears a line,
answers ``done`` and closes. So a loss has the name of the worker that the client had come to, or 0
where it had come to none.

One thread, a generator for each client: it yields what it waits for. Nothing here is Trio's, so
that a fault there can't hide what it does.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import takewhile
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

from tests.helpers.resetting import reset_on_close

T = TypeVar("T")
Steps: TypeAlias = Generator[int, None, T]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
LATER: Final = 0
"""What a client waits for whom nobody wakes: a Unix socket's queue has no room."""
HELD: Final = -1
"""What a client waits for who takes its time: that others are answered meanwhile."""

HOLD: Final = 100
"""How many are answered while one takes its time."""
TELL: Final = 20
"""How many come to an end before the next line is written."""
BEHIND: Final = 16
"""How many clients that are late come at once: who could not be in time doesn't make up for it."""
PAUSE: Final = 0.002
"""Seconds between two looks at what nobody tells of."""

IP_BIND_ADDRESS_NO_PORT: Final = 24
SOURCES: Final = 100
"""How many addresses clients come from, each with ports of its own: those of connections that the
server has closed are not to be had for a minute."""
FLOOD: Final = b"x" * 65536


@dataclass(frozen=True)
class Wanted:
    """What clients shall do."""

    where: int | str
    """A port of 127.0.0.1, or a path."""
    kinds: str = "aaah"
    """What one after the other does, over and over: ``a`` asks, ``h`` takes its time with that,
    ``r`` leaves with a reset at some point, ``f`` asks and then sends far more than anybody reads.
    """
    per_second: float = 500.0
    """How many begin, if so many can."""
    at_once: int = 100
    """How many there are, at most."""
    authority: str | None = None
    """The file with the certificate of who vouches for the server, in case of TLS."""
    patience: float = 120.0
    """Seconds after which one is without an answer."""


@dataclass
class Counted:
    """What clients have seen; those that reset or flood have no claim to anything."""

    begun: int = 0
    """How many have come."""
    answered: int = 0
    """How many have got what they came for."""
    by: Counter[str] = field(default_factory=Counter)
    """How many, by worker."""
    lost: Counter[str] = field(default_factory=Counter)
    """How many have not: the worker, and what happened."""
    rude: Counter[str] = field(default_factory=Counter)
    """How the others have ended."""
    most: int = 0
    """How many there were at once."""
    over: bool = False
    """Whether all have come to their end."""

    def written(self) -> str:
        """Write it down."""
        return json.dumps(vars(self))

    @classmethod
    def read(cls, line: bytes) -> Counted:
        """Read what was written down."""
        found: dict[str, Any] = json.loads(line)
        counters = {name: Counter(found[name]) for name in ("by", "lost", "rude")}
        return cls(**{**found, **counters})


class LeftWithoutAnswerError(Exception):
    """The server has finished without an answer."""


class Client:
    """One client, from its coming to its end."""

    def __init__(self, clients: Clients, number: int) -> None:
        self._clients = clients
        self._number = number
        self.kind: Final = clients.wanted.kinds[number % len(clients.wanted.kinds)]
        self.began: Final = monotonic()
        self.sock: socket.socket = self._made()
        self.steps: Final = self._all()
        self.worker = "0"
        self.interest = 0
        self.held_until = 0

    def _made(self) -> socket.socket:
        where = self._clients.wanted.where
        sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        sock.settimeout(0)
        if isinstance(where, int):
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.1.0.{self._number % SOURCES + 1}", 0))
        return sock

    def _all(self) -> Steps[None]:
        yield from self._connect()
        if self.kind == "r":
            yield from self._leave()
        elif self.kind == "f":
            yield from self._flood()
        else:
            yield from self._ask()

    def _connect(self) -> Steps[None]:
        where = self._clients.wanted.where
        address = where if isinstance(where, str) else ("127.0.0.1", where)
        while True:
            try:
                self.sock.connect(address)
            except BlockingIOError:
                if not isinstance(where, str):
                    yield WRITE
                    break
                yield LATER
            else:
                break
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connect")  # of the class that belongs to it
        if self._clients.tls is not None:
            tls = self._clients.tls.wrap_socket(
                self.sock, server_hostname="server.test", do_handshake_on_connect=False
            )
            self.sock = tls
            yield from self._again(tls.do_handshake)

    def _ask(self) -> Steps[None]:
        yield from self._greeted()
        if self.kind == "h":
            yield from self._say(b"well")
            self.held_until = self._clients.counted.answered + HOLD
            yield HELD
        yield from self._say(b"?\n")
        answer = yield from self._rest()
        if answer != b"done\n":
            raise LeftWithoutAnswerError

    def _leave(self) -> Steps[None]:
        point = self._number % 3
        if point:
            yield from self._greeted()
        if point > 1:
            yield from self._say(b"well")
        reset_on_close(self.sock)

    def _flood(self) -> Steps[None]:
        yield from self._greeted()
        yield from self._say(b"?\n")
        for _ in range(16):
            yield from self._again(lambda: self.sock.send(FLOOD), WRITE)
        yield from self._rest()

    def _greeted(self) -> Steps[None]:
        greeting = b""
        while not greeting.endswith(b"\n"):
            octets = yield from self._again(lambda: self.sock.recv(100))
            if not octets:
                raise LeftWithoutAnswerError
            greeting += octets
        self.worker = greeting.decode().strip()

    def _say(self, words: bytes) -> Steps[None]:
        yield from self._again(lambda: self.sock.send(words), WRITE)

    def _rest(self) -> Steps[bytes]:
        said = b""
        while octets := (yield from self._again(lambda: self.sock.recv(100))):
            said += octets
        return said

    @staticmethod
    def _again(call: Callable[[], T], wait: int = READ) -> Steps[T]:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
            except BlockingIOError:
                yield wait


class Clients:
    """All of them."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted: Final = wanted
        self.counted: Final = Counted()
        self.tls: Final = (
            None
            if wanted.authority is None
            else ssl.create_default_context(cafile=wanted.authority)
        )
        self._open: dict[Client, None] = {}  # in the order of their coming
        self._later: list[Client] = []
        self._held: list[Client] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin.fileno(), READ)
        self._due = monotonic()
        self._is_ending = False
        self._told = 0

    def run(self) -> None:
        """Have clients come until there is nobody any more who wants that."""
        while self._open or not self._is_ending:
            self._begin()
            for key, _ in self._selector.select(PAUSE):
                if key.data is None:
                    self._end()
                else:
                    self._go_on(key.data)
            self._look()
            if self._ends - self._told >= TELL:
                self._tell()
        self.counted.over = True
        self._tell()

    @property
    def _ends(self) -> int:
        return self.counted.begun - len(self._open)

    def _end(self) -> None:
        self._is_ending = True
        self._selector.unregister(sys.stdin.fileno())

    def _tell(self) -> None:
        self._told = self._ends
        sys.stdout.write(self.counted.written() + "\n")
        sys.stdout.flush()

    def _begin(self) -> None:
        pace = 1 / self.wanted.per_second
        now = monotonic()
        self._due = max(self._due, now - BEHIND * pace)
        while self._due <= now and len(self._open) < self.wanted.at_once and not self._is_ending:
            self._due += pace
            client = Client(self, self.counted.begun)
            self.counted.begun += 1
            self._open[client] = None
            self.counted.most = max(self.counted.most, len(self._open))
            self._go_on(client)

    def _go_on(self, client: Client) -> None:
        try:
            wanted = next(client.steps)
        except StopIteration:
            self._ended(client, None)
        except (OSError, LeftWithoutAnswerError) as error:
            self._ended(client, error)
        else:
            self._await(client, wanted)

    def _await(self, client: Client, wanted: int) -> None:
        if wanted in {LATER, HELD}:
            (self._later if wanted == LATER else self._held).append(client)
            self._watch(client, 0)
        else:
            self._watch(client, wanted)

    def _watch(self, client: Client, interest: int) -> None:
        before, client.interest = client.interest, interest
        if before == interest:
            return
        if not interest:
            self._selector.unregister(client.sock)
        elif before:
            self._selector.modify(client.sock, interest, client)
        else:
            self._selector.register(client.sock, interest, client)

    def _look(self) -> None:
        """See to those of whom nobody tells."""
        later, self._later = self._later, []
        for client in later:
            self._go_on(client)
        held = self._held
        is_alone = len(held) == len(self._open)
        self._held = []
        for client in held:
            if is_alone or self._is_ending or self.counted.answered >= client.held_until:
                self._go_on(client)
            else:
                self._held.append(client)
        self._give_up()

    def _give_up(self) -> None:
        """Count those as lost who have waited for too long."""
        latest = monotonic() - self.wanted.patience
        for client in list(takewhile(lambda each: each.began < latest, self._open)):
            for waiting in (self._held, self._later):
                if client in waiting:
                    waiting.remove(client)
            self._ended(client, TimeoutError())

    def _ended(self, client: Client, error: Exception | None) -> None:
        self._watch(client, 0)
        client.sock.close()
        del self._open[client]
        how = "done" if error is None else type(error).__name__
        if client.kind not in "ah":
            self.counted.rude[f"{client.kind} {how}"] += 1
        elif error is None:
            self.counted.answered += 1
            self.counted.by[client.worker] += 1
        else:
            self.counted.lost[f"{client.worker} {how}"] += 1


if __name__ == "__main__":
    Clients(Wanted(**json.loads(sys.argv[1]))).run()
