"""`serve_admin`: the page, the stream of numbers, and what can be done by who has the token."""

from __future__ import annotations

import json
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._http.answering import READING, answer_requests
from trio_wsk._http.messages import Page, Request, Stream
from trio_wsk._serving.opening import check_task_status, open_server
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.listening_state import ListeningState
from trio_wsk.control import Control
from trio_wsk.control._protocol import RefusedError, request_of

from ._guarding import Guard, checked_hosts, checked_token
from ._page import PAGE, POLICY
from ._watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from typing_extensions import Unpack

    from trio_wsk._http.messages import Send
    from trio_wsk._listening.options import ServerOptions
    from trio_wsk._serving.server import Server
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.control._protocol import Commands

__all__ = ["serve_admin"]

MOST_CONNECTIONS: Final = 64
"""How many clients may be there at once by default."""

MOST_WATCHERS: Final = 16
"""How many may watch at once: an operator's tabs, and some colleagues'."""

IDLE_SECONDS: Final = 75.0
"""How long a client may keep its connection between two requests by default."""

LOOKS: Final = frozenset({"connections"})
"""Commands that show something."""

CHANGES: Final = frozenset({"pause", "resume", "refuse", "drain", "abort"})
"""Commands that change something."""

SAFE: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""For browsers: nothing of this is for another origin's pages."""


