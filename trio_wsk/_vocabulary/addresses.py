r"""Where a socket is: addresses of TCP and of Unix sockets.

An `Address` is made for connections, so making one is cheap: the host is packed
into its octets, which checks it, and is otherwise left as the kernel wrote it. Text and
`ipaddress` objects are made when somebody asks.

Printing parses back: ``Address.parse(str(address)) == address`` for every address, be it
a Unix socket whose name is no text. What would not print, or would not parse back, is
printed as ``\xNN``, octet by octet.

Source: RFC 4007, section 11 (scope ids in text); RFC 5952 (IPv6 in text); unix(7).
"""

from __future__ import annotations

import ipaddress
import operator
import os
import re
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NoReturn, TypeAlias, final

__all__ = [
    "IPV4_OCTETS",
    "MAPPED",
    "Address",
    "SocketAddress",
    "ip_octets",
    "tcp_address",
    "tcp_parts",
]

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | str | bytes

_INET: Final = socket.AF_INET
_INET6: Final = socket.AF_INET6
_UNIX: Final[int] = getattr(socket, "AF_UNIX", 1)  # so that Windows can read and print them, too

IPV4_OCTETS: Final = 4
MAPPED: Final = b"\0" * 10 + b"\xff\xff"
"""How an IPv6 address begins that stands for an IPv4 address: ::ffff:0:0/96 (RFC 4291, 2.5.5.2)."""

_HIGHEST_PORT: Final = 0xFFFF
_HIGHEST_SCOPE_ID: Final = 0xFFFFFFFF
_WITH_SCOPE_ID: Final = 4  # how long Python's IPv6 addresses are, unless written by hand
_FORMS: Final = "'127.0.0.1:80', '[::1]:80', '[fe80::1%3]:80', 'unix:/run/x.sock' or 'unix:@name'"

_TCP_TEXT: Final = re.compile(r"(?:\[(?P<ipv6>[^]]*)\]|(?P<ipv4>[^][:]*)):(?P<port>[0-9]+)")
_ESCAPE: Final = re.compile(r"\\(\\|x[0-9A-Fa-f]{2})")

_new = object.__new__


