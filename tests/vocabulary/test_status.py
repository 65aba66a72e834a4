"""Tests of `trio_wsk._vocabulary.status`."""

from __future__ import annotations

import ast
import errno
import inspect
import pickle
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk._vocabulary import status as _status
from trio_wsk._vocabulary.status import EventMask, Status, status_of


def test_statuses_have_the_values_of_ntstatus_h() -> None:
    """A status is the number that Windows uses under the same name."""
    expected = {
        "SUCCESS": 0x00000000,
        "PENDING": 0x00000103,
        "EVENT_PENDING": 0x40000013,
        "UNSUCCESSFUL": 0xC0000001,
        "INVALID_PARAMETER": 0xC000000D,
        "INVALID_DEVICE_REQUEST": 0xC0000010,
        "ACCESS_DENIED": 0xC0000022,
        "INSUFFICIENT_RESOURCES": 0xC000009A,
        "DEVICE_NOT_READY": 0xC00000A3,
        "IO_TIMEOUT": 0xC00000B5,
        "FILE_FORCED_CLOSED": 0xC00000B6,
        "NOT_SUPPORTED": 0xC00000BB,
        "REQUEST_NOT_ACCEPTED": 0xC00000D0,
        "CANCELLED": 0xC0000120,
        "INVALID_DEVICE_STATE": 0xC0000184,
        "INVALID_ADDRESS_COMPONENT": 0xC0000207,
        "ADDRESS_ALREADY_EXISTS": 0xC000020A,
        "CONNECTION_DISCONNECTED": 0xC000020C,
        "CONNECTION_RESET": 0xC000020D,
        "DATA_NOT_ACCEPTED": 0xC000021B,
        "NOT_FOUND": 0xC0000225,
        "CONNECTION_REFUSED": 0xC0000236,
        "NETWORK_UNREACHABLE": 0xC000023C,
        "HOST_UNREACHABLE": 0xC000023D,
        "CONNECTION_ABORTED": 0xC0000241,
    }

    assert expected == {name: status.value for name, status in Status.__members__.items()}


def test_events_have_the_values_of_wsk_h() -> None:
    """An event is the bit that SO_WSK_EVENT_CALLBACK takes for it."""
    expected = {"SEND_BACKLOG": 0x10, "RECEIVE": 0x40, "DISCONNECT": 0x80, "ACCEPT": 0x200}

    assert expected == {name: event.value for name, event in EventMask.__members__.items()}


@pytest.mark.parametrize("vocabulary", [Status, EventMask])
def test_every_member_says_what_it_means(vocabulary: type[Status | EventMask]) -> None:
    """Each member is followed by a docstring of one line."""
    (definition,) = (
        node
        for node in ast.parse(inspect.getsource(_status)).body
        if isinstance(node, ast.ClassDef) and node.name == vocabulary.__name__
    )
    documented = [
        node.targets[0].id
        for node, following in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
        and "\n" not in str(following.value.value)
    ]

    assert list(vocabulary.__members__) == documented


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.PENDING, Status.EVENT_PENDING])
def test_what_has_not_failed_is_success(status: Status) -> None:
    """Severity 0 and 1 are success, whether or not the operation has ended."""
    assert (True, False) == (status.is_success, status.is_error)


def test_all_other_statuses_are_errors() -> None:
    """No status of ours is a warning: what is no success is an error."""
    failures = [status for status in Status if not status.is_success]

    assert all(status.is_error for status in failures)
    assert len(Status) - 3 == len(failures)


def test_status_prints_its_name_and_number() -> None:
    """`str`, `repr` and f-strings show what a Windows trace shows, on every Python."""
    status = Status.CONNECTION_RESET

    assert "CONNECTION_RESET (0xC000020D)" == str(status)
    assert "CONNECTION_RESET (0xC000020D)" == f"{status}"
    assert "<Status.CONNECTION_RESET: 0xC000020D>" == repr(status)


def test_status_is_formatted_as_a_number_when_asked() -> None:
    """A format specification means the number, and no other way of writing it exists."""
    assert "c000020d" == f"{Status.CONNECTION_RESET:x}"


