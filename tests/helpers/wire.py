"""What goes over the wire: segments that were seen there, and segments made by hand.

A `Capture` shows each TCP segment of one port once, in the order in which they were sent, with
the time at which the kernel saw it. A segment is there as soon as whatever sent it has been
done: who asks later for what there was up to now is told all of it, without waiting.

`send_segment` sends whatever a test wants to come from whomever, `flood` sends many SYNs from a
process of its own, and `mute` makes hosts that get answers and don't react to them.

Everything works in the network namespace that the thread is in, as root of it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from tests.helpers.gated import ACK, FIN, RST, SYN
from tests.helpers.namespaces import set_sysctl
from tests.helpers.support import PATIENCE
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports.linux._messages import CREATE, attribute
from trio_wsk.transports.linux._netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from typing_extensions import Self

    from tests.helpers.namespaces import Namespace

# ------------------------------------------------------------------------- what was seen


@attrs.frozen
class Segment:
    """A TCP segment, as it was seen on an interface."""

    at: float
    """When the kernel saw it: seconds on the clock of `time.monotonic`."""
    sender: str
    """``"client"`` or ``"server"``; the server is who has the port that is captured."""
    source: Address
    """Who sent it. A link-local address has the number of the captured interface."""
    destination: Address
    """To whom."""
    flags: str
    """Those of SYN, FIN, RST and ACK that are set, in this order: ``"SYN,ACK"``; or ``"none"``."""
    sequence_number: int
    """That of its first octet, or of SYN; not relative to anything."""
    acknowledgement: int
    """The number that is expected next, if ACK is set."""
    payload_length: int
    """Octets. More than a packet's worth if the segment is to be cut up later."""
    packet: bytes = attrs.field(repr=False)
    """The first 2048 octets, from the IP header on."""

    def __str__(self) -> str:
        octets = f" ({self.payload_length} octets)" if self.payload_length else ""
        return f"{self.sender} {self.flags}{octets}"


def exchange(segments: Iterable[Segment], *, decimals: int | None = None) -> list[str]:
    """Write segments for people, one line each: ``["client SYN", "server SYN,ACK"]``.

    Args:
      segments: In the order in which they are to be written.
      decimals: Also say when, in seconds after the first, to so many places:
        ``"2.5 s: server SYN,ACK"``.
    """
    lines: list[str] = []
    start: float | None = None
    for segment in segments:
        start = segment.at if start is None else start
        when = "" if decimals is None else f"{segment.at - start:.{decimals}f} s: "
        lines.append(f"{when}{segment}")
    return lines


_ALL_PROTOCOLS: Final = 3
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_OUTGOING: Final = 4
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_SO_TIMESTAMPING: Final = 37
_SOFTWARE_STAMPS: Final = 0x18  # made on receipt, and reported
_CAPTURE_BUFFER: Final = 64 << 20
_SNAP_LENGTH: Final = 2048

_STATISTICS: Final = struct.Struct("=II")
_STAMP: Final = struct.Struct("@ll")

# Classic BPF: load the kind of packet, and take it whole if it is an outgoing one.
_OUTGOING_ONLY: Final = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, 0xFFFFF004),  # SKF_AD_OFF + SKF_AD_PKTTYPE
        (0x15, 0, 1, _OUTGOING),
        (0x06, 0, 0, 0xFFFFFFFF),
        (0x06, 0, 0, 0),
    )
)


