"""What every public function says to arguments that can't be meant: at the call, with a right one.

`WRONG` has a row for each parameter of each of them; what it can't have is in `NO_ROW`, with the
reason. A new parameter has to choose.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import signal
import socket
import ssl
import types
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import attrs
import pytest
import trio

import trio_wsk
from tests.helpers.inspecting import Silent, inspecting
from tests.helpers.pairs import open_pair
from tests.helpers.public_names import public_definitions
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect, connect_now, fate_of, until
from tests.helpers.wrong_admin import ADMIN, ADMIN_CALLS
from tests.helpers.wrong_control import CONTROL, CONTROL_CALLS
from tests.helpers.wrong_metrics import METRICS, METRICS_CALLS
from tests.helpers.wrong_rules import RULES, RULES_CALLED
from tests.helpers.wrong_values import (
    ASYNC,
    GENERATORS,
    NO_COUNTS,
    NO_DISPATCH,
    NO_EVENTS,
    NO_FLAGS,
    NO_HANDLERS,
    NO_INSPECTORS,
    NO_NUMBERS,
    NO_PLAIN_FUNCTIONS,
    NO_POLICIES,
    NO_SECONDS,
    NO_TEXTS,
    PLAIN,
    Row,
    octets,
    repr_of_kind,
    wait,
    work,
)
from trio_wsk import (
    Address,
    AddressSet,
    CloseStyle,
    ConnectionDispatch,
    EventMask,
    EventServerOptions,
    InspectAction,
    InvalidDeviceStateError,
    InvalidParameterError,
    ListenDispatch,
    ListeningOptions,
    Overflow,
    Reader,
    ServerOptions,
    SocketStreams,
    Status,
    Taken,
    TLSInfo,
    Verdict,
    inspectors,
    open_listening_socket,
    open_server,
    run,
    serve,
    serve_events,
)
from trio_wsk._serving.arguments import settings_for_events, settings_for_handler
from trio_wsk.metrics import Durations
from trio_wsk.observers import AccessLog, CallbackFailed, LoggingObserver
from trio_wsk.testing import MemoryNetwork, check_transport
from trio_wsk.transports import LinuxTransport, PortableTransport, Transport, listen_fds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from trio_wsk import Connection

HOST = "127.0.0.1"


# --- What is wrong ----------------------------------------------------------------------------


LISTENING: Mapping[str, Row] = {
    "port": Row((True, 1.5, "80", -1, 70000, math.nan), "port"),
    "host": Row((7, b"::1", [], "", [7], {"::1": 1}), "host='127.0.0.1'"),
    "path": Row((7, "", b"", object(), "/tmp/", "a\0b"), "path"),  # noqa: S108 - no file
    "mode": Row(("660", 660, True, -1, 1.5), "mode=0o660"),
    "sockets": Row((7, "x", [], [None], [1.5], [True], object()), "sockets"),
    "transport": Row((7, "x", [], object(), work, PortableTransport), "transport= takes"),
    "backlog": Row(NO_COUNTS, "backlog=128"),
    "reuse_port": Row(NO_FLAGS, "reuse_port is True or False"),
    "socket_options": Row((None, 7, [7], "x", [(1, 2)], [(1, 2, "x")]), "socket_options="),
    "dispatch": Row((*NO_DISPATCH, ConnectionDispatch()), "ListenDispatch("),
    "inspect": Row(NO_INSPECTORS, "inspect takes a function"),
    "inspect_point": Row((None, "after-handshake", 1, True), "InspectPoint"),
    "inspect_timeout": Row((*NO_SECONDS, math.inf, 0), "inspect_timeout"),
    "max_pending": Row((None, 0, *NO_COUNTS), "max_pending is a count, 1 or more"),
    "max_parked": Row((None, *NO_COUNTS), "max_parked is a count, 0 or more"),
    "overflow": Row(NO_POLICIES, "'wait', 'reset' and 'evict'"),
    "abort_on_half_close": Row((0, 1, "no", []), "None, True or False"),
    "on_no_descriptors": Row(NO_POLICIES, "on_no_descriptors"),
    "observers": Row(
        (None, 7, print, "x", [7], *([each] for each in (*GENERATORS, *ASYNC))), "observers=["
    ),
}
SERVER: Mapping[str, Row] = {
    "port": LISTENING["port"],
    "handler": Row(NO_HANDLERS, "handler is an async function"),
    "max_connections": Row((0, *NO_COUNTS), "max_connections is a count, 1 or more"),
    "handshake_timeout": Row((None, *NO_SECONDS), "math.inf for as long as it takes"),
    "https_compatible": Row((None, 0, 1, "no"), "True or False"),
    "idle_timeout": Row((None, 0, *NO_SECONDS), "idle_timeout=60.0"),
    "max_lifetime": Row((None, 0, *NO_SECONDS), "max_lifetime=60.0"),
    "grace": Row((None, *NO_SECONDS), "math.inf for as long as they take"),
    "on_handler_error": Row(NO_POLICIES, "'report' or 'raise'"),
    "ssl_context": Row((True, "cert.pem", 7, ssl.SSLContext), "ssl.SSLContext with a certificate"),
    "dispatch": Row((*NO_DISPATCH, ListenDispatch(accept=lambda _: Status.SUCCESS)), "dispatch"),
    "signals": Row(
        (None, 15, "SIGTERM", [0], [True], ["SIGTERM"], [signal.SIGKILL], iter([signal.SIGTERM])),
        "signals=[signal.SIGINT, signal.SIGTERM]",
    ),
    "task_status": Row((None, 7, work), "nursery.start(trio_wsk.serve"),
}
CONNECTING: Mapping[str, Row] = {
    "host": Row((None, 7, b"::1", [], "", "a\0b"), "connect('example.org', 80)"),
    "port": Row((None, True, 1.5, "80", 0, -1, 70000, math.nan), "a port is"),
    "path": Row((7, "", b"", object(), [], "a\0b"), "a path is"),
    "local_address": Row((7, b"::1", []), "local_address"),
    "happy_eyeballs_delay": Row((None, *NO_SECONDS), "happy_eyeballs_delay"),
}
TRANSPORT: Mapping[str, Row] = {
    name: LISTENING[name] for name in ("port", "host", "backlog", "socket_options", "path", "mode")
}

WRONG: Mapping[str, Mapping[str, Row]] = {
    "open_listening_socket": LISTENING,
    "notify_service_manager": {
        "server": Row((None, 7, work, trio_wsk.Server), "trio_wsk.open_server(...) as server")
    },
    "open_server": {name: row for name, row in SERVER.items() if name != "task_status"},
    "run": {name: row for name, row in SERVER.items() if name != "task_status"},
    "serve": SERVER,
    "serve_events": {
        **{
            name: SERVER[name]
            for name in (
                "port",
                "max_connections",
                "idle_timeout",
                "max_lifetime",
                "grace",
                "handshake_timeout",
                "https_compatible",
                "signals",
                "ssl_context",
                "task_status",
            )
        },
        "dispatch": Row((None, *NO_DISPATCH, ListenDispatch()), "ListenDispatch(accept=...)"),
    },
    "TLSInfo.peer_certificate": {"binary": Row((None, 0, 1, "der"), "True or False")},
    "Server.drain": {"grace": Row(NO_SECONDS, "math.inf for as long as they take")},
    "ListenDispatch": {
        "accept": Row(NO_PLAIN_FUNCTIONS, "ListenDispatch(accept=...) takes a"),
        "inspect": Row(NO_INSPECTORS, "ListenDispatch(inspect=...) takes a function"),
        "abort": Row(NO_PLAIN_FUNCTIONS, "ListenDispatch(abort=...) takes a"),
        "drain": Row(NO_PLAIN_FUNCTIONS, "ListenDispatch(drain=...) takes a"),
        "failed": Row(NO_PLAIN_FUNCTIONS, "ListenDispatch(failed=...) takes a"),
    },
    "ConnectionDispatch": {
        name: Row(NO_PLAIN_FUNCTIONS, f"ConnectionDispatch({name}=...) takes a")
        for name in attrs.fields_dict(ConnectionDispatch)
        if name != "mask"
    },
    "Taken": {"count": Row((None, *NO_COUNTS, Status.SUCCESS), "0 or more")},
    "Verdict": {
        "action": Row((None, True, 1, "reject"), "InspectAction.ACCEPT, REJECT or PEND"),
        "reason": Row((None, 7, b"busy", "Two Words", "x" * 100), "short slug"),
        "close": Row((None, True, "421 busy", b"", 7), "before FIN"),
    },
    "Overflow": {
        name: Row(NO_POLICIES, "'wait', 'reset' and 'evict'") for name in ("pending", "parked")
    },
    "ListeningSocket.accept": {
        "dispatch": Row((*NO_DISPATCH, ListenDispatch()), "ConnectionDispatch(")
    },
    "ListeningSocket.accept_nowait": {
        "dispatch": Row((*NO_DISPATCH, ListenDispatch()), "ConnectionDispatch(")
    },
    "ListeningSocket.queue_accept": {
        "dispatch": Row((*NO_DISPATCH, ListenDispatch()), "ConnectionDispatch("),
        "on_completion": Row(NO_PLAIN_FUNCTIONS, "on_completion takes a"),
    },
    "ListeningSocket.queue_connect": {
        **CONNECTING,
        "dispatch": Row((*NO_DISPATCH, ListenDispatch()), "ConnectionDispatch("),
        "on_completion": Row(NO_PLAIN_FUNCTIONS, "on_completion takes a"),
    },
    "connect": CONNECTING,
    "ListeningSocket.enable_events": {"mask": Row(NO_EVENTS, "enable_events(EventMask.ACCEPT)")},
    "ListeningSocket.disable_event": {"event": Row(NO_EVENTS, "EventMask.ACCEPT")},
    "ListeningSocket.disable_event_nowait": {"event": Row(NO_EVENTS, "EventMask.ACCEPT")},
    "Connection.receive_some": {
        "max_bytes": Row(("5", b"5", True, 1.5, math.nan, []), "max_bytes takes an int", TypeError)
    },
    "Connection.more": {"idle": Row((None, *NO_SECONDS), "math.inf for as long as it takes")},
    "Connection.receive_into": {"buffer": octets("write bytearray(65536)")},
    "Connection.send_all": {"data": octets("bytes, bytearray or a memoryview")},
    "Connection.send_nowait": {"data": octets("bytes, bytearray or a memoryview")},
    "Connection.send_proxy_header": {
        "header": Row((None, b"PROXY UNKNOWN\r\n", inspectors.ProxyHeader), "ProxyHeader.local()")
    },
    "Connection.queue_send": {
        "data": octets("bytes, bytearray or a memoryview"),
        "on_completion": Row(NO_PLAIN_FUNCTIONS, "on_completion takes a"),
    },
    "Connection.disconnect": {
        "data": octets("bytes, bytearray or a memoryview"),
        "abortive": Row(NO_FLAGS, "abortive is True or False"),
    },
    "Connection.enable_events": {
        "mask": Row((*NO_EVENTS, EventMask.ACCEPT), "enable any of"),
        "dispatch": Row((*NO_DISPATCH, ListenDispatch()), "ConnectionDispatch(receive=...)"),
    },
    "Connection.disable_event": {
        "event": Row((*NO_EVENTS, EventMask.RECEIVE | EventMask.DISCONNECT), "exactly one event")
    },
    "Connection.disable_event_nowait": {
        "event": Row((*NO_EVENTS, EventMask.RECEIVE | EventMask.DISCONNECT), "exactly one event")
    },
    "Reader": {
        "stream": Row((None, 7, b"octets", work, socket), "Reader(connection)"),
        "max_octets": Row((None, 0, *NO_COUNTS), "max_octets is a count, 1 or more"),
    },
    "Reader.read_line": {"max_octets": Row((0, *NO_COUNTS), "max_octets is a count, 1 or more")},
    "Reader.read_until": {
        "delimiter": Row((None, "\n", b"", 10, [b"\n"]), r'such as b"\r\n"'),
        "max_octets": Row((0, *NO_COUNTS), "max_octets is a count, 1 or more"),
    },
    "Reader.more": {"idle": Row((None, *NO_SECONDS), "math.inf for as long as it takes")},
    "Reader.read_exactly": {"count": Row((None, *NO_COUNTS), "count is a count, 0 or more")},
    "Reader.read_some": {"max_octets": Row((0, *NO_COUNTS), "max_octets is a count, 1 or more")},
    **{
        f"Reader.{loop}": {
            "delimiter": Row(("\n", b"", 10, [b"\n"]), r'such as b"\r\n"'),
            "max_octets": Row((0, *NO_COUNTS), "max_octets is a count, 1 or more"),
            "idle": Row((None, *NO_SECONDS), "math.inf for as long as it takes"),
        }
        for loop in ("lines", "batches")
    },
    "ConnectionRequest.at_end": {"callback": Row(NO_PLAIN_FUNCTIONS, "request.at_end takes a")},
    "ConnectionRequest.peek": {
        "count": Row((None, 0, 16385, *NO_COUNTS), "1 to 16384"),
        "least": Row((0, 17, *NO_COUNTS), "least is a count from 1 to 16"),
    },
    "ProbeReport.find": {"name": Row((None, 7, "nonsense"), "no finding is called")},
    "Address.tcp": {
        "host": Row((None, 7, b"::1", []), "text or an ipaddress object", TypeError),
        "port": Row((None, "80", 1.5, []), "the port is a whole number", TypeError),
        "scope_id": Row((None, "eth0", 1.5), "the scope_id is a whole number", TypeError),
    },
    "Address.unix": {"path": Row((None, 7, []), "str, bytes or os.PathLike", TypeError)},
    "Address.parse": {"text": Row((None, 7, b"::1", []), "read from text", TypeError)},
    "AddressSet": {"networks": Row((None, 7, "::/0", b"::/0", print), "in a list", TypeError)},
    **RULES,
    **ADMIN,
    **METRICS,
    **CONTROL,
    "SocketStreams": {"listening": Row((None, 7, work), "server.listening")},
    "PortableTransport.tcp": {
        **{name: TRANSPORT[name] for name in ("port", "host", "backlog", "socket_options")},
        "reuse_port": LISTENING["reuse_port"],
    },
    "PortableTransport.unix": {
        **{name: TRANSPORT[name] for name in ("path", "mode", "backlog")},
    },
    "PortableTransport.adopt": {
        "sockets": LISTENING["sockets"],
        "backlog": LISTENING["backlog"],
    },
    "LinuxTransport.tcp": {
        **{name: TRANSPORT[name] for name in ("port", "host", "backlog", "socket_options")},
        "reuse_port": Row((*NO_FLAGS, True), "reuse_port"),
        "most_syns_per_second": Row((0, *NO_COUNTS), "most_syns_per_second=1000"),
        "fail_open": Row(NO_FLAGS, "fail_open is True or False"),
    },
    "LinuxTransport.adopt": {
        "sockets": LISTENING["sockets"],
        "backlog": LISTENING["backlog"],
        "most_syns_per_second": Row((0, *NO_COUNTS), "most_syns_per_second=1000"),
        "fail_open": Row(NO_FLAGS, "fail_open is True or False"),
    },
    "listen_fds": {
        "name": Row(NO_TEXTS, "listen_fds('http')"),
        "unset_environment": Row(NO_FLAGS, "unset_environment is True or False"),
    },
    "AccessLog": {
        "logger": Row(("trio", 7, print), "logging.getLogger('mail')"),
        "level": Row((None, 0, *NO_COUNTS), "level is a count, 1 or more"),
    },
    "LoggingObserver": {
        "logger": Row(("trio", 7, print), "logging.getLogger('mail')"),
        "repeat_seconds": Row((None, *NO_SECONDS), "repeat_seconds is a time in seconds"),
    },
    "MemoryNetwork": {
        "latency": Row((None, *NO_SECONDS, math.inf), "latency is a time in seconds"),
        "loss": Row((None, *NO_NUMBERS, 1.5, math.inf), "loss is a probability"),
        "seed": Row((None, "x", True, 1.5, []), "seed is a whole number"),
    },
    "MemoryNetwork.host": {"address": Row((None, 7, b"::1", "name", []), "write '192.0.2.1'")},
    "MemoryHost.transport": {
        "port": Row((None, "80", True, 1.5, -1, 70000), "is no TCP port"),
        "backlog": Row((None, 0, *NO_COUNTS), "backlog is a count, 1 or more"),
    },
    "MemoryHost.connect": {"address": Row((None, 7, "::1", ("::1",), []), "is no address")},
    "MemoryHost.open_connection": {"address": Row((None, 7, "::1", ("::1",), []), "is no address")},
    "MemoryStream.receive_some": {
        "max_bytes": Row(("5", b"5", True, 1.5, math.nan, []), "max_bytes takes an int", TypeError)
    },
    "MemoryTransport.fail_next": {"errors": Row((None, "EMFILE", 0, -1, 1.5, []), "errno.EMFILE")},
    "check_transport": {"harness": Row((None, 7, work, PortableTransport), "TransportHarness")},
}

NO_ROW: Mapping[str, str] = {
    "ListeningSocket.inspect_complete": "answers a wrong argument with a status",
    "MemoryStream.send_all": "raises what trio's own memory streams raise",
    "Address.from_sockaddr": "is given what the kernel has written, for each connection",
    "BindError.from_oserror": "is for transports",
    "context": "takes anything",
    "args": "are whatever the callback takes",
    "Connection.on_edges": "is called by the readiness",
    "Control.do": "is called by what listens",
    "WorkerMetrics.end": "does nothing for a worker that is not known",
    "place": "of PortableTransport, which its own methods make",
    "findings": "of ProbeReport, which is made by us",
    "inspect_points": "of ProbeReport, which is made by us",
    **dict.fromkeys(
        ("LinuxTransport." + name for name in ("on_syn", "on_reset", "on_late", "do_due", "fail")),
        "is called by the gatekeeper",
    ),
    # Classes, with their subclasses.
    "dict": "options, which have a test of their own",
    "Enum": "members are there already",
    "BaseException": "is raised by us, or by transports",
    "Record": "is made by us",
    "Finding": "is made by us",
    "DrainReport": "is made by us",
    "RuleStatistics": "is made by us",
    "DnsListing": "is made by us",
    "ClientHello": "is made by us",
    "TlsExtension": "is made by us",
    **dict.fromkeys(
        ("NetworkList", "RefusedNetworks", "RefusedSources"), "is made by rules, for transports"
    ),
    **dict.fromkeys(
        ("ProxyHeader", "ProxyTlv", "ProxySsl"), "has tests of its own, in tests/protocols"
    ),
    "ListeningStatistics": "is made by us",
    "ServerStatistics": "is made by us",
    "PeerCredentials": "is made by us",
    "Segment": "is made by us",
    "Syn": "is made by us",
    "TcpOption": "is made by us",
    "Timestamps": "is made by us",
    "InspectId": "is made by us",
    "Facts": "is made by us",
    "Irp": "is made by us",
    "Watch": "is made by us",
    "TransportCheck": "is made by us",
    "HasAddresses": "is implemented by others and called by us",
    "Observer": "is implemented by others and called by us",
    "Channel": "is implemented by others and called by us",
    "Readiness": "is implemented by others and called by us",
    "RequestKeeper": "is implemented by others and called by us",
    "TransportRequest": "is implemented by others and called by us",
    "TransportHarness": "is implemented by others and called by us",
}
"""What has no row, and why: a callable, a parameter, or a class with all that it has."""

CONTRACT = {name for name in dir(Transport) if not name.startswith("_")}
"""What a transport is called with by us."""


# --- How each is called -----------------------------------------------------------------------


async def _open_listening_socket(**argument: Any) -> None:
    is_place = argument.keys() & {"path", "sockets", "transport"}
    place: dict[str, object] = {} if is_place else {"port": 0}
    if "mode" in argument:
        place = {"path": "/nowhere/socket"}  # which is looked at only when the mode is right
    async with open_listening_socket(**{**place, **argument}):
        raise AssertionError("it was opened")


async def _open_server(**argument: Any) -> None:
    async with open_server(**{"handler": wait, "port": 0, **argument}):
        raise AssertionError("it was opened")


async def _run(**argument: Any) -> None:
    arguments = {"handler": wait, "port": 0, "signals": (), **argument}
    await trio.to_thread.run_sync(lambda: run(**arguments))  # which starts a Trio of its own


async def _serve(**argument: Any) -> None:
    await serve(**{"handler": wait, "port": 0, **argument})


async def _serve_events(**argument: Any) -> None:
    dispatch = ListenDispatch(accept=lambda _: Status.SUCCESS)
    await serve_events(**{"dispatch": dispatch, "port": 0, **argument})


async def _peer_certificate(**argument: Any) -> None:
    nothing: Any = None
    TLSInfo(nothing, bytearray()).peer_certificate(**argument)


async def _drain(**argument: Any) -> None:
    async with open_server(wait, 0, host=HOST) as server:
        await server.drain(**argument)


async def _at_end(**argument: Any) -> None:
    async with inspecting() as desk:
        _, request = await desk.pended()
        request.at_end(**argument)


async def _peek(**argument: Any) -> None:
    async with inspecting() as desk:
        _, request = await desk.pended()
        await request.peek(**{"count": 16, **argument})


def _made(function: Callable[..., object], **more: Any) -> Callable[..., Awaitable[None]]:
    """Make a call of a plain function, which needs these as well."""

    async def call(**argument: Any) -> None:
        function(**{**more, **argument})
        await trio.lowlevel.checkpoint()

    return call


async def _shared(**argument: Any) -> None:
    import coredis  # noqa: PLC0415 - an extra, which all the others here do without

    inspectors.Shared(**{"client": coredis.Redis(), "rule": inspectors.SourceLimit(1), **argument})
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _listening() -> AsyncIterator[object]:
    dispatch = ListenDispatch(accept=lambda _: Status.SUCCESS)
    async with open_listening_socket(0, host=HOST, dispatch=dispatch) as listening:
        yield listening


@asynccontextmanager
async def _connection() -> AsyncIterator[object]:
    async with open_pair() as (connection, client):
        await client.send_all(b"hello")
        yield connection


@asynccontextmanager
async def _reader() -> AsyncIterator[object]:
    yield Reader(trio.testing.memory_stream_one_way_pair()[1])


@asynccontextmanager
async def _memory_stream() -> AsyncIterator[object]:
    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with open_listening_socket(transport=transport):
        stream = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        yield stream
        await stream.aclose()


@asynccontextmanager
async def _memory_host() -> AsyncIterator[object]:
    yield MemoryNetwork().host("192.0.2.1")


def _method(there: Callable[..., Any], name: str, **more: Any) -> Callable[..., Awaitable[None]]:
    """Make a call of a method of what is there, plain or async, which needs these as well."""

    async def call(**argument: Any) -> None:
        async with there() as thing:
            result = getattr(thing, name)(**{**more, **argument})
            if inspect.isawaitable(result):
                await result

    return call


def _adopt(kind: type[PortableTransport | LinuxTransport]) -> Callable[..., Awaitable[None]]:
    """Make a call that gives a socket away, which is closed if another argument is wrong."""

    async def call(**argument: Any) -> None:
        if "sockets" not in argument:
            sock = socket.socket()
            sock.bind((HOST, 0))
            argument["sockets"] = [sock]
        kind.adopt(**argument)
        await trio.lowlevel.checkpoint()

    return call


async def _check_transport(harness: Any) -> None:
    await check_transport(harness)


async def _fail_next(errors: Any) -> None:
    MemoryNetwork().host("192.0.2.1").transport().fail_next(errors)
    await trio.lowlevel.checkpoint()


def _place(argument: dict[str, Any]) -> dict[str, Any]:
    return {} if "path" in argument else {"host": HOST, "port": 80}


async def _connect(**argument: Any) -> None:
    await trio_wsk.connect(**{**_place(argument), **argument})


async def _queue_connect(**argument: Any) -> None:
    async with trio_wsk.open_listening_socket(0, host=HOST) as listening:
        listening.queue_connect(**{**_place(argument), **argument})


CALLS: Mapping[str, Callable[..., Awaitable[None]]] = {
    "open_listening_socket": _open_listening_socket,
    "notify_service_manager": trio_wsk.notify_service_manager,
    "open_server": _open_server,
    "run": _run,
    "serve": _serve,
    "serve_events": _serve_events,
    "Server.drain": _drain,
    "TLSInfo.peer_certificate": _peer_certificate,
    "ListenDispatch": _made(ListenDispatch),
    "ConnectionDispatch": _made(ConnectionDispatch),
    "Taken": _made(Taken),
    "Verdict": _made(Verdict, action=InspectAction.REJECT),
    "Overflow": _made(Overflow),
    "ListeningSocket.accept": _method(_listening, "accept"),
    "ListeningSocket.accept_nowait": _method(_listening, "accept_nowait"),
    "ListeningSocket.queue_accept": _method(_listening, "queue_accept"),
    "ListeningSocket.queue_connect": _queue_connect,
    "connect": _connect,
    "ListeningSocket.enable_events": _method(_listening, "enable_events"),
    "ListeningSocket.disable_event": _method(_listening, "disable_event"),
    "ListeningSocket.disable_event_nowait": _method(_listening, "disable_event_nowait"),
    "Connection.receive_some": _method(_connection, "receive_some"),
    "Connection.more": _method(_connection, "more"),
    "Connection.receive_into": _method(_connection, "receive_into"),
    "Connection.send_all": _method(_connection, "send_all"),
    "Connection.send_nowait": _method(_connection, "send_nowait"),
    "Connection.send_proxy_header": _method(_connection, "send_proxy_header"),
    "Connection.queue_send": _method(_connection, "queue_send", data=b"x"),
    "Connection.disconnect": _method(_connection, "disconnect"),
    "Connection.enable_events": _method(_connection, "enable_events", mask=EventMask.RECEIVE),
    "Connection.disable_event": _method(_connection, "disable_event"),
    "Connection.disable_event_nowait": _method(_connection, "disable_event_nowait"),
    "Reader": _made(Reader, stream=trio.testing.memory_stream_one_way_pair()[1]),
    "Reader.read_line": _method(_reader, "read_line"),
    "Reader.read_until": _method(_reader, "read_until", delimiter=b"\n"),
    "Reader.read_exactly": _method(_reader, "read_exactly"),
    "Reader.read_some": _method(_reader, "read_some"),
    "Reader.more": _method(_reader, "more"),
    "Reader.lines": _method(_reader, "lines"),
    "Reader.batches": _method(_reader, "batches"),
    "ConnectionRequest.at_end": _at_end,
    "ConnectionRequest.peek": _peek,
    "ProbeReport.find": _made(trio_wsk.ProbeReport(findings=(), inspect_points=frozenset()).find),
    "Address.tcp": _made(Address.tcp, host="::1", port=80),
    "Address.unix": _made(Address.unix),
    "Address.parse": _made(Address.parse),
    "AddressSet": _made(AddressSet),
    **{name: _made(getattr(inspectors, name), **more) for name, more in RULES_CALLED.items()},
    "DnsLists": _made(functools.partial(inspectors.DnsLists, "bad.test")),
    "server_names": _made(functools.partial(inspectors.server_names, "example.com")),
    "alpn": _made(functools.partial(inspectors.alpn, "h2")),
    "Shared": _shared,
    "NetworksFile.watch": inspectors.NetworksFile(os.devnull).watch,
    "SourceLimit.open_from": _made(inspectors.SourceLimit(1).open_from),
    "Penalties.add": _made(
        inspectors.Penalties().add, who=Address.tcp("::1", 1), seconds=1, reason="bad"
    ),
    "Penalties.remaining": _made(inspectors.Penalties().remaining),
    "Penalties.forgive": _made(inspectors.Penalties().forgive),
    "Penalties.observer": _made(inspectors.Penalties().observer),
    **ADMIN_CALLS,
    **METRICS_CALLS,
    **CONTROL_CALLS,
    "Durations": _made(Durations),
    "SocketStreams": _made(SocketStreams),
    "PortableTransport.tcp": _made(PortableTransport.tcp, port=0),
    "PortableTransport.unix": _made(PortableTransport.unix, path="/nowhere/socket"),
    "PortableTransport.adopt": _adopt(PortableTransport),
    "LinuxTransport.tcp": _made(LinuxTransport.tcp, port=0),
    "LinuxTransport.adopt": _adopt(LinuxTransport),
    "listen_fds": _made(listen_fds),
    "AccessLog": _made(AccessLog),
    "LoggingObserver": _made(LoggingObserver),
    "MemoryNetwork": _made(MemoryNetwork),
    "MemoryNetwork.host": _made(MemoryNetwork().host),
    "MemoryHost.transport": _method(_memory_host, "transport"),
    "MemoryHost.connect": _method(_memory_host, "connect"),
    "MemoryHost.open_connection": _method(_memory_host, "open_connection"),
    "MemoryStream.receive_some": _method(_memory_stream, "receive_some"),
    "MemoryTransport.fail_next": _fail_next,
    "check_transport": _check_transport,
}

CASES = [
    pytest.param(call, parameter, id=f"{call}-{parameter}")
    for call, rows in WRONG.items()
    for parameter in rows
]


@pytest.mark.parametrize(("call", "parameter"), CASES)
async def test_wrong_argument_is_told_at_the_call(call: str, parameter: str) -> None:
    """
    A wrong argument gives the one error, with the value and a right one in its message, and
    leaves no descriptor open.
    """
    row = WRONG[call][parameter]
    before = open_descriptors()
    for wrong in row.wrong:
        with trio.fail_after(PATIENCE), pytest.raises(row.kind) as caught:
            await CALLS[call](**{parameter: wrong})

        assert row.says in str(caught.value), f"{parameter}={wrong!r}: {caught.value}"
    assert before == open_descriptors()


# --- Who is in the table ----------------------------------------------------------------------


def _names(options: Any) -> frozenset[str]:
    names: frozenset[str] = options.__optional_keys__
    return names


OWN_OPTIONS = {
    "open_server": _names(ServerOptions) - _names(ListeningOptions),
    "run": _names(ServerOptions) - _names(ListeningOptions),
    "serve": _names(ServerOptions) - _names(ListeningOptions),
    "serve_events": _names(EventServerOptions) - _names(ListeningOptions),
}
"""What is not among the parameters, but in a TypedDict; those of listening sockets have rows."""


def _parameters(function: Callable[..., object]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    more = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    named = {each.name for each in parameters if each.kind not in more or each.name == "errors"}
    return named - {"self", "cls", *NO_ROW}


def _methods(kind: type[object]) -> Iterator[tuple[str, Callable[..., object]]]:
    for name in dir(kind):
        found = inspect.getattr_static(kind, name)
        function = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        is_ours = inspect.isfunction(function) and function.__module__.startswith("trio_wsk")
        if (
            is_ours
            and not name.startswith("_")
            and not (issubclass(kind, Transport) and name in CONTRACT)
        ):
            yield name, function


def _is_made_by_users(kind: type[object]) -> bool:
    made_by_us = re.compile("never by you|Made by `")
    return not made_by_us.search(vars(kind).get("__init__", wait).__doc__ or "")


def _public_parameters() -> Iterator[tuple[str, str]]:
    """Name each parameter of each public function and method, but those that need no row."""
    for thing in public_definitions().values():
        if getattr(thing, "__module__", "") == "trio_wsk.anyio":
            continue  # what anyio's interface has
        if inspect.isfunction(thing):
            calls: dict[str, Callable[..., object]] = {thing.__name__: thing}
        elif isinstance(thing, type) and not {base.__name__ for base in thing.__mro__} & {*NO_ROW}:
            calls = {f"{thing.__name__}.{name}": method for name, method in _methods(thing)}
            if _is_made_by_users(thing):
                calls[thing.__name__] = thing
        else:
            continue
        for name, call in calls.items():
            if name not in NO_ROW:
                given = _parameters(call) | OWN_OPTIONS.get(name, frozenset())
                yield from ((name, parameter) for parameter in given)


def test_every_parameter_has_a_row() -> None:
    """
    Each parameter of each public function and method has a row in `WRONG`, or a reason to have
    none.
    """
    rows = {(call, parameter) for call, parameters in WRONG.items() for parameter in parameters}

    assert {*_public_parameters()} == rows
    assert WRONG.keys() == CALLS.keys()


# --- What looks wrong, and is not -------------------------------------------------------------


def wrapped(function: Callable[..., object]) -> Callable[..., object]:
    """Put a plain function around another one, as decorators do."""

    @functools.wraps(function)
    def wrapper(*arguments: object) -> object:
        return function(*arguments)

    return wrapper


@types.coroutine
def wait_by_generator(*_: object) -> Iterator[None]:
    """Be something to await, as it was written before there was ``async``."""
    yield


class Later:
    """Objects that can be awaited."""

    def __init__(self, *_: object) -> None:
        """Take a connection."""

    def __await__(self) -> Iterator[None]:
        yield


class Calling:
    """Objects whose plain ``__call__`` gives something to await."""

    def __call__(self, *_: object) -> Awaitable[None]:
        """Call."""
        return wait()


@pytest.mark.parametrize(
    "handler",
    [
        *ASYNC,
        lambda connection: wait(connection, 1),
        wrapped(wait),
        wait_by_generator,
        Later,
        Calling(),
    ],
    ids=repr_of_kind,
)
async def test_handler_whose_answer_may_be_awaited_is_taken(handler: Any) -> None:
    """Where it can't be told before the call what a function returns, it is taken."""
    async with open_server(handler, 0, host=HOST):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "callback",
    [*PLAIN, print, [].append, lambda *arguments: None, wrapped(work), Calling()],
    ids=repr_of_kind,
)
def test_callback_that_may_be_plain_is_taken(callback: Any) -> None:
    """A built-in function, a method, a partial, a class: whatever can be called."""
    assert callback is ListenDispatch(abort=callback).abort


