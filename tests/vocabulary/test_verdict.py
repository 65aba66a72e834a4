"""The vocabulary of conditional accept."""

from __future__ import annotations

import copy
import enum
import pickle
import socket
import string
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_wsk import (
    AbortReason,
    CloseStyle,
    InspectAction,
    InspectId,
    InspectPoint,
    InvalidParameterError,
    Overflow,
    Verdict,
)
from trio_wsk._vocabulary.verdict import MESSAGE_LIMIT, as_verdict

ACTIONS = list(InspectAction)
STYLES = [CloseStyle.RESET, CloseStyle.FIN, CloseStyle.SILENT]

SLUGS = st.lists(
    st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20),
    min_size=1,
    max_size=3,
).map("-".join)


# --- The enumerations -----------------------------------------------------------------------------


def test_actions_have_wsks_values() -> None:
    """What is forgotten is refused: zero rejects, as in WSK_INSPECT_ACTION."""
    expected = {"REJECT": 0, "ACCEPT": 1, "PEND": 2}

    assert expected == {action.name: action.value for action in InspectAction}


@pytest.mark.parametrize("kind", [InspectAction, InspectPoint, CloseStyle, AbortReason])
def test_words_are_no_numbers_and_no_texts(kind: type[enum.Enum]) -> None:
    """A member equals itself alone, not its value: ``1`` and ``"reset"`` are no words of ours."""
    for member in kind:
        assert member != member.value
        assert [member] == [each for each in kind if each == member]


@pytest.mark.parametrize("kind", [InspectAction, InspectPoint, CloseStyle, AbortReason])
def test_words_stay_themselves(kind: type[enum.Enum]) -> None:
    """Copied or pickled, a member is the same object, with the same hash."""
    for member in kind:
        for twin in (
            copy.copy(member),
            copy.deepcopy(member),
            pickle.loads(pickle.dumps(member)),  # noqa: S301 - our own
        ):
            assert member is twin
        assert {member: 1} == {kind(member.value): 1}


@pytest.mark.parametrize("reason", AbortReason)
def test_reason_of_an_abort_is_a_slug_to_count_by(reason: AbortReason) -> None:
    """``statistics().aborted`` has the same kind of keys as ``rejected``."""
    assert reason.value == Verdict(InspectAction.REJECT, reason.value).reason


# --- Verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_action_alone_is_a_verdict_with_nothing_more_to_say(action: InspectAction) -> None:
    """An action counts as a verdict without a reason, whose peer is reset if it is refused."""
    assert Verdict(action, reason="", close=CloseStyle.RESET) == as_verdict(action)


@pytest.mark.parametrize("action", ACTIONS)
def test_verdict_is_taken_as_it_is(action: InspectAction) -> None:
    """Reading an answer in full changes nothing about it."""
    close = b"421 busy\r\n" if action is InspectAction.REJECT else CloseStyle.RESET
    verdict = Verdict(action, "over-quota", close)

    assert verdict is as_verdict(verdict)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        False,
        0,
        1,
        2,
        "ACCEPT",
        "accept",
        b"",
        InspectAction,
        InspectAction.ACCEPT.value,
        Verdict,
        (InspectAction.ACCEPT,),
        CloseStyle.RESET,
        NotImplemented,
        [],
        {},
        ...,
    ],
    ids=repr,
)
def test_anything_else_is_no_verdict(answer: object) -> None:
    """Nothing but an action or a verdict lets anybody in: not truth, not a number, not None."""
    assert None is as_verdict(answer)


def test_subclass_of_a_verdict_is_a_verdict() -> None:
    """Who has more to say about its own decisions may."""

    @attrs.frozen
    class Explained(Verdict):
        why: str = ""

    verdict = Explained(InspectAction.REJECT, "blocked", why="it is on the list")

    assert verdict is as_verdict(verdict)


@pytest.mark.parametrize("close", STYLES)
def test_style_of_a_style_is_itself(close: CloseStyle) -> None:
    """Only octets are given another word."""
    assert close is Verdict(InspectAction.REJECT, close=close).style


@given(st.binary(min_size=1, max_size=MESSAGE_LIMIT))
def test_octets_are_a_message(close: bytes) -> None:
    """Any octets can be last words, and they stay as they are."""
    verdict = Verdict(InspectAction.REJECT, close=close)

    assert CloseStyle.MESSAGE is verdict.style
    assert close == verdict.close


@pytest.mark.parametrize("size", [0, MESSAGE_LIMIT + 1])
def test_message_has_a_size(size: int) -> None:
    """No octets are no message, and what a send buffer may not take at once is too long."""
    with pytest.raises(InvalidParameterError, match=f"1 to {MESSAGE_LIMIT} octets"):
        Verdict(InspectAction.REJECT, close=bytes(size))

    longest = bytes(MESSAGE_LIMIT)

    assert longest == Verdict(InspectAction.REJECT, close=longest).close


