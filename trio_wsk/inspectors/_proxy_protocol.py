"""The PROXY protocol: proxies that are trusted say whom they speak for, before anything else.

Source: HAProxy's proxy-protocol.txt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, final

import trio

from trio_wsk._connection.carried import Recovered
from trio_wsk._inspection import control
from trio_wsk._inspection.request import PEEK_LIMIT
from trio_wsk._protocols.answers import MoreNeeded, ProxyHeaderError
from trio_wsk._protocols.proxy_header import HEADER_LIMIT, ProxyHeader, parse_proxy_header
from trio_wsk._protocols.proxy_v1 import LONGEST_V1
from trio_wsk._vocabulary.arguments import checked_count, checked_seconds
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.need import Need
from trio_wsk._vocabulary.verdict import CloseStyle, InspectAction, Verdict

from ._rule import checked_name
from ._sources import check_networks

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer
    from ._sources import Networks

    How = Literal["required", "optional", "forbidden"]

__all__ = ["ProxyProtocol"]

_NONE: Final = ProxyHeaderError.reason
"""What is said of octets that begin like no header."""
_CUT: Final = "proxy-header-cut"
_LATE: Final = "proxy-header-late"

_FIRST: Final = MoreNeeded(1)
"""What is needed of who has sent nothing."""


@final
class ProxyProtocol:
    """A rule that reads whom a trusted proxy speaks for: PROXY protocol headers, versions 1 and 2.

    From then on ``remote_address`` and ``local_address`` are what the header says, for rules that
    come after it, for the connection, in records and logs; ``transport_remote_address`` is the
    proxy. The header is consumed: the connection begins after it. `ProxyHeader` is among the facts,
    with all that it says besides::

        rules = Rules(ProxyProtocol(required=["10.0.0.0/8"]), SourceLimit(20))

    A proxy's own connections, its health checks, say so (``LOCAL``), and have its addresses.

    Only who is trusted is looked at, by the address that counts when the rule is asked. All others
    are let pass without a look, so that nobody else can say who he is; put `allow_only` before it
    where nobody else is to come. Who is required to send a header and does not, or sends one that
    is not in good order, is turned away: ``no-proxy-header``, ``proxy-header-late``,
    ``proxy-header-cut``, or the reason of what is wrong with it.

    Args:
      required: Networks whose peers have to send a header.
      optional: Networks whose peers may send one; who sends something else, or nothing in time, is
        none. Use it to change over, and not for long: a client that such a proxy forwards without a
        header can write one.
      unix: What is true of peers on a Unix socket: ``"required"``, ``"optional"`` or
        ``"forbidden"``.
      timeout: Seconds on Trio's clock for all of it; 3 at least are recommended, for a packet may
        be lost. ``inspect_timeout`` counts as well.
      limit: How many octets a header may have, 16 to 16384.
      close: How those are told that are turned away; see `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong, or nobody is trusted. (Yours.)

    Source: proxy-protocol.txt, sections 2 and 5.
    """

    __slots__ = ("_close", "_limit", "_most", "_optional", "_required", "_timeout", "_unix", "name")

    needs: Final = Need.OCTETS
    """What it looks at."""

    def __init__(
        self,
        *,
        required: Networks = (),
        optional: Networks = (),
        unix: Literal["required", "optional", "forbidden"] = "forbidden",
        timeout: float = 5.0,
        limit: int = HEADER_LIMIT,
        close: CloseStyle | bytes = CloseStyle.RESET,
        name: str = "proxy-protocol",
    ) -> None:
        if unix not in {"required", "optional", "forbidden"}:
            raise InvalidParameterError(
                f"unix is 'required', 'optional' or 'forbidden', not {unix!r}"
            )
        if required == () and optional == () and unix == "forbidden":
            raise InvalidParameterError(
                "ProxyProtocol trusts nobody; write ProxyProtocol(required=['10.0.0.0/8']), with"
                " the addresses of your proxies"
            )
        if checked_count("limit", limit, least=16) > PEEK_LIMIT:
            raise InvalidParameterError(f"limit is 16 to {PEEK_LIMIT} octets, not {limit}")
        self._required = check_networks("required", required)
        self._optional = check_networks("optional", optional)
        self._unix: How = unix
        self._timeout = checked_seconds("timeout", timeout)
        self._limit = limit
        self._most = max(limit, LONGEST_V1)
        self._close = Verdict(InspectAction.REJECT, close=close).close
        self.name: Final = checked_name(name)
        """What the rule is counted by."""

    counts_each: Final = True
    """Each request has a header of its own."""

    @property
    def close_styles(self) -> frozenset[CloseStyle]:
        """How it turns peers away."""
        return frozenset({self._rejected(_NONE).style})

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        """Read a header, if the peer is trusted; plain if all of it has come."""
        how = self._how(request)
        if how == "forbidden":
            return None
        octets = control.look(request, self._most)
        found = self._find(octets) if octets else _FIRST
        if isinstance(found, MoreNeeded):
            return self._wait(request, found, is_required=how == "required")
        return self._answer(request, found, may_lack=how == "optional" and found == _NONE)

    def _how(self, request: ConnectionRequest) -> How:
        address = request.remote_address
        if address.is_unix:
            return self._unix
        if address in self._required:
            return "required"
        return "optional" if address in self._optional else "forbidden"

    def _find(self, octets: bytes) -> ProxyHeader | MoreNeeded | str:
        """Return the header, how many octets it needs, or the reason why there is none."""
        try:
            return parse_proxy_header(octets, limit=self._limit)
        except ProxyHeaderError as error:
            return error.reason

    async def _wait(
        self,
        request: ConnectionRequest,
        found: ProxyHeader | MoreNeeded | str,
        *,
        is_required: bool,
    ) -> Answer:
        needed = _FIRST
        with trio.move_on_after(self._timeout):
            while isinstance(found, MoreNeeded):
                needed = found
                octets = await request.peek(self._most, least=needed.at_least)
                has_finished = len(octets) < needed.at_least
                found = _CUT if has_finished else self._find(octets)
        if isinstance(found, MoreNeeded):
            found = _LATE
        has_none = found == _NONE or (needed is _FIRST and found in {_CUT, _LATE})
        return self._answer(  # noqa: ASYNC910 - it is called when more is needed
            request, found, may_lack=has_none and not is_required
        )

    def _answer(
        self, request: ConnectionRequest, found: ProxyHeader | str, *, may_lack: bool
    ) -> Answer:
        if isinstance(found, ProxyHeader):
            self._believe(request, found)
            return None
        return None if may_lack else self._rejected(found)

    def _rejected(self, reason: str) -> Verdict:
        return Verdict(InspectAction.REJECT, reason, self._close)

    def _believe(self, request: ConnectionRequest, header: ProxyHeader) -> None:
        control.consume(request, header.length)
        request.facts.add(header)
        if header.source is not None and header.destination is not None:
            control.recover(request, Recovered(header.source, header.destination))
