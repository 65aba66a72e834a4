"""What parsers of first octets can answer, read from their source."""

from __future__ import annotations

import ast

from tests.helpers.places import PACKAGE
from trio_wsk._protocols.answers import ClientHelloError, NotTLSError, ProxyHeaderError


def reasons_in_code() -> list[str]:
    """Find every reason that a parser gives, in the source of the room."""
    room = PACKAGE / "_protocols"
    errors = (NotTLSError, ClientHelloError, ProxyHeaderError)
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted(room.glob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    given = {
        node.value.value
        for node in nodes
        if node.arg == "reason" and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    }
    return sorted({*given, *(error.reason for error in errors)})
