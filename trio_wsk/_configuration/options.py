"""What may be given to a server from outside: one row for each option, whatever its source.

On the command line and in the environment a value is text, in a file it is TOML's. Text is read
first, as far as it looks like what is wanted; what a value may be is checked in one place then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import attrs

from trio_wsk._vocabulary.arguments import is_time, whole_number
from trio_wsk._vocabulary.verdict import InspectPoint

__all__ = ["ENVIRONMENT", "OPTIONS", "PLACES", "Option", "WrongValueError", "host_and_port"]

ENVIRONMENT: Final = "TRIO_WSK_"
"""What the names of the environment begin with."""

PLACES: Final = ("port", "path", "fd", "socket_name")
"""Where to listen: one of these."""

_HIGHEST_PORT: Final = 0xFFFF
_HIGHEST_MODE: Final = 0o777


class WrongValueError(Exception):
    """A value is not what the option takes: what it takes, in words."""


@attrs.frozen
class Option:
    """One option."""

    name: str
    """As in the file."""
    metavar: str | None
    """What stands for its value on the command line; None for what is there by its position."""
    help: str
    check: Callable[[object], object]
    """Returns the value as it is kept, or raises `WrongValueError`."""
    read: Callable[[str], object] = str
    """Makes of text what `check` takes; what doesn't look like it stays text."""

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value on the command line."""
        return self.check is _flag

    @property
    def flag(self) -> str:
        """What it is called on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """What it is called in the environment."""
        return f"{ENVIRONMENT}{self.name.upper()}"


# ------------------------------------------------------------------------------ from text


def _number(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text


def _octal(text: str) -> object:
    digits = text.removeprefix("0o")
    return int(digits, 8) if digits and not digits.strip("01234567") else text


def _seconds(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _list(text: str) -> object:
    return [part.strip() for part in text.split(",")]


def _numbers(text: str) -> object:
    return [_number(part.strip()) for part in text.split(",")]


_SAID: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def _yes_or_no(text: str) -> object:
    return _SAID.get(text.lower(), text)


# --------------------------------------------------------------------------------- checks


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise WrongValueError("a text")
    return value


def _target(value: object) -> str:
    parts = value.split(":") if isinstance(value, str) else ()
    if len(parts) != 2 or not all(_is_dotted(part) for part in parts):  # noqa: PLR2004 - as it says
        raise WrongValueError("a module and a name in it, package.module:name")
    return ":".join(parts)


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _texts(value: object) -> list[str]:
    given = _as_list(value)
    if not given:
        raise WrongValueError("a text, or several")
    try:
        return [_text(each) for each in given]
    except WrongValueError:
        raise WrongValueError("a text, or several") from None


def _as_list(value: object) -> list[object]:
    if isinstance(value, list):
        return cast("list[object]", value)
    return [value]


def _port(value: object) -> int:
    if not whole_number(value) or not 0 <= value <= _HIGHEST_PORT:
        raise WrongValueError(f"a number from 0 (any that is free) to {_HIGHEST_PORT}")
    return value


def _mode(value: object) -> int:
    if not whole_number(value) or not 0 <= value <= _HIGHEST_MODE:
        raise WrongValueError("the permissions of a file, such as 0o660")
    return value


def _descriptors(value: object) -> list[int]:
    given = _as_list(value)
    found = [each for each in given if whole_number(each) and each >= 0]
    if not found or len(found) < len(given) or len({*found}) < len(found):
        raise WrongValueError("the number of a descriptor that is a socket, or several")
    return found


def _count(value: object) -> int:
    if not whole_number(value) or value < 1:
        raise WrongValueError("a count, 1 or more")
    return value


def _period(value: object) -> float:
    if not is_time(value) or value == 0:
        raise WrongValueError("a time in seconds, more than 0, or inf for no limit")
    return float(value)


def _grace(value: object) -> float:
    if not is_time(value):
        raise WrongValueError("a time in seconds, 0 or more, or inf for as long as it takes")
    return float(value)


def _point(value: object) -> str:
    points = [point.value for point in InspectPoint]
    if value not in points:
        raise WrongValueError(" or ".join(points))
    return str(value)


def _page_place(value: object) -> str:
    text = f"{value}" if whole_number(value) else _text(value)
    host_and_port(text)
    return text


def host_and_port(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, or a port on the loopback address.

    Raises:
      WrongValueError: it is neither.
    """
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_port = port.isascii() and port.isdigit() and int(port) <= _HIGHEST_PORT
    if not is_port or (":" in host and not is_bracketed):
        raise WrongValueError(
            "a host and a port, 127.0.0.1:8080 or [::1]:8080, or a port of this machine alone"
        )
    return host[1:-1] if is_bracketed else host or "127.0.0.1", int(port)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise WrongValueError("true or false")
    return value


def _option(
    name: str,
    metavar: str | None,
    check: Callable[[Any], object],
    help_: str,
    read: Callable[[str], object] = str,
) -> Option:
    return Option(name, metavar, help_, check, read)


_ALL: Final = [
    _option(
        "handler",
        None,
        _target,
        "an async function that takes a connection, or a ListenDispatch: package.module:name",
    ),
    _option("port", "PORT", _port, "the TCP port to listen on; 0 for any", _number),
    _option("host", "HOST", _texts, "a name or an address, or several: 127.0.0.1,::1", _list),
    _option("path", "PATH", _text, "listen on a Unix socket at this path"),
    _option("mode", "MODE", _mode, "the permissions of the path: 660", _octal),
    _option("fd", "NUMBER", _descriptors, "listen on sockets that are open already", _numbers),
    _option(
        "socket_name",
        "NAME",
        _texts,
        "listen on those sockets of the service manager that it calls so; without a place, on all",
        _list,
    ),
    _option("workers", "COUNT", _count, "serve in as many processes, under a supervisor", _number),
    _option(
        "shared_queue",
        "",
        _flag,
        "have all workers take from one queue of the port, and none have one of its own",
        _yes_or_no,
    ),
    _option(
        "reload",
        "",
        _flag,
        "while you write it: have new workers take over when a source file changes",
        _yes_or_no,
    ),
    _option("tls_cert", "FILE", _text, "speak TLS with this certificate, with its chain, as PEM"),
    _option("tls_key", "FILE", _text, "the certificate's key, if it is not in the same file"),
    _option("max_connections", "COUNT", _count, "how many may be open at once", _number),
    _option(
        "idle_timeout",
        "SECONDS",
        _period,
        "for how long nothing may pass on a connection",
        _seconds,
    ),
    _option("max_lifetime", "SECONDS", _period, "for how long a connection may be open", _seconds),
    _option(
        "grace", "SECONDS", _grace, "what connections are given to finish; 30 by default", _seconds
    ),
    _option("inspect", "TARGET", _target, "ask this inspector who is let in: package.module:rules"),
    _option(
        "inspect_point",
        "POINT",
        _point,
        "ask it before-handshake or after-handshake, which is the default",
    ),
    _option(
        "metrics",
        "HOST:PORT",
        _page_place,
        "show metrics to Prometheus, and answer probes, there; without a host, on 127.0.0.1",
        _number,
    ),
    _option(
        "admin",
        "HOST:PORT",
        _page_place,
        "show what it does in a browser there; without a host, on 127.0.0.1",
        _number,
    ),
    _option(
        "admin_token_file", "FILE", _text, "let who has the secret in this file steer from there"
    ),
    _option("control", "PATH", _text, "have the owner look in, and steer, at this Unix socket"),
]

OPTIONS: Final = {option.name: option for option in _ALL}
"""All options, by name."""
