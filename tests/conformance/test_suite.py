"""The conformance suite finds what is broken, and says so in a sentence."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from trio.testing import MockClock

from trio_wsk import InspectPoint
from trio_wsk.testing import TRANSPORT_CHECKS, check_transport

from .harnesses import MemoryHarness
from .mutants import MUTANTS, Mutant, MutantHarness

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

CHECKS = {check.name: check for check in TRANSPORT_CHECKS}


def innermost(error: BaseException) -> BaseException:
    """Take an exception out of the groups around it."""
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    return error


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.check}: {mutant.says}")
async def test_broken_rule_is_found(mutant: Mutant, autojump_clock: MockClock) -> None:
    """A transport that breaks this rule fails the check for it, which says what it has done."""
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        await CHECKS[mutant.check](MutantHarness(mutant))

    assert type(innermost(caught.value)) is AssertionError
    assert mutant.says in str(innermost(caught.value))


def test_every_check_is_shown_to_fail() -> None:
    """For each check there is a transport that fails it."""
    assert set(CHECKS) == {mutant.check for mutant in MUTANTS}


def test_checks_say_what_they_check() -> None:
    """Names are different, and a claim is a sentence."""
    claims = [check.claim for check in TRANSPORT_CHECKS]

    assert len(TRANSPORT_CHECKS) == len(CHECKS)
    assert [] == [claim for claim in claims if not claim.endswith(".") or len(claim) < 20]


@pytest.mark.parametrize("inspect_point", InspectPoint, ids=lambda point: point.value)
async def test_whole_suite_passes(inspect_point: InspectPoint, autojump_clock: MockClock) -> None:
    """`check_transport` returns if nothing is broken."""
    await check_transport(MemoryHarness(inspect_point))


async def test_whole_suite_names_what_fails(autojump_clock: MockClock) -> None:
    """`check_transport` makes all checks, and raises an error for each that fails, by its name."""

    def defect(self: Any) -> Any:
        raise RuntimeError("not today")

    harness = MutantHarness(Mutant(check="", says="", transport={"shed": defect}))
    made = [check for check in TRANSPORT_CHECKS if not check.why_not(harness)]

    with pytest.raises(ExceptionGroup) as caught:
        await check_transport(harness)

    assert f"the transport fails 1 of {len(made)} checks (1 sub-exception)" == str(caught.value)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, AssertionError)
    assert "shed_needs_a_spare_and_a_peer: raised RuntimeError('not today')" == str(failure)
    assert isinstance(failure.__cause__, RuntimeError)


async def test_check_that_asks_too_much_says_why(autojump_clock: MockClock) -> None:
    """What can't be asked of a transport is left out, with a reason."""
    before = MemoryHarness(InspectPoint.BEFORE_HANDSHAKE)
    after = MemoryHarness(InspectPoint.AFTER_HANDSHAKE)

    assert "there are no octets before the handshake" == CHECKS["listening_socket_peeks"].why_not(
        before
    )
    assert "" == CHECKS["listening_socket_peeks"].why_not(after)
