"""Rules about the networks that peers come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from trio_wsk._vocabulary.refused import Refused, RefusedNetworks
from trio_wsk._vocabulary.verdict import CloseStyle, InspectAction, Verdict

from ._rule import checked_name
from ._sources import check_networks, listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer, Rule
    from ._sources import HasAddresses, Networks

__all__ = ["allow_only", "deny", "from_networks"]


def deny(
    networks: Networks,
    *,
    reason: str = "denied",
    close: CloseStyle | bytes = CloseStyle.RESET,
    name: str = "deny",
) -> Rule:
    """Make a rule that turns away who comes from these networks.

    Args:
      networks: A list such as ``["203.0.113.0/24", "2001:db8::/32"]``, an `AddressSet`, or a
        `NetworksFile`. IPv4-mapped addresses count as the IPv4 ones that they stand for; a Unix
        peer is in no network.
      reason: What is counted.
      close: How they are told; see `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """
    return _InNetworks(
        name,
        check_networks("deny", networks),
        Verdict(InspectAction.REJECT, reason, close),
        turned_away=True,
    )


def allow_only(
    networks: Networks,
    *,
    reason: str = "not-allowed",
    close: CloseStyle | bytes = CloseStyle.RESET,
    name: str = "allow-only",
) -> Rule:
    """Make a rule that turns away who does not come from these networks.

    It has no objection to the others, so that the rules after it are asked. To let somebody in
    whatever those say, write ``when(from_networks([...]), lambda _: InspectAction.ACCEPT)``.

    Args: as for `deny`.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """
    return _InNetworks(
        name,
        check_networks("allow_only", networks),
        Verdict(InspectAction.REJECT, reason, close),
        turned_away=False,
    )


def from_networks(networks: Networks) -> Callable[[ConnectionRequest], bool]:
    """Make a condition for `when` and `unless`: that the peer comes from these networks.

    Raises:
      InvalidParameterError: they are none. (Yours.)
    """
    found = check_networks("from_networks", networks)

    def condition(request: ConnectionRequest) -> bool:
        return request.remote_address in found

    return condition


@final
class _InNetworks:
    def __init__(
        self, name: str, networks: HasAddresses, verdict: Verdict, *, turned_away: bool
    ) -> None:
        self.name: Final = checked_name(name)
        self.close_styles: Final = frozenset({verdict.style})
        known = listed(networks)
        self.refuses: Final[tuple[Refused, ...]] = (
            ()
            if known is None
            else (RefusedNetworks(listed=known, close=verdict.style, others=not turned_away),)
        )
        self._networks = networks
        self._verdict = verdict
        self._turned_away = turned_away

    def __repr__(self) -> str:
        return f"{self.name}({self._networks!r})"

    def __call__(self, request: ConnectionRequest) -> Answer:
        is_in = request.remote_address in self._networks
        return self._verdict if is_in is self._turned_away else None
