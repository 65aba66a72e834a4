"""The configuration of a server: what all sources say together, checked, and where each stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from trio_wsk._vocabulary.verdict import InspectPoint

from .options import OPTIONS, PLACES, WrongValueError

if TYPE_CHECKING:
    from .sources import Given, Source

__all__ = ["Configuration", "ConfigurationError", "configuration_of"]

_OF_PLACES = {"host": "port", "mode": "path"}
"""What goes with one kind of place only."""

_TOGETHER = {
    "tls_key": "tls_cert",
    "inspect_point": "inspect",
    "shared_queue": "workers",
    "admin_token_file": "admin",
}
"""What makes no sense without another option."""


class ConfigurationError(Exception):
    """A configuration is wrong.

    Args:
      *problems: All that is wrong with it, a line for each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@attrs.frozen(kw_only=True)
class Configuration:
    """A configuration in which each value, and what goes with what, is right.

    Whether its names lead anywhere is not known yet: modules, files, addresses.
    """

    handler: str
    port: int | None = None
    host: list[str] | None = None
    path: str | None = None
    mode: int | None = None
    fd: list[int] | None = None
    socket_name: list[str] | None = None
    workers: int | None = None
    shared_queue: bool = False
    reload: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    max_connections: int | None = None
    idle_timeout: float | None = None
    max_lifetime: float | None = None
    grace: float | None = None
    inspect: str | None = None
    inspect_point: str | None = None
    admin: str | None = None
    admin_token_file: str | None = None
    metrics: str | None = None
    control: str | None = None
    origins: Mapping[str, str] = attrs.field(factory=dict[str, str], eq=False)
    """Where each option stands that was given."""

    def effective(self) -> Iterator[tuple[str, Any, str]]:
        """Yield the name of each option that was given, its value, and where it stands."""
        for name, where in self.origins.items():
            yield name, getattr(self, name), where


def configuration_of(sources: Sequence[Source]) -> Configuration:
    """Put sources together.

    Args:
      sources: The stronger before the weaker: what one says, those behind it can't change. The
        place to listen at is one thing, whatever it is called.

    Raises:
      ConfigurationError: something is wrong; all of it is told. (Their author's.)
    """
    problems = [problem for source in sources for problem in source.problems]
    given = _together([source.given for source in sources])
    values: dict[str, Any] = {}
    for name, each in given.items():
        try:
            values[name] = each.option.check(each.value)
        except WrongValueError as wanted:
            problems.append(f"{each.where}: {name} is {wanted}, not {each.value!r}")
    problems += _contradictions(given)
    problems += _of_workers(values, given)
    if problems:
        raise ConfigurationError(*problems)
    return Configuration(**values, origins={name: each.where for name, each in given.items()})


def _together(sources: Sequence[Mapping[str, Given]]) -> dict[str, Given]:
    """Return what was given for each option, in the order of the table."""
    chosen: dict[str, Given] = {}
    passed_over: set[str] = set()
    for given in sources:
        fresh = {name: given[name] for name in given if name not in passed_over}
        chosen = {**fresh, **chosen}
        if not given.keys().isdisjoint(PLACES):
            passed_over |= {*PLACES, *_of_other_places(given)}
    return {name: chosen[name] for name in OPTIONS if name in chosen}


def _of_other_places(given: Mapping[str, Given]) -> set[str]:
    """Name what would have gone with another place than the one that is named here."""
    return {name for name, place in _OF_PLACES.items() if place not in given}


def _contradictions(given: Mapping[str, Given]) -> Iterator[str]:
    """Say what can't stand together, or alone."""
    if "handler" not in given:
        yield f"there is no handler: write {OPTIONS['handler'].help}"
    places = [given[name] for name in PLACES if name in given]
    for place in places[1:]:
        yield (
            f"{place.where}: {place.option.name} names a second place to listen at, beside"
            f" {places[0].option.name} ({places[0].where}); leave one out"
        )
    needed = {**_TOGETHER, **_OF_PLACES}
    for name, other_name in needed.items():
        if name in given and other_name not in given:
            yield f"{given[name].where}: {name} goes with {other_name}, which is not given"


def _of_workers(values: Mapping[str, Any], given: Mapping[str, Given]) -> Iterator[str]:
    """Say what can't be had with workers, or not with so many."""
    workers = values.get("workers")
    with_them = "reload" if workers is None else "workers"
    if workers is None and not values.get("reload"):
        return
    if values.get("inspect_point") == InspectPoint.BEFORE_HANDSHAKE.value:
        yield (
            f"{given['inspect_point'].where}: inspect_point is after-handshake with {with_them}:"
            f" the kernel gives the packets of a port to one process; leave {with_them} out, or"
            " inspect after the handshake"
        )
    limit = values.get("max_connections")
    if limit is not None and workers is not None and limit < workers:
        yield (
            f"{given['max_connections'].where}: max_connections is for all workers together, and"
            f" each of {workers} needs one; {limit} is not enough"
        )
