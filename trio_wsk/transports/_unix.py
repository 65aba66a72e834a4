r"""Listening on a Unix path, which is a file that has to be there and then has to go.

The socket is bound to a temporary name beside the path, gets its mode, listens, and only
then is renamed to the path. So whoever finds the path finds a server there, with
the right permissions, and a path that a crashed server left behind is replaced in one step.

What can't be made safe, since the kernel has no "rename unless somebody listens":

* Two servers that start at the same moment may both find the path stale. Both rename, the
  later one has the path, and the earlier one listens where nobody finds it. The
  path is looked at once more right before the rename, to make that moment short.
* A socket that is bound and doesn't listen yet refuses connections, just as a stale one
  does. Ours never stand at their final path like that. Others' may.
* At close, between looking whether the path is still ours and removing it, somebody may
  rename theirs over it, and we remove theirs.

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
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._addresses import Address
from trio_wsk._arguments import whole_number
from trio_wsk._errors import BindError, InvalidParameterError

from ._places import Bound, Place, checked_backlog, close_all

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["UnixPlace"]

_SUN_PATH: Final = 108 if sys.platform == "linux" else 104
"""Octets in ``sockaddr_un.sun_path``; a path that is a file's ends with a NUL inside it."""

_TEMPORARY_OCTETS: Final = len(".wsk-") + 8
_HIGHEST_MODE: Final = 0o777


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
        # The name that our file has now, absolute since the working directory may change,
        # and the number that tells it from a file that somebody else has put there.
        self._file: Path | None = None
        self._identity: tuple[int, int] | None = None

    async def bind(self) -> Sequence[Bound]:
        """Bind to the abstract name, or to a temporary one beside the path."""
        await trio.lowlevel.checkpoint()
        try:
            self._socket = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(0)
            if self._is_abstract:
                sock.bind(self._path)
            else:
                self._look_at_path()
                self._bind_beside(sock)
        except BindError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise self._failure(error, self._hint(error)) from error
        return [Bound(sock, self._address, tuned=False)]

    def _bind_beside(self, sock: socket.socket) -> None:
        directory, slash, _ = self._path.rpartition(b"/")
        temporary = directory + slash + b".wsk-" + secrets.token_hex(4).encode()
        sock.bind(temporary)
        self._file = _absolute(temporary)
        self._identity = _identity_of(self._file)
        # Until it listens nobody can connect, so there is no moment with the wrong mode, and
        # no need of the umask, which belongs to the whole process.
        if self._mode is not None:
            self._file.chmod(self._mode)

    def listen(self) -> None:
        """Listen, and then give the socket its name."""
        assert self._socket is not None, "bind comes first"
        try:
            self._socket.listen(self._backlog)
            if self._file is not None:
                self._look_at_path()
                self._file = self._file.rename(_absolute(self._path))
        except BindError:
            raise
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Remove the path if it is still ours, and close the socket.

        In this order: a socket that is open holds the number of its file, so that nobody
        else's file can have the same one.
        """
        file, self._file = self._file, None
        if file is not None:
            try:
                if _identity_of(file) == self._identity:
                    file.unlink()
            except OSError:
                pass  # somebody has removed it, or has taken our permission to do so
        if self._socket is not None:
            close_all([self._socket])

    def _look_at_path(self) -> None:
        """Raise `BindError` if what is at the path must not be replaced."""
        try:
            found = os.lstat(self._path)
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
        if error.errno == errno.ENOENT:
            return "its directory does not exist"
        if error.errno == errno.EACCES:
            return "listening there makes a file, so its directory has to be writable"
        if self._is_abstract and error.errno == errno.EADDRINUSE:
            return "somebody listens there (`ss -lxp` shows who): stop it, or choose another name"
        return ""

    def _failure(self, error: OSError, hint: str = "") -> BindError:
        return BindError.from_oserror(error, str(self._address), hint)


def _absolute(path: bytes) -> Path:
    """Return a name that stays right when the working directory changes."""
    return Path.cwd() / os.fsdecode(path)


def _identity_of(file: Path) -> tuple[int, int]:
    found = file.lstat()
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
