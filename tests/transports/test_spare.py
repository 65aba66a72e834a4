"""One descriptor, set aside."""

from __future__ import annotations

import os

import pytest

from tests.helpers.scarcity import named_descriptors, no_more_descriptors
from trio_wsk.transports._spare import SpareDescriptor


def test_spare_gives_its_room_to_the_next_descriptor() -> None:
    """After give_up exactly one descriptor can be opened that could not be before."""
    spare = SpareDescriptor()
    with no_more_descriptors(but=1):
        assert spare.keep()
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)

        spare.give_up()
        fd = os.open(os.devnull, os.O_RDONLY)

        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        os.close(fd)


def test_keeping_twice_keeps_one() -> None:
    """keep may be called at any time; there is one spare, and give_up closes it."""
    before = named_descriptors()
    spare = SpareDescriptor()

    assert spare.keep()
    assert spare.keep()
    assert 1 == len(named_descriptors() - before)

    spare.give_up()
    spare.give_up()

    assert before == named_descriptors()


def test_spare_that_can_not_be_had_may_be_had_later() -> None:
    """keep says whether there is a spare, and tries again the next time."""
    spare = SpareDescriptor()
    with no_more_descriptors():
        assert not spare.keep()

    assert spare.keep()

    spare.give_up()
