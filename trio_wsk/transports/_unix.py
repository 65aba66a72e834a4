r"""Listening on a Unix path, which is a file that has to be there and then has to go.

The socket is bound in a temporary directory beside the path, gets its mode, listens, and only
then is renamed to the path. So a client that finds the path finds a server there, with
the right permissions, and a path that a crashed server left behind is replaced in one step.

The directory of the path may be one that others can write to, and we may be root. So the
temporary directory is ours alone (0700, and looked at after it was made), since what has a
name there is what we have put there: a chmod by name in the outer directory would follow the
symbolic link that somebody has put in the name's place meanwhile. (There is no chmod before
bind: Linux takes the mode of an unbound socket, and then masks it with the umask, which
belongs to the whole process.) And every name is looked up in directories that are held open,
never by the path anew, so that we rename, remove and replace nothing outside of them.

What can't be made safe, since the kernel has no "rename unless somebody listens":

* Two servers that start at the same moment may both find the path stale. Both rename, the
  later one has the path, and the earlier one listens where nobody finds it. The
  path is looked at once more right before the rename, to make that moment short.
* A socket that is bound and doesn't listen yet refuses connections, just as a stale one
  does. Ours never stand at their final path like that. Others' may.
* At close, between looking whether the path is still ours and removing it, somebody may
  rename theirs over it, and we remove theirs.
* bind(2) and connect(2) take paths. Anybody who can write to a directory on the way there can have
  the socket made elsewhere, which is found out right after it, and have us connect elsewhere.

Looking whether somebody listens means connecting. A live server gets to see a connection
that ends at once.

Names that begin with ``\0`` are Linux's abstract ones. They are no files: they go with
their socket, and nothing of the above applies.

Source: unix(7); trio #279 and its pull requests, where the temporary name was worked out.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import sys
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.arguments import whole_number
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError

from ._places import Bound, Place, checked_backlog, close_all

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["UnixPlace"]

_SUN_PATH: Final = 108 if sys.platform == "linux" else 104
"""Octets in ``sockaddr_un.sun_path``; a path that is a file's ends with a NUL inside it."""

_RANDOM_OCTETS: Final = 3
_NAME_INSIDE: Final = b"s"
_TEMPORARY_OCTETS: Final = len(".wsk-") + 2 * _RANDOM_OCTETS + len("/s")
_HIGHEST_MODE: Final = 0o777

# With O_PATH (Linux) the directory needs not be readable; names can be looked up all the same.
_DIRECTORY: Final[int] = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0)
_NO_LINK: Final[int] = getattr(os, "O_NOFOLLOW", 0)


class UnixPlace(Place):
    """One Unix path."""

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        *,
        mode: int | None,
        backlog: int | None,
    ) -> None:
        self._path = _checked_path(path)
        self._is_abstract = self._path.startswith(b"\0")
        self._mode = _checked_mode(mode, path=self._path)
        self._backlog = checked_backlog(backlog)
        self._address = Address.unix(self._path)
        self._socket: socket.socket | None = None
        self._directory: int | None = None
        """The directory of the path, held open as long as there is something in it."""
        self._private: _PrivateDirectory | None = None
        """Where the socket is until it listens."""
        self._identity: tuple[int, int] | None = None
        """What tells our file from one that somebody else has put at the path."""
        self._is_at_path = False

    @property
    def _name(self) -> bytes:
        return self._path.rpartition(b"/")[2]

    async def bind(self) -> Sequence[Bound]:
        """Bind to the abstract name, or in a temporary directory beside the path."""
        await trio.lowlevel.checkpoint()
        try:
            self._socket = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(0)
            if self._is_abstract:
                sock.bind(self._path)
            else:
                self._bind_beside(sock)
        except BindError:
            self.close()
            raise
        except OSError as error:
            hint = self._hint(error)
            self.close()
            raise self._failure(error, hint) from error
        return [Bound(sock, self._address, tuned=False)]

    def _bind_beside(self, sock: socket.socket) -> None:
        directory = self._path[: len(self._path) - len(self._name)]
        self._directory = os.open(directory or b".", os.O_RDONLY | _DIRECTORY)
        self._look_at_path(self._directory)
        self._private = private = _PrivateDirectory(self._directory)
        sock.bind(directory + private.name + b"/" + _NAME_INSIDE)
        self._identity = _identity_of(_NAME_INSIDE, private.fd)
        # Until it listens nobody can connect, so there is no moment with the wrong mode, and
        # no need of the umask.
        if self._mode is not None:
            os.chmod(_NAME_INSIDE, self._mode, dir_fd=private.fd)

    def listen(self) -> None:
        """Listen, and then give the socket its name."""
        assert self._socket is not None, "bind comes first"
        try:
            self._socket.listen(self._backlog)
            if self._private is not None:
                self._move_to_path(self._private)
        except BindError:
            raise
        except OSError as error:
            raise self._failure(error) from error

    def _move_to_path(self, private: _PrivateDirectory) -> None:
        assert self._directory is not None
        self._look_at_path(self._directory)
        os.rename(_NAME_INSIDE, self._name, src_dir_fd=private.fd, dst_dir_fd=self._directory)
        self._is_at_path = True
        private.remove()
        self._private = None

    def close(self) -> None:
        """Remove the path if it is still ours, and close the socket.

        In this order: a socket that is open holds the number of its file, so that nobody
        else's file can have the same one.
        """
        directory, self._directory = self._directory, None
        if self._private is not None:
            self._private.remove()
            self._private = None
        if directory is not None:
            if self._is_at_path:
                self._remove_from(directory)
            os.close(directory)
        if self._socket is not None:
            close_all([self._socket])

    def _remove_from(self, directory: int) -> None:
        try:
            if _identity_of(self._name, directory) == self._identity:
                os.unlink(self._name, dir_fd=directory)
        except OSError:
            pass  # somebody has removed it, or has taken our permission to do so

    def _look_at_path(self, directory: int) -> None:
        """Raise `BindError` if what is at the path must not be replaced."""
        try:
            found = os.stat(self._name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise self._failure(
                OSError(errno.EEXIST, os.strerror(errno.EEXIST)),
                "it is no socket, and nothing else is ever replaced: "
                "remove it, or choose another path",
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0)
            try:
                probe.connect(self._path)
            except (ConnectionRefusedError, FileNotFoundError):
                # Nobody listens, or it has just gone. (Where the kernel refuses for a full
                # backlog as well, BSD's, a server can be so busy that it counts as dead.)
                return
            except OSError:
                # EAGAIN: Linux' full backlog. EPROTOTYPE: a datagram server. EACCES: it
                # can't be told.
                pass
        raise self._failure(
            OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)),
            "somebody seems to listen there (`ss -lxp` shows who): stop it, or choose another path",
        )

    def _hint(self, error: OSError) -> str:
        if error.errno == errno.ENOENT and self._directory is None:
            return "its directory does not exist"
        if error.errno == errno.EACCES:
            return "listening there makes a file, so its directory has to be writable"
        if self._is_abstract and error.errno == errno.EADDRINUSE:
            return "somebody listens there (`ss -lxp` shows who): stop it, or choose another name"
        return ""

    def _failure(self, error: OSError, hint: str = "") -> BindError:
        return BindError.from_oserror(error, str(self._address), hint)


