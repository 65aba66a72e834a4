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

from .two_stages import stages_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._vocabulary.refused import Refused
    from trio_wsk._vocabulary.verdict import InspectId, OverflowPolicy

    from .request import ConnectionRequest
    from .two_stages import TwoStages

__all__ = ["DEFAULT_MAX_PENDING", "Conditions", "conditions_of"]

DEFAULT_MAX_PENDING: Final = 1024
"""How many requests may wait for their verdict. Each holds a descriptor after the handshake,
and 1024 is the limit that most systems give a process at first."""

INSPECT_TIMEOUT: Final = {InspectPoint.AFTER_HANDSHAKE: 10.0, InspectPoint.BEFORE_HANDSHAKE: 2.0}
"""Seconds for a verdict. After the handshake the peer waits in silence: as long as a resolver
may take (resolv.conf(5): 5 s, twice). Before it its kernel repeats SYN after 1 s, 2 s, 3 s.

Two stages have one time, that of the second: it waits for the peer's octets, each of which may be
lost once, and no peer that was let through to its handshake could know that its time ran before.
Rules that look something up have a time of their own, which bounds the first."""

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
    stages: TwoStages | None
    """Those of the inspector, where it is asked in two."""
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
    is_before = inspect_point is InspectPoint.BEFORE_HANDSHAKE
    stages = stages_of(inspect) if is_before else None
    timeout = _checked_timeout(inspect_point, inspect_timeout, stages)
    if not isinstance(overflow, Overflow):
        overflow = Overflow(pending=overflow, parked=overflow)
    if inspect is None:
        _check_nothing_to_ask(abort, inspect_point)
        return None
    check_function("inspect", inspect)
    _check_need(inspect, inspect_point, stages)
    return Conditions(
        inspect=inspect,
        abort=abort,
        timeout=timeout,
        max_pending=max_pending,
        overflow=overflow,
        stages=stages,
        gone=_GONE[abort_on_half_close],
        refuses=getattr(inspect, "refuses", ()),
    )


def _checked_timeout(
    inspect_point: InspectPoint, inspect_timeout: float | None, stages: TwoStages | None
) -> float:
    if inspect_timeout is None:
        return INSPECT_TIMEOUT[InspectPoint.AFTER_HANDSHAKE if stages else inspect_point]
    if not is_time(inspect_timeout) or not 0 < inspect_timeout < math.inf:
        raise InvalidParameterError(
            "inspect_timeout is a time in seconds, more than 0 and not without end, which would"
            f" let peers hold every place in max_pending, not {inspect_timeout!r}"
        )
    return inspect_timeout


def _check_need(inspect: object, inspect_point: InspectPoint, stages: TwoStages | None) -> None:
    """Refuse an inspector that says that it looks at what is not there."""
    needs = getattr(inspect, "needs", Need.ADDRESSES)
    is_before = inspect_point is InspectPoint.BEFORE_HANDSHAKE
    if is_before and stages is None and Need.OCTETS in needs:
        raise InvalidParameterError(
            f"the inspector {shown(inspect)} needs first octets, and before the handshake there are"
            " none: inspect after it (InspectPoint.AFTER_HANDSHAKE), or make it a rule, whose turn"
            " comes after it: Rules(...)"
        )
    if not is_before and Need.SYN in needs:
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