async def serve_admin(  # noqa: ASYNC128 - whom it hands the status to calls it
    control: Control,
    port: int | None = None,
    *,
    token: str | None = None,
    hosts: Collection[str] = (),
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve a page on which a browser shows what servers do, live, and from which to steer them.

    It shows rates, what is open, pending and parked, why peers are turned away, which rules keep
    requests waiting, each listener, and the connections, with plots of the last minutes. It is one
    document, without anything from elsewhere; a look is made once in a second, however many watch,
    and is sent to them as server-sent events.

    Who has the token can pause, resume, refuse and drain a listener, and reset a connection.
    Without a token nobody can. It is sent as it is, so where others can hear it, speak TLS
    (``ssl_context``), or listen on the loopback address and reach that by ssh.

    A browser has to reach this by an address, by ``localhost``, or by one of ``hosts``: what comes
    under another name is refused (421), since a stranger's page may be behind it.

    Sixteen may watch at once, and more are answered with 503. Who does not take what is sent for
    ten seconds is reset. Requests have the limits that those of `trio_wsk.metrics.serve_metrics`
    have.

    Args:
      control: What is shown, and can be steered.
      port: As for `trio_wsk.serve`; on 127.0.0.1, if ``host`` says nothing else.
      token: The secret of who may steer: at least 16 characters. Where others than the users of
        this machine may connect, there has to be one, and who only looks has to show it, too.
      hosts: More names by which browsers reach this, such as that of a proxy in front of it.
      task_status: As for `trio_wsk.serve`.
      **options: As for `trio_wsk.serve`; ``max_connections`` is 64 by default, and
        ``idle_timeout`` 75 seconds.

    Returns when the server of the page has been drained or aborted; cancelling it aborts.

    Raises:
      InvalidParameterError: an argument is wrong; or others may connect, and there is no token.
        (Yours.)
      BindError, OSError: as for `open_listening_socket`.

    Source: RFC 9110, RFC 9112; the HTML standard, 9.2 (server-sent events); the Content Security
    Policy.
    """
    given: object = control  # by a caller without a type checker, perhaps
    if not isinstance(given, Control):
        raise InvalidParameterError(f"control is a Control, not {control!r}")
    if port is not None:
        options.setdefault("host", "127.0.0.1")
    await serve_page(control, port, token=token, hosts=hosts, task_status=task_status, **options)


async def serve_page(  # noqa: ASYNC128 - as above
    commands: Commands,
    port: int | None = None,
    *,
    token: str | None,
    hosts: Collection[str] = (),
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Do as `serve_admin`, for whoever does the commands; its place is as that of `serve`."""
    check_task_status(task_status)
    admin = _Admin(commands, checked_token(token), checked_hosts(hosts))
    options.setdefault("max_connections", MOST_CONNECTIONS)
    options.setdefault("idle_timeout", IDLE_SECONDS)
    handler = partial(answer_requests, admin.respond, methods=READING | {"POST"})
    async with open_server(handler, port, **options) as server:
        admin.opened(server.local_addresses)
        task_status.started(server)
        listening = server.listening
        await admin.watcher.run(lambda: listening.statistics().state is ListeningState.CLOSED)


@final
class _Admin:
    """What is behind each path, and who gets it."""

    def __init__(self, commands: Commands, token: str | None, hosts: list[str]) -> None:
        self.watcher: Final = Watcher(commands)
        self._commands = commands
        self._token = token
        self._hosts = hosts
        self._guard = Guard(token, hosts, is_private=False)
        self._watching = 0

    def opened(self, addresses: Iterable[Address]) -> None:
        """Take note of where it listens.

        Raises:
          InvalidParameterError: others may connect, and need no token.
        """
        others = [address for address in addresses if not _is_private(address)]
        if others and self._token is None:
            raise InvalidParameterError(
                f"others than the users of this machine reach {others[0]}, so there has to be a"
                " token=; or leave host= out"
            )
        self._guard = Guard(self._token, self._hosts, is_private=not others)

    async def respond(self, request: Request) -> Page | Stream:
        """Make the answer to a request."""
        await trio.lowlevel.checkpoint()
        match request.path, request.method in READING:
            case "/", True:
                return self._page(request)
            case "/events", True:
                return self._events(request)
            case "/do", False:
                return await self._do(request)
            case (("/" | "/events" | "/do"), _):
                return _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        return _refusal(self._guard.refuses_page(request.headers) or HTTPStatus.NOT_FOUND)

    def _page(self, request: Request) -> Page:
        refused = self._guard.refuses_page(request.headers)
        if refused is not None:
            return _refusal(refused)
        headers = [*SAFE, ("Content-Security-Policy", POLICY)]
        return Page(PAGE, content_type="text/html; charset=utf-8", headers=headers)

    def _events(self, request: Request) -> Page | Stream:
        refused = self._guard.refuses_look(request.headers)
        if refused is not None:
            return _refusal(refused)
        if self._watching >= MOST_WATCHERS:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE)
        return Stream(self._tell, "text/event-stream", SAFE)

    async def _tell(self, send: Send) -> None:
        self._watching += 1
        try:
            await self.watcher.tell(send)
        finally:
            self._watching -= 1

    async def _do(self, request: Request) -> Page:
        """Do what was asked for, if it may be; the answer is that of the control socket."""
        await trio.lowlevel.checkpoint()
        if request.headers.get("content-type") != "application/json":
            return _refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            asked = request_of(request.content)
            refused = self._refuses(asked.command, request.headers)
            if refused is not None:
                return _refusal(refused)
            result = await self._commands.do(asked)
        except RefusedError as error:
            return _answer({"ok": False, "error": str(error)})
        return _answer({"ok": True, "result": result})

    def _refuses(self, command: str, headers: Mapping[str, str]) -> HTTPStatus | None:
        if command in LOOKS:
            return self._guard.refuses_look(headers)
        refused = self._guard.refuses_change(headers)
        if refused is None and command not in CHANGES:
            raise RefusedError(f"{command!r} is nothing that the page does; use the control socket")
        return refused


def _answer(value: object) -> Page:
    return Page(json.dumps(value).encode(), content_type="application/json", headers=SAFE)


def _refusal(status: HTTPStatus) -> Page:
    headers = list(SAFE)
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    return Page(f"{status.phrase}\n".encode(), status, headers=headers)


def _is_private(address: Address) -> bool:
    """Whether only users of this machine can connect there."""
    return address.is_unix or (address.host is not None and address.host.is_loopback)