class Capture:
    """The TCP segments from and to one port that pass an interface from now on.

    On the loopback interface each is taken once, when it is sent; elsewhere both what is sent
    and what comes in, also if it is for somebody else, or a rule drops it later.

    Args:
      interface: Its name, in the namespace that this thread is in: ``"lo"`` or ``"veth0"``.
      port: The server's. Whatever goes to it is the client's.
      receive_buffer: Octets, of which a segment takes about a thousand until it is read. Of an
        ordinary user's namespace the limit of the machine holds (net.core.rmem_max).

    Raises:
      PermissionError: this takes CAP_NET_RAW.
    """

    def __init__(self, interface: str, port: int, *, receive_buffer: int = _CAPTURE_BUFFER) -> None:
        self._port = port
        self._segments: list[Segment] = []
        # Without a protocol it would show every interface until it is bound.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            self._socket.settimeout(0)
            _set_buffer(self._socket, receive_buffer)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            _wait_for_stamps()
            if interface == "lo":
                _attach(self._socket, _OUTGOING_ONLY)
            self._socket.bind((interface, _ALL_PROTOCOLS))
            self._scope_id = socket.if_nametoindex(interface)
        except BaseException:
            self._socket.close()
            raise
        self._correction = _since_start_less_wall_clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; what was read stays known. Idempotent."""
        self._socket.close()

    def segments(self, client: Address | None = None) -> list[Segment]:
        """Return all segments up to now, the first one first.

        Args:
          client: Only those from and to this address.

        Raises:
          AssertionError: there was more than the receive buffer had room for.
        """
        if self._socket.fileno() >= 0:
            self._read()
        if client is None:
            return list(self._segments)
        return [each for each in self._segments if client in {each.source, each.destination}]

    def exchange(self, client: Address | None = None, *, decimals: int | None = None) -> list[str]:
        """Write what there was up to now, as `exchange` does."""
        return exchange(self.segments(client), decimals=decimals)

    async def until(
        self,
        condition: Callable[[list[Segment]], object],
        what: str,
        *,
        client: Address | None = None,
    ) -> list[Segment]:
        """Wait until a condition holds for the segments up to now, and return them.

        Not a checkpoint if it holds already. One task at a time.

        Args:
          condition: Is asked at first, and after more has come.
          what: What is waited for, to be read after "there is no".
          client: Only segments from and to this address.

        Raises:
          AssertionError: it does not hold after `PATIENCE` seconds; the message says
            what there was.
        """
        with trio.move_on_after(PATIENCE):
            while not condition(segments := self.segments(client)):
                await trio.lowlevel.wait_readable(self._socket)
            return segments
        lines = "\n".join(self.exchange(client, decimals=3))
        raise AssertionError(f"there is no {what} within {PATIENCE} s, but\n{lines}")

    async def expect(self, *lines: str, client: Address | None = None) -> list[Segment]:
        """Wait for as many segments as there are lines; they and no others must be there.

        Args:
          lines: As `exchange` writes them.
          client: Only segments from and to this address.

        Raises:
          AssertionError: there are others, or not so many in time.
        """
        what = f"exchange of {len(lines)} segments"
        segments = await self.until(lambda seen: len(seen) >= len(lines), what, client=client)
        seen = exchange(segments)

        assert list(lines) == seen, f"{seen}, and not {list(lines)}"
        return segments

    def _read(self) -> None:
        while True:
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(_SNAP_LENGTH, 64)
            except BlockingIOError:
                break
            (stamp,) = [data for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS]
            seconds, nanoseconds = _STAMP.unpack(stamp)
            at = seconds + nanoseconds / 1e9 + self._correction
            segment = parse_segment(packet, at, self._port, self._scope_id)
            if segment is not None:
                self._segments.append(segment)
        found = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        _, lost = _STATISTICS.unpack(found)
        assert not lost, f"{lost} packets were too many for the capture"


_FLAG_NAMES: Final = (("SYN", SYN), ("FIN", FIN), ("RST", RST), ("ACK", ACK))
_IPV4: Final = struct.Struct("!2xH2xHxB2x4s4s")  # length, fragment, protocol, addresses
_IPV6: Final = struct.Struct("!4xHBx16s16s")  # length of what follows, next header, addresses
_TCP: Final = struct.Struct("!HHIIBB6x")


def parse_segment(packet: bytes, at: float, port: int, scope_id: int) -> Segment | None:
    """Read a packet; None if it is not a TCP segment of this port's.

    Args:
      packet: Its octets, from the IP header on. IPv6's extension headers are not read.
      at: When it was seen.
      port: The server's.
      scope_id: The number of the interface that it was seen on.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4.size:
        length, fragment, kind, *hosts = _IPV4.unpack_from(packet)
        start = (packet[0] & 0xF) * 4
        is_whole = not fragment & 0x3FFF  # no more fragments follow, and it is the first
    elif version == 6 and len(packet) >= _IPV6.size:
        length, kind, *hosts = _IPV6.unpack_from(packet)
        start = _IPV6.size
        length += start
        is_whole = True
    else:
        return None
    if kind != socket.IPPROTO_TCP or not is_whole or len(packet) < start + _TCP.size:
        return None
    *ports, sequence, acknowledgement, size, flags = _TCP.unpack_from(packet, start)
    if port not in ports:
        return None
    source, destination = (_address(*end, scope_id) for end in zip(hosts, ports, strict=True))
    return Segment(
        at=at,
        sender="client" if destination.port == port else "server",
        source=source,
        destination=destination,
        flags=",".join(name for name, bit in _FLAG_NAMES if flags & bit) or "none",
        sequence_number=sequence,
        acknowledgement=acknowledgement,
        payload_length=length - start - (size >> 4) * 4,
        packet=packet,
    )


