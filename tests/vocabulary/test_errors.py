"""Tests of `trio_wsk._vocabulary.errors`."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle
import re
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from trio_wsk._vocabulary import errors as _errors
from trio_wsk._vocabulary.errors import (
    BindError,
    ConnectError,
    ConnectionBrokenError,
    EndOfStreamError,
    ForcedClosedError,
    IncompleteReadError,
    InspectPointError,
    InvalidDeviceStateError,
    InvalidParameterError,
    NoSocketError,
    OperationCancelledError,
    ReadLimitError,
    SocketBusyError,
    SocketClosedError,
    WouldBlockError,
    WskError,
)
from trio_wsk._vocabulary.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

FAMILY: dict[type[WskError], tuple[type[Exception], Status]] = {
    InvalidParameterError: (ValueError, Status.INVALID_PARAMETER),
    InvalidDeviceStateError: (RuntimeError, Status.INVALID_DEVICE_STATE),
    SocketBusyError: (trio.BusyResourceError, Status.INVALID_DEVICE_STATE),
    SocketClosedError: (trio.ClosedResourceError, Status.CANCELLED),
    NoSocketError: (AttributeError, Status.CANCELLED),
    ConnectError: (OSError, Status.UNSUCCESSFUL),
    ConnectionBrokenError: (trio.BrokenResourceError, Status.CONNECTION_RESET),
    EndOfStreamError: (EOFError, Status.CONNECTION_DISCONNECTED),
    IncompleteReadError: (EOFError, Status.CONNECTION_DISCONNECTED),
    ReadLimitError: (Exception, Status.DATA_NOT_ACCEPTED),
    ForcedClosedError: (trio.BrokenResourceError, Status.FILE_FORCED_CLOSED),
    InspectPointError: (Exception, Status.NOT_SUPPORTED),
    BindError: (OSError, Status.UNSUCCESSFUL),
    WouldBlockError: (trio.WouldBlock, Status.DEVICE_NOT_READY),
    OperationCancelledError: (Exception, Status.CANCELLED),
}

every_error = pytest.mark.parametrize("error_class", FAMILY)


def through_pickle(error: WskError) -> WskError:
    """Send an error where another process would get it."""
    received = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own
    assert isinstance(received, WskError)
    return received


def test_family_is_complete() -> None:
    """Every error of the module is in this file's table, and is exported."""
    defined = {thing for thing in vars(_errors).values() if inspect.isclass(thing)}
    errors = {
        thing
        for thing in defined
        if issubclass(thing, WskError) and not thing.__name__.startswith("_")
    }

    assert {WskError, *FAMILY} == errors
    assert sorted(error.__name__ for error in errors) == sorted(_errors.__all__)


@every_error
def test_either_except_works(error_class: type[WskError]) -> None:
    """An error can be caught as ours and by the word that Trio or Python has for it."""
    native, _ = FAMILY[error_class]

    with pytest.raises(WskError, match="the message"):
        raise error_class("the message")
    with pytest.raises(native, match="the message"):
        raise error_class("the message")


@every_error
def test_drawn_tree_is_the_real_one(error_class: type[WskError]) -> None:
    """The tree at the top of the module shows each error with the word it inherits from."""
    native, _ = FAMILY[error_class]
    drawn = re.search(rf"── {error_class.__name__} +(\+ (\S+))?", _errors.__doc__ or "")
    assert drawn is not None

    shown = drawn[2] or "Exception"
    assert shown in {native.__name__, f"trio.{native.__name__}"}


@every_error
def test_error_has_the_status_of_its_class_unless_told(error_class: type[WskError]) -> None:
    """The class decides the status, and a keyword overrides it for one error only."""
    _, expected = FAMILY[error_class]

    assert expected is error_class.status
    assert expected is error_class("by default").status
    assert Status.IO_TIMEOUT is error_class("as told", status=Status.IO_TIMEOUT).status
    assert expected is error_class("by default again").status


@every_error
def test_error_survives_pickling(error_class: type[WskError]) -> None:
    """What another process receives has the class, the message, the status and the notes."""
    error = error_class("the message", status=Status.NOT_FOUND)
    error.__dict__["__notes__"] = ["a note"]  # add_note() is there from Python 3.11 on
    received = through_pickle(error)

    assert error_class is type(received)
    assert "the message" == str(received)
    assert Status.NOT_FOUND is received.status
    assert ["a note"] == received.__dict__["__notes__"]


