"""The dispatch tables, and what their callbacks answer."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trio_wsk import InvalidParameterError, Status, Taken


@pytest.mark.parametrize("count", [-1, 1.0, True, False, None, "3", b"3", Status.SUCCESS], ids=repr)
def test_count_that_is_none_is_refused(count: Any) -> None:
    """`Taken` takes a number of octets, and no other number either."""
    with pytest.raises(InvalidParameterError, match=re.escape(f"0 or more, not {count!r}")):
        Taken(count)


def test_taken_is_a_value() -> None:
    """It compares by its count, is frozen, and prints so that printing gives it back."""
    taken = Taken(3)

    assert Taken(3) == taken != Taken(4)
    assert 3 != taken
    assert "Taken(count=3)" == repr(taken)
    with pytest.raises(AttributeError):
        taken.count = 4  # type: ignore[misc]  # the mistake
