"""What listening sockets are given, checked: each mistake is told with the right call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsk._connection.dispatch import ConnectionDispatch
from trio_wsk._intake.intake import NO_DESCRIPTORS_POLICIES
from trio_wsk._vocabulary.errors import InvalidParameterError

from .dispatch import ListenDispatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._intake.intake import NoDescriptorsPolicy

__all__ = [
    "check_connection_dispatch",
    "checked_dispatch",
    "checked_inspector",
    "checked_policy",
]


def checked_dispatch(dispatch: ListenDispatch | None) -> ListenDispatch:
    """Return the callbacks; a table without any if there is none."""
    if dispatch is not None and not isinstance(dispatch, ListenDispatch):
        raise InvalidParameterError(f"dispatch takes ListenDispatch(accept=...), not {dispatch!r}")
    return dispatch or ListenDispatch()


def checked_inspector(
    dispatch: ListenDispatch, inspect: Callable[[ConnectionRequest], object] | None
) -> Callable[[ConnectionRequest], object] | None:
    """Return the one inspector that was given in one of two places, if any."""
    if inspect is not None and dispatch.inspect is not None:
        raise InvalidParameterError(
            "inspect= is short for dispatch=ListenDispatch(inspect=...): give one of them"
        )
    return dispatch.inspect if inspect is None else inspect


def checked_policy(policy: NoDescriptorsPolicy) -> NoDescriptorsPolicy:
    """Return what is to be done without descriptors."""
    if policy not in NO_DESCRIPTORS_POLICIES:
        raise InvalidParameterError(
            f"on_no_descriptors is one of {NO_DESCRIPTORS_POLICIES}, not {policy!r}"
        )
    return policy


def check_connection_dispatch(call: str, dispatch: object) -> None:
    """Refuse what is no dispatch of connections, in the name of who was called."""
    if dispatch is not None and not isinstance(dispatch, ConnectionDispatch):
        raise InvalidParameterError(
            "dispatch is of the connection that is accepted:"
            f" {call}(dispatch=ConnectionDispatch(receive=...)), not {dispatch!r}"
        )
