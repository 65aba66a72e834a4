"""TLS over a channel: what has to hold of it as of any channel, however its octets come and go."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tls import (
    OLD,
    ScriptedChannel,
    TLSPeer,
    client_context,
    key_updates,
    server_context,
)
from trio_wsk.transports._tls_channel import TLSChannel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

VERSIONS = pytest.mark.parametrize("version", [None, OLD], ids=["1.3", "1.2"])
QUITE_A_FEW = settings(max_examples=25, deadline=None)
CONTEXT = server_context(alpn=["h2"])
SIZES = st.one_of(st.integers(1, 40), st.integers(1, 40000))


class Talk:
    """A channel that has shaken hands, what is below it, and its client."""

    def __init__(
        self,
        version: ssl.TLSVersion | None = None,
        *,
        https_compatible: bool = False,
        key_log: Path | None = None,
    ) -> None:
        self.below = ScriptedChannel()
        self.coming: list[bytes] = []
        """What comes piece by piece, while it is read."""
        self.looks = 0
        """How often the channel has asked to be looked at again."""
        self.channel = TLSChannel(
            self.below, CONTEXT, https_compatible=https_compatible, again=self._look
        )
        context = client_context(version, alpn=["h2"])
        if key_log is not None:
            context.keylog_filename = str(key_log)
        self.client = TLSPeer(self.below, context)
        self.begin()

    def _look(self) -> None:
        self.looks += 1

    def begin(self) -> None:
        """Shake hands."""
        is_over = False
        while not is_over:
            self.below.comes = [said] if (said := self.client.shake_hands()) else []
            is_over = shake_hands(self.channel)
        self.client.received()

    def come(self, octets: bytes) -> None:
        """Have octets come, all at once."""
        self.below.comes += [octets]

    def come_slowly(self, octets: bytes, sizes: Iterable[int]) -> None:
        """Have octets come in pieces of these sizes, and the rest in one, while they are read."""
        for size in sizes:
            piece, octets = octets[:size], octets[size:]
            self.coming += [piece] if piece else []
        self.coming += [octets] if octets else []

    def read_all(self, sizes: Iterable[int] = ()) -> bytes:
        """Read by these sizes until nothing is left, as a connection does; check what that means.

        A piece comes when all before it has been read: then there is an edge.
        """
        octets = b""
        sizes = [*sizes] or [1 << 16]
        looks = self.looks
        for count in range(1 << 20):
            size = sizes[count % len(sizes)]
            try:
                data = self.channel.recv(size)
            except BlockingIOError:
                data = None
            if data == b"":
                return octets + b"."
            octets += data or b""
            if data is None or len(data) < size:
                if self.looks == looks:
                    assert [] == self.below.comes
                    assert raises_would_block(self.channel)

                    if not self.coming:
                        return octets
                    self.below.comes = [self.coming.pop(0)]
                looks = self.looks
        raise AssertionError("it never ends")


def shake_hands(channel: TLSChannel) -> bool:
    """Go on with the handshake for as long as it goes; return whether it is over."""
    try:
        while not channel.shake_hands():
            pass
    except BlockingIOError:
        return False
    return True


def raises_would_block(channel: TLSChannel) -> bool:
    """Whether there is nothing to be read."""
    try:
        channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


# --- The handshake ------------------------------------------------------------------------------


@VERSIONS
@QUITE_A_FEW
@given(sizes=st.lists(SIZES, min_size=1, max_size=20), most=st.integers(1, 2000))
def test_handshake_goes_through_in_any_pieces(
    version: ssl.TLSVersion | None, sizes: list[int], most: int
) -> None:
    """However its octets come and leave, it ends, and what was agreed on is known."""
    below = ScriptedChannel()
    below.most = most
    channel = TLSChannel(below, CONTEXT, https_compatible=False, again=list)
    client = TLSPeer(below, client_context(version, alpn=["h2"]))
    count = 0
    while channel.info is None:
        said = client.shake_hands()
        while said:
            size = sizes[count % len(sizes)]
            below.comes, said = [said[:size]], said[size:]
            shake_hands(channel)
            count += 1

    info = channel.info
    assert ("server.test", "h2") == (info.server_name, info.alpn)
    assert ("TLSv1.2" if version else "TLSv1.3") == info.version
    assert client.tls.cipher() is not None
    assert info.peer_certificate() is None
    assert info.version in repr(info)


def test_name_is_what_a_context_is_told() -> None:
    """A callback that the context has is called as ever, and the name is what that is told."""
    context = server_context()
    told = []
    context.sni_callback = lambda _, name, __: told.append(name)
    below = ScriptedChannel()
    channel = TLSChannel(below, context, https_compatible=False, again=list)
    client = TLSPeer(below, client_context())
    while channel.info is None:
        below.comes = [client.shake_hands()]
        shake_hands(channel)

    assert ["server.test"] == told == [channel.info.server_name]


def test_handshake_waits_for_room() -> None:
    """It is not over before all that belongs to it has left, and says what it waits for."""
    below = ScriptedChannel()
    below.room = 100
    channel = TLSChannel(below, CONTEXT, https_compatible=False, again=list)
    client = TLSPeer(below)
    below.comes = [client.shake_hands()]

    assert not shake_hands(channel)
    assert channel.owes

    below.room = None

    assert not shake_hands(channel)
    assert not channel.owes

    below.room, below.comes = 0, [client.shake_hands()]

    assert not shake_hands(channel)
    assert channel.owes

    below.room = None

    assert shake_hands(channel)


@pytest.mark.parametrize("says", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\x05garbage"])
def test_what_is_no_tls_is_no_handshake(says: bytes) -> None:
    """The library's error is told as it is, and its alert is sent."""
    below = ScriptedChannel()
    channel = TLSChannel(below, CONTEXT, https_compatible=False, again=list)
    below.comes = [says, b"more", b""]
    with pytest.raises(ssl.SSLError):
        shake_hands(channel)

    assert below.sent.startswith(b"\x15\x03" if says[0] == 0x16 else b"")  # an alert

    channel.close()

    assert below.is_closed
    assert [b""] == below.comes  # thrown away: else a reset would take the alert