def _address(octets: bytes, port: int, scope_id: int) -> Address:
    host = ip_address(octets)
    is_scoped = host.version == 6 and host.is_link_local
    return Address.tcp(host, port, scope_id if is_scoped else 0)


def _set_buffer(sock: socket.socket, octets: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


def _attach(sock: socket.socket, program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    instructions = len(program) // 8
    described = struct.pack("@HP", instructions, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def _since_start_less_wall_clock() -> float:
    """Return what turns a stamp, which is the wall clock's, into monotonic time."""
    samples = []
    for _ in range(8):  # of which the one counts that was interrupted least
        before, wall, after = monotonic(), time(), monotonic()
        samples.append((after - before, before - wall))
    return min(samples)[1]


def _wait_for_stamps() -> None:
    """Wait until the kernel stamps packets when they pass.

    It starts to when the first socket has asked for it, but a little later; what has no stamp
    by then would get one when it is read.
    """
    deadline = monotonic() + PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOFTWARE_STAMPS)
        probe.settimeout(PATIENCE)
        probe.bind(("127.0.0.1", 0))
        probe.connect(probe.getsockname())
        while True:
            probe.send(b"")
            if probe.recvmsg(1, 128)[1]:
                return
            assert monotonic() < deadline, "the kernel stamps no packets"


# --------------------------------------------------------------------------- made by hand


def tcp_options(
    *,
    mss: int | None = None,
    window_scale: int | None = None,
    sack: bool = False,
    timestamps: tuple[int, int] | None = None,
    fast_open: bytes | None = None,
) -> bytes:
    """Write options of a TCP header, padded with No-Operation.

    Args:
      mss: Maximum Segment Size, octets.
      window_scale: Bits.
      sack: Whether selective acknowledgements are permitted.
      timestamps: The sender's clock, and what it has had from the other's.
      fast_open: A cookie of TCP Fast Open; ``b""`` asks for one.
    """
    found = b""
    if mss is not None:
        found += struct.pack("!BBH", 2, 4, mss)
    if window_scale is not None:
        found += struct.pack("!BBB", 3, 3, window_scale)
    if sack:
        found += b"\4\2"
    if timestamps is not None:
        found += struct.pack("!BBII", 8, 10, *timestamps)
    if fast_open is not None:
        found += struct.pack("!BB", 34, 2 + len(fast_open)) + fast_open
    return found + b"\1" * (-len(found) % 4)


_FRAGMENT: Final = 44
_DESTINATION_OPTIONS: Final = 60
_OPTIONS: Final = struct.Struct("!BBBBI")
"""What comes next, eight octets of length, and padding."""


def packet_of(
    source: Address,
    target: Address,
    flags: int,
    sequence: int = 1,
    *,
    acknowledgement: int = 0,
    window: int = 65535,
    options: bytes = b"",
    payload: bytes = b"",
    hop_limit: int = 64,
) -> bytes:
    """Write a packet with one TCP segment, for a socket of IPPROTO_RAW.

    Args:
      source: Who seems to send it.
      target: To whom.
      flags: The sum of some of SYN, FIN, RST and ACK.
      sequence: The sequence number; in a SYN, the initial one.
      acknowledgement: What is expected next, for ACK.
      window: Octets, not scaled.
      options: As `tcp_options` writes them.
      payload: What follows; with a SYN, data of TCP Fast Open.
      hop_limit: IPv4 calls it Time to Live.
    """
    ours, theirs = source.host, target.host
    assert ours is not None
    assert theirs is not None
    size = (_TCP.size + len(options)) // 4
    ports = (source.port, target.port)
    segment = struct.pack(
        "!HHIIBBHHH", *ports, sequence, acknowledgement, size << 4, flags, window, 0, 0
    )
    segment += options + payload
    pseudo = ours.packed + theirs.packed + struct.pack("!II", len(segment), socket.IPPROTO_TCP)
    segment = segment[:16] + _checksum(pseudo + segment) + segment[18:]
    if ours.version == 4:
        # The kernel fills in the length and the checksum.
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, hop_limit, socket.IPPROTO_TCP, 0)
    else:
        header = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, hop_limit)
    return header + ours.packed + theirs.packed + segment


