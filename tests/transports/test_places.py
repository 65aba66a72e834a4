"""What all places to listen have in common."""

from __future__ import annotations

import os
import socket

import pytest

from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk.transports._places import checked_backlog, close_all


def test_backlog_that_is_not_given_is_as_long_as_can_be() -> None:
    """Without a backlog the kernel's own limit decides."""
    assert 0xFFFF == checked_backlog(None)


@pytest.mark.parametrize("backlog", [0, 1, 128, 0xFFFF])
def test_backlog_is_passed_on(backlog: int) -> None:
    """A count of connections is what the kernel is asked for."""
    assert backlog == checked_backlog(backlog)


def test_backlog_does_not_wrap_around() -> None:
    """A backlog of more than 16 bits is cut, where some kernels would take it modulo 65536."""
    assert 0xFFFF == checked_backlog(65536)


@pytest.mark.parametrize("backlog", [-1, "128", 1.5, True])
def test_backlog_that_is_no_count_is_refused(backlog: object) -> None:
    """The message has the value and a right call."""
    with pytest.raises(InvalidParameterError) as caught:
        checked_backlog(backlog)

    assert f"backlog={backlog!r} " in str(caught.value)
    assert "write backlog=128" in str(caught.value)


def test_every_socket_is_closed_although_one_was_closed_behind_our_back() -> None:
    """A descriptor that somebody has closed does not keep the other sockets open."""
    robbed, last = socket.socket(), socket.socket()
    os.close(robbed.fileno())

    close_all([robbed, last])

    assert -1 == last.fileno()
