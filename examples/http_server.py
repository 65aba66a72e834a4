"""An HTTP/1.1 server: h11 knows the protocol, and trio_wsk the connections.

Run ``python examples/http_server.py [PORT]``, and ask it: ``curl localhost:7015/``, or
``curl --data hello localhost:7015/echo``. Ctrl-C or SIGTERM ends it. It takes ``pip install h11``.

Clients may keep their connections, and may send requests before they have the answers. What a
client decides has its limit, and who goes beyond one is told so. ``respond`` is the application.
"""

from __future__ import annotations

import sys
from email.utils import formatdate
from http import HTTPStatus

import h11
import trio

import trio_wsk

PORT = 7015
IDLE = 60.0
"""How many seconds nothing may pass: no request from a client, and no answer to it."""
REQUEST_SECONDS = 20.0
"""How many seconds a request may take to come, once it has begun."""
LARGEST_HEAD = 16384
LARGEST_BODY = 1 << 20

GREETING = b"Hello from trio_wsk.\n"


def respond(request: h11.Request, body: bytes) -> tuple[HTTPStatus, bytes]:
    """Answer one request: the application."""
    match request.method, request.target:
        case ((b"GET" | b"HEAD"), b"/"):
            return HTTPStatus.OK, GREETING
        case b"POST", b"/echo":
            return HTTPStatus.OK, body
        case _, b"/" | b"/echo":
            return HTTPStatus.METHOD_NOT_ALLOWED, b""
    return HTTPStatus.NOT_FOUND, b""


class Refused(Exception):  # noqa: N818 - the client's fault, and no error of ours
    """A request that is answered with an error, after which nothing can be."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class Client:
    """One connection, and how far its client has come in the protocol."""

    def __init__(self, connection: trio_wsk.Connection) -> None:
        self.connection = connection
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
        self.deadline = 0.0
        self.wants_content = True

    async def serve(self) -> None:
        """Answer one request after the other, and say what is wrong with the last one."""
        try:
            while self.http.trailing_data[0] or await self.connection.more():
                request, body = await self.read_request()
                await self.send(*respond(request, body), is_last=self.connection.draining.is_set())
                if self.http.our_state is h11.MUST_CLOSE:
                    return
                self.http.start_next_cycle()
        except Refused as refused:
            await self.send(refused.status)
        except trio.TooSlowError:
            await self.send(HTTPStatus.REQUEST_TIMEOUT)
        except h11.RemoteProtocolError as error:
            await self.send(HTTPStatus(error.error_status_hint))

    async def read_request(self) -> tuple[h11.Request, bytes]:
        """Read a request and its body, if that is not too long."""
        self.deadline = trio.current_time() + REQUEST_SECONDS
        request = await self.next_event()
        assert isinstance(request, h11.Request)
        self.wants_content = request.method != b"HEAD"
        check_length(int(dict(request.headers).get(b"content-length", 0)))
        body = bytearray()
        while isinstance(part := await self.next_event(), h11.Data):
            body += part.data
            check_length(len(body))
        return request, bytes(body)

    async def next_event(self) -> object:
        """Receive until h11 has something whole."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                await self.connection.send_all(self.http.send(GO_ON))
            with trio.fail_at(self.deadline):
                self.http.receive_data(await self.connection.receive_some())
        return event

    async def send(self, status: HTTPStatus, content: bytes = b"", *, is_last: bool = True) -> None:
        """Send an answer, all of it at once."""
        headers = [("Date", formatdate(usegmt=True)), ("Content-Length", str(len(content)))]
        if is_last:
            headers.append(("Connection", "close"))
        events: list[h11.Event] = [
            h11.Response(status_code=status, reason=status.phrase, headers=headers),
            h11.Data(data=content if self.wants_content else b""),
            h11.EndOfMessage(),
        ]
        await self.connection.send_all(b"".join(self.http.send(event) or b"" for event in events))


GO_ON = h11.InformationalResponse(status_code=100, headers=[])


def check_length(octets: int) -> None:
    """Refuse a body that is too long."""
    if octets > LARGEST_BODY:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


async def serve(connection: trio_wsk.Connection) -> None:
    """Handle one connection."""
    await Client(connection).serve()


if __name__ == "__main__":
    port = int(sys.argv[1]) if sys.argv[1:] else PORT
    trio_wsk.run(serve, port, host="localhost", idle_timeout=IDLE)
