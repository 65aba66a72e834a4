"""The page that maps WSK's names to ours tells the truth about both."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

import trio_wsk
from tests.helpers.places import DOCS, TESTS
from trio_wsk import EventMask, Status, WskError

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (DOCS / "reference" / "wsk-names.md").read_text("utf-8")
STATUS_ROW = re.compile(r"^\| `STATUS_(\w+)` \| (0x[0-9A-F]{8}) \|", re.MULTILINE)
OURS = re.compile(r"\{py:obj\}`[\w.]+ <(trio_wsk\.[\w.]+)>`")


def test_statuses_of_the_page_are_those_of_the_code() -> None:
    """Every status has a row with its value, and there is no other row."""
    expected = [(status.name, f"0x{status.value:08X}") for status in Status]

    assert expected == STATUS_ROW.findall(PAGE)


@pytest.mark.parametrize("event", list(EventMask), ids=lambda event: str(event.name))
def test_event_is_on_the_page(event: EventMask) -> None:
    """Every event has a row."""
    assert f"| `WSK_EVENT_{event.name}` | " in PAGE


@pytest.mark.parametrize(
    "slot",
    [*attrs.fields_dict(trio_wsk.ListenDispatch), *attrs.fields_dict(trio_wsk.ConnectionDispatch)],
)
def test_callback_is_on_the_page(slot: str) -> None:
    """Every callback of the dispatch tables has a row; `mask` is none."""
    assert slot == "mask" or f"Dispatch.{slot}>" in PAGE


@pytest.mark.parametrize("name", sorted(set(OURS.findall(PAGE))))
def test_name_of_ours_exists(name: str) -> None:
    """What the page calls ours is there, under the name that users write."""
    _, *parts = name.split(".")

    assert reduce(getattr, parts, trio_wsk) is not None


# --- What WSK has -----------------------------------------------------------------------------

NAMES = """
    WskRegister WskDeregister WskCaptureProviderNPI WskReleaseProviderNPI
    WskQueryProviderCharacteristics WskControlClient WskSocket WskBind WskListen WskAccept
    WskInspectComplete WskControlSocket WskCloseSocket WskGetLocalAddress WskGetRemoteAddress
    WskConnect WskSocketConnect WskConnectEx WskSend WskReceive WskDisconnect WskRelease
    WskSendTo WskReceiveFrom WskSendMessages WskGetAddressInfo WskFreeAddressInfo WskGetNameInfo
    WskClientEvent WskAcceptEvent WskInspectEvent WskAbortEvent WskReceiveEvent
    WskDisconnectEvent WskSendBacklogEvent WskReceiveFromEvent WSK_CLIENT_LISTEN_DISPATCH
    WSK_CLIENT_CONNECTION_DISPATCH WSK_EVENT_CALLBACK_CONTROL WSK_INSPECT_ID WSK_INSPECT_ACTION
    WskInspectAccept WskInspectReject WskInspectPend SO_WSK_EVENT_CALLBACK SO_WSK_SECURITY
    SO_CONDITIONAL_ACCEPT SO_PAUSE_ACCEPT SO_REUSEADDR SO_EXCLUSIVEADDRUSE SO_KEEPALIVE
    SO_RCVBUF IPV6_V6ONLY WSK_SET_STATIC_EVENT_CALLBACKS SIO_WSK_QUERY_IDEAL_SEND_BACKLOG
    SIO_WSK_QUERY_RECEIVE_BACKLOG SIO_WSK_QUERY_INSPECT_ID SIO_WSK_SET_TCP_SILENT_MODE
    WSK_FLAG_BASIC_SOCKET WSK_FLAG_LISTEN_SOCKET WSK_FLAG_CONNECTION_SOCKET
    WSK_FLAG_DATAGRAM_SOCKET WSK_FLAG_STREAM_SOCKET WSK_FLAG_ABORTIVE WSK_FLAG_NODELAY
    WSK_FLAG_WAITALL WSK_FLAG_DRAIN WSK_FLAG_AT_DISPATCH_LEVEL WSK_FLAG_RELEASE_ASAP
    WSK_FLAG_ENTIRE_MESSAGE WSK_EVENT_RECEIVE_FROM WSK_EVENT_DISABLE IoSetCompletionRoutine
    IoCancelIrp IoReuseIrp IoFreeIrp
"""
"""The names of ``wsk.h``, and of the IRP's, that concern sockets which listen or are connected."""