@pytest.mark.parametrize("says", [b"", b"\x16"])
def test_peer_that_finishes_early_has_left(says: bytes) -> None:
    """An end in the middle of it is no error of TLS."""
    below = ScriptedChannel()
    channel = TLSChannel(below, CONTEXT, https_compatible=False, again=list)
    below.comes = [*([says] if says else []), b""]
    with pytest.raises(EOFError):
        shake_hands(channel)


# --- Receiving ----------------------------------------------------------------------------------


@VERSIONS
@QUITE_A_FEW
@given(
    data=st.lists(st.one_of(st.binary(min_size=1, max_size=100), SIZES.map(bytes)), max_size=8),
    pieces=st.lists(SIZES, max_size=20),
    sizes=st.lists(SIZES, min_size=1, max_size=5),
    ends=st.booleans(),
)
def test_octets_are_read_as_they_were_sent(
    version: ssl.TLSVersion | None,
    data: list[bytes],
    pieces: list[int],
    sizes: list[int],
    ends: bool,  # noqa: FBT001 - Hypothesis names it
) -> None:
    """
    In whatever pieces they come and are read, nothing is lost; and a short read means that nothing
    is left, unless the channel has asked to be looked at again.
    """
    talk = Talk(version)
    octets = b"".join(data)
    said = b"".join(talk.client.encrypted(each) for each in data)
    talk.come_slowly(said + (talk.client.good_bye() if ends else b""), pieces)

    assert octets + (b"." if ends else b"") == talk.read_all(sizes)


def test_receiving_into_a_buffer() -> None:
    """It is filled as far as there are octets."""
    talk = Talk()
    talk.come(talk.client.encrypted(b"hello"))
    buffer = bytearray(8)

    assert 5 == talk.channel.recv_into(buffer)
    assert b"hello" == bytes(buffer[:5])


