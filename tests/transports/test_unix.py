"""Listening on a Unix path."""

# ruff: noqa: ASYNC240 - files of the test's own, which block nobody

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.helpers.blocking_peers import connected, fate_of
from tests.helpers.portable_peers import owning
from tests.helpers.scarcity import named_descriptors
from trio_wsk._engine.choice import task_readiness
from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError
from trio_wsk._vocabulary.status import Status
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 107
"""Octets that Linux' sockaddr_un has for a path, without the NUL at its end."""

LONGEST_DIRECTORY = LONGEST - len("/.wsk-123456/s")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to listen."""
    return tmp_path / "app.sock"


def listening_at(path: Path, backlog: int = 8) -> socket.socket:
    """Listen on a path as other programs do."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(bytes(path))
    sock.listen(backlog)
    return sock


def leave_stale(path: Path) -> None:
    """Leave what a server that has crashed leaves."""
    listening_at(path).close()


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Work under another umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


# --- Arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [7, None, ["x"]])
def test_path_that_is_none_is_refused(path: Any) -> None:
    """The message has the value and a right call."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.unix(path)

    assert f"path={path!r} is no path; write path='/run/app/app.sock'" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("", "is empty; write path='/run/app/app.sock'"),
        (b"", "is empty"),
        ("/run/a\0b", "has a NUL inside"),
        ("/run/", "names a directory; write path='/run/app.sock'"),
        ("\0", "has no name after the NUL"),
        ("\0" + "n" * 108, "has 109 octets, and an abstract name may have 108"),
        ("/" + "n" * 107, "has 108, and its directory 0"),
        ("d" * LONGEST_DIRECTORY + "d/x", f"its directory {LONGEST_DIRECTORY}, since"),
        ("\ud800", "is no path"),
    ],
)
def test_path_that_can_not_be_bound_is_refused(path: str | bytes, complaint: str) -> None:
    """What no kernel would bind is said at once, with the value and the limit."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.unix(path)

    assert f"path={path!r} {complaint}" in str(caught.value) or complaint in str(caught.value)
    assert f"path={path!r}" in str(caught.value)


@pytest.mark.parametrize("mode", ["0660", 660, 644, -1, 0o1777, True])
def test_mode_that_is_none_is_refused(mode: Any) -> None:
    """Forgetting the ``0o`` gives an error with a right call, not strange permissions."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.unix("x", mode=mode)

    assert f"mode={mode!r} is no file mode; write mode=0o660" in str(caught.value)


def test_abstract_name_has_no_mode() -> None:
    """A mode that could not be kept is refused."""
    with pytest.raises(InvalidParameterError, match="mode=0o660 needs a file"):
        PortableTransport.unix("\0name", mode=0o660)


def test_abstract_name_is_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere such a name would make a strange file, or nothing at all."""
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(InvalidParameterError, match="is an abstract name, which only Linux has"):
        PortableTransport.unix("\0name")


