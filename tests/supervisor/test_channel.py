"""What a supervisor and a worker say to each other, on a real pair of sockets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from trio_wsk._configuration.configuration import Configuration
from trio_wsk._supervisor.channel import Channel
from trio_wsk._supervisor.messages import LONGEST, Job, Kind, Message

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SOCK_SEQPACKET"), reason="workers need sockets that keep messages apart"
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("body", [b"", b"why\nnot\n", bytes(LONGEST)])
async def test_message_arrives_as_it_was_said(
    kind: Kind, body: bytes, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Each kind arrives with what there is to say beside it, as far as a packet goes."""
    ours, theirs = map(Channel, pair)

    await ours.say(Message(kind, body, 7))
    said = await theirs.hear()

    assert said is not None
    assert kind is said.kind
    assert body[: LONGEST - 64] == said.body
    assert 7 == said.number


async def test_what_is_not_known_is_passed_over(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Of a newer worker an older supervisor hears what it knows, and does not stumble."""
    ours, theirs = pair
    for packet in (b"frobnicate 1\nnow", b"\n", b"\xff\xfe", b"left", b"left x"):
        ours.send(packet)
    ours.send(b"ready 0\n")

    assert Message(Kind.READY) == await Channel(theirs).hear()


async def test_who_is_gone_is_heard_of(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nothing is heard when the other end is closed, whether it had read everything or not."""
    ours, theirs = map(Channel, pair)
    ours.tell(Message(Kind.LEAVE))
    theirs.close()

    assert None is await ours.hear()

    ours.tell(Message(Kind.END))
    await ours.say(Message(Kind.END))


async def test_who_does_not_listen_holds_nobody_up(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """What is told to an end that nobody reads from is lost when it is full, and nobody waits."""
    ours, theirs = map(Channel, pair)
    for _ in range(100):
        ours.tell(Message(Kind.JOB, bytes(LONGEST)))

    assert Message(Kind.JOB, bytes(LONGEST - 64)) == await theirs.hear()


def test_job_is_read_as_it_was_written() -> None:
    """What a worker is told to do is what it reads; where an option stood is told with it."""
    configuration = Configuration(handler="app:echo", host=["::1"], grace=2.5)
    job = Job(configuration, [3, 4], is_last=True)

    assert job == Job.unpacked(job.packed())
