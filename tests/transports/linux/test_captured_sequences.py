"""The sequences of segments that the explanation shows are what a capture shows.

Each is played with a real client on the loopback interface, over IPv4 and IPv6 side by side; a
line that is no segment says what happens to the two programs in between.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

import pytest
import trio

import trio_wsk
from tests.helpers.gated import LOOPBACK, RST
from tests.helpers.namespaces import in_own_namespace
from tests.helpers.places import DOCS
from tests.helpers.support import PATIENCE, until
from tests.helpers.wire import Capture, send_segment
from trio_wsk import (
    CloseStyle,
    InspectAction,
    InspectPoint,
    ListenDispatch,
    ListeningSocket,
    Status,
    Verdict,
)
from trio_wsk.transports import LinuxTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import TypeAlias

    from trio_wsk import ConnectionRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN")

PAGE = DOCS / "explanation" / "before-the-handshake.md"
SEQUENCE = re.compile(r"^### (.+)\n(?:(?!#).*\n)*?```text\n((?:.*\n)*?)```$", re.MULTILINE)

ACCEPT, REJECT, PEND = InspectAction.ACCEPT, InspectAction.REJECT, InspectAction.PEND
SILENT: Final = Verdict(REJECT, close=CloseStyle.SILENT)


def shown() -> dict[str, list[str]]:
    """Read the page's sequences, by their headings."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition("\n## On the wire\n")
    section, _, _ = section.partition("\n## ")
    return {title: lines.splitlines() for title, lines in SEQUENCE.findall(section)}


class Stage:
    """A listening socket that was asked for a connection, its client, and what is told of them."""

    def __init__(
        self,
        listening: ListeningSocket,
        client: trio.socket.SocketType,
        capture: Capture,
        heard: Callable[[], Awaitable[object]],
    ) -> None:
        self._listening = listening
        self._client = client
        self._capture = capture
        self._heard = heard
        self._told: list[tuple[int, str]] = []
        self._ended = trio.Event()
        self._outcome = ""
        self.asked = trio.Event()
        self.over = trio.Event()
        self.request: ConnectionRequest

    def tell(self, what: str) -> None:
        """Note that something happens after the segments that were seen by now."""
        self._told.append((len(self._capture.segments()), what))

    def lines(self) -> list[str]:
        """Put what was told between the segments."""
        return [*self._lines(self._capture.exchange())]

    def _lines(self, segments: list[str]) -> Iterator[str]:
        for count in range(len(segments) + 1):
            yield from (f"      {what}" for after, what in self._told if after == count)
            yield from segments[count : count + 1]

    async def connect(self) -> None:
        """Be the client."""
        try:
            await self._client.connect(self._listening.local_addresses[0].sockaddr)
        except ConnectionRefusedError:
            self._outcome = "connect() fails: connection refused"
        except trio.ClosedResourceError:
            self._outcome = "connect() was given up"
        else:
            self._outcome = "connect() succeeds"
        self._ended.set()

    # --- What a story is made of -------------------------------------------------------

    async def outcome(self) -> None:
        """Wait until the client knows how its attempt has ended."""
        await self._ended.wait()
        self.tell(self._outcome)

    async def aborted(self) -> None:
        """Wait until the request is over."""
        await self.over.wait()
        assert self.request.aborted is not None
        self.tell(f"the request is aborted: {self.request.aborted.reason.value}")

    async def seen(self, count: int) -> None:
        """Wait for so many segments in all."""
        await self._capture.until(lambda seen: len(seen) >= count, f"exchange of {count} segments")

    async def repeated(self) -> None:
        """Wait until the client has said the same SYN three times, and all of them were heard."""
        await self.seen(3)
        await self._heard()

        assert 1 == len({each.sequence_number for each in self._capture.segments()})

    def complete(self, answer: InspectAction) -> None:
        """Give the verdict."""
        self.tell(f"inspect_complete: {answer.name}")
        status = self._listening.inspect_complete(self.request.inspect_id, answer)

        assert Status.SUCCESS is status

    async def leave(self) -> None:
        """Have the client close its socket."""
        self.tell("the client closes its socket")
        self._client.close()
        await self._ended.wait()

    async def close(self) -> None:
        """Close the listening socket."""
        self.tell("the listening socket is closed")
        await self._listening.aclose()

    def reset(self) -> None:
        """Send the reset that would belong to the client's SYN."""
        (syn,) = self._capture.segments()
        send_segment(syn.source, syn.destination, RST, syn.sequence_number + 1)


# --- The stories ---------------------------------------------------------------------------------