def test_marked_callback_is_async() -> None:
    """What says of itself that it is async is, though it is written as a plain function."""
    callback = AsyncMock()

    with pytest.raises(InvalidParameterError, match="not the async function"):
        ListenDispatch(abort=callback)


# --- Options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "option", "more"),
    [
        (serve, "inspct", "; did you mean 'inspect'?"),
        (serve, "max_conections", "; did you mean 'max_connections'?"),
        (open_server, "observer", "; did you mean 'observers'?"),
        (serve_events, "graze", "; did you mean 'grace'?"),
        (serve_events, "xyzzy", ""),
        (serve, "timeout", ""),
        (serve, "ssl", "; did you mean 'ssl_context'?"),
        (serve, "limit", "; did you mean 'max_connections'?"),
        (open_server, "accept", ": it is a callback; write dispatch=ListenDispatch(accept=...)"),
        (serve_events, "ssl", "; did you mean 'ssl_context'?"),
        (
            serve_events,
            "on_handler_error",
            ": that needs a task for each connection; write serve(handler",
        ),
    ],
)
async def test_unknown_option_is_told_by_who_was_called(
    call: Callable[..., Any], option: str, more: str
) -> None:
    """A slip in an option's name blames the function that was called, and says what was meant."""
    first = ListenDispatch(accept=lambda _: Status.SUCCESS) if call is serve_events else wait
    with pytest.raises(TypeError) as caught:
        await call(first, 0, **{option: 1})

    says = f"{call.__name__}() got an unexpected keyword argument {option!r}{more}"

    assert str(caught.value).startswith(says)