def test_looking_takes_nothing() -> None:
    """MSG_PEEK shows what is next, again and again; also where the peer has ended."""
    talk = Talk()

    assert raises_would_block(talk.channel)

    talk.come(talk.client.encrypted(b"hello") + talk.client.encrypted(b"!"))

    assert b"h" == talk.channel.recv(1, socket.MSG_PEEK) == talk.channel.recv(1, socket.MSG_PEEK)
    assert b"hello!" == talk.channel.recv(100)
    assert raises_would_block(talk.channel)

    talk.come(talk.client.good_bye())

    assert b"" == talk.channel.recv(1, socket.MSG_PEEK) == talk.channel.recv(1)


def test_end_behind_octets_is_looked_for_again() -> None:
    """No edge tells of a good-bye that came with data, so the channel has itself looked at."""
    talk = Talk()
    talk.come(talk.client.encrypted(b"last") + talk.client.good_bye())

    assert b"last" == talk.channel.recv(100)
    assert 1 == talk.looks
    assert b"" == talk.channel.recv(100) == talk.channel.recv(100)


@pytest.mark.parametrize("https_compatible", [True, False])
def test_end_without_a_good_bye_is_an_end_where_https_is_spoken(*, https_compatible: bool) -> None:
    """Else it is an error, after all that came before it."""
    talk = Talk(https_compatible=https_compatible)
    talk.come(talk.client.encrypted(b"part"))
    talk.below.comes.append(b"")

    assert b"part" == talk.channel.recv(100)

    if https_compatible:
        assert b"" == talk.channel.recv(100) == talk.channel.recv(100)
    else:
        for _ in range(2):
            with pytest.raises(OSError, match="without TLS's good-bye") as caught:
                talk.channel.recv(100)

            assert errno.EPROTO == caught.value.errno


@VERSIONS
def test_damage_is_an_error_after_what_came_before(version: ssl.TLSVersion | None) -> None:
    """What was whole is read; then the connection is broken for good, and the peer is told why."""
    talk = Talk(version)
    good, bad = talk.client.encrypted(b"good"), bytearray(talk.client.encrypted(b"bad"))
    bad[-1] ^= 1
    talk.come(good + bad)

    assert b"good" == talk.channel.recv(100)
    assert 1 == talk.looks
    assert talk.below.sent.startswith(b"\x15\x03" if version else b"\x17\x03")

    for _ in range(2):
        with pytest.raises(OSError, match="TLS: DECRYPTION_FAILED") as caught:
            talk.channel.recv(100)

        assert errno.EPROTO == caught.value.errno
    with pytest.raises(OSError, match="TLS: "):
        talk.channel.send(b"x")


def test_error_below_is_told_as_it_is() -> None:
    """A reset is one, with TLS as without."""
    talk = Talk()
    talk.come(talk.client.encrypted(b"x"))
    talk.below.comes.append(OSError(errno.ECONNRESET, "reset"))

    assert b"x" == talk.channel.recv(100)

    with pytest.raises(ConnectionResetError):
        talk.channel.recv(100)


def test_many_small_records_are_read_in_several_turns() -> None:
    """A peer that puts each octet into a record of its own doesn't keep others waiting."""
    talk = Talk()
    talk.come(b"".join(talk.client.encrypted(b"x") for _ in range(200)))

    assert 64 == len(talk.channel.recv(1 << 16))
    assert 1 == talk.looks
    assert b"x" * 136 == talk.read_all()


# --- Sending ------------------------------------------------------------------------------------


@VERSIONS
@QUITE_A_FEW
@given(
    data=st.lists(SIZES, min_size=1, max_size=6),
    rooms=st.lists(st.integers(0, 100000), max_size=20),
    most=st.integers(500, 100000),
)
def test_what_was_taken_has_left(
    version: ssl.TLSVersion | None, data: list[int], rooms: list[int], most: int
) -> None:
    """
    Whatever room there is, the peer gets every octet that was taken, and none twice; of what was
    not taken it has got no more than a part of one piece.
    """
    talk = Talk(version)
    talk.below.most = most
    octets = b"".join(bytes([65 + count]) * size for count, size in enumerate(data))
    rest = octets
    taken = received = b""
    for room in [*rooms, None]:
        talk.below.room = room
        try:
            while rest:
                count = talk.channel.send(rest)
                taken, rest = taken + rest[:count], rest[count:]
        except BlockingIOError:
            assert talk.channel.owes == talk.channel.is_halfway
        received += talk.client.received()

        assert received.startswith(taken)
        assert octets.startswith(received)
        assert len(received) - len(taken) <= (1 << 16)

    assert octets == taken == received
    assert not talk.channel.owes


