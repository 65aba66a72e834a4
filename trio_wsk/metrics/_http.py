"""Answers to GET and HEAD over HTTP/1.1, for pages that machines ask for.

What a client decides has its limit: the length of a head, and how long a request may take to come;
how long nothing may pass is for the server to say. Requests that bring something along are refused.

Source: RFC 9112; h11 knows it.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, final

import attrs
import h11
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk._connection.connection import Connection

    Respond = Callable[["Request"], Awaitable["Page"]]

__all__ = ["Page", "Request", "answer_requests"]

LARGEST_HEAD: Final = 16384
"""How many octets a request may have: as many as h11's default, and twice what nginx admits."""

REQUEST_SECONDS: Final = 10.0
"""How long a request may take to come, once it has begun: one that is honest is one segment."""

TEXT: Final = "text/plain; charset=utf-8"


@attrs.frozen
class Request:
    """What a client asks for."""

    path: str
    """The target without its query."""
    accept: str
    """What it wants to have it as: the header ``Accept``, or nothing."""


@attrs.frozen
class Page:
    """What a client is answered."""

    content: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT


class _Refused(Exception):  # noqa: N818 - the client's fault, and no error of ours
    """A request that is answered with an error, after which nothing can be."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


async def answer_requests(respond: Respond, connection: Connection) -> None:
    """Answer one request after the other: a handler, when it is given the first argument.

    What ``respond`` raises is raised, and the client is told that it is not its fault.
    """
    await _Client(respond, connection).serve()


@final
class _Client:
    """One connection, and how far its client has come."""

    def __init__(self, respond: Respond, connection: Connection) -> None:
        self._respond = respond
        self._connection = connection
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
        self._deadline = 0.0
        self._wants_content = True

    async def serve(self) -> None:
        """Answer as long as there are requests, and say what is wrong with the last one."""
        try:
            await self._serve()
        except _Refused as refused:
            await self._refuse(refused.status)
        except trio.TooSlowError:
            await self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        except h11.RemoteProtocolError as error:
            await self._refuse(HTTPStatus(error.error_status_hint))

    async def _serve(self) -> None:  # noqa: ASYNC910 - it ends by a wait, or after sending
        connection, http = self._connection, self._http
        while http.trailing_data[0] or await connection.more():
            page = await self._page_for(await self._read_request())
            await self._send(page, is_last=connection.draining.is_set())
            if http.our_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()

    async def _page_for(self, request: Request) -> Page:
        try:
            return await self._respond(request)
        except Exception:
            await self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)  # noqa: ASYNC120 - then nobody is told
            await self._connection.aclose()  # the reset of a crash could overtake the answer
            raise

    async def _read_request(self) -> Request:
        self._deadline = trio.current_time() + REQUEST_SECONDS
        head = await self._next_event()
        assert isinstance(head, h11.Request)
        self._wants_content = head.method != b"HEAD"
        if not isinstance(await self._next_event(), h11.EndOfMessage):
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if head.method not in {b"GET", b"HEAD"}:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED)
        path, _, _ = head.target.decode("ascii", "replace").partition("?")
        accept = [value for name, value in head.headers if name == b"accept"]
        return Request(path, b",".join(accept).decode("latin-1"))

    async def _next_event(self) -> object:
        """Receive until h11 has something whole."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                raise _Refused(HTTPStatus.EXPECTATION_FAILED)
            with trio.fail_at(self._deadline):
                self._http.receive_data(await self._connection.receive_some())
        return event  # noqa: ASYNC910 - received, or answered next

    async def _refuse(self, status: HTTPStatus) -> None:  # noqa: ASYNC910 - the last thing, if that
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send(Page(f"{status.phrase}\n".encode(), status), is_last=True)

    async def _send(self, page: Page, *, is_last: bool) -> None:
        """Send an answer, all of it at once."""
        head = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.content))),
            ("Cache-Control", "no-store"),
        ]
        if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
            head.append(("Allow", "GET, HEAD"))
        if is_last:
            head.append(("Connection", "close"))
        events: list[h11.Event] = [
            h11.Response(status_code=page.status, reason=page.status.phrase, headers=head),
            h11.Data(data=page.content if self._wants_content else b""),
            h11.EndOfMessage(),
        ]
        await self._connection.send_all(b"".join(self._http.send(each) or b"" for each in events))
