"""`Control`: what an operator can look at and steer, and what each command does."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import os
from collections.abc import Awaitable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, final
from weakref import WeakKeyDictionary

import attrs
import trio

from trio_wsk._serving.server import Server
from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.errors import InvalidParameterError, WskError
from trio_wsk.inspectors import Penalties, Rules

from ._protocol import RefusedError, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.connection import Connection

__all__ = ["Control"]

MOST_LISTED: Final = 100
"""How many connections, or sources, are listed unless a request says otherwise."""


@final
class Control:
    """What can be steered: servers and penalties, by names.

    ::

        control = Control()
        control.add("mail", server)
        control.add_penalties("penalties", penalties)
        await serve_control(control, "/run/mail/control.sock")
    """

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._rules: dict[str, Rules] = {}
        self._penalties: dict[str, Penalties] = {}
        self._numbers = itertools.count(1)
        # Of connections that somebody has seen: nothing is kept for the others.
        self._ids: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()
        self._commands: Mapping[str, Callable[[Request], Any]] = {
            "statistics": self._statistics,
            "connections": self._connections,
            "rules": self._list_rules,
            "workers": self._list_workers,
            "pause": lambda request: self._server(request).listening.pause(),
            "resume": lambda request: self._server(request).listening.resume(),
            "refuse": lambda request: self._server(request).listening.refuse(),
            "drain": self._drain,
            "abort": self._abort,
            "penalties": self._list_penalties,
            "forgive": self._forgive,
            "log-level": _log_level,
        }

    def __repr__(self) -> str:
        return f"<Control of {', '.join([*self._servers, *self._penalties]) or 'nothing'}>"

    def add(self, listener: str, server: Server, rules: Rules | None = None) -> None:
        """Have one more server steered, until it is removed.

        Args:
          listener: What it is called.
          server: The server.
          rules: Its inspector, if that is made of rules: to see what each of them does.

        Raises:
          InvalidParameterError: an argument is wrong, or the name is taken. (Yours.)
        """
        given: object = server  # by a caller without a type checker, perhaps
        if not isinstance(given, Server):
            raise InvalidParameterError(f"server is a Server, not {server!r}")
        _check_rules(rules)
        _check_new("listener", listener, self._servers)
        self._servers[listener] = server
        if rules is not None:
            self._rules[listener] = rules

    def add_penalties(self, name: str, penalties: Penalties) -> None:
        """Have penalties listed and lifted.

        Raises:
          InvalidParameterError: an argument is wrong, or the name is taken. (Yours.)
        """
        given: object = penalties  # by a caller without a type checker, perhaps
        if not isinstance(given, Penalties):
            raise InvalidParameterError(f"penalties is a Penalties, not {penalties!r}")
        _check_new("name", name, self._penalties)
        self._penalties[name] = penalties

    def remove(self, listener: str) -> None:
        """Have a server steered no more.

        Raises:
          InvalidParameterError: there is none of that name. (Yours.)
        """
        if self._servers.pop(listener, None) is None:
            raise InvalidParameterError(f"listener {listener!r} is not steered: {self!r}")
        self._rules.pop(listener, None)

    # --- Commands ------------------------------------------------------------------------

    async def do(self, request: Request) -> object:
        """Do what was asked for, and return what JSON can say of it.

        Raises:
          RefusedError: it can't be done.
        """
        await trio.lowlevel.checkpoint()
        command = self._commands.get(request.command)
        if command is None:
            known = ", ".join(self._commands)
            raise RefusedError(f"there is no command {request.command!r}, but {known}")
        try:
            result = command(request)
            return await result if isinstance(result, Awaitable) else result
        except WskError as error:
            raise RefusedError(str(error)) from error

    def _server(self, request: Request) -> Server:
        """Return the server that is meant: the only one, if none is named."""
        server: Server = _chosen("listener", request, self._servers)
        return server

    def _statistics(self, request: Request) -> object:
        named = "listener" in request.arguments
        shown = {request.text("listener"): self._server(request)} if named else self._servers
        return {name: _plain(server.statistics()) for name, server in shown.items()}

    def _list_rules(self, request: Request) -> object:
        shown: Mapping[str, Rules] = self._rules
        if "listener" in request.arguments:
            shown = {request.text("listener"): _chosen("listener", request, self._rules)}
        return {
            listener: {name: _plain(each) for name, each in rules.statistics().items()}
            for listener, rules in shown.items()
        }

    def _list_workers(self, _: Request) -> object:
        """List what a supervisor lists, of the one process that this is."""
        return [
            {
                "worker": None,
                "process": os.getpid(),
                "statistics": self._statistics(Request("statistics", {})),
                "rules": self._list_rules(Request("rules", {})),
            }
        ]

    def _connections(self, request: Request) -> object:
        server = self._server(request)
        most = int(min(request.number("most", MOST_LISTED), len(server.connections)))
        listed = itertools.islice(server.connections, most)
        return {
            "open": len(server.connections),
            "connections": [self._shown(each) for each in listed],
        }

    def _shown(self, connection: Connection) -> object:
        number = self._ids.get(connection)
        if number is None:
            number = self._ids[connection] = next(self._numbers)
        return {
            "id": number,
            "remote_address": str(connection.remote_address),
            "state": connection.state.value,
            "open_seconds": trio.current_time() - connection.opened_at,
            "idle_seconds": connection.idle_seconds,
            "octets_received": connection.octets_received,
            "octets_sent": connection.octets_sent,
            "octets_unsent": connection.octets_unsent,
        }

    async def _drain(self, request: Request) -> object:
        server = self._server(request)
        grace = request.number("grace") if "grace" in request.arguments else None
        return _plain(await server.drain(grace=grace))

    def _abort(self, request: Request) -> None:
        number = request.number("id")
        server = self._server(request)
        for connection, known in self._ids.items():
            if known == number and connection in server.connections:
                connection.abort()
                return
        raise RefusedError(f"no open connection has the id {number}; connections lists them")

    def _list_penalties(self, request: Request) -> object:
        penalties = _chosen("penalties", request, self._penalties)
        found = sorted(penalties.penalized().items(), key=lambda each: -each[1])
        most = int(min(request.number("most", MOST_LISTED), len(found)))
        return {
            "threshold": penalties.threshold,
            "sources": [
                {"network": str(network), "seconds": seconds} for network, seconds in found[:most]
            ],
            "penalized": len(found),
        }

    def _forgive(self, request: Request) -> None:
        penalties = _chosen("penalties", request, self._penalties)
        penalties.forgive(_address_of(request.text("address")))


def _check_rules(rules: object) -> None:
    if rules is not None and not isinstance(rules, Rules):
        raise InvalidParameterError(f"rules is a Rules or None, not {rules!r}")


def _check_new(what: str, name: object, taken: Mapping[str, object]) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidParameterError(f"{what} is a text to know it by, such as 'mail', not {name!r}")
    if name in taken:
        raise InvalidParameterError(f"{what} {name!r} is taken; choose another one")


def _chosen(what: str, request: Request, among: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of either kind
    """Return what a request names, or the only one there is."""
    if what not in request.arguments and len(among) == 1:
        return next(iter(among.values()))
    names = ", ".join(among) or "none"
    if what not in request.arguments:
        raise RefusedError(f"{request.command} takes {what}, one of these: {names}")
    chosen = among.get(request.text(what))
    if chosen is None:
        raise RefusedError(f"there is no {what} {request.text(what)!r}, but {names}")
    return chosen


def _address_of(text: str) -> Address:
    """Read an address, or the network that a source is: any address of it will do."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise RefusedError(f"{text!r} is no address, nor a network") from None
    return Address.tcp(network.network_address, 0)


def _log_level(request: Request) -> object:
    logger = logging.getLogger(request.text("logger", "trio_wsk"))
    level = request.text("level")
    before = logging.getLevelName(logger.level)
    try:
        logger.setLevel(level)
    except ValueError as error:
        raise RefusedError(f"{error}; write DEBUG, INFO, WARNING or ERROR") from None
    return {"logger": logger.name, "before": before, "level": level}


def _plain(picture: attrs.AttrsInstance) -> object:
    """Return statistics as JSON can say them."""
    return attrs.asdict(picture, value_serializer=lambda _, __, value: _value(value))


def _value(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return dict(value) if isinstance(value, Mapping) else value