def test_record_that_is_half_out_is_gone_on_with() -> None:
    """It counts as taken when its last part has left, with the octets that came after it."""
    talk = Talk()
    talk.below.room = 10
    with pytest.raises(BlockingIOError):
        talk.channel.send(b"half")

    assert talk.channel.is_halfway

    talk.below.room = None

    assert 6 == talk.channel.send(b"half, ")
    assert not talk.channel.is_halfway
    assert b"half, " == talk.client.received()


def test_record_that_was_given_up_leaves_all_the_same() -> None:
    """Others follow it: a record that has begun can't be taken back."""
    talk = Talk()
    talk.below.room = 10
    with pytest.raises(BlockingIOError):
        talk.channel.send(b"half")
    talk.channel.give_up()
    talk.below.room = None

    assert 5 == talk.channel.send(b"other")
    assert b"halfother" == talk.client.received()


# --- What TLS says by itself --------------------------------------------------------------------


@pytest.fixture
def update(tmp_path: Path) -> tuple[Talk, Callable[[int], bytes]]:
    """A talk whose client makes as many KeyUpdates as one wants, and that."""
    log = tmp_path / "keys"
    talk = Talk(key_log=log)
    return talk, lambda count: key_updates(log, count)


Update = tuple[Talk, "Callable[[int], bytes]"]


def test_key_update_is_answered(update: Update) -> None:
    """The keys are changed in both directions, and octets go on both ways."""
    talk, updates = update
    talk.come(updates(1))

    assert raises_would_block(talk.channel)

    talk.channel.send(b"with new keys")

    assert b"with new keys" == talk.client.received()


def test_answers_that_nobody_asked_us_for_wait_for_room(update: Update) -> None:
    """They go with the next octets in either direction, and are never in their way."""
    talk, updates = update
    talk.below.room = 0
    talk.come(updates(2))  # the second one is answered with what comes next

    assert raises_would_block(talk.channel)
    assert talk.channel.owes
    assert not talk.channel.is_halfway

    talk.below.room = None

    assert raises_would_block(talk.channel)
    assert not talk.channel.owes


def test_many_key_updates_are_done_in_several_turns(update: Update) -> None:
    """A peer that says nothing else doesn't keep others waiting; no edge would tell of the rest."""
    talk, updates = update
    said = updates(3000)
    talk.come(said)

    assert raises_would_block(talk.channel)
    assert 1 == talk.looks

    (rest,) = talk.below.comes

    assert isinstance(rest, bytes)
    assert len(rest) > len(said) / 2
    assert b"" == talk.read_all()
    assert talk.looks > 1


def test_peer_that_has_us_answer_and_does_not_read_is_cut_off(update: Update) -> None:
    """What it makes us say would fill the memory."""
    talk, updates = update
    talk.below.room = 0
    talk.come(updates(6000))
    with pytest.raises(OSError, match="does not read the answers"):
        talk.read_all()


def test_what_we_send_ourselves_is_no_answer(update: Update) -> None:
    """A peer that reads nothing for a while may go on sending, and change its keys as well."""
    talk, updates = update
    talk.below.room = 0
    with pytest.raises(BlockingIOError):
        talk.channel.send(bytes(1 << 20))
    talk.come(updates(100))

    assert b"" == talk.read_all()

    talk.below.room = None

    assert 1 << 20 == talk.channel.send(bytes(1 << 20))
    assert bytes(1 << 20) == talk.client.received()


def test_failure_to_answer_is_told_after_all_was_read(update: Update) -> None:
    """
    The system says once that the peer has gone. If TLS hears of it, sending fails with it from then
    on, and so does reading, after what had come.
    """
    talk, updates = update
    talk.below.failure = OSError(errno.ECONNRESET, "reset")
    talk.come(updates(2))

    assert raises_would_block(talk.channel)

    with pytest.raises(ConnectionResetError):
        talk.channel.send(b"x")
    talk.below.comes.append(b"")
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            talk.channel.recv(100)


