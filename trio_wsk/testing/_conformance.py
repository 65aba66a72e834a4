"""The conformance suite of transports: whether anyone's transport keeps the contract.

A transport has many rules to keep, and a listening socket relies on each of them: an edge that
is told from inside a call, or an end that is told twice, shows as a hang or a lost connection,
long after and far away. So each rule has a check of its own, whose failure is a sentence.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._vocabulary.errors import InvalidParameterError

from . import _check_answers, _check_channels, _check_ends, _check_listening, _check_requests
from ._checks import TransportCheck
from ._harness import ClientT, TransportHarness

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["TRANSPORT_CHECKS", "TransportCheck", "TransportHarness", "check_transport"]


def _checks_of(module: ModuleType) -> list[TransportCheck]:
    return [each for each in vars(module).values() if isinstance(each, TransportCheck)]


TRANSPORT_CHECKS: Final[tuple[TransportCheck, ...]] = tuple(
    each
    for module in (
        _check_requests,
        _check_answers,
        _check_ends,
        _check_channels,
        _check_listening,
    )
    for each in _checks_of(module)
)
"""The rules of the contract, each an object to be awaited with a harness."""


async def check_transport(harness: TransportHarness[ClientT]) -> None:
    """Hold a transport to the contract: make every check of `TRANSPORT_CHECKS` that can be made.

    Args:
      harness: Makes the transports, a fresh one for each check, and their clients.

    Raises:
      InvalidParameterError: that is no harness. (Yours.)
      ExceptionGroup: of an `AssertionError` for each check that failed. It begins with the
        check's name and says in a sentence what the transport has done.

    Always a checkpoint.
    """
    given: object = harness  # by a caller without a type checker, perhaps
    if not isinstance(given, TransportHarness):
        raise InvalidParameterError(
            "check_transport takes an instance of a subclass of TransportHarness, which makes the"
            f" transports to be checked, not {harness!r}"
        )
    await trio.lowlevel.checkpoint()
    failures: list[AssertionError] = []
    made = [each for each in TRANSPORT_CHECKS if not each.why_not(harness)]
    for each in made:
        try:
            await each(harness)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are made
            failures.append(_failure(each, error))
    if failures:
        raise ExceptionGroup(f"the transport fails {len(failures)} of {len(made)} checks", failures)


def _failure(check: TransportCheck, error: Exception) -> AssertionError:
    sentence = str(error) if isinstance(error, AssertionError) else f"raised {error!r}"
    failure = AssertionError(f"{check.name}: {sentence}")
    failure.__cause__ = error
    return failure
