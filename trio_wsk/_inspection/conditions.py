"""The conditions of conditional accept: what `open_listening_socket` was told, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

from trio_wsk._vocabulary.arguments import check_function, checked_count, is_time, shown
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.need import Need
from trio_wsk._vocabulary.verdict import InspectPoint, Overflow
from trio_wsk.transports._contract import PeerEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._vocabulary.refused import Refused
    from trio_wsk._vocabulary.verdict import InspectId, OverflowPolicy

    from .request import ConnectionRequest

__all__ = ["DEFAULT_MAX_PENDING", "Conditions", "conditions_of"]

DEFAULT_MAX_PENDING: Final = 1024
"""How many requests may wait for their verdict. Each holds a descriptor after the handshake,
and 1024 is the limit that most systems give a process at first."""

INSPECT_TIMEOUT: Final = {InspectPoint.AFTER_HANDSHAKE: 10.0, InspectPoint.BEFORE_HANDSHAKE: 2.0}
"""Seconds for a verdict. After the handshake the peer waits in silence: as long as a resolver
may take (resolv.conf(5): 5 s, twice). Before it its kernel repeats SYN after 1 s, 2 s, 3 s."""

_ALWAYS_GONE: Final = frozenset({PeerEnd.RESET, PeerEnd.CLOSED, PeerEnd.SILENT})

_GONE: Final = {
    None: _ALWAYS_GONE | {PeerEnd.FIN},
    True: _ALWAYS_GONE | {PeerEnd.FIN, PeerEnd.FIN_AFTER_DATA},
    False: _ALWAYS_GONE,
}
"""``abort_on_half_close``, and how a peer has to leave to count as gone."""


@attrs.frozen(kw_only=True)
class Conditions:
    """How the requests of one listening socket are inspected."""

    inspect: Callable[[ConnectionRequest], object]
    abort: Callable[[InspectId], object] | None
    timeout: float
    max_pending: int
    overflow: Overflow
    gone: frozenset[PeerEnd]
    """How a peer has to leave to count as gone."""
    refuses: tuple[Refused, ...]
    """Whom the inspector refuses by their address alone, as far as it says."""


def conditions_of(
    *,
    inspect: Callable[[ConnectionRequest], object] | None,
    abort: Callable[[InspectId], object] | None,
    inspect_point: InspectPoint,
    inspect_timeout: float | None,
    max_pending: int,
    overflow: Overflow | OverflowPolicy,
    abort_on_half_close: bool | None,
) -> Conditions | None:
    """Say how requests are inspected, None if they are not.

    Raises:
      InvalidParameterError: an argument is wrong. (The caller's.)
    """
    if not isinstance(inspect_point, InspectPoint):
        raise InvalidParameterError(
            f"inspect_point is a member of InspectPoint, not {inspect_point!r}"
        )
    checked_count("max_pending", max_pending, least=1)
    if abort_on_half_close is not None and not isinstance(abort_on_half_close, bool):
        raise InvalidParameterError(
            f"abort_on_half_close is None, True or False, not {abort_on_half_close!r}"
        )
    timeout = _checked_timeout(inspect_point, inspect_timeout)
    if not isinstance(overflow, Overflow):
        overflow = Overflow(pending=overflow, parked=overflow)
    if inspect is None:
        _check_nothing_to_ask(abort, inspect_point)
        return None
    check_function("inspect", inspect)
    _check_need(inspect, inspect_point)
    return Conditions(
        inspect=inspect,
        abort=abort,
        timeout=timeout,
        max_pending=max_pending,
        overflow=overflow,
        gone=_GONE[abort_on_half_close],
        refuses=getattr(inspect, "refuses", ()),
    )


def _checked_timeout(inspect_point: InspectPoint, inspect_timeout: float | None) -> float:
    if inspect_timeout is None:
        return INSPECT_TIMEOUT[inspect_point]
    if not is_time(inspect_timeout) or not 0 < inspect_timeout < math.inf:
        raise InvalidParameterError(
            "inspect_timeout is a time in seconds, more than 0 and not without end, which would"
            f" let peers hold every place in max_pending, not {inspect_timeout!r}"
        )
    return inspect_timeout


def _check_need(inspect: object, inspect_point: InspectPoint) -> None:
    """Refuse an inspector that says that it looks at what is not there."""
    need = getattr(inspect, "needs", None)
    if need is Need.OCTETS and inspect_point is InspectPoint.BEFORE_HANDSHAKE:
        raise InvalidParameterError(
            f"the inspector {shown(inspect)} needs first octets, and before the handshake there are"
            " none: inspect after it (InspectPoint.AFTER_HANDSHAKE)"
        )
    if need is Need.SYN and inspect_point is InspectPoint.AFTER_HANDSHAKE:
        raise InvalidParameterError(
            f"the inspector {shown(inspect)} needs the SYN, which is not known after the handshake:"
            " inspect before it (InspectPoint.BEFORE_HANDSHAKE)"
        )


def _check_nothing_to_ask(
    abort: Callable[[InspectId], object] | None, inspect_point: InspectPoint
) -> None:
    """Refuse what would only make sense beside an inspector."""
    if abort is not None:
        raise InvalidParameterError(
            "dispatch.abort tells of requests that were inspected, so it needs an inspector:"
            " ListenDispatch(inspect=..., abort=...)"
        )
    if inspect_point is not InspectPoint.AFTER_HANDSHAKE:
        raise InvalidParameterError(
            f"{inspect_point} says when to ask, but not whom: give inspect=..., too"
        )
