"""A rule about who speaks before a server has greeted."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.helpers.ruling import IN, UNDECIDED, gate
from tests.helpers.serving import serving
from tests.helpers.support import connect_now, fate_of
from trio_wsk import CloseStyle, Connection
from trio_wsk.inspectors import Need, Rules, early_talkers

REJECTED = b"554 no\r\n"


async def test_who_waits_is_let_on_when_the_time_is_over(autojump_clock: object) -> None:
    """Who says nothing is let on after the time, and not before."""
    async with gate(Rules(early_talkers(2))) as at:
        visitor = await at.come()
        await trio.sleep(1.5)
        await at.look()
        assert visitor.fate == UNDECIDED
        await trio.sleep(1)
        await at.look()

        assert visitor.fate == IN


async def test_who_speaks_is_turned_away_at_once(autojump_clock: object) -> None:
    """One octet is enough, whenever it comes in that time."""
    async with gate(Rules(early_talkers(2, reason="pregreet", close=REJECTED))) as at:
        visitor = await at.come()
        await trio.sleep(1.5)
        await visitor.stream.send_all(b"H")
        await at.look()

        assert visitor.fate == "pregreet"
        assert await visitor.stream.receive_some() == REJECTED
        assert trio.current_time() < 2


async def test_who_speaks_after_that_is_let_on(autojump_clock: object) -> None:
    """What a client says behind the time is for the handler, all of it."""
    async with gate(Rules(early_talkers(2))) as at:
        visitor = await at.come()
        await trio.sleep(2.5)
        await visitor.stream.send_all(b"HELO")
        await at.look()

        assert visitor.connection is not None
        assert await visitor.connection.receive_some() == b"HELO"


async def test_who_leaves_is_no_early_talker(autojump_clock: object) -> None:
    """A peer that finishes without a word has left; nobody decides about it."""
    async with gate(Rules(early_talkers(2))) as at:
        visitor = await at.come()
        await visitor.stream.send_eof()
        await at.look()

        assert visitor.fate == "fin"


async def test_everybody_waits_at_the_same_time(autojump_clock: object) -> None:
    """Nobody waits for the others' time to be over."""
    async with gate(Rules(early_talkers(2))) as at:
        for number in range(1, 50):
            await at.come(f"192.0.2.{number}")
        await trio.sleep(2.1)
        await at.look()

        assert {each.fate for each in at.visitors} == {IN}


def test_rule_says_what_it_needs() -> None:
    """It looks at first octets, and turns away in the way that it was told."""
    rule: Any = early_talkers(close=REJECTED)

    assert (rule.needs, rule.close_styles) == (Need.OCTETS, {CloseStyle.MESSAGE})


async def greeting(connection: Connection) -> None:
    """Speak first."""
    await connection.send_all(b"220 hello\r\n")


@pytest.mark.parametrize("speaks", [True, False])
async def test_greeting_is_waited_for_on_the_wire(readiness: str, *, speaks: bool) -> None:
    """Who waits is greeted, and who doesn't is reset."""
    rules = Rules(early_talkers(30 if speaks else 0))
    options = {"inspect": rules, "inspect_timeout": 60}
    async with serving(greeting, **options) as (server, _):
        client = connect_now(server.local_addresses[0])
        if speaks:
            await client.send_all(b"HELO\r\n")
            assert await fate_of(client) == "reset"
            assert {"talked-early": 1} == server.statistics().listening.rejected
        else:
            assert await client.receive_some() == b"220 hello\r\n"
        await client.aclose()
