"""The picture that `statistics()` gives."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from trio_wsk import DrainReport, ListeningStatistics, ServerStatistics, open_server
from trio_wsk._statistics import ListeningCounters


def picture(counters: ListeningCounters) -> ListeningStatistics:
    """Freeze counts of which nothing else is known."""
    return counters.picture(parked=0, parked_most=0, queued_accepts=0, queue_depth=None)


def test_picture_is_of_its_moment() -> None:
    """What is counted later doesn't change a picture, and nobody can change it."""
    counters = ListeningCounters()
    counters.dropped["refused"] += 1
    counters.accept_errors["EMFILE"] += 1
    taken = picture(counters)
    counters.dropped["refused"] += 1
    counters.accept_errors["EPROTO"] += 1
    counters.to_event += 1

    assert {"refused": 1} == taken.dropped
    assert {"EMFILE": 1} == taken.accept_errors
    assert {"accept": 0, "event": 0} == taken.delivered

    mappings: list[Any] = [taken.dropped, taken.accept_errors, taken.delivered]
    for mapping in mappings:
        with pytest.raises(TypeError):
            mapping["refused"] = 7
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        taken.accepted = 7  # type: ignore[misc]  # on purpose


def test_depth_of_the_kernels_queue_may_be_unknown() -> None:
    """Where the kernel can't tell, backlog and its limit are None; else its two numbers."""
    counters = ListeningCounters()

    assert (None, None) == (picture(counters).backlog, picture(counters).backlog_limit)

    known = counters.picture(parked=1, parked_most=2, queued_accepts=3, queue_depth=(4, 5))

    assert (4, 5) == (known.backlog, known.backlog_limit)
    assert (1, 2, 3) == (known.parked, known.parked_most, known.queued_accepts)


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
