"""Questions to a worker over a real pair of sockets, which a worker here answers by hand."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from trio_wsk._supervisor.asking import NoAnswerError, Questions
from trio_wsk._supervisor.channel import Channel
from trio_wsk._supervisor.messages import LONGEST, Kind, Message, answer_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SOCK_SEQPACKET"), reason="workers need sockets that keep messages apart"
)

SECONDS = 5.0


@asynccontextmanager
async def asking() -> AsyncGenerator[tuple[Questions, Channel, trio.Nursery]]:
    """Have somebody who asks hear the answers; give the other end, and a nursery."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = map(Channel, pair)
    questions = Questions(ours)

    async def hear() -> None:
        while (said := await ours.hear()) is not None:
            questions.heard(said)
        questions.close()

    with pair[0], pair[1]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            yield questions, theirs, nursery
            nursery.cancel_scope.cancel()


async def asked(worker: Channel) -> Message:
    """In the worker: hear a question."""
    said = await worker.hear()

    assert said is not None
    assert Kind.QUESTION is said.kind

    return said


async def test_answers_come_in_any_order() -> None:
    """
    Several questions wait at once, and each gets its own answer, also when those come in another
    order, and when a long one comes in parts between the others.
    """
    answers: dict[bytes, bytes] = {}
    long = bytes(range(256)) * (LONGEST // 100)
    async with asking() as (questions, worker, nursery):

        async def ask(line: bytes) -> None:
            answers[line] = await questions.ask(line, SECONDS)

        for line in (b"first", b"second"):
            nursery.start_soon(ask, line)
            await trio.testing.wait_all_tasks_blocked()
        first, second = await asked(worker), await asked(worker)
        parts = list(answer_of(first.number, long))
        await worker.say(parts[0])
        for message in answer_of(second.number, b"short"):
            await worker.say(message)
        for message in parts[1:]:
            await worker.say(message)
        with trio.fail_after(SECONDS):
            while len(answers) < 2:
                await trio.lowlevel.checkpoint()

    assert (b"first", b"second") == (first.body, second.body)
    assert len(parts) > 2
    assert {b"first": long, b"second": b"short"} == answers


async def test_who_hangs_holds_nobody_up(autojump_clock: trio.testing.MockClock) -> None:
    """
    A question has its time. An answer that comes later than that is nobody's, and the next question
    gets its own.
    """
    del autojump_clock
    async with asking() as (questions, worker, nursery):
        with pytest.raises(NoAnswerError, match="has not answered within 5 s"):
            await questions.ask(b"slow", SECONDS)
        late = await asked(worker)

        async def answer_both() -> None:
            await worker.say(Message(Kind.ANSWER, b"late", late.number))
            await worker.say(Message(Kind.ANSWER, b"now", (await asked(worker)).number))

        nursery.start_soon(answer_both)

        assert b"now" == await questions.ask(b"next", float("inf"))


async def test_who_ends_leaves_no_question_open() -> None:
    """Who waits for a worker that ends is told, and so is who asks after that."""
    async with asking() as (questions, worker, nursery):

        async def end() -> None:
            await asked(worker)
            worker.close()

        nursery.start_soon(end)
        for _ in range(2):
            with pytest.raises(NoAnswerError, match="has ended"):
                await questions.ask(b"anything", float("inf"))
