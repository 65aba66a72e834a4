"""What is changed: one small fault at a time, in the text of a module, so that its lines stay.

A condition that is turned round, a bound that is one off or is not there, another member of the
same enumeration; a call, an assignment or an entry of a table that is left out. Nothing is made of
annotations, assertions, messages of errors and `__repr__`: no behaviour hangs on those.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, TypeAlias

import attrs

__all__ = ["Mutant", "mutants_of"]

Change: TypeAlias = tuple[int, int, str]
"""From which octet of the source to which, and what stands there instead."""

BEYOND_ALL_BOUNDS: Final = 1000
"""What a number that is more than a step is multiplied with: its bound is as good as gone."""

STEP: Final = 2
"""Up to here a number counts things, and is made one more."""

OPERATORS: Final[dict[type[ast.AST], tuple[str, str]]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),  # codespell:ignore notin
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
}
"""How each is written, and what stands there instead."""

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@attrs.frozen
class Mutant:
    """One fault in one module."""

    line: int
    function: str
    """The function that it is in, with its class; nothing for what stands in none."""
    old: str
    """The lines that it is in."""
    new: str
    source: bytes = attrs.field(repr=False)
    """The whole module, with the fault."""

    def __str__(self) -> str:
        return f"{self.function or 'module'}: {self.old} -> {self.new}"


def mutants_of(source: bytes) -> list[Mutant]:
    """Make all mutants of a module, in the order in which they stand in it."""
    return sorted(_Maker(source).made, key=lambda mutant: mutant.line)


class _Maker:
    """Walks a module, and knows where it is."""

    def __init__(self, source: bytes) -> None:
        self.made: list[Mutant] = []
        self._source = source
        lines = source.splitlines(keepends=True)
        self._starts = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]
        tree = ast.parse(source)
        self._members = _members(tree)
        self._where: list[str] = []
        self._walk(tree)

    def _walk(self, node: ast.AST) -> None:
        """Make the mutants of a node, and those of what it consists of."""
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            if node.name == "__repr__":
                return
            self._where.append(node.name)
            for statement in node.body:
                self._walk(statement)
            self._where.pop()
            return
        if _is_left_alone(node):
            return
        for start, end, new in self._changes(node):
            self._make(start, end, new)
        for part in _parts(node):
            self._walk(part)

    def _make(self, start: int, end: int, new: str) -> None:
        before, after = self._source[:start], self._source[end:]
        left, right = before[before.rfind(b"\n") + 1 :], after.partition(b"\n")[0]
        self.made.append(
            Mutant(
                line=before.count(b"\n") + 1,
                function=".".join(self._where),
                old=_on_one_line(left + self._source[start:end] + right),
                new=_on_one_line(left + new.encode() + right),
                source=before + new.encode() + after,
            )
        )

    def _changes(self, node: ast.AST) -> Iterator[Change]:
        """Say what can be wrong with this node alone."""
        if isinstance(node, (ast.Compare, ast.BoolOp, ast.BinOp)):
            for left, operator, right in _operations(node):
                if type(operator) in OPERATORS:
                    yield self._instead(operator, left, right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, _ = self._span(node)
            yield start, start + len("not "), ""
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield from self._turned_round(node.test)
        elif isinstance(node, ast.Constant):
            yield from self._other_value(node)
        elif isinstance(node, ast.Attribute):
            yield from self._other_member(node)
        elif isinstance(node, ast.Dict):
            yield from self._without_entries(node)
        elif isinstance(node, ast.stmt) and self._can_be_left_out(node):
            yield (*self._span(node), "pass")

    def _instead(self, operator: ast.AST, left: ast.expr, right: ast.expr) -> Change:
        """Write another operator between two sides."""
        start, end = self._span(left)[1], self._span(right)[0]
        old, new = OPERATORS[type(operator)]
        return start, end, self._source[start:end].decode().replace(old, new, 1)

    def _turned_round(self, test: ast.expr) -> Iterator[Change]:
        """Turn a condition round where it stands, if it is none that has an operator."""
        if isinstance(test, (ast.Name, ast.Attribute, ast.Call)):
            start, end = self._span(test)
            yield start, end, f"not {self._source[start:end].decode()}"

    def _other_value(self, node: ast.Constant) -> Iterator[Change]:
        value = node.value
        if isinstance(value, bool):
            yield (*self._span(node), str(not value))
        elif isinstance(value, (int, float)):
            other = value + 1 if value <= STEP else value * BEYOND_ALL_BOUNDS
            yield (*self._span(node), str(other))

    def _other_member(self, node: ast.Attribute) -> Iterator[Change]:
        """Name the next member of an enumeration, of those that the module names at all."""
        members = self._members.get(ast.unparse(node.value), [])
        if node.attr in members and len(members) > 1:
            other = members[(members.index(node.attr) + 1) % len(members)]
            _, end = self._span(node)
            yield end - len(node.attr), end, other

    def _without_entries(self, node: ast.Dict) -> Iterator[Change]:
        """Leave out an entry of a table; its comma stands behind it, as it does if it is long."""
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                start, end = self._span(key)[0], self._span(value)[1]
                if self._source[end : end + 1] == b",":
                    yield start, end + 1, ""

    def _can_be_left_out(self, node: ast.stmt) -> bool:
        if not self._where or self._where[-1] == "__init__":
            return False
        if isinstance(node, ast.Assign):
            return not any(isinstance(target, (ast.Name, ast.Tuple)) for target in node.targets)
        if isinstance(node, ast.Expr):
            return isinstance(node.value, (ast.Call, ast.Await))
        return isinstance(node, (ast.AugAssign, ast.Delete))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset


def _operations(
    node: ast.Compare | ast.BoolOp | ast.BinOp,
) -> Iterator[tuple[ast.expr, ast.AST, ast.expr]]:
    """Return each operator of an expression with its two sides."""
    if isinstance(node, ast.BoolOp):
        for left, right in pairwise(node.values):
            yield left, node.op, right
    elif isinstance(node, ast.BinOp):
        yield node.left, node.op, node.right
    else:
        for (left, right), operator in zip(
            pairwise([node.left, *node.comparators]), node.ops, strict=True
        ):
            yield left, operator, right


def _members(tree: ast.AST) -> dict[str, list[str]]:
    """Return what looks like members of enumerations, by the name of each."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.isupper():
            found.setdefault(ast.unparse(node.value), set()).add(node.attr)
    return {name: sorted(members) for name, members in found.items() if name[:1].isupper()}


def _is_left_alone(node: ast.AST) -> bool:
    """Whether no behaviour hangs on it, or whatever runs notices."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.Assert, ast.Raise, ast.Import, ast.ImportFrom))


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Return what of a node behaves in some way."""
    for name, value in ast.iter_fields(node):
        if name not in {"annotation", "returns"}:
            yield from (
                part
                for part in (value if isinstance(value, list) else [value])
                if isinstance(part, ast.AST)
            )


def _on_one_line(source: bytes) -> str:
    return " ".join(source.decode().split()) or "nothing"
