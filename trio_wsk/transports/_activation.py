"""Sockets from a service manager that speaks systemd's protocol.

The descriptors are open when the process starts, from number 3 on. Three variables tell
about them: LISTEN_FDS how many, LISTEN_PID for whom (a child that inherits the variables
must not take them), LISTEN_FDNAMES what they are called, with colons between.

Source: sd_listen_fds(3); systemd.socket(5), FileDescriptorName=.
"""

from __future__ import annotations

import os
import socket
from itertools import repeat
from typing import TYPE_CHECKING, Final

from trio_wsk._vocabulary.arguments import check_flag
from trio_wsk._vocabulary.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FIRST_DESCRIPTOR", "listen_fds", "names_of_descriptors", "number_in"]

FIRST_DESCRIPTOR: Final = 3
"""Where those that are passed begin: SD_LISTEN_FDS_START."""
_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def listen_fds(name: str | None = None, *, unset_environment: bool = True) -> list[socket.socket]:
    """Take over the sockets that a service manager has opened for this process.

    ::

        sockets = listen_fds() or None
        async with open_listening_socket(port=None if sockets else 8000, sockets=sockets): ...

    Args:
      name: Take only those that the manager calls so (``FileDescriptorName=`` in systemd);
        without it, all.
      unset_environment: Forget the variables, so that neither a second call nor a child
        takes the same descriptors again. Say False to ask for another ``name`` afterwards.

    Returns:
      The sockets, in the manager's order, closed on exec from now on; they are the caller's
      to close or to pass on. An empty list if this process was not started that way, or
      none has the name.

    Raises:
      InvalidParameterError: The variables contradict themselves, or one of the descriptors is
        no socket. (The service manager's.) No descriptor is closed then.

    Source: sd_listen_fds(3).
    """
    if name is not None and not isinstance(name, str):
        raise InvalidParameterError(
            f"name={name!r} is no text; write listen_fds('http'), or listen_fds() for all"
        )
    check_flag("unset_environment", unset_environment)
    try:
        names = names_of_descriptors()
    finally:
        if unset_environment:
            for variable in _VARIABLES:
                os.environ.pop(variable, None)
    sockets: list[socket.socket] = []
    for fd, its_name in enumerate(names, FIRST_DESCRIPTOR):
        if name is None or name == its_name:
            try:
                sockets.append(socket.socket(fileno=fd))
            except OSError as error:
                for sock in sockets:
                    sock.detach()
                raise InvalidParameterError(
                    f"LISTEN_FDS promises a socket as descriptor {fd} ({its_name!r}), "
                    f"which it is not: {error.strerror}"
                ) from error
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets


def names_of_descriptors() -> Iterable[str]:
    """Return one name for each descriptor that was passed to this process."""
    if not {"LISTEN_PID", "LISTEN_FDS"} <= os.environ.keys():
        return []
    if number_in("LISTEN_PID") != os.getpid():
        return []
    count = number_in("LISTEN_FDS")
    if "LISTEN_FDNAMES" not in os.environ:
        return repeat("unknown", count)  # systemd's word for it
    names = os.environ["LISTEN_FDNAMES"].split(":") if count else []
    if len(names) != count:
        raise InvalidParameterError(
            f"LISTEN_FDNAMES={os.environ['LISTEN_FDNAMES']!r} has {len(names)} names, "
            f"but LISTEN_FDS={count}"
        )
    return names


def number_in(variable: str) -> int:
    """Read the number that a variable holds, which is there.

    Raises:
      InvalidParameterError: it holds something else. (The service manager's.)
    """
    text = os.environ[variable]
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameterError(f"{variable}={text!r} is no number")
    return int(text)
