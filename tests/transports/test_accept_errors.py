"""Whose fault a failed accept is."""

from __future__ import annotations

import errno

import pytest

from trio_wsk.transports._accept_errors import failure_of
from trio_wsk.transports._contract import NoDescriptorsError, PeerFaultError, TransportFailedError

# accept(2): "Error handling", and what ERRORS says about the connection.
PEERS = [
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENONET,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EPROTO,
    errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT,
    errno.ETIMEDOUT,
    # Winsock's accept().
    errno.ECONNRESET,
    errno.ENETRESET,
]
MACHINES = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSR]
OURS = [errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK]


def name_of(code: int) -> str:
    """Name an errno, for the test's id."""
    return errno.errorcode[code]


def oserror(code: int) -> OSError:
    """Make the error that Python makes of it."""
    return OSError(code, "what the system says")


@pytest.mark.parametrize("code", PEERS, ids=name_of)
def test_fault_of_one_peer_says_go_on(code: int) -> None:
    """What accept says about one connection is that connection's fault."""
    error = oserror(code)

    failure = failure_of(error)

    assert isinstance(failure, PeerFaultError)
    assert error is failure.error


@pytest.mark.parametrize("code", MACHINES, ids=name_of)
def test_scarcity_says_try_again_later(code: int) -> None:
    """Lack of descriptors, buffers or memory is the machine's, and passes."""
    error = oserror(code)

    failure = failure_of(error)

    assert isinstance(failure, NoDescriptorsError)
    assert error is failure.error


@pytest.mark.parametrize("code", OURS, ids=name_of)
def test_broken_listening_socket_is_nobody_elses_fault(code: int) -> None:
    """An error that says our socket is wrong ends the listening."""
    error = oserror(code)

    failure = failure_of(error)

    assert isinstance(failure, TransportFailedError)
    assert error is failure.error


def test_unknown_error_is_not_spun_on() -> None:
    """An error that nobody has thought of ends the listening; it is never retried."""
    assert isinstance(failure_of(oserror(errno.EXDEV)), TransportFailedError)


def test_error_without_a_number_is_unknown() -> None:
    """An OSError that somebody made by hand ends the listening."""
    assert isinstance(failure_of(OSError("no number")), TransportFailedError)
