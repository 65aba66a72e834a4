"""What parsers of first octets can answer, read from their source."""

from __future__ import annotations

import ast

from tests.helpers.places import PACKAGE
from trio_wsk._protocols.answers import ClientHelloError, NotTLSError, ProxyHeaderError


def reasons_in(module: str) -> set[str]:
    """Find every reason that an error is given in a module, or in those of a room."""
    path = PACKAGE / module
    paths = path.glob("*.py") if path.is_dir() else [path]
    trees = [ast.parse(each.read_text("utf-8")) for each in paths]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    return {
        node.value.value
        for node in nodes
        if node.arg == "reason" and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    }


def reasons_of_parsers() -> list[str]:
    """Find every reason that a parser gives."""
    errors = (NotTLSError, ClientHelloError, ProxyHeaderError)
    return sorted(reasons_in("_protocols") | {error.reason for error in errors})