@final
class Address:
    """Where one end of a connection is: an IP address and a TCP port, or a Unix socket.

    Make one with `Address.tcp`, `Address.unix`, `Address.parse` or `Address.from_sockaddr`.

    Addresses are values: immutable, hashable, and equal when they mean the same place,
    however it was spelled. An IPv4-mapped IPv6 address is the IPv4 address that it stands for:
    a socket that listens on ``::`` for both families calls its IPv4 peers
    ``::ffff:192.0.2.1``, and here such a peer is ``192.0.2.1`` however it came, so that a rule
    finds it. The IPv6 flow label is part of no place, and not compared.
    """

    __slots__ = ("_host", "_key", "_sockaddr")

    _sockaddr: SocketAddress
    # What makes it equal: octets, port and scope id; or the path.
    _key: tuple[bytes, int, int] | str
    # Made when first asked for.
    _host: IPv4Address | IPv6Address | None

    def __init__(self, *_: object, **__: object) -> None:
        raise TypeError(
            "make one with Address.tcp('127.0.0.1', 80), Address.unix('/run/x.sock') "
            "or Address.parse('127.0.0.1:80')",
        )

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("Address is final: its equality knows no subclasses")

    @classmethod
    def tcp(cls, host: str | IPv4Address | IPv6Address, port: int, scope_id: int = 0) -> Address:
        """Make the address of a TCP socket.

        Args:
          host: An IP address; names are not looked up. As text, a link-local one may
            carry its scope: ``fe80::1%3``, or ``fe80::1%eth0`` for an interface here.
          port: 0 to 65535.
          scope_id: The number of the interface that a link-local IPv6 address is on.

        Raises:
          ValueError: The host is no IP address, a number is out of range, or an IPv4 address
            was given a scope. (Yours.)
        """
        ip = _parse_ip(host) if isinstance(host, str) else host
        if not isinstance(ip, (IPv4Address, IPv6Address)):
            raise TypeError(f"a host is text or an ipaddress object, not {host!r}")
        port = _in_range("port", port, _HIGHEST_PORT)
        scope_id = _in_range("scope_id", scope_id, _HIGHEST_SCOPE_ID)
        if isinstance(ip, IPv4Address):
            if scope_id:
                raise ValueError(f"an IPv4 address has no scope, so not scope_id={scope_id}")
            return cls.from_sockaddr(_INET, (_print_ip(ip.packed), port))
        zone = _parse_scope_id(ip.scope_id) if ip.scope_id else scope_id
        if scope_id not in {0, zone}:
            raise ValueError(f"{ip} has a scope already, and scope_id={scope_id} is another")
        return cls.from_sockaddr(_INET6, (_print_ip(ip.packed), port, 0, zone))

    @classmethod
    def unix(cls, path: str | bytes | os.PathLike[str]) -> Address:
        r"""Make the address of a Unix socket.

        Args:
          path: The socket's file; or ``"\0name"`` in Linux's abstract namespace; or ``""``
            for a socket without a name, as most clients' are. Octets that are no text are
            kept (`os.fsdecode`).

        Raises:
          ValueError: There is a NUL inside the path, where the kernel would cut it
            off. (Yours.)
        """
        return cls.from_sockaddr(_UNIX, os.fspath(path))

    @classmethod
    def from_sockaddr(cls, family: int, sockaddr: SocketAddress) -> Address:
        """Make an address of what ``accept()``, ``getsockname()`` or ``getaddrinfo()`` gave.

        Args:
          family: ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
          sockaddr: ``(host, port)``, ``(host, port, flow_info, scope_id)``, or a path.

        Returns:
          The address; of an IPv4-mapped one the IPv4 address, whose `family` is ``AF_INET``.

        Raises:
          ValueError: The family is another one, or does not go with the address. (Yours.)
          OSError: The host is no IP address of that family. (Yours.)
        """
        self: Address = _new(cls)
        if isinstance(sockaddr, tuple):
            host = sockaddr[0]
            if family == _INET:
                self._key = (socket.inet_pton(_INET, host), sockaddr[1], 0)
            elif family == _INET6:
                scope_id = sockaddr[3] if len(sockaddr) == _WITH_SCOPE_ID else 0
                if "%" in host:
                    host, _, zone = host.partition("%")
                    scope_id = scope_id or _parse_scope_id(zone)
                octets = socket.inet_pton(_INET6, host)
                if octets.startswith(MAPPED):
                    octets, scope_id = octets.removeprefix(MAPPED), 0
                    sockaddr = (_print_ip(octets), sockaddr[1])
                self._key = (octets, sockaddr[1], scope_id)
            else:
                raise _wrong_family(family, sockaddr)
        elif family == _UNIX:
            self._key = _canonical_path(sockaddr) if sockaddr else ""
        else:
            raise _wrong_family(family, sockaddr)
        self._sockaddr = sockaddr
        self._host = None
        return self

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address that was printed with ``str()``, or written by hand.

        Args:
          text: ``127.0.0.1:80``, ``[::1]:80``, ``[fe80::1%3]:80`` or
            ``[fe80::1%eth0]:80``, ``unix:/run/x.sock``, ``unix:@abstract``, ``unix:``.

        Raises:
          ValueError: The text is no address; the message shows what one looks
            like. (Yours.)
        """
        if not isinstance(text, str):
            raise TypeError(f"an address is read from text, such as {_FORMS}, not from {text!r}")
        try:
            return _parse_address(text)
        except ValueError as exc:
            example = _guess(text) or _FORMS
            raise ValueError(f"{text!r} is no address: {exc}; write {example}") from None

    @property
    def family(self) -> int:
        """``socket.AF_INET``, ``AF_INET6`` or ``AF_UNIX``."""
        if isinstance(self._key, str):
            return _UNIX
        return _INET if len(self._key[0]) == IPV4_OCTETS else _INET6

    @property
    def host(self) -> IPv4Address | IPv6Address | None:
        """The IP address, without scope id; None for a Unix socket."""
        if self._host is None and isinstance(self._key, tuple):
            octets = self._key[0]
            self._host = (IPv4Address if len(octets) == IPV4_OCTETS else IPv6Address)(octets)
        return self._host

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return self._key[1] if isinstance(self._key, tuple) else 0

    @property
    def scope_id(self) -> int:
        """The number of the interface that a link-local IPv6 address is on; else 0."""
        return self._key[2] if isinstance(self._key, tuple) else 0

    @property
    def path(self) -> str | None:
        r"""The path of a Unix socket, ``"\0name"`` or ``""`` as in `unix`; else None.

        Octets that are no text are in it as `os.fsdecode` gives them.
        """
        return self._key if isinstance(self._key, str) else None

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket's."""
        return isinstance(self._key, str)

    @property
    def sockaddr(self) -> SocketAddress:
        """What ``bind()`` and ``connect()`` of a socket of this `family` take."""
        return self._sockaddr

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        if isinstance(self._key, str):
            return "unix:" + _print_path(self._key)
        octets, port, scope_id = self._key
        if len(octets) == IPV4_OCTETS:
            return f"{_print_ip(octets)}:{port:d}"
        zone = f"%{scope_id:d}" if scope_id else ""
        return f"[{_print_ip(octets)}{zone}]:{port:d}"

    def __repr__(self) -> str:
        if isinstance(self._key, str):
            return f"Address.unix({self._key!r})"
        octets, port, scope_id = self._key
        scope = f", scope_id={scope_id:d}" if scope_id else ""
        return f"Address.tcp({_print_ip(octets)!r}, {port:d}{scope})"

    def __reduce__(self) -> tuple[object, ...]:
        # As text, because the numbers of the families differ between systems.
        return Address.parse, (str(self),)