# --- The end ------------------------------------------------------------------------------------


@VERSIONS
def test_good_bye_comes_before_fin(version: ssl.TLSVersion | None) -> None:
    """The peer hears close_notify; what it says then is read to its own, also what came before."""
    talk = Talk(version)
    talk.come(talk.client.encrypted(b"0123456"))

    assert b"0" == talk.channel.recv(1)

    talk.channel.shutdown(socket.SHUT_WR)

    assert talk.below.has_finished
    assert b"." == talk.client.received()

    if version is None:  # TLS 1.2 has the other side end as well
        talk.come(talk.client.encrypted(b"after"))

        assert b"123456after" == talk.channel.recv(100)
    else:
        assert b"123456" == talk.channel.recv(100)

    talk.come(talk.client.good_bye())

    assert b"" == talk.channel.recv(100)


def test_what_waits_undecrypted_survives_the_good_bye() -> None:
    """OpenSSL would not say good-bye over unread data, and would be of no use any more."""
    talk = Talk()
    talk.come(b"".join(talk.client.encrypted(bytes([65 + count]) * 100) for count in range(20)))

    assert b"A" == talk.channel.recv(1)

    talk.channel.shutdown(socket.SHUT_WR)

    assert 1999 == len(talk.channel.recv(1 << 16))


@pytest.mark.parametrize("room", [0, 5])
def test_good_bye_waits_for_room(room: int) -> None:
    """FIN before it would cut what was said short; so whoever ends is told to come again."""
    talk = Talk()
    talk.below.room = room
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            talk.channel.shutdown(socket.SHUT_WR)

        assert not talk.below.has_finished
    talk.below.room = None
    talk.channel.shutdown(socket.SHUT_WR)

    assert talk.below.has_finished
    assert b"." == talk.client.received()


def test_good_bye_to_who_has_said_so_need_not_arrive() -> None:
    """A peer that has ended in good order may have closed, and ours resets then: no error."""
    talk = Talk()
    talk.come(talk.client.good_bye())

    assert b"" == talk.channel.recv(100)

    talk.below.failure = OSError(errno.EPIPE, "gone")
    talk.channel.shutdown(socket.SHUT_WR)


def test_good_bye_that_fails_otherwise_is_an_error() -> None:
    """A peer that has not ended was to hear it."""
    talk = Talk()
    talk.below.failure = OSError(errno.EPIPE, "gone")
    with pytest.raises(BrokenPipeError):
        talk.channel.shutdown(socket.SHUT_WR)


def test_https_ends_without_a_good_bye() -> None:
    """As Trio's stream does that is ``https_compatible``."""
    talk = Talk(https_compatible=True)
    talk.channel.shutdown(socket.SHUT_WR)

    assert talk.below.has_finished
    assert b"" == talk.client.received()


@pytest.mark.parametrize("state", ["as it is", "no room", "halfway", "gone", "ended"])
def test_closing_says_good_bye_if_that_goes_at_once(state: str) -> None:
    """It never raises, and a peer that has got a part never hears a good-bye after it."""
    talk = Talk()
    if state == "no room":
        talk.below.room = 0
    if state == "halfway":
        talk.below.room = 10
        with pytest.raises(BlockingIOError):
            talk.channel.send(b"half")
        talk.below.room = None
    if state == "gone":
        talk.below.failure = OSError(errno.EPIPE, "gone")
    if state == "ended":
        talk.channel.shutdown(socket.SHUT_WR)
    talk.channel.close()

    assert talk.below.is_closed
    assert (b"." if state in {"as it is", "ended"} else b"") == talk.client.received()


def test_descriptor_is_that_below() -> None:
    """There is no other."""
    below: Any = ScriptedChannel()
    below.fileno = lambda: 7

    assert 7 == TLSChannel(below, CONTEXT, https_compatible=False, again=list).fileno()