def test_option_of_handlers_is_refused_where_there_is_none() -> None:
    """`open_server` with callbacks has no use for ``on_handler_error``, and says so."""
    dispatch: Any = ListenDispatch(accept=lambda _: Status.SUCCESS)
    with pytest.raises(InvalidParameterError, match="is of handlers, and there is none"):
        open_server(dispatch, 0, on_handler_error="raise")


@pytest.mark.parametrize(
    ("options", "call", "others"),
    [
        (ListeningOptions, open_listening_socket, {"port", "dispatch"}),
        (ServerOptions, settings_for_handler, {"handler"}),
        (EventServerOptions, settings_for_events, {"dispatch"}),
    ],
)
def test_options_have_names_and_types(
    options: Any, call: Callable[..., object], others: set[str]
) -> None:
    """
    What can be passed on as ``**options`` is what the function takes, but for what is told by
    itself; the functions that serve pass them on.
    """
    own = inspect.signature(call).parameters.keys() - {"listening"}
    handed_on = {*_names(ListeningOptions)} if call is not open_listening_socket else set()

    assert _names(options) == (own | handed_on) - others
    assert set() == options.__required_keys__


@pytest.mark.parametrize(
    ("call", "own"),
    [
        (serve, {"handler", "port", "task_status"}),
        (open_server, {"handler", "port"}),
        (run, {"handler", "port"}),
        (serve_events, {"dispatch", "port", "task_status"}),
    ],
)
def test_options_of_servers_are_written_once(call: Callable[..., object], own: set[str]) -> None:
    """The functions that serve take what is told by itself, and no option but by its TypedDict."""
    assert own | {"options"} == inspect.signature(call).parameters.keys()


