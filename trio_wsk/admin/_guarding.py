"""Who may see the numbers, and who may change something.

A browser runs the pages of strangers, too, and lets them send requests to this server, if only
without reading the answers. So what matters has to be shown by what such a page can't send:

* The name by which this server was reached (``Host``) is one of its own. A stranger's name that
  resolves to this machine (DNS rebinding) would make a stranger's page one of this origin.
* ``Origin``, which browsers add to what a page sends, is this server, if it is there.
* What changes something, and where others than this machine's users reach it also what shows
  something, needs the token, in ``Authorization``, which no page can send to another origin unless
  that one allows it. There are no cookies, so nothing is sent by itself.

Source: RFC 9110, 7.2 and 11.6.2; RFC 6750, 2.1; the Fetch standard.
"""

from __future__ import annotations

import hmac
import ipaddress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, final

from trio_wsk._vocabulary.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["SHORTEST_TOKEN", "Guard", "checked_hosts", "checked_token", "is_token"]

SHORTEST_TOKEN: Final = 16
"""Characters that a token has at least: nobody guesses it over the network."""

LOCAL: Final = "localhost"


@final
class Guard:
    """Says who may do what.

    Args:
      token: What who changes something has to show; None if nobody may.
      hosts: Names of this server, beside ``localhost`` and addresses.
      is_private: Whether only this machine's users reach it, who then see the numbers without the
        token.
    """

    def __init__(self, token: str | None, hosts: Collection[str], *, is_private: bool) -> None:
        self._token = token
        self._hosts = {LOCAL, *(host.lower() for host in hosts)}
        self._is_private = is_private

    def refuses_page(self, headers: Mapping[str, str]) -> HTTPStatus | None:
        """Say why somebody may not have what is no secret; None if they may."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return HTTPStatus.MISDIRECTED_REQUEST
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return HTTPStatus.FORBIDDEN
        return None

    def refuses_look(self, headers: Mapping[str, str]) -> HTTPStatus | None:
        """Say why somebody may not see the numbers; None if they may."""
        refused = self.refuses_page(headers)
        if refused is None and not self._is_private and not self._has_token(headers):
            return HTTPStatus.UNAUTHORIZED
        return refused

    def refuses_change(self, headers: Mapping[str, str]) -> HTTPStatus | None:
        """Say why somebody may not change anything; None if they may."""
        refused = self.refuses_page(headers)
        if refused is not None:
            return refused
        if self._token is None:
            return HTTPStatus.FORBIDDEN
        return None if self._has_token(headers) else HTTPStatus.UNAUTHORIZED

    def _is_ours(self, host: str) -> bool:
        """Whether a header names this server. An address does: no name of a stranger's is one."""
        name, colon, port = host.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            name = host
        return name.lower() in self._hosts or _is_address(name)

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            return False
        # Takes as long however much of it is right, so that it can't be guessed bit by bit.
        return hmac.compare_digest(shown.strip().encode(), self._token.encode())


def _is_address(name: str) -> bool:
    try:
        if name.startswith("[") and name.endswith("]"):
            ipaddress.IPv6Address(name[1:-1])
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def checked_token(token: object) -> str | None:
    """Return a token that can be sent, and not be guessed.

    Raises:
      InvalidParameterError: it is none. (The caller's.)
    """
    if token is None:
        return None
    if not isinstance(token, str) or not is_token(token):
        raise InvalidParameterError(
            f"token is a secret of {SHORTEST_TOKEN} letters, digits and -._~+/= at least, such as"
            " secrets.token_urlsafe() makes; or None, so that nobody can change anything"
        )
    return token


def is_token(text: str) -> bool:
    """Whether it is long enough, and what RFC 6750 lets stand in a header."""
    is_sendable = text.isascii() and all(each.isalnum() or each in "-._~+/=" for each in text)
    return is_sendable and len(text) >= SHORTEST_TOKEN


def checked_hosts(hosts: object) -> list[str]:
    """Return the names of this server.

    Raises:
      InvalidParameterError: these are none. (The caller's.)
    """
    names: list[object] = [None]
    if isinstance(hosts, (list, tuple, set, frozenset)):  # a text would be one, of its letters
        names = list(hosts)
    found = [name for name in names if isinstance(name, str) and name and name.strip() == name]
    if len(found) < len(names):
        raise InvalidParameterError(
            f"hosts are names by which browsers reach the page, ['admin.example'], not {hosts!r}"
        )
    return found
