"""The pages link what they name, and nothing that only looks like it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.helpers.places import DOCS

KINDS = {
    "OSError": "exception",
    "trio.serve_tcp": "function",
    "trio_wsk.Connection": "class",
    "trio_wsk.Connection.abort": "method",
    "trio_wsk.Connection.disconnect": "method",
    "trio_wsk.Connection.receive_some": "method",
    "trio_wsk.ConnectionDispatch.disconnect": "attribute",
    "trio_wsk.Irp.wait": "method",
    "trio_wsk.ListeningStatistics.dropped": "attribute",
    "trio_wsk.Server.abort": "method",
    "trio_wsk.ServerStatistics.peers_left": "attribute",
    "trio_wsk.Status.SUCCESS": "attribute",
    "trio_wsk.serve": "function",
    "trio_wsk.testing.MemoryHost.connect": "method",
    "trio_wsk.testing.MemoryStream.receive_some": "method",
    "trio_wsk.testing.MemoryStream.reset": "method",
}
OPTIONS = ["backlog", "context", "grace", "max_parked"]


def names() -> Any:
    """Make the rules, of a module that belongs to the documentation's build, for some names."""
    path = DOCS / "_extensions" / "names.py"
    spec = importlib.util.spec_from_file_location("names", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Names(KINDS, OPTIONS)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("trio_wsk.serve", "trio_wsk.serve"),
        ("serve", "trio_wsk.serve"),
        ("serve()", "trio_wsk.serve"),
        ("trio_wsk.serve(handler, port)", "trio_wsk.serve"),
        ("trio.serve_tcp", "trio.serve_tcp"),
        ("Connection", "trio_wsk.Connection"),
        ("OSError", "OSError"),
        ("Status.SUCCESS", "trio_wsk.Status.SUCCESS"),
        ("SUCCESS", "trio_wsk.Status.SUCCESS"),
        ("receive_some", "trio_wsk.Connection.receive_some"),
        ("MemoryStream.receive_some", "trio_wsk.testing.MemoryStream.receive_some"),
        ("connection.receive_some()", "trio_wsk.Connection.receive_some"),
        ("await irp.wait()", "trio_wsk.Irp.wait"),
        ("disconnect(connection, abortive)", "trio_wsk.ConnectionDispatch.disconnect"),
        ("disconnect()", "trio_wsk.Connection.disconnect"),
        ("statistics().peers_left", "trio_wsk.ServerStatistics.peers_left"),
        ("statistics().dropped", "trio_wsk.ListeningStatistics.dropped"),
        ("listening.dropped", "trio_wsk.ListeningStatistics.dropped"),
    ],
)
def test_name_is_found_as_pages_write_it(code: str, name: str) -> None:
    """A full name, a bare one, a call, and what the pages' variables have, are found."""
    assert name == names().find(code)


@pytest.mark.parametrize(
    "code",
    [
        "abort()",  # a connection's, or a server's?
        "connect()",  # a client's system call
        "reset",  # a word, here and there one of a peer's ends
        "dropped",
        "wait",
        "Nothing",
        "nc localhost 7007",
        "serve()[0]",
        "grace=5",
    ],
)
def test_what_could_be_something_else_is_not_linked(code: str) -> None:
    """What is ambiguous, a system call, a mere word or no name at all leads nowhere."""
    assert names().find(code) is None


@pytest.mark.parametrize(
    ("code", "option"),
    [
        ("max_parked", "max_parked"),
        ("max_parked=0", "max_parked"),
        ("backlog=", "backlog"),
        ("backlog", None),  # the kernel's, as often as not
        ("context=", None),  # which function's?
        ("max_parked()", None),
        ("unknown=1", None),
    ],
)
def test_option_is_found_where_it_can_only_be_one(code: str, option: str | None) -> None:
    """A bare word is an option only if it has an underscore, or a value follows it."""
    assert option == names().option(code)
