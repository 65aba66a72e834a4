"""A small DNS server on loopback, over UDP and TCP, that says what a test wants."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "DnsServer",
    "addresses",
    "dns_server",
    "failure",
    "garbage",
    "not_listed",
    "of_another_question",
    "silence",
    "truncated",
]

HOST: Final = "127.0.0.1"
LENGTH: Final = 2  # octets before each message over TCP (RFC 1035, section 4.2.2)

Reply: TypeAlias = Callable[[dns.message.QueryMessage, bool], "list[bytes]"]
"""What is sent for a question; it is told whether that came over TCP."""


def addresses(*texts: str, ttl: int = 300) -> Reply:
    """Answer with these A records."""

    def reply(question: dns.message.QueryMessage, _: bool) -> list[bytes]:  # noqa: FBT001 - as called
        response = dns.message.make_response(question)
        name = question.question[0].name
        response.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", *texts))
        return [response.to_wire()]

    return reply


def not_listed(minimum: int | None = 300) -> Reply:
    """Answer that there is no such name, with an SOA record unless that is None."""

    def reply(question: dns.message.QueryMessage, _: bool) -> list[bytes]:  # noqa: FBT001 - as called
        response = dns.message.make_response(question)
        response.set_rcode(dns.rcode.NXDOMAIN)
        if minimum is not None:
            soa = f"ns.test. root.test. 1 3600 600 86400 {minimum}"
            response.authority.append(dns.rrset.from_text("test.", 86400, "IN", "SOA", soa))
        return [response.to_wire()]

    return reply


def failure(question: dns.message.QueryMessage, _: bool) -> list[bytes]:  # noqa: FBT001 - as called
    """Answer SERVFAIL."""
    response = dns.message.make_response(question)
    response.set_rcode(dns.rcode.SERVFAIL)
    return [response.to_wire()]


def silence(_question: dns.message.QueryMessage, _: bool) -> list[bytes]:  # noqa: FBT001 - as called
    """Answer nothing."""
    return []


def garbage(then: Reply) -> Reply:
    """Send what is no message of DNS, and then an answer."""
    return lambda question, tcp: [b"", b"\xff" * 40, *then(question, tcp)]


def of_another_question(then: Reply) -> Reply:
    """Answer, but to somebody else's question of another number."""

    def reply(question: dns.message.QueryMessage, tcp: bool) -> list[bytes]:  # noqa: FBT001
        return [bytes([each[0] ^ 1]) + each[1:] for each in then(question, tcp)]

    return reply


def truncated(then: Reply) -> Reply:
    """Answer over UDP that the answer is too long for that, and over TCP with it."""

    def reply(question: dns.message.QueryMessage, tcp: bool) -> list[bytes]:  # noqa: FBT001
        if tcp:
            return then(question, tcp)
        response = dns.message.make_response(question)
        response.flags |= dns.flags.TC
        return [response.to_wire()]

    return reply


class DnsServer:
    """What it was asked, and what it says."""

    def __init__(self, udp: trio.socket.SocketType, tcp: trio.socket.SocketType) -> None:
        self.port: int = udp.getsockname()[1]
        self.asked: list[str] = []
        """The names that it was asked about."""
        self.says: dict[str, Reply] = {}
        """What it says of a name; of others, that they aren't there."""
        self.may_answer = trio.Event()
        """Answers wait for it, which is set by default."""
        self.may_answer.set()
        self._udp = udp
        self._tcp = tcp

    def hold(self) -> None:
        """Keep the answers until `may_answer` is set."""
        self.may_answer = trio.Event()

    async def asked_about(self, count: int) -> None:
        """Wait until so many questions have come, whichever clock there is."""
        while len(self.asked) < count:
            await trio.testing.wait_all_tasks_blocked()

    async def run(self) -> None:
        """Answer until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(trio.serve_listeners, self._over_tcp, [trio.SocketListener(self._tcp)])
            )
            while True:
                wire, peer = await self._udp.recvfrom(4096)
                nursery.start_soon(self._over_udp, wire, peer)

    async def _over_udp(self, wire: bytes, peer: tuple[object, ...]) -> None:
        for answer in await self._answers(wire, tcp=False):
            await self._udp.sendto(answer, peer)

    async def _over_tcp(self, stream: trio.SocketStream) -> None:
        received = b""
        while (piece := await stream.receive_some()) != b"":
            received += piece
            if len(received) >= LENGTH + int.from_bytes(received[:LENGTH], "big"):
                break
        for answer in await self._answers(received[LENGTH:], tcp=True):
            await stream.send_all(len(answer).to_bytes(LENGTH, "big") + answer)
        await stream.aclose()

    async def _answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        question = dns.message.from_wire(wire)
        assert isinstance(question, dns.message.QueryMessage)
        name = question.question[0].name.to_text(omit_final_dot=True)
        self.asked.append(name)
        await self.may_answer.wait()
        return self.says.get(name, not_listed())(question, tcp)


async def _sockets() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Open a socket for UDP and one for TCP with one number, which nobody else has."""
    while True:
        tcp = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await tcp.bind((HOST, 0))
        try:
            await udp.bind(tcp.getsockname())
        except OSError as error:
            tcp.close()
            udp.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            tcp.listen()
            return udp, tcp


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    """Run one, on a port of its own."""
    udp, tcp = await _sockets()
    with udp, tcp:
        server = DnsServer(udp, tcp)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            yield server
            nursery.cancel_scope.cancel()