def test_status_survives_pickling_as_itself() -> None:
    """Another process gets the same member, so `is` works there."""
    assert Status.CANCELLED is pickle.loads(pickle.dumps(Status.CANCELLED))  # noqa: S301 -- ours


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EADDRINUSE, Status.ADDRESS_ALREADY_EXISTS),
        (errno.EACCES, Status.ACCESS_DENIED),
        (errno.EPERM, Status.ACCESS_DENIED),
        (errno.EADDRNOTAVAIL, Status.INVALID_ADDRESS_COMPONENT),
        (errno.EMFILE, Status.INSUFFICIENT_RESOURCES),
        (errno.ENFILE, Status.INSUFFICIENT_RESOURCES),
        (errno.ENOBUFS, Status.INSUFFICIENT_RESOURCES),
        (errno.ENOMEM, Status.INSUFFICIENT_RESOURCES),
        (errno.ECONNRESET, Status.CONNECTION_RESET),
        (errno.ECONNABORTED, Status.CONNECTION_ABORTED),
        (errno.ECONNREFUSED, Status.CONNECTION_REFUSED),
        (errno.EPIPE, Status.CONNECTION_DISCONNECTED),
        (errno.ENOTCONN, Status.CONNECTION_DISCONNECTED),
        (errno.ETIMEDOUT, Status.IO_TIMEOUT),
        (errno.ENETUNREACH, Status.NETWORK_UNREACHABLE),
        (errno.EHOSTUNREACH, Status.HOST_UNREACHABLE),
        (errno.EBADF, Status.FILE_FORCED_CLOSED),
        (errno.EINVAL, Status.INVALID_PARAMETER),
        (errno.EAFNOSUPPORT, Status.NOT_SUPPORTED),
        (errno.EAGAIN, Status.DEVICE_NOT_READY),
    ],
    ids=errno.errorcode.get,
)
def test_os_error_has_the_status_of_its_number(code: int, expected: Status) -> None:
    """The operating system's error is translated by what it means to a server."""
    assert expected is status_of(OSError(code, "whatever"))


@given(code=st.one_of(st.sampled_from(sorted(errno.errorcode)), st.integers()))
def test_every_os_error_is_an_error(code: int) -> None:
    """No number, known or unknown, is taken for success or for something still pending."""
    assert status_of(OSError(code, "whatever")).is_error


def test_unknown_number_is_unsuccessful() -> None:
    """A number that the table lacks is not guessed at."""
    assert Status.UNSUCCESSFUL is status_of(OSError(987654, "whatever"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(), Status.CONNECTION_RESET),
        (ConnectionAbortedError("gone"), Status.CONNECTION_ABORTED),
        (BrokenPipeError(), Status.CONNECTION_DISCONNECTED),
        (TimeoutError(), Status.IO_TIMEOUT),
        (PermissionError(), Status.ACCESS_DENIED),
        (BlockingIOError(), Status.DEVICE_NOT_READY),
        (OSError("no number"), Status.UNSUCCESSFUL),
    ],
    ids=repr,
)
def test_os_error_without_a_number_has_the_status_of_its_class(
    error: OSError, expected: Status
) -> None:
    """What a transport without a kernel raises by class is understood as well."""
    assert expected is status_of(error)


def test_numbers_of_one_class_have_one_status() -> None:
    """An error's class never contradicts its number."""
    contradictions = [
        errno.errorcode[code]
        for code, status in _status._BY_ERRNO.items()  # noqa: SLF001 -- the table is the subject
        if _status._BY_CLASS.get(type(OSError(code, "")), status) is not status  # noqa: SLF001
    ]

    assert [] == contradictions


def test_names_of_one_number_have_one_status() -> None:
    """Where a platform gives two names to one number, the table agrees with itself."""
    names: dict[int, set[Status]] = {}
    for name, status in _status._STATUS_BY_NAME.items():  # noqa: SLF001 -- the table is the subject
        if hasattr(errno, name):
            names.setdefault(getattr(errno, name), set()).add(status)

    assert [] == [code for code, statuses in names.items() if len(statuses) > 1]


def test_every_name_in_the_table_is_a_name_somewhere() -> None:
    """On Linux, which has nearly all of them, no row of the table is a misspelling."""
    known = {*vars(errno), *vars(socket)}

    assert [] == [name for name in _status._STATUS_BY_NAME if name not in known]  # noqa: SLF001


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (socket.EAI_NONAME, Status.NOT_FOUND),
        (socket.EAI_FAMILY, Status.NOT_SUPPORTED),
        (socket.EAI_AGAIN, Status.IO_TIMEOUT),
        (socket.EAI_MEMORY, Status.INSUFFICIENT_RESOURCES),
        (errno.EADDRINUSE, Status.UNSUCCESSFUL),
    ],
)
def test_resolver_has_numbers_of_its_own(code: int, expected: Status) -> None:
    """A `gaierror` is never looked up among the errnos, which mean something else."""
    assert expected is status_of(socket.gaierror(code, "whatever"))
