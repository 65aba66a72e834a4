"""Sockets from a service manager."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk.transports import listen_fds

if TYPE_CHECKING:
    from collections.abc import Mapping

# A service manager in few lines: descriptors from 3 on, then the variables, then the service. The
# process is a new one, because only there is 3 free.
_MANAGER = """
import os, socket, sys
made = [socket.create_server(("127.0.0.1", 0)) for _ in range({count})]
copies = [os.dup(sock.fileno()) for sock in made]
for sock in made:
    sock.close()
for fd, copy in enumerate(copies, 3):
    if fd != copy:
        os.dup2(copy, fd, inheritable=True)
    os.set_inheritable(fd, True)
names = [socket.socket(fileno=os.dup(3 + n)) for n in range({count})]
expected = [sock.getsockname() for sock in names]
for sock in names:
    sock.close()
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="{count}")
"""


def serve(count: int, service: str, variables: Mapping[str, str] | None = None) -> None:
    """Run a service that was handed ``count`` listening sockets."""
    program = "\n".join(
        [
            _MANAGER.format(count=count),
            "from trio_wsk.transports import listen_fds",
            textwrap.dedent(service),
        ]
    )
    subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        env={**os.environ, **(variables or {})},
    )


def test_all_sockets_are_returned_in_order() -> None:
    """The sockets are the manager's, listening, and not for the service's children."""
    serve(
        3,
        """
        sockets = listen_fds()
        assert [3, 4, 5] == [sock.fileno() for sock in sockets]
        assert expected == [sock.getsockname() for sock in sockets]
        assert [1, 1, 1] == [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in sockets
        ]
        assert not any(sock.get_inheritable() for sock in sockets)
        for sock in sockets: sock.close()
        """,
    )


def test_variables_are_forgotten() -> None:
    """A second call finds nothing, and neither does a child."""
    serve(
        1,
        """
        for sock in listen_fds(): sock.close()
        assert [] == listen_fds()
        assert not [name for name in os.environ if name.startswith("LISTEN_")]
        """,
        {"LISTEN_FDNAMES": "web"},
    )


def test_sockets_can_be_asked_for_by_name() -> None:
    """A name stands for one socket, several or none; other sockets are left alone."""
    serve(
        3,
        """
        web = listen_fds("web", unset_environment=False)
        assert [3, 5] == [sock.fileno() for sock in web]
        assert [] == listen_fds("mail", unset_environment=False)
        assert os.get_inheritable(4)
        admin = listen_fds("admin")
        assert [4] == [sock.fileno() for sock in admin]
        for sock in web + admin: sock.close()
        """,
        {"LISTEN_FDNAMES": "web:admin:web"},
    )


def test_sockets_without_names_are_called_unknown() -> None:
    """systemd's word for a socket without a name works here, too."""
    serve(
        2,
        """
        sockets = listen_fds("unknown")
        assert [3, 4] == [sock.fileno() for sock in sockets]
        for sock in sockets: sock.close()
        """,
    )


def test_descriptor_that_is_no_socket_is_named_and_nothing_is_closed() -> None:
    """The manager's mistake is told with number and name; the descriptors stay open."""
    serve(
        1,
        """
        fd = os.open(os.devnull, os.O_RDONLY)
        if fd != 4: os.dup2(fd, 4)
        os.environ["LISTEN_FDS"] = "2"
        try:
            listen_fds()
        except ValueError as error:
            assert "descriptor 4 ('file')" in str(error), error
        else:
            raise AssertionError("no error")
        os.fstat(3), os.fstat(4)
        """,
        {"LISTEN_FDNAMES": "web:file"},
    )


def test_process_without_a_manager_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand, a service gets an empty list."""
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    monkeypatch.delenv("LISTEN_PID", raising=False)

    assert [] == listen_fds()


@pytest.mark.parametrize("missing", ["LISTEN_FDS", "LISTEN_PID"])
def test_half_of_the_variables_are_none(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors without a process, or the reverse, are nobody's."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.delenv(missing)

    assert [] == listen_fds()


def test_sockets_of_a_parent_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that inherits the variables leaves the descriptors alone, and forgets them."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))

    assert [] == listen_fds()
    assert "LISTEN_FDS" not in os.environ


def test_no_sockets_are_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that has none to give says 0, with no names."""
    monkeypatch.setenv("LISTEN_FDS", "0")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDNAMES", "")

    assert [] == listen_fds()


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("LISTEN_FDS", "one", "LISTEN_FDS='one' is no number"),
        ("LISTEN_FDS", "-1", "LISTEN_FDS='-1' is no number"),
        ("LISTEN_PID", "", "LISTEN_PID='' is no number"),
        ("LISTEN_FDNAMES", "a:b", "LISTEN_FDNAMES='a:b' has 2 names, but LISTEN_FDS=1"),
    ],
)
def test_variables_that_make_no_sense_are_shown(
    variable: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A malformed variable is named with its value, and forgotten all the same."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv(variable, value)

    with pytest.raises(InvalidParameterError) as caught:
        listen_fds()

    assert complaint == str(caught.value)
    assert "LISTEN_FDS" not in os.environ
