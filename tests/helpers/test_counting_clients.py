"""The clients that count what they lose: that they do."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import closing
from typing import Final

import pytest
import trio

from tests.helpers.changes import excess_of, load
from tests.helpers.counting_clients import Counted, Wanted
from tests.helpers.resetting import close_with_reset

FATES: Final = ("answered", "greeted, then FIN", "FIN", "greeted, then reset", "reset")
"""What becomes of one client after the other."""


async def answer(listening: trio.socket.SocketType, clients: int) -> None:
    """Give so many clients their fates, and then refuse who comes."""
    with listening:
        for number in range(clients):
            sock, _ = await listening.accept()
            if number == clients - 1:
                listening.close()  # before anybody else can come
            await give(sock, FATES[number % len(FATES)])


async def give(sock: trio.socket.SocketType, fate: str) -> None:
    """Give one client its fate, when it has said what it has to say."""
    if fate.startswith(("answered", "greeted")):
        await sock.send(b"7\n")
        await sock.recv(10)
    if fate == "answered":
        await sock.send(b"done\n")
    if fate.endswith("reset"):
        close_with_reset(sock)
    else:
        sock.close()


async def test_what_is_lost_is_counted_by_what_happened() -> None:
    """
    Who is refused, reset, or left without an answer is lost, and known by the worker that had
    greeted it; nobody is counted twice, or not at all.
    """
    listening = trio.socket.from_stdlib_socket(socket.create_server(("127.0.0.1", 0)))
    wanted = Wanted(listening.getsockname()[1], kinds="a", at_once=1)
    async with trio.open_nursery() as nursery, load(wanted) as clients:
        nursery.start_soon(answer, listening, 100)
        await clients.answers(20)
        await clients.until(lambda: "0 ConnectionRefusedError" in clients.counted.lost)
        counted = await clients.end()

    assert 100 == counted.begun - counted.lost.pop("0 ConnectionRefusedError")
    assert Counter({"7": 20}) == counted.by
    assert {
        "7 ConnectionResetError": 20,
        "7 LeftWithoutAnswerError": 20,
        "0 ConnectionResetError": 20,
        "0 LeftWithoutAnswerError": 20,
    } == counted.lost


async def test_who_waits_for_too_long_is_lost() -> None:
    """Whoever hears nothing for as long as it has patience is counted, and leaves."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        wanted = Wanted(listening.getsockname()[1], kinds="a", at_once=1, patience=0.01)
        async with load(wanted) as clients:
            await clients.until(lambda: clients.counted.lost.total() > 0)
            counted = await clients.end()

    assert {"0 TimeoutError": counted.begun} == counted.lost


@pytest.mark.parametrize(
    ("lost", "excess"),
    [
        ({}, {}),
        ({"1 ConnectionResetError": 2, "0 ConnectionResetError": 3}, {}),
        ({"1 ConnectionResetError": 3}, {1: 1}),
        ({"1 ConnectionResetError": 1, "0 ConnectionResetError": 5}, {0: 1}),
        ({"2 LeftWithoutAnswerError": 1, "2 ConnectionResetError": 4}, {2: 2}),
        ({"3 ConnectionResetError": 1}, {3: 1}),
        ({"0 ConnectionRefusedError": 1}, {0: 1}),
    ],
)
def test_only_what_was_open_at_a_kill_may_be_lost(
    lost: dict[str, int], excess: dict[int, int]
) -> None:
    """Of workers 1 and 2, which had two and three connections, two and three may be lost."""
    assert excess == excess_of(Counted(lost=Counter(lost)), {1: 2, 2: 3})
