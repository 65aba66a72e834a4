"""`run`: real processes, and the signals that they are told to end by."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import closing
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_wsk
from tests.helpers.programs import running
from tests.helpers.support import PATIENCE
from trio_wsk import ConnectionDispatch, ListenDispatch, run
from trio_wsk.observers import ServerStarted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.programs import Program
    from trio_wsk.observers import Record

pytestmark = pytest.mark.programs

LISTENS = "listening on 127.0.0.1:"
SIGNALS = pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=["SIGINT", "SIGTERM"])


def program(options: str = "", handler: str = "echo", before: str = "") -> str:
    """Write a program that is a server, and says when it goes on after it, and cleans up."""
    return f"""
import logging, signal, sys, time
import trio, trio_wsk
from trio_wsk.transports import PortableTransport

async def echo(connection):
    async for data in connection:
        await connection.send_all(data)

def send_back(connection, data):
    connection.send_nowait(data)

echo_events = trio_wsk.ListenDispatch(
    accept=lambda connection: trio_wsk.ConnectionDispatch(receive=send_back),
    drain=lambda connection: connection.disconnect(),
)
{before}
try:
    trio_wsk.run({handler}, {options or 'int(sys.argv[1]), host="127.0.0.1", grace=1000'})
    print("went on")
finally:
    print("cleaned up", flush=True)
"""


def connected(server: Program) -> socket.socket:
    """Read where it listens, connect, and be served."""
    line = server.next_error()

    assert line.startswith(LISTENS), line

    client = socket.create_connection(("127.0.0.1", int(line.removeprefix(LISTENS))), PATIENCE)
    said(client, b"a")
    return client


def said(client: socket.socket, octet: bytes) -> None:
    """Say something, and hear it again."""
    client.sendall(octet)

    assert octet == client.recv(1)


def was_reset(client: socket.socket) -> bool:
    """Read to the end; tell whether that was a reset."""
    try:
        while client.recv(1000):
            pass
    except ConnectionResetError:
        return True
    return False


@SIGNALS
def test_signal_ends_a_program_in_order(number: signal.Signals) -> None:
    """
    A program that is told to end says so, ends, and has done what it was asked to do: what comes
    after the server is run, and the exit status is 0. Nothing looks like an error.
    """
    with running(program(), "0") as server:
        assert server.next_error().startswith(LISTENS)

        server.process.send_signal(number)

        assert "draining: open connections (0) are given 1000 s to finish" == server.next_error()
        assert (
            0,
            "went on\ncleaned up\n",
            "drained: 0 finished, 0 reset\n",
        ) == server.finish()


@pytest.mark.parametrize("handler", ["echo", "echo_events"])
@SIGNALS
def test_clients_finish_before_the_program_ends(number: signal.Signals, handler: str) -> None:
    """Who is connected when a signal comes is served on, for a handler as for callbacks."""
    with running(program(handler=handler), "0") as server, closing(connected(server)) as client:
        server.process.send_signal(number)

        assert server.next_error().startswith("draining: open connections (1)")

        if handler == "echo":
            said(client, b"b")
        client.shutdown(socket.SHUT_WR)

        assert not was_reset(client)
        assert (0, "drained: 1 finished, 0 reset\n") == server.finish()[::2]


def test_who_outstays_the_grace_is_reset() -> None:
    """When the grace has run out connections are reset, and the program has still ended well."""
    options = '0, host="127.0.0.1", grace=0'
    with running(program(options)) as server, closing(connected(server)) as client:
        server.process.send_signal(SIGTERM)

        assert was_reset(client)
        assert (0, "went on\ncleaned up\n") == server.finish()[:2]


@pytest.mark.parametrize(
    ("first", "second"),
    [(SIGINT, SIGINT), (SIGTERM, SIGTERM), (SIGTERM, SIGINT), (SIGINT, SIGTERM)],
)
def test_second_signal_aborts(first: signal.Signals, second: signal.Signals) -> None:
    """
    A second signal does not wait for the grace: connections are reset, the program cleans up, and
    its exit status is that of a process which the second signal has killed.
    """
    with running(program(), "0") as server, closing(connected(server)) as client:
        server.process.send_signal(first)

        assert server.next_error().startswith("draining")

        said(client, b"b")
        server.process.send_signal(second)

        assert was_reset(client)
        assert (
            128 + second,
            "cleaned up\n",
            "drained: 0 finished, 1 reset\n",
        ) == server.finish()


STUCK = """
async def stick(connection):
    print("stuck", flush=True)
    while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        time.sleep(0.001)
    print("let go", flush=True)
    while True:
        time.sleep(0.001)
"""


def test_third_signal_kills() -> None:
    """A handler that lets nobody else run can't keep Ctrl-C from ending the program."""
    with running(program(handler="stick", before=STUCK), "0") as server:
        line = server.next_error()
        port = int(line.removeprefix(LISTENS))
        with socket.create_connection(("127.0.0.1", port), PATIENCE):
            assert "stuck" == server.next_line()

            server.process.send_signal(SIGINT)
            server.process.send_signal(SIGTERM)

            assert "let go" == server.next_line()

            server.process.send_signal(SIGINT)

            assert (-SIGINT, "", "") == server.finish()