FIRST_COLUMN = re.compile(r"^\| (.*?) \| ", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES.split())
def test_name_of_wsk_has_a_row(name: str) -> None:
    """Whoever looks for a name of WSK's finds what it is called here, or why it is not there."""
    assert [row for row in FIRST_COLUMN.findall(PAGE) if f"`{name}`" in row]


# --- Statuses and errors ----------------------------------------------------------------------

ERRORS = [
    error
    for error in map(vars(trio_wsk).get, trio_wsk.__all__)
    if isinstance(error, type)
    and issubclass(error, WskError)
    and error not in {WskError, trio_wsk.NoSocketError}  # one that says nothing of its own
]

HAVE_SEVERAL = {trio_wsk.BindError, trio_wsk.ConnectError, trio_wsk.ConnectionBrokenError}
"""Errors that say by their status what has happened."""


def status_rows() -> Iterator[tuple[Status, str]]:
    """Read the table of statuses: each with what is said of it."""
    for name, said in re.findall(r"^\| `STATUS_(\w+)` \| 0x\w{8} \| (.*) \|$", PAGE, re.MULTILINE):
        yield Status[name], said


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.__name__))
def test_error_is_in_the_row_of_its_status(error: type[WskError]) -> None:
    """Each error is named where its own status is, and nowhere else unless it has several."""
    named = [status for status, said in status_rows() if f"<trio_wsk.{error.__name__}>" in said]

    if error in HAVE_SEVERAL:
        assert len(named) > 1
    else:
        assert [error.status] == named


def test_error_is_never_a_success() -> None:
    """The status of an error is an error: it promises no completion."""
    assert all(error.status.is_error for error in ERRORS)


def test_status_that_is_not_used_is_not_used() -> None:
    """What the page calls unused is nowhere in the code but where it is defined."""
    sources = [path.read_text("utf-8") for path in Path(trio_wsk.__file__).parent.rglob("*.py")]
    unused = [status.name for status, said in status_rows() if said.startswith("not used")]

    assert ["INVALID_DEVICE_REQUEST"] == unused
    for name in unused:
        assert not [source for source in sources if f"Status.{name}" in source]


# --- What behaves differently -----------------------------------------------------------------

HELD_BY = {
    "A request is inspected after the handshake": "test_pended_peer_is_connected_and_hears_nothing",
    "Pended requests have a deadline, and there is a limit to their number.": (
        "test_request_without_a_verdict_in_time_is_aborted"
    ),
    "Closing a listening socket aborts what is pended": (
        "test_closing_aborts_every_request_before_it_returns"
    ),
    "`inspect_complete` may come before the inspector has returned": "test_completed_early",
    "A request is aborted also when it was established and nobody took it": (
        "test_peer_that_leaves_between_approval_and_accept_is_not_delivered"
    ),
    "A queued accept always wins.": "test_queued_accept_wins_over_the_event",
    "The order is fixed.": "test_delivery_before_the_handshake_is_in_the_order_of_establishment",
    "Enabling the accept event indicates what was parked.": (
        "test_parked_connections_are_indicated_in_order"
    ),
    "The failure of a listening socket resets its event-driven connections": (
        "test_failure_resets_what_is_event_driven_and_nothing_else"
    ),
    "An event-driven connection closes itself": "test_connection_is_closed_when_both_have_finished",
    "Closing a connection is an end in good order": "test_peer_sees_fin",
    "A send completes when the kernel has the data": (
        "test_queued_send_completes_when_the_kernel_has_it"
    ),
    "Anything but the documented answers of a callback": "test_nonsense_is_reported_and_resets",
}
"""Each difference, and a test that holds it."""


def names_of_tests() -> set[str]:
    """Return the names of all functions that are tests, whatever module they stand in."""
    modules = [path.read_text("utf-8") for path in TESTS.rglob("test_*.py")]
    return {
        name
        for module in modules
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", module, re.MULTILINE)
    }


def test_differences_are_held_by_tests() -> None:
    """Each thing that behaves differently is tested somewhere, and there is no other."""
    _, _, below = PAGE.partition("## What behaves differently\n")
    section, _, _ = below.partition("\n## ")

    assert list(HELD_BY) == re.findall(r"^- \*\*(.*?)\*\*", section, re.MULTILINE)
    assert not set(HELD_BY.values()) - names_of_tests()
