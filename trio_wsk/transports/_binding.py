"""Binding TCP: several hosts, both families, one port.

Each address gets a socket of its own; IPv6 sockets are IPv6 only, so that ``::`` and
``0.0.0.0`` have the same port and an IPv4 peer is called by its IPv4 address.

SO_REUSEADDR lets a restarted server have its port back while old connections are in
TIME_WAIT. On Windows it would let anyone take the port of a live server, and a restart
needs nothing. On Linux it also means that two sockets may be *bound* to the same port as
long as neither listens: the loser of that race finds out in `TcpPlace.listen`.

SO_REUSEPORT joins those who have the port and say so, too. That is wanted for a port that was
asked for by its number, and not for one that the kernel chose: there the next family would join
a stranger. So with port 0 both options are set after bind, which is exclusive without them;
who comes later finds them set. (Linux and BSD compare the options that sockets have when
the later one is bound.)
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import trio

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import check_flag, whole_number
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError
from trio_wsk._vocabulary.status import Status

from ._places import Bound, Place, checked_backlog, close_all
from ._tuning import INHERITED, tune

if TYPE_CHECKING:
    from typing import TypeAlias

    SocketOption: TypeAlias = tuple[int, int, int | bytes]
    _IpSockaddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

__all__ = ["TcpPlace"]

_HIGHEST_PORT: Final = 0xFFFF

_SAME_PORT_ATTEMPTS: Final = 10
"""How often port 0 is tried anew when another family has the kernel's choice taken already.
AnyIO's number; with half of all ephemeral ports in use, ten in a row fail once in 1000."""

_OPTION_PARTS: Final = 3
_RIGHT_OPTIONS: Final = "socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)]"

_MIGRATE: Final = Path("/proc/sys/net/ipv4/tcp_migrate_req")
"""Of this network namespace. A BPF program can have sockets migrate without it."""

_SHARING: Final = (
    "the other processes must set SO_REUSEPORT too, and run as the same user; "
    "`ss -ltnp` shows who listens"
)
_TAKEN: Final = (
    "somebody listens there already (`ss -ltnp` shows who): stop it, take another port, or "
    "port=0 for any; reuse_port=True in every process shares a port"
)
_HINTS: Final = {
    errno.EACCES: "ports below 1024 need root, CAP_NET_BIND_SERVICE or socket activation",
    errno.EADDRNOTAVAIL: "this machine has no such address; host=None takes all that it has",
}


class _Target(NamedTuple):
    """One address to be had."""

    host: str | None
    """What its owner wrote: a name may stand for several addresses."""
    family: int
    sockaddr: _IpSockaddr

    def at(self, port: int) -> _IpSockaddr:
        """Return the address with this port."""
        if len(self.sockaddr) == 2:  # noqa: PLR2004 - a host and a port
            return (self.sockaddr[0], port)
        return (self.sockaddr[0], port, *self.sockaddr[2:])

    def text_at(self, port: int) -> str:
        """Return the address with this port, in words."""
        return str(Address.from_sockaddr(self.family, self.at(port)))


