"""The page for operators that a configuration asks for: where it is, and who may steer from it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from .configuration import ConfigurationError
from .options import host_and_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsk._serving.server import Server
    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.control._protocol import Commands

    from .configuration import Configuration

__all__ = ["Page", "page_of"]


@final
@attrs.frozen
class Page:
    """The page."""

    host: str
    port: int
    token: str | None

    @staticmethod
    def line(address: Address) -> str:
        """Say where it is."""
        return f"admin page on http://{address}/"

    async def serve(  # noqa: ASYNC128 - whom it hands the status to calls it
        self,
        commands: Commands,
        place: Mapping[str, Any],
        *,
        task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve it, for whoever does the commands, at a place in the words of `serve`."""
        from trio_wsk.admin._serving import serve_page  # noqa: PLC0415 - it needs an extra

        await serve_page(commands, token=self.token, task_status=task_status, **place)


def page_of(configuration: Configuration) -> Page | None:
    """Return the page that is asked for, if one is.

    Raises:
      ConfigurationError: what it needs is not there: h11, or its token. (Its author's.)
    """
    if configuration.admin is None:
        return None
    where = configuration.origins.get("admin", "admin")
    host, port = host_and_port(configuration.admin)
    try:
        token = _token(configuration)
    except ImportError as missing:
        raise ConfigurationError(f"{where}: {missing}") from missing
    if token is None and not _is_private(host):
        raise ConfigurationError(
            f"{where}: others than the users of this machine reach {host}, so there has to be an"
            " admin_token_file"
        )
    return Page(host, port, token)


def _token(configuration: Configuration) -> str | None:
    """Read the token, if there is one; what surrounds it, such as a last line's end, is none of it.

    Raises:
      ConfigurationError: it can't be had.
      ImportError: h11 is missing.
    """
    from trio_wsk.admin._guarding import SHORTEST_TOKEN, is_token  # noqa: PLC0415 - it needs an extra

    name = configuration.admin_token_file
    if name is None:
        return None
    where = configuration.origins.get("admin_token_file", "admin_token_file")
    try:
        token = Path(name).read_text("ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigurationError(f"{where}: {name} can't be read: {error.strerror}") from error
    if not is_token(token):
        raise ConfigurationError(
            f"{where}: {name} has no token, which is {SHORTEST_TOKEN} letters, digits and -._~+/="
            " at least, such as openssl rand -hex 32 makes"
        )
    return token


def _is_private(host: str) -> bool:
    """Whether only users of this machine can connect there, as far as its name says."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