OPENS_SLOWLY = """
class Slow(PortableTransport):
    async def bind(self):
        print("binding", flush=True)
        await trio.sleep_forever()
"""


@SIGNALS
def test_signal_while_it_opens_ends_the_program(number: signal.Signals) -> None:
    """Who ends a program before it listens need not wait until it does, and sees no traceback."""
    options = 'transport=Slow.tcp(0, host="127.0.0.1")'
    with running(program(options, before=OPENS_SLOWLY)) as server:
        assert "binding" == server.next_line()

        server.process.send_signal(number)

        assert (0, "went on\ncleaned up\n", "") == server.finish()


def test_port_that_is_taken_is_one_line() -> None:
    """A program that can't listen says why in a line, without a traceback, and has failed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(program(), str(port)) as server:
            status, output, errors = server.finish()

    assert (1, "cleaned up\n") == (status, output)
    assert errors.startswith(f"cannot listen on 127.0.0.1:{port}")
    assert 1 == errors.count("\n")


def test_point_that_cannot_be_had_is_one_line() -> None:
    """So does one that can't inspect where it shall."""
    point = "trio_wsk.InspectPoint.BEFORE_HANDSHAKE"
    options = f'path="x.sock", inspect=lambda _: None, inspect_point={point}'
    with running(program(options)) as server:
        status, _, errors = server.finish()

    assert 1 == status
    assert "has no handshake to inspect before" in errors
    assert 1 == errors.count("\n")


def test_log_gets_the_lines_if_there_is_one() -> None:
    """What logging was set up for goes there, once, and not to standard error as well."""
    before = 'logging.basicConfig(level="INFO", stream=sys.stdout, format="%(name)s: %(message)s")'
    with running(program(before=before), "0") as server:
        assert server.next_line().startswith(f"trio_wsk: {LISTENS}")

        server.process.send_signal(SIGTERM)
        status, output, errors = server.finish()

    assert (0, "") == (status, errors)
    assert "trio_wsk: drained: 0 finished, 0 reset" in output.splitlines()


# --- In this process --------------------------------------------------------------------------


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """Send everything back."""
    while data := await stream.receive_some():
        await stream.send_all(data)


def signalled(number: int) -> Callable[[Record], None]:
    """Make an observer that sends this process a signal as soon as a server listens."""

    def observe(record: Record) -> None:
        if isinstance(record, ServerStarted):
            signal.raise_signal(number)

    return observe


@pytest.mark.parametrize(
    "handler",
    [echo, ListenDispatch(accept=lambda _: ConnectionDispatch(receive=lambda *_: None))],
    ids=["handler", "dispatch"],
)
@SIGNALS
def test_signals_are_what_they_were_when_it_returns(number: signal.Signals, handler: Any) -> None:
    """`run` returns when it has drained, and leaves signals to whom it has taken them from."""
    before = [signal.getsignal(each) for each in (SIGINT, SIGTERM)]

    run(handler, 0, host="127.0.0.1", observers=[signalled(number)])

    assert before == [signal.getsignal(each) for each in (SIGINT, SIGTERM)]


def test_signals_can_be_chosen() -> None:
    """What ends it need not be what ends others; those are left as they are."""
    seen: list[Any] = []

    def observe(record: Record) -> None:
        if isinstance(record, ServerStarted):
            seen.append(signal.getsignal(SIGTERM))
            signal.raise_signal(signal.SIGUSR1)

    run(echo, 0, host="127.0.0.1", signals=[signal.SIGUSR1], observers=[observe])

    assert [signal.getsignal(SIGTERM)] == seen


def test_without_signals_ctrl_c_is_trios() -> None:
    """With ``signals=()`` Ctrl-C raises `KeyboardInterrupt`, as in every other Trio program."""
    with pytest.raises(KeyboardInterrupt):
        run(echo, 0, host="127.0.0.1", signals=(), observers=[signalled(SIGINT)])


async def test_run_in_trio_is_refused() -> None:
    """Inside of Trio there is nothing to start; it says what to write there."""
    with pytest.raises(RuntimeError, match=r"write await trio_wsk\.serve\(\.\.\.\)"):
        run(echo, 0)


def test_run_in_a_thread_is_refused() -> None:
    """Signals are heard in the main thread; elsewhere they have to be left out."""
    refusals: list[str] = []

    def refused() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        with pytest.raises(RuntimeError) as caught:
            run(echo, sockets=[sock])
        refusals.append(str(caught.value))

        assert -1 == sock.fileno()

    thread = threading.Thread(target=refused)
    thread.start()
    thread.join()
    (message,) = refusals

    assert message.startswith("run() hears signals, and Python tells of them in the main thread")


def test_wrong_option_is_told_in_its_name() -> None:
    """A slip in an option's name blames `run`, and so does a wrong kind of server."""
    with pytest.raises(TypeError, match=r"run\(\) got an unexpected keyword argument 'max_conns'"):
        run(echo, 0, max_conns=3)  # type: ignore[call-overload]  # as it says
    dispatch = ListenDispatch(accept=lambda _: trio_wsk.Status.SUCCESS)
    with pytest.raises(trio_wsk.InvalidParameterError, match="run takes one ListenDispatch"):
        run(dispatch, 0, dispatch=dispatch)  # type: ignore[call-overload]  # as it says
