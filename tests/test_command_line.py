"""``serve`` and ``check``: real processes, as they are typed."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from signal import SIGTERM
from typing import TYPE_CHECKING

import pytest

from tests.helpers.places import ROOT
from tests.helpers.programs import LONG, Program, running_python
from tests.helpers.serving import CA, SERVER_CERTIFICATE
from tests.helpers.support import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.programs

LISTENS = "listening on 127.0.0.1:"

APP = """
import trio, trio_wsk

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

def send_back(connection, data):
    connection.send_nowait(data)

events = trio_wsk.ListenDispatch(
    accept=lambda connection: trio_wsk.ConnectionDispatch(receive=send_back),
    drain=lambda connection: connection.disconnect(),
)

def nobody(request):
    return trio_wsk.InspectAction.REJECT

def plain(connection):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module of handlers, a certificate and its key."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    SERVER_CERTIFICATE.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    SERVER_CERTIFICATE.private_key_pem.write_to_path(tmp_path / "key.pem")
    return tmp_path


def command(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a command that ends by itself; return its status, and what it says."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", "-m", "trio_wsk", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LONG,
        check=False,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


def port_of(server: Program) -> int:
    """Read where it listens."""
    line = server.next_error()

    assert line.startswith(LISTENS), line

    return int(line.removeprefix(LISTENS))


def echoes(client: socket.socket) -> bool:
    """Whether what is said comes back."""
    client.sendall(b"hello")
    return client.recv(5) == b"hello"


@pytest.mark.parametrize("handler", ["app:echo", "app:events"])
def test_handler_is_served_until_a_signal(handler: str, folder: Path) -> None:
    """A handler, or callbacks, are served without a program of their own, and drained."""
    arguments = ["serve", handler, "--host", "127.0.0.1", "--port", "0"]
    with running_python("-m", "trio_wsk", *arguments, folder=folder) as server:
        with socket.create_connection(("127.0.0.1", port_of(server)), PATIENCE) as client:
            assert echoes(client)

        server.process.send_signal(SIGTERM)
        status, output, errors = server.finish()

    assert (0, "") == (status, output)
    assert "drained: " in errors


def test_options_reach_the_server(folder: Path) -> None:
    """
    What stands in a file, in the environment and on the command line is what the server has: here
    an inspector, the grace, and the place.
    """
    (folder / "a.toml").write_text('handler = "app:echo"\ninspect = "app:nobody"\n', "utf-8")
    arguments = ["serve", "--config", "a.toml", "--host", "127.0.0.1", "--port", "0"]
    environment = {"TRIO_WSK_GRACE": "7"}
    with running_python(
        "-m", "trio_wsk", *arguments, folder=folder, environment=environment
    ) as server:
        address = ("127.0.0.1", port_of(server))
        with (
            socket.create_connection(address, PATIENCE) as client,
            pytest.raises(ConnectionResetError),
        ):
            client.recv(1)
        server.process.send_signal(SIGTERM)

        assert "given 7 s" in server.next_error()


def test_unix_path_has_its_mode(folder: Path) -> None:
    """A path is listened on, with the permissions that it was given."""
    path = folder / "s"
    arguments = ["serve", "app:echo", "--path", "s", "--mode", "600"]
    with running_python("-m", "trio_wsk", *arguments, folder=folder) as server:
        assert "listening on unix:s" == server.next_error()
        assert 0o600 == path.stat().st_mode & 0o777

        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))

            assert echoes(client)


@pytest.mark.parametrize("how", ["--fd", "--socket-name"])
def test_sockets_that_exist_are_taken(how: str, folder: Path) -> None:
    """A socket is taken by its number, or because a service manager passes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        # The number is known in the new process only, so that writes the variables itself.
        program = f"""
import os, runpy, sys
if {how!r} == "--socket-name":
    if {fd} != 3:
        os.dup2({fd}, 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="web")