def test_path_is_refused_where_there_are_no_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python on Windows says so at once."""
    monkeypatch.delattr(socket, "AF_UNIX")

    with pytest.raises(InvalidParameterError, match="path='x' can't be had: no Unix sockets"):
        PortableTransport.unix("x")


def test_wrong_backlog_is_refused() -> None:
    """The backlog is checked before anything is bound."""
    with pytest.raises(InvalidParameterError, match="backlog=-1 "):
        PortableTransport.unix("x", backlog=-1)


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
async def test_path_may_be_text_octets_or_a_path(kind: Any, path: Path) -> None:
    """All three kinds of path mean the same place."""
    async with owning(PortableTransport.unix(kind(path))) as owner:
        assert Address.unix(path) == owner.address


async def test_path_may_be_no_text(tmp_path: Path) -> None:
    """A file name that is no UTF-8 is a file name all the same."""
    path = os.path.join(os.fsencode(tmp_path), b"\xff.sock")  # noqa: PTH118 - octets

    async with owning(PortableTransport.unix(path)):
        assert b"\xff.sock" in os.listdir(os.fsencode(tmp_path))  # noqa: PTH208


@pytest.mark.parametrize(
    ("directory", "name"),
    [("", "n" * LONGEST), ("d" * LONGEST_DIRECTORY, "s"), ("d" * 50, "n" * (LONGEST - 51))],
    ids=["name", "directory", "both"],
)
async def test_longest_path_works(
    directory: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not refused as too long can be bound, although there is a temporary name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / directory).mkdir(exist_ok=True)
    path = os.path.join(directory, name)  # noqa: PTH118 - relative, as it stands

    async with owning(PortableTransport.unix(path)) as owner:
        connected(owner.address).close()
        (await owner.request()).reset()


# --- Appearing and going --------------------------------------------------------------------


async def test_path_appears_when_the_server_is_there(path: Path) -> None:
    """Bound, there is a temporary directory for ourselves; listening, only the path."""
    transport = PortableTransport.unix(path)
    await transport.bind()

    assert not path.exists()
    assert 1 == len(list(path.parent.iterdir()))

    transport.listen(task_readiness())

    assert [path] == list(path.parent.iterdir())

    connected(Address.unix(path)).close()
    transport.close()

    assert [] == list(path.parent.iterdir())


async def test_address_is_the_final_path(path: Path) -> None:
    """Neither the listening socket nor its requests show the temporary name."""
    async with owning(PortableTransport.unix(path)) as owner:
        assert f"unix:{path}" == str(owner.address)

        connected(owner.address).close()
        request = await owner.request()

        assert owner.address == request.local_address

        request.reset()


async def test_bind_is_a_checkpoint(path: Path) -> None:
    """Binding gives other tasks their turn."""
    transport = PortableTransport.unix(path)
    with trio.testing.assert_checkpoints():
        await transport.bind()

    transport.close()


async def test_closing_before_listening_leaves_nothing(path: Path) -> None:
    """The temporary name goes as well."""
    before = named_descriptors()
    transport = PortableTransport.unix(path)
    await transport.bind()
    transport.close()

    assert [] == list(path.parent.iterdir())
    assert before == named_descriptors()


async def test_relative_path_is_removed_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing the working directory while listening leaves nothing behind, nor takes more."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "app.sock").touch()
    monkeypatch.chdir(tmp_path)
    async with owning(PortableTransport.unix("app.sock")):
        monkeypatch.chdir("elsewhere")

    assert not (tmp_path / "app.sock").exists()
    assert (tmp_path / "elsewhere" / "app.sock").exists()


async def test_path_of_a_successor_is_not_removed(path: Path) -> None:
    """Closing looks whether the path is still ours; a server that took it over keeps it."""
    async with owning(PortableTransport.unix(path)) as owner:
        path.unlink()
        successor = listening_at(path)

        assert successor.getsockname() == owner.address.path

    with successor:
        connected(Address.unix(path)).close()


async def test_path_that_somebody_has_removed_is_no_error(path: Path) -> None:
    """Closing does not raise for what is gone already."""
    async with owning(PortableTransport.unix(path)):
        path.unlink()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777, 0o000], ids=oct)
@pytest.mark.parametrize("mask", [0o000, 0o077], ids=oct)
async def test_mode_is_kept_whatever_the_umask(mode: int, mask: int, path: Path) -> None:
    """The path has the permissions that were asked for, from the moment that it is there."""
    with umask(mask):
        async with owning(PortableTransport.unix(path, mode=mode)):
            assert mode == mode_of(path)


async def test_mode_that_is_not_given_is_the_umasks(path: Path) -> None:
    """Without a mode the path is like any new file."""
    with umask(0o027):
        async with owning(PortableTransport.unix(path)):
            assert 0o750 == mode_of(path)


async def test_mode_that_can_not_be_set_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket with other permissions than were asked for is not kept."""

    def chmod(path: bytes, mode: int, *, dir_fd: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    before = named_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", chmod)
        with pytest.raises(BindError) as caught:
            await PortableTransport.unix(path, mode=0o600).bind()

    assert Status.ACCESS_DENIED is caught.value.status
    assert [] == list(path.parent.iterdir())
    assert before == named_descriptors()


@pytest.mark.parametrize(
    "attack", ["link_to_file", "link_to_directory", "own_directory", "inner_directory"]
)
def test_who_may_write_there_cannot_have_other_files_changed(attack: str) -> None:
    """
    Whatever somebody who may write to the directory, or to one above it, swaps for a link, and
    before whichever step: no file elsewhere gets the socket's mode, or is removed or replaced.
    """
    run = subprocess.run(  # noqa: S603 - a program of the tests' own
        [sys.executable, "-m", "tests.helpers.swapping", attack], capture_output=True, check=True
    )
    found = json.loads(run.stdout)

    assert [] == found["harm"]
    assert {"os.chmod", "os.rename", "os.remove", "socket.bind"} <= {*found["attacked"]}


# --- What is at the path already --------------------------------------------------------------


async def test_stale_path_is_replaced(path: Path) -> None:
    """What a crashed server has left does not keep the next one from starting."""
    leave_stale(path)

    async with owning(PortableTransport.unix(path)) as owner:
        connected(owner.address).close()
        (await owner.request()).reset()


async def test_stale_path_stays_until_the_new_server_is_there(path: Path) -> None:
    """Replacing is one step: there is no moment without a path."""
    leave_stale(path)
    transport = PortableTransport.unix(path)
    await transport.bind()

    assert path.is_socket()

    transport.close()

    assert path.is_socket()


@pytest.mark.parametrize("queued", [0, 1, 2])
async def test_live_path_is_not_replaced(queued: int, path: Path) -> None:
    """
    Somebody who listens keeps the path, be they so busy that nobody can connect; the
    message names it and says what to do.
    """
    with listening_at(path, backlog=0) as live:
        peers = []
        for _ in range(queued):
            peer = socket.socket(socket.AF_UNIX)
            peer.setblocking(False)  # noqa: FBT003
            peer.connect_ex(bytes(path))
            peers.append(peer)
        before = named_descriptors()

        with pytest.raises(BindError) as caught:
            await PortableTransport.unix(path).bind()

        assert errno.EADDRINUSE == caught.value.errno
        assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
        assert f"cannot listen on unix:{path}: Address already in use" in str(caught.value)
        assert "somebody seems to listen there" in str(caught.value)
        assert live.getsockname() == os.fspath(path)
        assert [path] == list(path.parent.iterdir())
        assert before == named_descriptors()

        for peer in peers:
            peer.close()


async def test_path_of_another_kind_of_socket_is_not_replaced(path: Path) -> None:
    """A datagram server can't be connected to, and is alive all the same."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as live:
        live.bind(bytes(path))

        with pytest.raises(BindError, match="somebody seems to listen there"):
            await PortableTransport.unix(path).bind()

        assert path.is_socket()


async def test_path_that_is_taken_between_bind_and_listen_is_not_replaced(path: Path) -> None:
    """The path is looked at once more; the loser goes without a trace."""
    transport = PortableTransport.unix(path)
    await transport.bind()
    with listening_at(path) as winner:
        with pytest.raises(BindError, match="somebody seems to listen there"):
            transport.listen(task_readiness())

        assert [path] == list(path.parent.iterdir())
        connected(Address.unix(path)).close()
        winner.accept()[0].close()


def make_file(path: Path) -> None:
    """Put a file there."""
    path.write_text("precious")


def make_link(path: Path) -> None:
    """Put a link to a stale socket there."""
    leave_stale(path.with_name("elsewhere.sock"))
    path.symlink_to("elsewhere.sock")


@pytest.mark.parametrize("make", [make_file, Path.mkdir, make_link, os.mkfifo])
async def test_what_is_no_socket_is_never_replaced(make: Any, path: Path) -> None:
    """A file, a directory, a link and a pipe stay; the message says so."""
    make(path)
    before = path.lstat(), sorted(path.parent.iterdir())

    with pytest.raises(BindError, match="it is no socket, and nothing else is ever") as caught:
        await PortableTransport.unix(path).bind()

    assert errno.EEXIST == caught.value.errno
    assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
    assert before == (path.lstat(), sorted(path.parent.iterdir()))


async def test_file_that_appears_between_bind_and_listen_is_not_replaced(path: Path) -> None:
    """The second look, too, spares what is no socket."""
    transport = PortableTransport.unix(path)
    await transport.bind()
    make_file(path)

    with pytest.raises(BindError, match="it is no socket"):
        transport.listen(task_readiness())

    assert "precious" == path.read_text()
    assert [path] == list(path.parent.iterdir())


async def test_temporary_name_that_somebody_has_removed_is_an_error(path: Path) -> None:
    """A socket that can't get its name doesn't go on listening without one."""
    readiness = task_readiness()
    before = named_descriptors()
    transport = PortableTransport.unix(path)
    await transport.bind()
    (temporary,) = path.parent.glob("*/s")
    temporary.unlink()

    with pytest.raises(BindError, match=f"cannot listen on unix:{path}: No such file"):
        transport.listen(readiness)

    assert [] == list(path.parent.iterdir())
    assert before == named_descriptors()


# --- What the machine refuses -----------------------------------------------------------------


async def test_missing_directory_is_named(path: Path) -> None:
    """The kernel's "no such file" is about the directory, and is told so."""
    before = named_descriptors()

    with pytest.raises(BindError, match="its directory does not exist") as caught:
        await PortableTransport.unix(path / "app.sock").bind()

    assert Status.NOT_FOUND is caught.value.status
    assert f"unix:{path}/app.sock" in str(caught.value)
    assert before == named_descriptors()


async def test_directory_that_is_not_writable_is_named(own_folder: Path) -> None:
    """Listening on a path needs the right to make a file there; the message says so."""
    path = own_folder / "app.sock"
    own_folder.chmod(0o500)

    with pytest.raises(BindError, match="directory has to be writable") as caught:
        await PortableTransport.unix(path).bind()

    assert Status.ACCESS_DENIED is caught.value.status


async def test_path_that_we_may_not_connect_to_counts_as_live(own_folder: Path) -> None:
    """Where it can't be told whether somebody listens, nothing is replaced."""
    path = own_folder / "app.sock"
    leave_stale(path)
    path.chmod(0o000)

    with pytest.raises(BindError, match="somebody seems to listen there"):
        await PortableTransport.unix(path).bind()

    assert path.is_socket()


# --- Abstract names ---------------------------------------------------------------------------


@pytest.fixture
def name() -> str:
    """An abstract name that nobody has."""
    return f"\0trio_wsk-test-{os.getpid()}-{os.urandom(4).hex()}"


async def test_abstract_name_is_bound_as_it_is(name: str) -> None:
    """An abstract name makes no file, and answers."""
    async with owning(PortableTransport.unix(name)) as owner:
        assert name == owner.address.path

        with connected(owner.address) as peer:
            (await owner.request()).reset()

            assert "fin" == fate_of(peer)


async def test_longest_abstract_name_works(name: str) -> None:
    """All 108 octets may be used, the leading NUL among them."""
    async with owning(PortableTransport.unix(name.ljust(108, "x"))) as owner:
        connected(owner.address).close()


async def test_abstract_name_that_is_taken_is_named(name: str) -> None:
    """The message has the name, readable, and says what to do."""
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(name)

        with pytest.raises(BindError, match="somebody listens there") as caught:
            await PortableTransport.unix(name).bind()

        assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
        assert f"unix:@{name[1:]}" in str(caught.value)
