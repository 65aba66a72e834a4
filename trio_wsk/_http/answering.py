"""`answer_requests`: a handler that reads requests over HTTP/1.1, and sends what is answered.

What a client decides has its limit: the length of a head and of what it brings along, and how long
a request may take to come; how long nothing may pass is for the server to say. Nothing is kept for
who takes a stream slowly but the part that is being sent, and who takes that too slowly is reset.

Source: RFC 9110, RFC 9112; h11 knows it.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, final

import h11
import trio

from .messages import NO_STORE, Page, Request, Stream

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_wsk._connection.connection import Connection

    from .messages import Respond

__all__ = ["LARGEST_CONTENT", "LARGEST_HEAD", "PART_SECONDS", "REQUEST_SECONDS", "answer_requests"]

LARGEST_HEAD: Final = 16384
"""How many octets a request may have: as many as h11's default, and twice what nginx admits."""

LARGEST_CONTENT: Final = 4096
"""How many octets may follow where something may: a command, and a few names."""

REQUEST_SECONDS: Final = 10.0
"""How long a request may take to come, once it has begun: one that is honest is one segment."""

PART_SECONDS: Final = 10.0
"""How long a client may take to make room for a part of a stream."""

READING: Final = frozenset({"GET", "HEAD"})
"""The methods that ask for nothing to be changed."""

BEFORE_ANSWER: Final = frozenset({h11.IDLE, h11.SEND_RESPONSE})
"""The states in which a client can still be told something."""


class _Refused(Exception):  # noqa: N818 - the client's fault, and no error of ours
    """A request that is answered with an error, after which nothing can be."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


async def answer_requests(
    respond: Respond, connection: Connection, *, methods: Collection[str] = READING
) -> None:
    """Answer one request after the other: a handler, when it is given the first argument.

    What ``respond`` raises is raised, and the client is told that it is not its fault.

    Args:
      respond: Makes the answers.
      connection: The client's.
      methods: What may be asked for; what is not in `READING` may bring something along.
    """
    await _Client(respond, connection, methods).serve()


@final
class _Client:
    """One connection, and how far its client has come."""

    def __init__(self, respond: Respond, connection: Connection, methods: Collection[str]) -> None:
        self._respond = respond
        self._connection = connection
        self._methods = methods
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
        self._deadline = 0.0
        self._wants_content = True

    async def serve(self) -> None:  # noqa: ASYNC910 - who is too slow was waited for
        """Answer as long as there are requests, and say what is wrong with the last one."""
        try:
            await self._serve()
        except _Refused as refused:
            await self._refuse(refused.status)
        except trio.TooSlowError:
            if self._http.our_state in BEFORE_ANSWER:
                await self._refuse(HTTPStatus.REQUEST_TIMEOUT)
            else:
                self._connection.abort()  # it takes no parts
        except h11.RemoteProtocolError as error:
            await self._refuse(HTTPStatus(error.error_status_hint))

    async def _serve(self) -> None:  # noqa: ASYNC910 - it ends by a wait, or after sending
        connection, http = self._connection, self._http
        while http.trailing_data[0] or await connection.more():
            answer = await self._answer_to(await self._read_request())
            if isinstance(answer, Stream):
                await self._send_stream(answer)
            else:
                await self._send(answer, is_last=connection.draining.is_set())
            if http.our_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()

    async def _answer_to(self, request: Request) -> Page | Stream:
        try:
            return await self._respond(request)
        except Exception:
            await self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)  # noqa: ASYNC120 - then nobody is told
            await self._connection.aclose()  # the reset of a crash could overtake the answer
            raise

    # --- What comes ------------------------------------------------------------------------

    async def _read_request(self) -> Request:
        self._deadline = trio.current_time() + REQUEST_SECONDS
        head = await self._next_event()
        assert isinstance(head, h11.Request)
        method = head.method.decode("ascii")
        self._wants_content = method != "HEAD"
        content = await self._read_content(LARGEST_CONTENT if self._may_bring(method) else 0)
        if method not in self._methods:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED)
        path, _, _ = head.target.decode("ascii", "replace").partition("?")
        return Request(method, path, _headers(head), content)

    def _may_bring(self, method: str) -> bool:
        return method in self._methods and method not in READING

    async def _read_content(self, most: int) -> bytes:
        content = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            content += event.data
            if len(content) > most:
                raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return bytes(content)

    async def _next_event(self) -> object:
        """Receive until h11 has something whole."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                raise _Refused(HTTPStatus.EXPECTATION_FAILED)
            with trio.fail_at(self._deadline):
                self._http.receive_data(await self._connection.receive_some())
        return event  # noqa: ASYNC910 - received, or answered next

    # --- What is sent ----------------------------------------------------------------------

    async def _refuse(self, status: HTTPStatus) -> None:  # noqa: ASYNC910 - the last thing, if that
        if self._http.our_state in BEFORE_ANSWER:
            await self._send(Page(f"{status.phrase}\n".encode(), status), is_last=True)

    async def _send(self, page: Page, *, is_last: bool) -> None:
        """Send an answer, all of it at once."""
        head = [("Content-Length", str(len(page.content))), *page.headers]
        if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
            head.append(("Allow", ", ".join(sorted(self._methods))))
        if is_last:
            head.append(("Connection", "close"))
        await self._connection.send_all(
            self._head(page.status, page.content_type, head)
            + self._packed(h11.Data(data=page.content if self._wants_content else b""))
            + self._packed(h11.EndOfMessage())
        )

    async def _send_stream(self, stream: Stream) -> None:
        """Send the parts of an answer as they come; who is too slow for one is reset."""
        await self._send_part(self._head(HTTPStatus.OK, stream.content_type, [*stream.headers]))
        if self._wants_content:
            await stream.produce(lambda part: self._send_part(self._packed(h11.Data(data=part))))
        await self._send_part(self._packed(h11.EndOfMessage()))

    async def _send_part(self, octets: bytes) -> None:
        with trio.fail_after(PART_SECONDS):
            await self._connection.send_all(octets)

    def _head(self, status: HTTPStatus, content_type: str, more: list[tuple[str, str]]) -> bytes:
        head = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", content_type),
            NO_STORE,
            *more,
        ]
        return self._packed(h11.Response(status_code=status, reason=status.phrase, headers=head))

    def _packed(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""


def _headers(head: h11.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in head.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
