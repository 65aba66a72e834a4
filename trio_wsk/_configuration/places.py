"""Where a configuration has a server listen, in the words of `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trio_wsk.transports._activation import listen_fds, names_of_descriptors

from .configuration import ConfigurationError

if TYPE_CHECKING:
    import socket

    from .configuration import Configuration

__all__ = ["STORED", "passed_sockets", "place_in_words", "place_of"]

STORED: Final = "trio-wsk-"
"""What the names of those sockets begin with that a supervisor has had the service manager keep:
they are passed with the others, and are nobody else's."""


def place_in_words(configuration: Configuration) -> list[object]:
    """Return where a configuration listens, as it says itself: what no change can change."""
    names = ("port", "host", "path", "mode", "fd", "socket_name", "shared_queue")
    return [getattr(configuration, name) for name in names]


def place_of(configuration: Configuration) -> dict[str, Any]:
    """Return the options that name the place; sockets that a service manager passes are taken.

    Raises:
      ConfigurationError: there is no place.
      InvalidParameterError: the service manager contradicts itself; see `listen_fds`.
    """
    if configuration.port is not None:
        return {"port": configuration.port, "host": configuration.host}
    if configuration.path is not None:
        return {"path": configuration.path, "mode": configuration.mode}
    if configuration.fd is not None:
        return {"sockets": configuration.fd}
    return {"sockets": passed_sockets(configuration)}


def passed_sockets(configuration: Configuration) -> list[socket.socket]:
    """Take over what a service manager passes, or what it calls by the names that were given.

    Raises:
      ConfigurationError: there is none of them.
      InvalidParameterError: the service manager contradicts itself; see `listen_fds`.
    """
    names = configuration.socket_name or [*dict.fromkeys(names_of_descriptors())]
    found: list[socket.socket] = []
    for name in names:
        if name.startswith(STORED):
            continue
        named = listen_fds(name, unset_environment=False)
        if not named:
            where = configuration.origins["socket_name"]
            raise ConfigurationError(f"{where}: the service manager passes no socket {name!r}")
        found += named
    if not found:
        raise ConfigurationError(
            "there is no place to listen at: write --port 7007, --path, or --fd; or have a service"
            " manager pass sockets"
        )
    return found