# --- Answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [InspectAction.ACCEPT, InspectAction.PEND])
@pytest.mark.parametrize("close", [b"421 busy\r\n", CloseStyle.FIN, CloseStyle.SILENT])
def test_word_for_who_is_rejected_is_refused_with_another_verdict(action: Any, close: Any) -> None:
    """A message, or a way to close, for somebody who is not sent away would never be used."""
    with pytest.raises(InvalidParameterError, match=r"Verdict\(InspectAction.REJECT, close="):
        Verdict(action, close=close)


class Unprintable:
    """Objects that can't be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("callback", ["accept", "receive", "inspect", "inspect slowly"])
async def test_answer_that_cannot_be_shown_is_reported_all_the_same(callback: str) -> None:
    """A report of nonsense does not fail with it: the connection is reset, and the pump goes on."""

    def answer(*_: object) -> Any:
        return Unprintable()

    async def answer_slowly(_: object) -> Any:
        return Unprintable()

    reports: list[Any] = []
    dispatch = {
        "accept": ListenDispatch(accept=answer),
        "receive": ListenDispatch(accept=lambda _: ConnectionDispatch(receive=answer)),
        "inspect": ListenDispatch(inspect=answer),
        "inspect slowly": ListenDispatch(inspect=answer_slowly),
    }[callback]
    async with open_listening_socket(
        0, host=HOST, dispatch=dispatch, observers=[reports.append, Silent()]
    ) as listening:
        if dispatch.accept is not None:
            listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        for _ in range(2):
            client = connect_now(listening.local_addresses[0])
            with suppress(trio.BrokenResourceError):  # it has been reset already
                await client.send_all(b"x")

            assert "reset" == await fate_of(client)

            await client.aclose()

    errors = [str(each.error) for each in reports if isinstance(each, CallbackFailed)]

    assert 2 == len(errors)
    assert all("<Unprintable, whose repr() raises ZeroDivisionError>" in each for each in errors)


# --- A server's own event ---------------------------------------------------------------------


@pytest.mark.parametrize("way", ["handler", "events"])
async def test_accept_event_of_a_server_stays_enabled(way: str) -> None:
    """
    Disabling the event that a server lives on is refused, with what to call instead; the server
    goes on serving.
    """
    served: list[object] = []

    async def handler(connection: Connection) -> None:
        await trio.lowlevel.checkpoint()
        served.append(connection)

    def accept(connection: Connection) -> Status:
        served.append(connection)
        connection.close()
        return Status.SUCCESS

    opened: Any = (
        open_server(handler, 0, host=HOST)
        if way == "handler"
        else open_server(ListenDispatch(accept=accept), 0, host=HOST)
    )
    async with opened as server:
        with pytest.raises(InvalidDeviceStateError, match=r"server.listening.pause\(\)"):
            server.listening.disable_event_nowait(EventMask.ACCEPT)
        with pytest.raises(InvalidDeviceStateError, match=r"server.listening.pause\(\)"):
            await server.listening.disable_event(EventMask.ACCEPT)
        client = await connect(server.local_addresses[0])
        await until(lambda: served)
        await client.aclose()