def tcp_address(octets: bytes, port: int) -> Address:
    """Make the address of a TCP socket of an IP address's octets, as headers have it."""
    family = _INET if len(octets) == IPV4_OCTETS else _INET6
    return Address.from_sockaddr(family, (_print_ip(octets), port))


def ip_octets(address: Address) -> bytes | None:
    """Return the octets of an IP address; None of a Unix socket's."""
    key = address._key
    return None if isinstance(key, str) else key[0]


def tcp_parts(address: Address) -> tuple[bytes, int, int]:
    """Return the octets, the port and the scope id of an address that is no Unix socket's."""
    assert not isinstance(address._key, str)
    return address._key


def _parse_address(text: str) -> Address:
    if text.startswith("unix:"):
        return Address.unix(_parse_path(text.removeprefix("unix:")))
    match = _TCP_TEXT.fullmatch(text)
    if match is None:
        raise ValueError("it has not the form of a host and a port")
    host, port = match["ipv6"] or match["ipv4"] or "", int(match["port"])
    if (":" in host) != text.startswith("["):
        raise ValueError("brackets belong around an IPv6 address, and around no other")
    return Address.tcp(host, port)


def _guess(text: str) -> str | None:
    """Find what the text should have been, by trying the usual mistakes backwards."""
    host, _, port = text.rpartition(":")
    bare = host.strip("[]")
    guesses = [f"{bare}:{port}", f"[{bare}]:{port}", f"{text}:80", f"[{text}]:80"]
    if text.startswith(("/", "./", "@")):
        guesses.append(f"unix:{text}")
    return next((repr(guess) for guess in guesses if _is_address(guess)), None)


def _is_address(text: str) -> bool:
    try:
        _parse_address(text)
    except ValueError:
        return False
    return True


def _parse_ip(text: str) -> IPv4Address | IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is no IP address (names are not looked up)") from None


def _print_ip(octets: bytes) -> str:
    # Not through ipaddress: 3.13 prints ::ffff:192.0.2.1, and 3.12 ::ffff:c000:201.
    return socket.inet_ntop(_INET if len(octets) == IPV4_OCTETS else _INET6, octets)


def _parse_scope_id(text: str) -> int:
    if text.isascii() and text.isdigit():
        return _in_range("scope id", int(text), _HIGHEST_SCOPE_ID)
    interfaces = {name: index for index, name in socket.if_nameindex()}
    if text not in interfaces:
        raise ValueError(f"this machine has no interface {text!r}, only {', '.join(interfaces)}")
    return interfaces[text]


def _in_range(name: str, value: int, highest: int) -> int:
    try:
        number = operator.index(value)  # a plain integer, also of True and of enum members
    except TypeError:
        raise TypeError(f"the {name} is a whole number, 0 to {highest}, not {value!r}") from None
    if not 0 <= number <= highest:
        raise ValueError(f"the {name} {number} is not between 0 and {highest}")
    return number


def _wrong_family(family: int, sockaddr: SocketAddress) -> ValueError:
    return ValueError(f"{sockaddr!r} of the family {family!r} is neither TCP's nor a Unix socket's")


def _canonical_path(path: str | bytes) -> str:
    """Give one spelling to each name; the same octets can be written as different text."""
    octets = os.fsencode(path)
    if 0 in octets[1:] and octets[0] != 0:
        raise ValueError(f"the kernel would cut the path {path!r} off at its NUL")
    return os.fsdecode(octets)


def _print_path(path: str) -> str:
    if path.startswith("\0"):
        return "@" + _escape(path[1:])
    if path.startswith("@"):
        return r"\x40" + _escape(path[1:])
    return _escape(path)


def _parse_path(text: str) -> str:
    if text.startswith("@"):
        return "\0" + _unescape(text[1:])
    return _unescape(text)


def _escape(text: str) -> str:
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character == "\\":
        return r"\\"
    if character.isprintable():
        return character
    return "".join(rf"\x{octet:02x}" for octet in os.fsencode(character))


def _unescape(text: str) -> str:
    # Joined as octets: one character may have been escaped as several.
    plain, *rest = _ESCAPE.split(text)
    octets = [_unescaped(plain)]
    for escape, plain in zip(rest[::2], rest[1::2], strict=True):
        octets += [bytes.fromhex(escape[1:]) or b"\\", _unescaped(plain)]
    return os.fsdecode(b"".join(octets))


def _unescaped(text: str) -> bytes:
    if "\\" in text:
        raise ValueError(r"a backslash is written \\, and an octet \x0a")
    return os.fsencode(text)