class TcpPlace(Place):
    """One TCP port, on one host or several."""

    def __init__(
        self,
        port: int,
        host: str | Sequence[str] | None,
        *,
        backlog: int | None,
        reuse_port: bool,
        socket_options: Sequence[SocketOption],
    ) -> None:
        self._port = _checked_port(port)
        self._hosts = _checked_hosts(host)
        self._backlog = checked_backlog(backlog)
        self._reuse_port = _checked_reuse_port(reuse_port)
        self._options = _checked_options(socket_options)
        self._reuse = self._options_of_reuse()
        self._bound: Sequence[Bound] = ()

    @property
    def is_shared(self) -> bool:
        """Whether the kernel gives the queue to another socket of the port when ours is closed."""
        return self._reuse_port and _migrates()

    async def bind(self) -> Sequence[Bound]:
        """Resolve the hosts, and bind a socket to each address."""
        targets = await self._resolve()
        attempts = _SAME_PORT_ATTEMPTS if self._port == 0 and len(targets) > 1 else 1
        while True:
            attempts -= 1
            try:
                self._bound = self._bind_all(targets)
            except BindError as error:
                if attempts == 0 or error.errno != errno.EADDRINUSE:
                    raise
            else:
                return self._bound

    async def _resolve(self) -> list[_Target]:
        """Return the addresses, each once, in the resolver's order."""
        targets: dict[tuple[object, ...], _Target] = {}
        for host in self._hosts:
            try:
                found = await trio.socket.getaddrinfo(
                    host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
            except OSError as error:
                hint = "host= takes a name or an IP address and nothing else: host='127.0.0.1'"
                raise BindError.from_oserror(error, f"{host}:{self._port}", hint) from error
            except UnicodeError as error:  # more than 63 octets to a label, or no octets
                raise BindError(
                    f"cannot listen on {host}:{self._port}: no name of a host looks like {host!r}",
                    status=Status.NOT_FOUND,
                ) from error
            for family, _, _, _, sockaddr in found:
                if family in (socket.AF_INET, socket.AF_INET6):
                    target = _Target(host, family, cast("_IpSockaddr", sockaddr))
                    targets.setdefault((family, *sockaddr), target)
        return list(targets.values())  # noqa: ASYNC910 - there is a host to ask for

    def _bind_all(self, targets: Sequence[_Target]) -> list[Bound]:
        """Bind all of them to one port, or none; a family that isn't there may be missing."""
        port = self._port
        bound: list[Bound] = []
        served: set[str | None] = set()
        missing: list[tuple[_Target, BindError]] = []
        with ExitStack() as on_failure:
            for target in targets:
                try:
                    sock = self._bind_one(target, port)
                except BindError as error:
                    if not _lacks_family(error, target):
                        raise
                    missing.append((target, error))
                    continue
                on_failure.callback(sock.close)
                address = Address.from_sockaddr(target.family, sock.getsockname())
                bound.append(Bound(sock, address, tuned=INHERITED))
                served.add(target.host)
                port = address.port
            for target, failure in missing:
                if target.host not in served:
                    raise failure
            on_failure.pop_all()
        return bound

    def _bind_one(self, target: _Target, port: int) -> socket.socket:
        try:
            sock = socket.socket(target.family, socket.SOCK_STREAM)
            with ExitStack() as on_failure:
                on_failure.callback(sock.close)
                self._prepare(sock, target, port)
                if self._port:
                    self._allow_reuse(sock)
                sock.bind(target.at(port))
                if not self._port:
                    self._allow_reuse(sock)
                on_failure.pop_all()
        except BindError:
            raise
        except OSError as error:
            hint = self._hint(error, target)
            raise BindError.from_oserror(error, target.text_at(port), hint) from error
        return sock

    def _prepare(self, sock: socket.socket, target: _Target, port: int) -> None:
        """Set what is to be set before bind: our options, then the owner's, so that theirs win."""
        sock.settimeout(0)
        if target.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tune(sock)
        for option in self._options:
            level, number, value = option
            if level == socket.IPPROTO_IPV6 and target.family != socket.AF_INET6:
                continue  # with host=None there are sockets of both families
            try:
                sock.setsockopt(level, number, value)
            except OSError as error:
                hint = f"socket_options has {option!r}"
                raise BindError.from_oserror(error, target.text_at(port), hint) from error

    def _options_of_reuse(self) -> list[int]:
        """Return what lets the port be had again, or be shared; what the owner sets is theirs."""
        reuse = [] if sys.platform == "win32" else [socket.SO_REUSEADDR]
        if self._reuse_port:
            reuse.append(socket.SO_REUSEPORT)
        owners = [(level, number) for level, number, _ in self._options]
        return [number for number in reuse if (socket.SOL_SOCKET, number) not in owners]

    def _allow_reuse(self, sock: socket.socket) -> None:
        for number in self._reuse:
            sock.setsockopt(socket.SOL_SOCKET, number, 1)

    def _hint(self, error: OSError, target: _Target) -> str:
        if error.errno == errno.EADDRINUSE:
            return _SHARING if self._reuse_port else _TAKEN
        if error.errno == errno.EINVAL and ip_address(target.sockaddr[0]).is_link_local:
            return f"a link-local address needs its interface: host='{target.sockaddr[0]}%eth0'"
        return _HINTS.get(error.errno or 0, "")

    def listen(self) -> None:
        """Set all sockets listening."""
        for bound in self._bound:
            try:
                bound.socket.listen(self._backlog)
            except OSError as error:
                hint = _SHARING if self._reuse_port else _TAKEN
                raise BindError.from_oserror(error, str(bound.address), hint) from error

    def close(self) -> None:
        """Close all sockets."""
        close_all(bound.socket for bound in self._bound)


def _lacks_family(error: BindError, target: _Target) -> bool:
    """Tell whether this machine has no addresses of that family at all.

    Without IPv6 in the kernel there is no such socket (EAFNOSUPPORT). With IPv6 switched
    off there is one, but it can't be bound; ``::`` and ``::1`` are there whenever IPv6
    is. For any other address, EADDRNOTAVAIL says that its owner has mistyped it.
    """
    if error.errno == errno.EAFNOSUPPORT:
        return True
    ip = ip_address(target.sockaddr[0].partition("%")[0])
    return error.errno == errno.EADDRNOTAVAIL and (ip.is_unspecified or ip.is_loopback)


def _migrates() -> bool:
    """Whether closing a socket that shares its port moves its queue to the others: Linux 5.14.

    Without that each socket's queue is its own, and closing resets it.
    """
    try:
        return _MIGRATE.read_text(encoding="ascii").strip() != "0"
    except OSError:
        return False


def _checked_port(port: object) -> int:
    if not whole_number(port):
        raise InvalidParameterError(
            f"port={port!r} is no number; write port=8000, or port=0 for any that is free"
        )
    if not 0 <= port <= _HIGHEST_PORT:
        raise InvalidParameterError(
            f"port={port} is no TCP port: they go from 1 to {_HIGHEST_PORT}, "
            f"and port=0 takes any that is free"
        )
    return port


def _checked_hosts(host: object) -> list[str | None]:
    if host is None:
        return [None]
    hosts = [host] if isinstance(host, str) else host
    if not isinstance(hosts, Sequence) or not all(isinstance(each, str) for each in hosts):
        raise InvalidParameterError(
            f"host={host!r} is neither text nor a list of texts; write host='127.0.0.1', "
            f"host=['127.0.0.1', '::1'], or host=None for all addresses of this machine"
        )
    if not hosts or not all(hosts) or any("\0" in each for each in hosts):
        raise InvalidParameterError(
            f"host={host!r} names no host; write host='127.0.0.1', "
            f"or host=None for all addresses of this machine"
        )
    return list(hosts)


def _checked_reuse_port(reuse_port: bool) -> bool:  # noqa: FBT001 - one argument, checked
    check_flag("reuse_port", reuse_port)
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise InvalidParameterError(
            f"reuse_port={reuse_port!r} can't be had: this system has no SO_REUSEPORT"
        )
    return reuse_port


def _checked_options(options: object) -> list[SocketOption]:
    if not isinstance(options, Iterable):
        raise InvalidParameterError(
            f"socket_options={options!r} is no list; write {_RIGHT_OPTIONS}"
        )
    return [_checked_option(option) for option in options]


def _checked_option(option: object) -> SocketOption:
    if not (
        isinstance(option, tuple)
        and len(option) == _OPTION_PARTS
        and all(whole_number(part) for part in option[:2])
        and (whole_number(option[2]) or isinstance(option[2], bytes))
    ):
        raise InvalidParameterError(
            f"socket_options has {option!r}, which is not (level, option, value); write "
            f"{_RIGHT_OPTIONS}"
        )
    return cast("SocketOption", option)
