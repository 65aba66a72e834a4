"""An allow list that is kept by a slow service: conditional accept.

Run ``python examples/conditional_accept.py [PORT]``; it says how to talk to it. A peer that is
not on the list is told so and sent away: on Linux try ``nc -s 127.0.0.2 127.0.0.1 PORT``. One
that leaves during its look-up (Ctrl-C in ``nc``) ends the look-up, too, and a line says who it
was and when. Ctrl-C or SIGTERM ends the server.

The list is asked for in DNS, as mail servers do it: is there a ``1.0.0.127.allow.example``?
Inspectors are tasks, so that slow look-ups don't wait for each other. The service is in here,
too, at the end: in your program it is somebody else's.
"""

from __future__ import annotations

import secrets
import signal
import struct
import sys
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

import trio_wsk
from trio_wsk import InspectAction, Verdict
from trio_wsk.observers import RequestAborted, RequestApproved, RequestRejected

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from trio_wsk import Address
    from trio_wsk.observers import Record

PORT = 7010
LOOKUP_SECONDS = 3.0
"""How long the service takes."""
ALLOWED = ("127.0.0.1", "::1")
ZONE = "allow.example"

HEADER = struct.Struct("!6H")
"""RFC 1035: number; flags; how many questions, answers, authorities and others follow."""
QUESTION, FOUND, NO_SUCH_NAME, ERROR = 0x0100, 0x8180, 0x8183, 0x000F
A_RECORD = struct.pack("!2H", 1, 1)


async def inspect(
    service: tuple[str, int], request: trio_wsk.ConnectionRequest
) -> InspectAction | Verdict:
    """Decide about one request, in a task of its own, which is cancelled when its peer leaves."""
    if await is_listed(request.remote_address, service):
        return InspectAction.ACCEPT
    return Verdict(InspectAction.REJECT, "not-listed", close=b"You are not on the list.\n")


async def is_listed(address: Address, service: tuple[str, int]) -> bool:
    """Look an address up; ask once each second until there is an answer."""
    number = secrets.randbelow(1 << 16)
    question = HEADER.pack(number, QUESTION, 1, 0, 0, 0) + name_of(address.host) + A_RECORD
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(service)
        while True:
            await sock.send(question)
            with trio.move_on_after(1):
                answered, flags, _, records, *_ = HEADER.unpack_from(await sock.recv(512))
                if answered == number:
                    break
    if flags & ERROR not in {0, NO_SUCH_NAME & ERROR}:
        raise LookupError(f"the list can't be asked: {flags:#x}")  # reported, and a rejection
    return bool(records)


def name_of(host: IPv4Address | IPv6Address | None) -> bytes:
    """Write the name that an address has in the list: its parts come backwards (RFC 5782)."""
    assert host is not None, "a Unix socket's peer has no address"
    backwards = host.reverse_pointer.rsplit(".", 2)[0]  # less in-addr.arpa
    labels = [label.encode() for label in f"{backwards}.{ZONE}".split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


async def greet(connection: trio_wsk.Connection) -> None:
    """Handle one connection that was let through."""
    await connection.send_all(b"Welcome.\n")
    while await connection.more():
        await connection.send_all(await connection.receive_some())


def tell(started: float, record: Record) -> None:
    """Say what becomes of a request, as it happens."""
    match record:
        case RequestApproved():
            what = "is let in"
        case RequestRejected():
            what = f"is sent away: {record.reason}"
        case RequestAborted():
            what = f"is gone: {record.reason.value}"
        case _:
            return
    print(f"{record.at - started:6.2f} s: {record.remote_address} {what}", flush=True)


async def main(
    *,
    port: int = PORT,
    lookup_seconds: float = LOOKUP_SECONDS,
    task_status: trio.TaskStatus[trio_wsk.Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until a signal comes, then drain."""
    async with trio.open_nursery() as nursery:
        service = await nursery.start(keep_list, lookup_seconds)
        async with trio_wsk.open_server(
            greet,
            port,
            host="localhost",
            grace=1,
            signals=(signal.SIGINT, signal.SIGTERM),
            inspect=partial(inspect, service),
            observers=[partial(tell, trio.current_time())],
        ) as server:
            port = server.local_addresses[0].port
            print(f"Looking up who comes to port {port}. Try: nc localhost {port}", flush=True)
            task_status.started(server)
            await server.listening.draining.wait()
        nursery.cancel_scope.cancel()


# --- The service, which takes its time -----------------------------------------------------------


async def keep_list(
    lookup_seconds: float, *, task_status: trio.TaskStatus[tuple[str, int]]
) -> None:
    """Answer who is on the list, on a UDP port of loopback."""
    listed = {name_of(ip_address(host)) for host in ALLOWED}
    record = b"\xc0\x0c" + A_RECORD + struct.pack("!IH4B", 60, 4, 127, 0, 0, 2)
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        task_status.started(sock.getsockname())

        async def _answer(asked: bytes, asker: tuple[str, int]) -> None:
            await trio.sleep(lookup_seconds)
            (number, *_), asked_for = HEADER.unpack_from(asked), asked[HEADER.size :]
            found = asked_for.removesuffix(A_RECORD) in listed
            header = HEADER.pack(number, FOUND if found else NO_SUCH_NAME, 1, found, 0, 0)
            await sock.sendto(header + asked_for + record * found, asker)

        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(_answer, *await sock.recvfrom(512))


if __name__ == "__main__":
    trio.run(partial(main, port=int(sys.argv[1]) if sys.argv[1:] else PORT))