runpy.run_module("trio_wsk", run_name="__main__")
"""
        which = str(fd) if how == "--fd" else "web"
        arguments = ["-c", program, "serve", "app:echo", how, which]
        with running_python(*arguments, folder=folder, pass_fds=[fd]) as server:
            assert listening.getsockname()[1] == port_of(server)

            with socket.create_connection(listening.getsockname(), PATIENCE) as client:
                assert echoes(client)


def test_tls_is_spoken(folder: Path) -> None:
    """With a certificate and its key, the server speaks TLS."""
    arguments = ["--host", "127.0.0.1", "--port", "0", "--tls-cert", "cert.pem"]
    arguments += ["--tls-key", "key.pem"]
    context = ssl.create_default_context()
    CA.configure_trust(context)
    with running_python("-m", "trio_wsk", "serve", "app:echo", *arguments, folder=folder) as server:
        plain = socket.create_connection(("127.0.0.1", port_of(server)), PATIENCE)
        with context.wrap_socket(plain, server_hostname="server.test") as client:
            assert echoes(client)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["app:ech", "--port", "0"], "the handler: app has no 'ech'; did you mean 'echo'?"),
        (["app:plain", "--port", "0"], "the handler: handler is an async function, not the plain"),
        (["app:echo", "--port", "x"], "--port: port is a number from 0 (any that is free)"),
        (["app:echo"], "there is no place to listen at: write --port 7007"),
        (["app:echo", "--socket-name", "a"], "--socket-name: the service manager passes no socket"),
        (["app:echo", "--port", "0", "--tls-cert", "x.pem"], "--tls-cert: x.pem can't be read: No"),
        (
            ["app:echo", "--port", "0", "--tls-cert", "cert.pem"],
            "--tls-cert: 'cert.pem' can't be used",
        ),
        (
            ["app:events", "--port", "0", "--inspect", "app:nowhere"],
            "--inspect: app has no 'nowhere'",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_started(
    arguments: list[str], complaint: str, folder: Path
) -> None:
    """A mistake is one line, without a traceback, and the status is that of a wrong command."""
    status, output, errors = command(folder, "serve", *arguments)

    assert (2, "") == (status, output)
    assert errors.startswith(complaint)
    assert 1 == errors.count("\n")


def test_encrypted_key_is_said_and_nobody_asked(folder: Path) -> None:
    """A key with a password is a mistake: there is nobody who would type it."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - of this test alone

    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (folder / "key.pem").write_bytes(encrypted)
    arguments = ["--port", "0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]

    assert (
        "--tls-cert: tls_key is encrypted; decrypt it"
        in (command(folder, "check", "app:echo", *arguments)[1])
    )


def test_error_of_a_module_is_shown_whole(folder: Path) -> None:
    """What the handler's module raises is its author's to read, with the traceback."""
    (folder / "app.py").write_text("1 / 0\n", "utf-8")
    status, _, errors = command(folder, "serve", "app:echo", "--port", "0")

    assert 1 == status
    assert "ZeroDivisionError" in errors
    assert 'app.py", line 1' in errors


def test_check_starts_nothing(folder: Path) -> None:
    """Checking says what there is and where it stands, also where somebody listens already."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, output, _ = command(folder, "check", "app:echo", "--port", port, TRIO_WSK_GRACE="7")

    assert 0 == status
    assert [
        "handler = 'app:echo' (the handler)",
        f"port = {port} (--port)",
        "grace = 7.0 (TRIO_WSK_GRACE)",
        "nothing is wrong",
    ] == output.splitlines()


def test_check_ends_with_status_1_for_a_mistake(folder: Path) -> None:
    """All mistakes are told, with their lines."""
    (folder / "a.toml").write_text('handler = "app:echo"\nport = "x"\ngrase = 1\n', "utf-8")

    status, output, _ = command(folder, "check", TRIO_WSK_CONFIG="a.toml")

    assert 1 == status
    assert [
        "a.toml, line 3: grase is no option; did you mean grace?",
        "a.toml, line 2: port is a number from 0 (any that is free) to 65535, not 'x'",
    ] == output.splitlines()


def test_script_is_the_same_program() -> None:
    """The installed script is the command line."""
    tomllib = pytest.importorskip("tomllib", reason="in the standard library since 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert {"trio-wsk": "trio_wsk.__main__:main"} == project["scripts"]