def _checksum(data: bytes) -> bytes:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    folded = total % 0xFFFF  # adding up with end-around carry
    return (~folded & 0xFFFF).to_bytes(2, "big")


def send_segment(
    source: Address, target: Address, flags: int, sequence: int = 1, **more: Any
) -> None:
    """Send one TCP segment from whoever ``source`` says; the arguments are `packet_of`'s.

    If the source is an address of this namespace, its kernel resets whatever answers it gets:
    it has no such connection. Hosts made by `mute` don't.
    """
    packet = packet_of(source, target, flags, sequence, **more)
    with socket.socket(target.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, _route(target))


def send_in_fragments(source: Address, target: Address, sequence: int) -> None:
    """Send an IPv6 SYN in two fragments, the first of which ends among the extension headers.

    Source: RFC 8200, sections 4.5 and 4.6.
    """
    whole = packet_of(source, target, SYN, sequence)
    addresses, segment = whole[8:40], whole[40:]
    again, tcp = (_OPTIONS.pack(kind, 0, 1, 4, 0) for kind in (_DESTINATION_OPTIONS, 6))
    with socket.socket(target.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for offset, part in ((1, again), (8, tcp + segment)):  # in octets; and "more" in the first
            header = struct.pack("!IHBB", 6 << 28, 8 + len(part), _FRAGMENT, 64)
            fragment = struct.pack("!BxHI", _DESTINATION_OPTIONS, offset, sequence)
            raw.sendto(header + addresses + fragment + part, _route(target))


def _route(target: Address) -> Any:
    """Say where to, as a raw socket has it: without a port."""
    if target.family == socket.AF_INET:
        return (str(target.host), 0)
    return (str(target.host), 0, 0, target.scope_id)


# ------------------------------------------------------------------------------- a flood

_FIRST_PORT: Final = 1024
_PORTS: Final = 65536 - _FIRST_PORT


def flooders(hosts: Sequence[str], count: int, *, first: int = 0) -> Iterator[tuple[Address, int]]:
    """Name so many of the peers that a flood from these hosts comes from, and their ISNs.

    One of each host, again and again; ports from 1024 on, and initial sequence numbers from 1 on.
    """
    most = len(hosts) * _PORTS
    assert first + count <= most, f"{len(hosts)} hosts have {most} ports, not {first + count}"
    for number in range(first, first + count):
        port, host = divmod(number, len(hosts))
        yield Address.tcp(hosts[host], _FIRST_PORT + port), 1 + number


def send_flood(
    target: Address,
    hosts: Sequence[str],
    count: int,
    *,
    first: int = 0,
    per_second: float | None = None,
) -> None:
    """Do what `flood` does, in this thread and its namespace, and meanwhile nothing else.

    Args:
      target: As `flood` says, and so the others.
      hosts: Addresses that the SYNs come from.
      count: How many.
      first: Go on with a flood that has had so many.
      per_second: How many at most.
    """
    options = tcp_options(mss=1460, sack=True, window_scale=7)
    _meet(target)
    start = monotonic()
    with socket.socket(target.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        route = _route(target)
        for number, (source, sequence) in enumerate(flooders(hosts, count, first=first)):
            if per_second is not None:
                sleep(max(0.0, start + number / per_second - monotonic()))
            raw.sendto(packet_of(source, target, SYN, sequence, options=options), route)


def _meet(target: Address) -> None:
    """Have the target's link address found out, for which few packets can wait."""
    with socket.socket(target.family) as probe:
        probe.settimeout(PATIENCE)
        # Whether it is refused or not, by the port "discard": it was answered.
        probe.connect_ex(Address.tcp(str(target.host), 9, target.scope_id).sockaddr)


async def flood(
    target: Address,
    hosts: Sequence[str],
    count: int,
    *,
    namespace: Namespace | None = None,
    per_second: float | None = None,
) -> None:
    """Send many SYNs from another process, each once, and wait until they are sent.

    If cancelled, the process is killed.

    Args:
      target: A listening socket's address; with the scope id that it has where it is sent from.
      hosts: Addresses that the SYNs come from: of 127.0.0.0/8, or such as `mute` has made.
        Who sent which is told by `flooders`.
      count: How many.
      namespace: Where it is sent from; None: here.
      per_second: How many at most; None: as quickly as it goes.

    Raises:
      AssertionError: the process failed; the message shows what it said.
    """
    command = ["flood", str(target), *hosts, f"--count={count}"]
    if per_second is not None:
        command.append(f"--per-second={per_second}")
    with namespace.entered() if namespace is not None else nullcontext():
        process = _start(command)
    with process, _closing(os.pidfd_open(process.pid)) as ended:
        try:
            await trio.lowlevel.wait_readable(ended)
        finally:
            process.kill()  # which does nothing if it has ended
        said, _ = process.communicate()

        assert (0, "") == (process.returncode, said), f"{process.returncode}: {said}"


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Have another process carry out one of our commands.

    This thread starts it, since it is in the right namespace; `trio.run_process` would have it
    started by a thread that may have been there before.
    """
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", "-m", __name__, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    flooding = commands.add_parser("flood")
    flooding.add_argument("target", type=Address.parse)
    flooding.add_argument("hosts", nargs="+")
    flooding.add_argument("--count", type=int, required=True)
    flooding.add_argument("--per-second", type=float)
    asked = parser.parse_args()
    send_flood(asked.target, asked.hosts, asked.count, per_second=asked.per_second)


# --------------------------------------------------------------- mute hosts, other hosts

MUTE: Final = ("192.0.2.77", "2001:db8::77", "fe80::77")
"""Addresses that nobody on the cable has, in the order of `HERE` and `THERE`."""

_ROUTE: Final = 0
_NEW_NEIGHBOUR: Final = 28
_REPLACE: Final = 0x100
_PERMANENT: Final = 0x80
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")
_NOBODYS_CARD: Final = b"\2\0\0\0\0\x77"
"""A link address of nobody's: one that was administered locally, by us."""


def mute(*hosts: str, interface: str = "veth0") -> None:
    """Have this namespace believe that there are hosts on the cable, which never answer.

    What is sent to them goes over the cable and is ignored at its other end, so that it can be
    captured. Without this nothing would be sent, since nobody says that he is the one, and the
    kernel would give up after seconds. What comes from them is what is sent by hand in the
    namespace at the other end.

    Args:
      hosts: Addresses of the cable's network that nobody has; without any, `MUTE`.
      interface: Our end of the cable.
    """
    index = socket.if_nametoindex(interface)
    netlink = NetlinkSocket(_ROUTE)
    try:
        for host in hosts or MUTE:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            netlink.request(
                _NEW_NEIGHBOUR,
                _NEIGHBOUR.pack(family, index, _PERMANENT, 0, 0)
                + attribute(1, socket.inet_pton(family, host))
                + attribute(2, _NOBODYS_CARD),
                flags=CREATE | _REPLACE,
                step=f"make a neighbour of {host}",
            )
    finally:
        netlink.close()


def scoped(address: Address, namespace: Namespace, interface: str = "veth0") -> Address:
    """Return an address as another namespace has it, where interfaces have other numbers."""
    if not address.scope_id:
        return address
    with namespace.entered():
        return Address.tcp(str(address.host), address.port, socket.if_nametoindex(interface))


async def connect_from(namespace: Namespace, address: Address) -> trio.SocketStream:
    """Connect a client that lives in another namespace.

    If cancelled, its socket is closed. A link-local address may have the scope that it has here.
    """
    sock = trio.socket.from_stdlib_socket(namespace.socket(address.family))
    try:
        await sock.connect(scoped(address, namespace).sockaddr)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


# ------------------------------------------------------------------------------ settings


def syn_cookies(*, forced: bool = True) -> None:
    """Have the namespace answer every SYN with a cookie, or only when a backlog is full.

    A connection that comes of a cookie has no saved SYN.
    """
    set_sysctl("net.ipv4.tcp_syncookies", 2 if forced else 1)


def counted(name: str) -> int:
    """Return one of the kernel's counters of TCP in this namespace, such as SyncookiesSent.

    Source: ``TcpExt`` in /proc/net/netstat.
    """
    text = Path("/proc/thread-self/net/netstat").read_text("ascii")
    names, values = (line.split() for line in text.splitlines() if line.startswith("TcpExt:"))
    return int(dict(zip(names, values, strict=True))[name])


if __name__ == "__main__":
    _main()