class _PrivateDirectory:
    """A directory in another one, where nobody but this user and root can put anything."""

    def __init__(self, outside: int) -> None:
        self.name: Final = b".wsk-" + secrets.token_hex(_RANDOM_OCTETS).encode()
        self._outside = outside
        os.mkdir(self.name, 0o700, dir_fd=outside)
        try:
            self.fd: Final = os.open(self.name, os.O_RDONLY | _DIRECTORY | _NO_LINK, dir_fd=outside)
        except OSError:
            self._remove_name()
            raise
        found = os.fstat(self.fd)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            os.close(self.fd)
            raise PermissionError(errno.EPERM, "somebody has put another directory in its place")

    def remove(self) -> None:
        """Remove it with what is in it, and close it. Once; never raises."""
        try:
            os.unlink(_NAME_INSIDE, dir_fd=self.fd)
        except OSError:
            pass  # it has moved to its path, or was never there
        self._remove_name()
        os.close(self.fd)

    def _remove_name(self) -> None:
        try:
            os.rmdir(self.name, dir_fd=self._outside)
        except OSError:
            pass  # somebody has put something else in its place, which is not ours to remove


def _identity_of(name: bytes, directory: int) -> tuple[int, int]:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _checked_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidParameterError(f"path={path!r} can't be had: no Unix sockets in this Python")
    try:
        octets = os.fsencode(path)
    except (TypeError, UnicodeError):
        raise InvalidParameterError(
            f"path={path!r} is no path; write path='/run/app/app.sock'"
        ) from None
    if not octets:
        raise InvalidParameterError(f"path={path!r} is empty; write path='/run/app/app.sock'")
    if octets.startswith(b"\0"):
        _check_abstract(path, octets)
    else:
        _check_file(path, octets)
    return octets


def _check_abstract(path: object, octets: bytes) -> None:
    if sys.platform != "linux":
        raise InvalidParameterError(
            f"path={path!r} is an abstract name, which only Linux has; "
            f"write path='/run/app/app.sock'"
        )
    if octets == b"\0":
        raise InvalidParameterError(f"path={path!r} has no name after the NUL")
    if len(octets) > _SUN_PATH:
        raise InvalidParameterError(
            f"path={path!r} has {len(octets)} octets, and an abstract name may have {_SUN_PATH}"
        )


def _check_file(path: object, octets: bytes) -> None:
    if b"\0" in octets:
        raise InvalidParameterError(
            f"path={path!r} has a NUL inside, where the kernel would end it"
        )
    if octets.endswith(b"/"):
        raise InvalidParameterError(
            f"path={path!r} names a directory; write path={os.fsdecode(octets) + 'app.sock'!r}"
        )
    directory, _, name = octets.rpartition(b"/")
    needed = max(len(name), _TEMPORARY_OCTETS)
    if len(octets) - len(name) + needed >= _SUN_PATH:
        raise InvalidParameterError(
            f"path={path!r} is too long: a Unix socket's path may have {_SUN_PATH - 1} octets, "
            f"and its directory {_SUN_PATH - 2 - _TEMPORARY_OCTETS}, since the socket is given a "
            f"temporary name there first; it has {len(octets)}, and its directory "
            f"{len(directory)}"
        )


def _checked_mode(mode: int | None, *, path: bytes) -> int | None:
    if mode is None:
        return None
    # 660 is what 0o1224 looks like in decimal: every slip of this kind is above 0o777.
    if not whole_number(mode) or not 0 <= mode <= _HIGHEST_MODE:
        raise InvalidParameterError(
            f"mode={mode!r} is no file mode; write mode=0o660, with its 0o, or leave it out "
            f"for what the umask gives"
        )
    if path.startswith(b"\0"):
        raise InvalidParameterError(
            f"mode=0o{mode:o} needs a file, and an abstract name is none: whoever can see "
            f"this network namespace can connect"
        )
    return mode
