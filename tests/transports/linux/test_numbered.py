"""Numbers of queues and logs, of which each has one owner."""

from __future__ import annotations

import errno
import os

import pytest

from tests.helpers.namespaces import in_own_namespace
from trio_wsk.transports.linux._messages import attribute
from trio_wsk.transports.linux._netlink import KernelRefusedError
from trio_wsk.transports.linux._numbered import (
    NumberedSocket,
    Setting,
    Subsystem,
    likely_numbers,
)


def test_likely_numbers_are_valid_and_differ() -> None:
    """A process has a few dozen numbers to try, none of them a low one."""
    found = [*likely_numbers()]

    assert len({*found}) == len(found)
    assert all(1024 <= number <= 0xFFFF for number in found)


class PacketSink(NumberedSocket):
    """A log to which nothing is copied, since it has no settings."""

    def __init__(self, numbers: list[int]) -> None:
        bind, unbind = attribute(1, b"\1"), attribute(1, b"\2")
        super().__init__(Subsystem("sink", 4 << 8 | 1, bind, unbind), numbers, 1 << 16, [])


@in_own_namespace
def test_first_number_that_is_free_is_bound_and_given_back() -> None:
    """
    Of the numbers to try the first one that no other socket has is bound; a number is free again
    when its socket is closed, as often as that may be. If others have them all, that is said.
    """
    first, second = PacketSink([2000]), PacketSink([2000, 2001])
    with pytest.raises(KernelRefusedError, match=r"bind any of 2 sinks: .*other processes own it"):
        PacketSink([2000, 2001])
    first.close()
    first.close()
    third = PacketSink([2000, 2001])

    assert [2000, 2001, 2000] == [each.number for each in (first, second, third)]
    assert "<PacketSink 2001>" == repr(second)

    for each in (second, third):
        each.close()


@in_own_namespace
def test_number_is_given_back_although_a_child_has_the_socket() -> None:
    """Closing unbinds, so that a descriptor that a forked child has keeps no number."""
    sink = PacketSink([2000])
    kept = os.dup(sink.fileno())
    sink.close()
    again = PacketSink([2000])
    os.close(kept)

    assert 2000 == again.number

    again.close()


@in_own_namespace
def test_setting_that_is_refused_is_named_and_gives_the_number_back() -> None:
    """What could not be set is said with the name and the number, which are free afterwards."""
    bind, unbind = attribute(1, b"\1"), attribute(1, b"\2")
    subsystem = Subsystem("sink", 4 << 8 | 1, bind, unbind)
    wrong = Setting("set nonsense for", attribute(1, b"\xff"))
    with pytest.raises(KernelRefusedError, match="could not set nonsense for sink 2000"):
        NumberedSocket(subsystem, [2000], 1 << 16, [wrong])

    PacketSink([2000]).close()


@in_own_namespace
def test_other_refusals_are_no_reason_to_try_the_next_number() -> None:
    """Only EPERM says that a number is taken; what else is wrong is wrong with all of them."""
    nonsense = Subsystem("sink", 4 << 8 | 1, attribute(1, b"\xff"), attribute(1, b"\2"))
    with pytest.raises(KernelRefusedError, match="could not bind sink 2000: ") as caught:
        NumberedSocket(nonsense, [2000, 2001], 1 << 16, [])

    assert errno.EPERM != caught.value.code