@pytest.mark.parametrize(
    "close", [CloseStyle.MESSAGE, "reset", "421 busy", bytearray(b"busy"), None, 0, True], ids=repr
)
def test_other_ways_to_close_are_refused(close: Any) -> None:
    """A way to turn a peer away is one of three styles, or octets; the message shows it."""
    with pytest.raises(InvalidParameterError) as caught:
        Verdict(InspectAction.REJECT, close=close)

    assert str(caught.value).endswith(f"not {close!r}")


@given(SLUGS.filter(lambda slug: len(slug) <= 64))
@example("x" * 64)
def test_slugs_are_reasons(slug: str) -> None:
    """Lower-case words and numbers with a hyphen between them say why."""
    assert slug == Verdict(InspectAction.REJECT, slug).reason


@given(
    st.text(min_size=1).filter(
        lambda text: not set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    )
)
def test_other_texts_are_no_reasons(text: str) -> None:
    """Anything with another character in it is refused: what a peer wrote, say."""
    with pytest.raises(InvalidParameterError, match="a short slug"):
        Verdict(InspectAction.REJECT, text)


@pytest.mark.parametrize(
    "reason", ["-", "a-", "-a", "a--b", "a\n", "x" * 65, None, 7, b"over-quota", True], ids=repr
)
def test_other_reasons_are_refused(reason: Any) -> None:
    """A hyphen stands between words, a reason is short, and it is a text; the message shows it."""
    with pytest.raises(InvalidParameterError) as caught:
        Verdict(InspectAction.REJECT, reason)

    assert str(caught.value).endswith(f"not {reason!r}")


@pytest.mark.parametrize("action", [None, True, 0, 1, "reject", CloseStyle.RESET], ids=repr)
def test_other_actions_are_refused(action: Any) -> None:
    """An action is a member of `InspectAction`; the message shows what it was instead."""
    with pytest.raises(InvalidParameterError) as caught:
        Verdict(action)

    assert str(caught.value).endswith(f"not {action!r}")


def test_verdicts_are_values() -> None:
    """Equal verdicts are one key, and nobody can change one."""
    verdict = Verdict(InspectAction.REJECT, "blocked", CloseStyle.FIN)

    assert 1 == len({verdict, Verdict(InspectAction.REJECT, "blocked", CloseStyle.FIN)})
    assert verdict != Verdict(InspectAction.REJECT, "blocked", CloseStyle.SILENT)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        verdict.action = InspectAction.ACCEPT  # type: ignore[misc]  # on purpose


def small_buffers(*, unix: bool) -> tuple[socket.socket, socket.socket]:
    """Connect two sockets, the first with the smallest send buffer that the system has."""
    if unix:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return ours, theirs


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_longest_message_fits_in_every_send_buffer(*, unix: bool) -> None:
    """Even the smallest takes it at once, though nobody reads: turning away never waits."""
    ours, theirs = small_buffers(unix=unix)
    with ours, theirs:
        ours.setblocking(False)  # noqa: FBT003 - Python's

        assert MESSAGE_LIMIT == ours.send(bytes(MESSAGE_LIMIT))


# --- Numbers and limits ---------------------------------------------------------------------------


def test_inspect_ids_are_values() -> None:
    """
    An id is known by its content: equal ones are one key, one key does not make two equal, and
    they sort in the order in which they came.
    """
    first, again, second = InspectId(1, 5), InspectId(1, 5), InspectId(1, 6)

    assert first == again
    assert {first: "found"}[again] == "found"
    assert first != second
    assert InspectId(2, 5) != first
    assert [first, second] == sorted([second, first])
    assert first != (1, 5)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        first.key = 2  # type: ignore[misc]  # on purpose


def test_inspect_ids_travel() -> None:
    """An id that was sent away and back still names its request."""
    first = InspectId(1, 5)

    assert first == pickle.loads(pickle.dumps(first))  # noqa: S301 - our own


def test_overflow_waits_unless_told() -> None:
    """Nobody is turned away for want of room unless somebody has said so."""
    assert Overflow(pending="wait", parked="wait") == Overflow()


@pytest.mark.parametrize("limit", ["pending", "parked"])
@pytest.mark.parametrize("policy", ["wait", "reset", "evict"])
def test_overflow_is_chosen_per_limit(limit: str, policy: Any) -> None:
    """What happens beyond one limit says nothing about the other."""
    (other,) = {"pending", "parked"} - {limit}
    overflow = Overflow(**{limit: policy})

    assert {limit: policy, other: "wait"} == attrs.asdict(overflow)


@pytest.mark.parametrize("limit", ["pending", "parked"])
@pytest.mark.parametrize("policy", ["drop", "", None, True, Overflow()], ids=repr)
def test_other_policies_are_refused(limit: str, policy: Any) -> None:
    """The message names the limit, and shows what was given."""
    with pytest.raises(InvalidParameterError, match=f"overflow='{limit}' is one of") as caught:
        Overflow(**{limit: policy})

    assert str(caught.value).endswith(f"not {policy!r}")


def test_overflow_is_given_by_name() -> None:
    """Nobody has to remember which limit comes first."""
    with pytest.raises(TypeError):
        Overflow("wait")  # type: ignore[call-arg]  # on purpose