async def accept(stage: Stage) -> None:
    """The client is let in."""
    await stage.seen(3)
    await stage.outcome()


async def be_silent(stage: Stage) -> None:
    """The client asks again and again."""
    await stage.repeated()
    await stage.leave()


async def accept_later(stage: Stage) -> None:
    """The verdict comes when the client has asked three times."""
    await stage.repeated()
    stage.complete(ACCEPT)
    await stage.seen(5)
    await stage.outcome()


async def reject_later(stage: Stage) -> None:
    """The verdict comes a moment later."""
    stage.complete(REJECT)
    await stage.outcome()


async def close_listening(stage: Stage) -> None:
    """The listening socket is closed while the request is pended."""
    await stage.close()
    await stage.outcome()
    await stage.aborted()


async def give_up_before_approval(stage: Stage) -> None:
    """The client leaves, which nobody can see, and then it is let in."""
    await stage.leave()
    stage.complete(ACCEPT)
    await stage.seen(3)
    await stage.aborted()


async def give_up(stage: Stage) -> None:
    """The client leaves, and is missed."""
    await stage.leave()
    await stage.aborted()


async def reset_while_pended(stage: Stage) -> None:
    """The client's SYN is taken back by a reset."""
    await stage.leave()
    stage.reset()
    await stage.aborted()


Story: TypeAlias = "tuple[InspectAction | Verdict, Callable[[Stage], Awaitable[object]]]"

STORIES: dict[str, Story] = {
    "Accept": (ACCEPT, accept),
    "Reject": (REJECT, Stage.outcome),
    "Reject in silence": (SILENT, be_silent),
    "Pend, and accept": (PEND, accept_later),
    "Pend, and reject": (PEND, reject_later),
    "Close while a request is pended": (PEND, close_listening),
    "The client gives up while it is pended": (PEND, give_up),
    "The client gives up, and is accepted": (PEND, give_up_before_approval),
    "A reset comes while it is pended": (PEND, reset_while_pended),
}


def syns(capture: Capture) -> int:
    """How many SYNs were seen by now."""
    return sum(segment.flags == "SYN" for segment in capture.segments())


async def play(story: Story, host: str, captures: list[Capture]) -> list[str]:
    """Have a client ask for a connection, let the story take its course, and tell it.

    All that are played in one run have their captures in one list.
    """
    answer, go_on = story
    # A capture knows a listening socket by its port, and the kernel may choose one for both.
    transport = LinuxTransport.tcp(7001 + LOOPBACK.index(host), host=host)
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET

    def inspect(request: ConnectionRequest) -> InspectAction | Verdict:
        stage.request = request
        style = ", CloseStyle.SILENT" if isinstance(answer, Verdict) else ""
        action = answer.action if isinstance(answer, Verdict) else answer
        stage.tell(f"the inspector answers {action.name}{style}")
        stage.asked.set()
        return answer

    def abort(_: trio_wsk.InspectId) -> None:
        stage.over.set()

    async def heard() -> None:
        gatekeeper = transport._arrivals._gatekeeper  # noqa: SLF001 - only it tells of repetitions
        assert gatekeeper is not None
        queue = gatekeeper.queue
        await until(lambda: queue.last_id == sum(map(syns, captures)))

    with trio.fail_after(PATIENCE), trio.socket.socket(family) as client:
        async with trio_wsk.open_listening_socket(
            transport=transport,
            dispatch=ListenDispatch(inspect=inspect, abort=abort),
            inspect_point=InspectPoint.BEFORE_HANDSHAKE,
            inspect_timeout=PATIENCE,
        ) as listening:
            with Capture("lo", listening.local_addresses[0].port) as capture:
                captures.append(capture)
                stage = Stage(listening, client, capture, heard)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stage.connect)
                    await stage.asked.wait()
                    await go_on(stage)
                    return stage.lines()


def test_each_sequence_that_is_shown_is_played() -> None:
    """The page shows these sequences, in this order, and no others."""
    assert [*STORIES] == [*shown()]


@pytest.mark.parametrize("title", STORIES)
@in_own_namespace
async def test_sequence_is_as_it_is_shown(title: str) -> None:
    """What is captured, over IPv4 and over IPv6, is what the page shows."""
    told: dict[str, list[str]] = {}
    captures: list[Capture] = []

    async def play_on(host: str) -> None:
        told[host] = await play(STORIES[title], host, captures)

    async with trio.open_nursery() as nursery:
        for host in LOOPBACK:
            nursery.start_soon(play_on, host)

    assert dict.fromkeys(LOOPBACK, shown()[title]) == told
