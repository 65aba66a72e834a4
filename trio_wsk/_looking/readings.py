"""Readings: what a listener of one process had counted at one time, as far as views show it.

They are made of what JSON says of `statistics()`. A server that runs may be older or newer than who
looks at it, so a field that is missing there has counted nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

__all__ = [
    "LEVELS",
    "TURNED_AWAY",
    "Count",
    "Place",
    "Reading",
    "reading_of",
    "readings_of",
    "silent_of",
]

Count: TypeAlias = tuple[str, str]
"""What is counted, and why, where there are reasons: ``("rejected", "banned")``, else ``""``."""

LEVELS: Final = ("open", "pending", "parked", "lingering")
"""What goes up and down."""

TURNED_AWAY: Final = ("rejected", "dropped", "aborted", "handshake", "failed", "accept")
"""What is counted by reason: who was turned away, was lost, or made something of ours fail."""


@attrs.frozen(order=True)
class Place:
    """Where something is counted."""

    worker: int
    """Which process, counted from 1; 0 where there is one only."""
    listener: str
    """Which of its listeners."""


@attrs.frozen(kw_only=True)
class Reading:
    """What was counted at one place up to one time."""

    state: str
    """What the listener did with new peers: ``listening``, ``paused``, …"""
    process: int | None = None
    """The number of the process; None if nobody said it."""
    levels: Mapping[str, int]
    """By the names in `LEVELS`."""
    counts: Mapping[Count, float]
    """What only grows for as long as the process runs."""


def readings_of(workers: Sequence[Mapping[str, Any]]) -> dict[Place, Reading]:
    """Make readings of what the command ``workers`` answers; of who is silent there are none."""
    return {
        Place(worker["worker"] or 0, listener): reading_of(
            statistics, worker["rules"].get(listener), process=worker["process"]
        )
        for worker in workers
        for listener, statistics in (worker["statistics"] or {}).items()
    }


def silent_of(workers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the workers that gave no answer."""
    return [worker["worker"] for worker in workers if worker["statistics"] is None]


def reading_of(
    statistics: Mapping[str, Any],
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    process: int | None = None,
) -> Reading:
    """Make a reading.

    Args:
      statistics: The fields of a `ServerStatistics`, as JSON has them.
      rules: The fields of each rule's `RuleStatistics`, by its name.
      process: Who has counted.
    """
    listening: Mapping[str, Any] = statistics.get("listening", {})
    counts: dict[Count, float] = {
        ("accepted", ""): listening.get("accepted", 0),
        ("ended", ""): statistics.get("served", 0),
        ("failed", "handler"): statistics.get("handler_failures", 0),
    }
    by_reason = {
        "rejected": listening.get("rejected", {}),
        "dropped": listening.get("dropped", {}),
        "aborted": listening.get("aborted", {}),
        "handshake": statistics.get("handshake_failures", {}),
        "failed": listening.get("callback_failures", {}),
        "accept": listening.get("accept_errors", {}),
    }
    for what, reasons in by_reason.items():
        for why, count in reasons.items():
            counts[what, why] = counts.get((what, why), 0) + count
    for name, rule in (rules or {}).items():
        counts["waits", name] = rule.get("waits", 0)
        counts["waited", name] = rule.get("waited", 0.0)
    return Reading(
        state=listening.get("state", "unknown"),
        process=process,
        levels={
            "open": statistics.get("open_connections", 0),
            "pending": listening.get("pending", 0),
            "parked": listening.get("parked", 0),
            "lingering": statistics.get("lingering", 0),
        },
        counts=counts,
    )
