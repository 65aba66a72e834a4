"""A key-value store over TLS: what clients have set they can get, until the server ends.

Run ``python examples/key_value.py CERTIFICATE KEY [PORT]``, with the names of two PEM files, and
talk to it with ``openssl s_client -quiet -connect localhost:7012``. Ctrl-C or SIGTERM ends it.

A request is a line; behind that of ``SET`` stands the value, of as many octets as it says, and an
end of line. So is the answer to ``GET``::

    SET name 5
    hello
    STORED
    GET name
    VALUE 5
    hello
"""

from __future__ import annotations

import ssl
import sys

import trio

import trio_wsk

PORT = 7012
IDLE = 300.0
"""How many seconds nothing may pass: no request from a client, and no answer to it."""
REQUEST_SECONDS = 30.0
"""How many seconds a request may take to come, once it has begun."""
LONGEST_LINE = 512
"""How many octets a request may have without its value, and so a key."""
LARGEST_VALUE = 1 << 20
MOST_VALUES = 1000


class Refused(Exception):  # noqa: N818 - the client's fault, and no error of ours
    """A request that is not carried out, and after which nothing can be."""


class Store:
    """The values, and what clients may do with them."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    async def serve(self, connection: trio_wsk.Connection) -> None:
        """Handle one connection."""
        reader = trio_wsk.Reader(connection, max_octets=LONGEST_LINE)
        try:
            while await reader.more():
                with trio.fail_after(REQUEST_SECONDS):
                    request, value = await read_request(reader)
                await connection.send_all(self.answer(request, value))
        except trio.TooSlowError:
            await connection.send_all(b"ERROR too slow\n")
        except (Refused, trio_wsk.ReadLimitError) as refused:
            await connection.send_all(f"ERROR {refused}\n".encode())

    def answer(self, request: list[bytes], value: bytes) -> bytes:
        """Carry out one request."""
        match request:
            case [b"GET", key] if key in self.values:
                return b"VALUE %d\n%b\n" % (len(self.values[key]), self.values[key])
            case [b"DELETE", key] if key in self.values:
                del self.values[key]
                return b"DELETED\n"
            case [b"GET" | b"DELETE", _]:
                return b"MISSING\n"
            case [b"SET", key, _] if key in self.values or len(self.values) < MOST_VALUES:
                self.values[key] = value
                return b"STORED\n"
        return b"FULL\n"


async def read_request(reader: trio_wsk.Reader) -> tuple[list[bytes], bytes]:
    """Read the words of a request, and the value that comes with it."""
    request = (await reader.read_line()).split()
    match request:
        case [b"SET", _, count] if count.isdigit():
            if int(count) > LARGEST_VALUE:
                raise Refused(f"a value has at most {LARGEST_VALUE} octets")
            value = await reader.read_exactly(int(count))
            if await reader.read_line():
                raise Refused(f"the value has more than {int(count)} octets")
            return request, value
        case [b"GET" | b"DELETE", _]:
            return request, b""
    raise Refused("that is no request")


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Read what this server proves its name with."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


if __name__ == "__main__":
    if not sys.argv[2:]:
        sys.exit(__doc__)
    certificate, key, *rest = sys.argv[1:]
    trio_wsk.run(
        Store().serve,
        int(rest[0]) if rest else PORT,
        host="localhost",
        ssl_context=server_context(certificate, key),
        idle_timeout=IDLE,
    )
