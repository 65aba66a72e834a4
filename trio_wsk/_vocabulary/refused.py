"""Who is refused whatever else is known: said by rules, for transports that can refuse unasked.

A rule that turns peers away by nothing but their address has a list of them, and knows it before
they come. Where a transport can have the system refuse them, no request has to be made for that.
What stands here is the list, and whoever wants to know when it changes. The rule is still asked
about whom the transport lets through, so that nobody depends on its taking part.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .address_sets import AddressSet
    from .verdict import CloseStyle

__all__ = ["NetworkList", "Refused", "RefusedNetworks", "RefusedSources", "Source"]

Source: TypeAlias = "tuple[int, int]"
"""The number of octets of an address, and the bits of its network."""


@final
class NetworkList:
    """Networks that may be replaced, all at once."""

    __slots__ = ("_networks", "_watchers")

    def __init__(self, networks: AddressSet) -> None:
        self._networks = networks
        self._watchers: list[Callable[[], object]] = []

    @property
    def networks(self) -> AddressSet:
        """The networks as they are now."""
        return self._networks

    def replace(self, networks: AddressSet) -> None:
        """Have these in the place of all others, and tell."""
        self._networks = networks
        for changed in tuple(self._watchers):
            changed()

    def watch(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Have this called when they were replaced, until what is returned is called."""
        self._watchers.append(changed)
        return partial(self._watchers.remove, changed)


@final
@attrs.frozen(eq=False, kw_only=True)
class RefusedNetworks:
    """Networks whose peers are refused."""

    listed: NetworkList
    """Which ones."""
    close: CloseStyle
    """How they are told."""
    others: bool = False
    """Whether those are refused, instead, who are in none of them."""


@final
class RefusedSources:
    """Sources that are refused for a time each.

    Args:
      close: How they are told.
      prefixes: How many bits of an address make the source, by the octets that it has.
      exempt: Networks that are not refused, whatever source they are of.
      current: Returns who is refused now, and until when.
    """

    __slots__ = ("_watchers", "close", "current", "exempt", "prefixes")

    def __init__(
        self,
        *,
        close: CloseStyle,
        prefixes: Mapping[int, int],
        exempt: NetworkList,
        current: Callable[[], Iterable[tuple[tuple[int, int], float]]],
    ) -> None:
        self.close: Final = close
        """How they are told."""
        self.prefixes: Final = prefixes
        """How many bits of an address make the source, by the octets that it has: 4 or 16."""
        self.exempt: Final = exempt
        """Networks that are not refused, whatever source they are of."""
        self.current: Final = current
        """Returns who is refused now, and until when on Trio's clock."""
        self._watchers: list[Callable[[tuple[int, int], float], object]] = []

    def tell(self, source: tuple[int, int], until: float) -> None:
        """Say that a source is refused until then, or not any more if that is past.

        Args:
          source: The number of octets of its addresses, and their first bits, as a number.
          until: On Trio's clock.
        """
        for changed in tuple(self._watchers):
            changed(source, until)

    def watch(self, changed: Callable[[tuple[int, int], float], object]) -> Callable[[], None]:
        """Have this called with what `tell` is, until what is returned is called."""
        self._watchers.append(changed)
        return partial(self._watchers.remove, changed)


Refused: TypeAlias = RefusedNetworks | RefusedSources
"""What a rule says of whom it refuses."""