@every_error
def test_error_prints_its_message_only(error_class: type[WskError]) -> None:
    """No base class adds numbers or quotes to the message."""
    assert "127.0.0.1:80 is taken" == str(error_class("127.0.0.1:80 is taken"))


@every_error
def test_error_says_whose_fault_it_is_and_what_else_you_might_get(
    error_class: type[WskError],
) -> None:
    """Each docstring names who acted and a sibling that a neighbouring case would give."""
    text = inspect.getdoc(error_class) or ""
    siblings = {other.__name__ for other in FAMILY if other is not error_class}

    assert re.search(r"Yours\.|The peer's:|The machine's\.|Nobody's fault\.", text)
    assert siblings & set(re.findall(r"`(\w+)`", text))


def test_broken_connection_says_which() -> None:
    """A handler can tell its own peer's going from another connection's."""
    connection = object()
    error = ConnectionBrokenError("gone", connection=connection)

    assert connection is error.connection
    assert ConnectionBrokenError("gone").connection is None


def test_broken_connection_does_not_travel() -> None:
    """Only the connection stays behind when an error is pickled, and the original keeps it."""
    with socket.socket() as connection:
        error = ConnectionBrokenError(
            "gone", status=Status.CONNECTION_ABORTED, connection=connection
        )
    received = through_pickle(error)

    assert isinstance(received, ConnectionBrokenError)
    assert received.connection is None
    assert Status.CONNECTION_ABORTED is received.status
    assert connection is error.connection


def test_bind_error_is_the_systems_error_with_an_address() -> None:
    """`errno` and `strerror` are the system's, and the message says where and what to do."""
    error = BindError.from_oserror(
        OSError(errno.EADDRINUSE, "Address already in use"),
        "127.0.0.1:80",
        "`ss -ltnp` shows who has it",
    )

    assert Status.ADDRESS_ALREADY_EXISTS is error.status
    assert (errno.EADDRINUSE, "Address already in use") == (error.errno, error.strerror)
    assert (
        "cannot listen on 127.0.0.1:80: Address already in use (EADDRINUSE); "
        "`ss -ltnp` shows who has it" == str(error)
    )


def test_bind_error_of_a_real_bind() -> None:
    """A port that is taken gives the errno that callers of bind(2) look for."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="Address already in use") as caught:
            second.bind(first.getsockname())

    error = BindError.from_oserror(caught.value, "127.0.0.1:0")

    assert errno.EADDRINUSE == error.errno
    assert str(error).endswith("(EADDRINUSE)")


def test_bind_error_of_the_resolver_names_no_errno() -> None:
    """A resolver's number is not translated into the name of an unrelated errno."""
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    error = BindError.from_oserror(unknown, "nowhere.invalid:80")

    assert "cannot listen on nowhere.invalid:80: Name or service not known" == str(error)
    assert (socket.EAI_NONAME, Status.NOT_FOUND) == (error.errno, error.status)


def test_bind_error_of_the_resolver_on_macos() -> None:
    """Nor is one that happens to be an errno as well, as all of them are on macOS."""
    unknown = socket.gaierror(errno.ENOEXEC, "nodename nor servname provided, or not known")

    assert "ENOEXEC" not in str(BindError.from_oserror(unknown, "nowhere.invalid:80"))


def test_bind_error_of_an_error_without_a_number() -> None:
    """An `OSError` that is only a text keeps its text."""
    error = BindError.from_oserror(OSError("AF_UNIX path too long"), "unix:/very/long")

    assert "cannot listen on unix:/very/long: AF_UNIX path too long" == str(error)
    assert (None, None) == (error.errno, error.strerror)


@pytest.mark.parametrize("through", [through_pickle, copy.copy])
def test_bind_error_keeps_its_errno(through: Callable[[BindError], BindError]) -> None:
    """Pickling and copying lose neither `errno` nor `strerror`."""
    error = BindError.from_oserror(OSError(errno.EACCES, "Permission denied"), "0.0.0.0:80")
    received = through(error)

    assert (errno.EACCES, "Permission denied") == (received.errno, received.strerror)
    assert (str(error), Status.ACCESS_DENIED) == (str(received), received.status)
