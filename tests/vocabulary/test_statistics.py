"""The picture that `statistics()` gives."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from trio_wsk import (
    DrainReport,
    ListeningState,
    ListeningStatistics,
    ServerStatistics,
    open_server,
)
from trio_wsk._vocabulary.statistics import REASONS, ListeningCounters


def picture(counters: ListeningCounters) -> ListeningStatistics:
    """Freeze counts of which nothing else is known."""
    return counters.picture(
        state=ListeningState.LISTENING,
        parked=0,
        parked_most=0,
        queued_accepts=0,
        pending=0,
        straggling=0,
        queue_depth=None,
        transport={},
    )


def test_picture_is_of_its_moment() -> None:
    """What is counted later doesn't change a picture, and nobody can change it."""
    counters = ListeningCounters()
    counters.dropped["refused"] += 1
    counters.accept_errors["EMFILE"] += 1
    counters.count_rejected("over-quota")
    counters.aborted["fin"] += 1
    taken = picture(counters)
    counters.dropped["refused"] += 1
    counters.accept_errors["EPROTO"] += 1
    counters.to_event += 1
    counters.count_rejected("over-quota")
    counters.aborted["reset"] += 1

    assert {"refused": 1} == taken.dropped
    assert {"EMFILE": 1} == taken.accept_errors
    assert {"accept": 0, "event": 0} == taken.delivered
    assert {"over-quota": 1} == taken.rejected
    assert {"fin": 1} == taken.aborted

    mappings: list[Any] = [
        taken.dropped,
        taken.accept_errors,
        taken.delivered,
        taken.rejected,
        taken.aborted,
    ]
    for mapping in mappings:
        with pytest.raises(TypeError):
            mapping["refused"] = 7
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        taken.accepted = 7  # type: ignore[misc]  # on purpose


def test_depth_of_the_kernels_queue_may_be_unknown() -> None:
    """Where the kernel can't tell, backlog and its limit are None; else its two numbers."""
    counters = ListeningCounters()

    assert (None, None) == (picture(counters).backlog, picture(counters).backlog_limit)

    known = counters.picture(
        state=ListeningState.LISTENING,
        parked=1,
        parked_most=2,
        queued_accepts=3,
        pending=6,
        straggling=7,
        queue_depth=(4, 5),
        transport={"x": 8},
    )

    assert (4, 5) == (known.backlog, known.backlog_limit)
    assert (1, 2, 3) == (known.parked, known.parked_most, known.queued_accepts)
    assert (6, 7) == (known.pending, known.straggling)


def test_counts_of_inspection_are_pictured_under_their_names() -> None:
    """What is counted of inspections is found in the picture, each in its own field."""
    counters = ListeningCounters()
    counters.inspected, counters.approved, counters.pending_most = 5, 4, 3
    counters.close_fallbacks = 2
    taken = picture(counters)

    assert (5, 4, 3) == (taken.inspected, taken.approved, taken.pending_most)
    assert 2 == taken.close_fallbacks


def test_rejection_without_a_reason_has_one() -> None:
    """What is refused without saying why is counted as ``rejected``."""
    counters = ListeningCounters()

    assert ["rejected", "over-quota"] == [counters.count_rejected(r) for r in ("", "over-quota")]
    assert {"rejected": 1, "over-quota": 1} == picture(counters).rejected


def test_reasons_of_rejections_are_bounded() -> None:
    """
    Only so many reasons are told apart, in case a peer can choose its own; those that come
    later are counted together, those that are known already still by themselves.
    """
    counters = ListeningCounters()
    for number in range(REASONS):
        assert f"reason-{number}" == counters.count_rejected(f"reason-{number}")

    assert ["other", "other", "reason-0"] == [
        counters.count_rejected(reason) for reason in ("late", "later", "reason-0")
    ]

    rejected = picture(counters).rejected

    assert REASONS + 1 == len(rejected)
    assert (2, 2, 1) == (rejected["other"], rejected["reason-0"], rejected["reason-1"])
    assert REASONS + 3 == sum(rejected.values())


@pytest.mark.parametrize("kind", [ListeningStatistics, ServerStatistics, DrainReport])
def test_pictures_are_frozen_and_made_by_name(kind: type) -> None:
    """Every picture is a frozen class whose fields are given by name."""
    fields = {field.name: 0 for field in attrs.fields(kind)}

    assert kind(**fields) == kind(**fields)
    with pytest.raises(TypeError):
        kind(*fields.values())


async def test_server_pictures_its_listening_socket() -> None:
    """A server's statistics hold those of its listening socket."""

    async def handler(connection: object) -> None:
        """Do nothing."""

    async with open_server(handler, 0, host="127.0.0.1", max_connections=3) as server:
        counted = server.statistics()

        assert server.listening.statistics() == counted.listening
        assert (0, 0, 0) == (counted.open_connections, counted.open_most, counted.served)
        assert {} == counted.handshake_failures
