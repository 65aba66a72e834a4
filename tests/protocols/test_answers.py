"""Tests of `trio_wsk._protocols.answers`."""

from __future__ import annotations

import pickle

import pytest

from tests.helpers.parsers import reasons_of_parsers
from trio_wsk import InspectAction, Status, Verdict, WskError
from trio_wsk._protocols.answers import (
    ClientHelloError,
    MalformedError,
    NotTLSError,
    ProxyHeaderError,
)

ERRORS = [MalformedError, NotTLSError, ClientHelloError, ProxyHeaderError]


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_the_peers(error: type[MalformedError]) -> None:
    """Each is caught as what went wrong with a peer, and has the status of refused data."""
    assert issubclass(error, MalformedError)
    assert issubclass(error, WskError)
    assert error("so").status is Status.DATA_NOT_ACCEPTED


@pytest.mark.parametrize("error", ERRORS)
def test_errors_travel(error: type[MalformedError]) -> None:
    """Another process gets the message and the reason, and not another reason."""
    for sent in (error("so"), error("so", reason="because")):
        got = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own

        assert (type(got), str(got), got.reason) == (error, "so", sent.reason)


@pytest.mark.parametrize("reason", reasons_of_parsers())
def test_reasons_can_be_a_verdicts(reason: str) -> None:
    """A rule can reject with the reason as it stands, and the class of the error names it."""
    assert Verdict(InspectAction.REJECT, reason).reason == reason
    assert any(f"``{reason}``" in (error.__doc__ or "") for error in ERRORS)
