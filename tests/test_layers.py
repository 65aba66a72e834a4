"""The rules of the layers that imports can't say, held over the package's syntax trees.

`nox -s layers` checks who imports whom; here is what a module does with what it imported.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import trio_wsk
from tests.helpers.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(trio_wsk.__path__[0])
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

PURE = {
    "_supervisor/messages.py",
    "_supervisor/restarts.py",
    "_supervisor/together.py",
    "_delivery/contract.py",
    "_delivery/delivery.py",
    "_inspection/table.py",
    "_looking",
    "_intake/admission.py",
    "_intake/backoff.py",
    "_protocols",
    "_reading/buffer.py",
    "_reading/portions.py",
    "_http/messages.py",
    "admin/_guarding.py",
    "admin/_page.py",
    "control/_protocol.py",
    "metrics/_families.py",
    "metrics/_merging.py",
    "_vocabulary/connection_state.py",
    "_vocabulary/end_reason.py",
    "_vocabulary/listening_state.py",
    "_vocabulary/more.py",
    "_vocabulary/records.py",
    "_vocabulary/refused.py",
    "_vocabulary/statistics.py",
    "_vocabulary/verdict.py",
    "inspectors/_breaker.py",
    "inspectors/_scripts.py",
    "transports/_heartbeat.py",
    "transports/_syn.py",
    "transports/linux/_alarms.py",
    "transports/linux/_entry.py",
    "transports/linux/_expressions.py",
    "transports/linux/_messages.py",
    "transports/linux/_rules.py",
    "transports/linux/_syn_table.py",
}
# `testing` plays the machine and its peers, and holds transports against their contract.
CATCHES_OS_ERRORS = {
    "_supervisor/channel.py",
    "_supervisor/generation.py",
    "_supervisor/process.py",
    "_supervisor/sockets.py",
    "_supervisor/takeover.py",
    "_supervisor/watching.py",  # watchfiles' seam
    "_supervisor/worker.py",
    "_configuration/page.py",
    "_configuration/ready.py",
    "_configuration/sources.py",
    "_connection/farewell.py",
    "_connection/handshake.py",
    "_connection/wire.py",
    "_engine/choice.py",
    "_engine/epoll_readiness.py",
    "_serving/server_context.py",
    "inspectors/_networks_file.py",
    "testing",
    "transports",
}
OPENS_NURSERIES = {
    "_command/beside.py",
    "_command/watching.py",  # a question, a key and a signal are waited for at once
    "_listening/opening.py",
    "_serving/notifying.py",
    "_serving/opening.py",
    "_supervisor/doors.py",
    "_supervisor/generation.py",
    "_supervisor/notifying.py",
    "_supervisor/steering.py",
    "_supervisor/supervising.py",
    "_supervisor/watching.py",
    "_supervisor/worker.py",
    "inspectors/_dns_lists.py",  # all zones at once, within one look-up
    "inspectors/_redis_client.py",  # all nodes of a cluster at once, within one question
    "inspectors/_shared.py",  # what renews and asks, as long as its block is entered
    "testing",
}

# From a connection and from a request, users reach the listening socket. The rooms below hand it
# out, and do no more with it.
FOR_USERS = {
    ("_connection/block.py", "_listening"),  # `block.listening`, which the others hand out
    ("_connection/connection.py", "_listening"),  # `connection.listening`
    ("_inspection/request.py", "_listening"),  # `request.listening`
}
# Of the standard library, which says that they are public in another way.
NOT_OURS = {"_accept", "_args_from_interpreter_flags", "_asdict"}

LINES_OF_MODULE = 450
LINES_OF_CLASS = 300

IMPURE_IMPORTS = {"_socket", "_ssl", "select", "socket", "ssl", "time", "trio"}


def is_among(module: Path, places: set[str]) -> bool:
    """Whether a module, given by its path in the package, is one of these, or below one."""
    return any(str(each) in places for each in (module, *module.parents))


@functools.cache
def tree_of(module: Path) -> ast.Module:
    """Parse a module, given by its path in the package."""
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def impure_imports(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that import the machine, the clock or Trio."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        if any(name.partition(".")[0] in IMPURE_IMPORTS for name in names):
            yield node.lineno


def caught_os_errors(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that catch or suppress `OSError`, by whichever of its names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = [node.type]
        elif isinstance(node, ast.Call) and dotted_name(node.func).endswith("suppress"):
            caught = node.args
        else:
            continue
        if any(names_an_os_error(part) for expression in caught for part in ast.walk(expression)):
            yield node.lineno


def names_an_os_error(node: ast.AST) -> bool:
    """Tell whether an expression is `OSError`, an alias of it or a subclass of it."""
    module, _, name = dotted_name(node).rpartition(".")
    try:
        thing = getattr(importlib.import_module(module) if module else builtins, name, None)
    except ImportError:
        return False
    return isinstance(thing, type) and issubclass(thing, OSError)


def opened_nurseries(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that open a nursery."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted_name(node.func).endswith("open_nursery"):
            yield node.lineno


def code_lines(node: ast.ClassDef) -> int:
    """Count the lines of a class that are code: no docstring, no comment, no blank line."""
    bare = ast.parse(ast.unparse(node))
    for inner in ast.walk(bare):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner.body = [each for each in inner.body if not is_docstring(each)] or [ast.Pass()]
    return len([line for line in ast.unparse(bare).splitlines() if line])


def is_docstring(node: ast.stmt) -> bool:
    """Tell whether a statement is a string that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def dotted_name(node: ast.AST) -> str:
    """Write a name or attribute as in the source; anything else is ``""``."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def room_of(module: Path) -> str:
    """Name a module's room; a module that has none is one by itself."""
    return module.parts[0].removesuffix(".py")


def rooms_imported(module: Path) -> set[str]:
    """Name the rooms that a module imports from, also for types only, and in functions."""
    names = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = ("trio_wsk", *module.parts)[: -node.level] if node.level else ()
            start = ".".join((*parents, *filter(None, [node.module])))
            names |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    places = [name.split(".")[1] for name in names if name.startswith("trio_wsk.")]
    return {place for place in places if is_room(place)} - {room_of(module)}


def is_room(name: str) -> bool:
    """Whether the package has a room, or a module, of this name."""
    return (PACKAGE / name / "__init__.py").exists() or (PACKAGE / f"{name}.py").exists()


@functools.cache
def rooms_below() -> dict[str, set[str]]:
    """Say for each room which may be known in it: those on lower lines of the contract."""
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (lines,) = (each["layers"] for each in contracts if each["id"] == "rooms")
    rooms = [{name.strip(" ()") for name in line.split("|")} for line in lines]
    below: dict[str, set[str]] = {}
    for line in reversed(rooms):
        known = {room for other in below for room in (other, *below[other])}
        below |= dict.fromkeys(line, known)
    return below


def hidden_names(tree: ast.AST) -> set[str]:
    """Collect the names with an underscore that a module defines."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            is_own = isinstance(node, ast.Name) or is_self(node.value)
            names |= {node.id if isinstance(node, ast.Name) else node.attr} if is_own else set()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # in ``__slots__``
    return {name for name in names if is_hidden(name)}


def touched_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield where an attribute with an underscore is touched that is not ``self``'s, and which."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_hidden(node.attr) and not is_self(node.value):
            yield node.lineno, node.attr


def is_hidden(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def is_self(node: ast.expr) -> bool:
    """Whether this is ``self`` or ``cls``."""
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


@pytest.mark.parametrize("place", sorted(PURE | CATCHES_OS_ERRORS | OPENS_NURSERIES))
def test_rules_name_what_is_there(place: str) -> None:
    """Each module and room that a rule names exists."""
    assert (PACKAGE / place).exists()


@pytest.mark.parametrize("module", [m for m in MODULES if is_among(m, PURE)], ids=str)
def test_pure_module_imports_neither_machine_nor_clock(module: Path) -> None:
    """A module that only decides can't reach a socket, a clock or the Trio run."""
    assert [] == list(impure_imports(tree_of(module)))


@pytest.mark.parametrize(
    "module", [m for m in MODULES if not is_among(m, CATCHES_OS_ERRORS)], ids=str
)
def test_os_errors_are_caught_at_the_seams_only(module: Path) -> None:
    """
    The operating system's errors are translated once, in a transport, the readiness, the
    connection or the hand-off; no other module of a server catches `OSError` by any of its names.
    """
    assert [] == list(caught_os_errors(tree_of(module)))


@pytest.mark.parametrize(
    "module", [m for m in MODULES if not is_among(m, OPENS_NURSERIES)], ids=str
)
def test_nurseries_are_opened_at_the_top_only(module: Path) -> None:
    """In a server, the listening block, the server and the workers start tasks, and nobody else."""
    assert [] == list(opened_nurseries(tree_of(module)))


@pytest.mark.parametrize("module", [m for m in MODULES if len(m.parts) > 1], ids=str)
def test_rooms_know_lower_rooms_only(module: Path) -> None:
    """
    No module in a room imports from a room above, or beside, and none names a type from there, but
    for the few that users need.
    """
    known = rooms_below()[room_of(module)]
    allowed = {room for place, room in FOR_USERS if place == module.as_posix()}

    assert set() == rooms_imported(module) - known - allowed


@pytest.mark.parametrize(("place", "room"), sorted(FOR_USERS))
def test_exceptions_for_users_are_needed(place: str, room: str) -> None:
    """Each exception from the order of the rooms is one."""
    assert room in rooms_imported(Path(place))


@pytest.mark.parametrize("room", sorted({room_of(module) for module in MODULES}))
def test_hidden_attributes_are_touched_in_their_room_only(room: str) -> None:
    """An attribute with an underscore is for its own room, by whatever way it is reached."""
    trees = {m: tree_of(m) for m in MODULES if room_of(m) == room}
    own = {name for tree in trees.values() for name in hidden_names(tree)} | NOT_OURS
    touched = [(str(m), *each) for m, tree in trees.items() for each in touched_names(tree)]

    assert [] == [each for each in touched if each[-1] not in own]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules_are_short(module: Path) -> None:
    """A module has 450 lines at most: one that is longer has two subjects."""
    assert LINES_OF_MODULE >= len((PACKAGE / module).read_text("utf-8").splitlines())


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_classes_are_short(module: Path) -> None:
    """A class has 300 lines of code at most, docstrings apart."""
    classes = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.ClassDef)]

    assert [] == [node.name for node in classes if code_lines(node) > LINES_OF_CLASS]


def test_lines_of_a_class_are_counted_without_docstrings() -> None:
    """Docstrings, comments and blank lines make no class longer."""
    bare = "class A:\n    def f(self):\n        return 1"
    full = bare.replace(":\n", ':\n    """Say."""\n\n', 1) + "  # it"
    [node] = ast.parse(full).body
    assert isinstance(node, ast.ClassDef)

    assert 3 == code_lines(node)


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import trio.socket",
        "from socket import socket",
        "def f():\n    from trio.lowlevel import checkpoint",
        "if TYPE_CHECKING:\n    import ssl",
    ],
)
def test_impure_imports_are_seen_wherever_they_stand(source: str) -> None:
    """An import in a function, of a submodule or for types only is an import."""
    assert [source.count("\n") + 1] == list(impure_imports(ast.parse(source)))


def test_own_modules_are_no_impure_imports() -> None:
    """Importing a neighbour or the standard library's pure modules breaks no rule."""
    assert [] == list(impure_imports(ast.parse("from . import time\nimport enum, attrs")))


@pytest.mark.parametrize(
    "clause",
    [
        "except OSError",
        "except ConnectionError as exc",
        "except (ValueError, BlockingIOError)",
        "except IOError",
        "except EnvironmentError",
        "except socket.error",
        "except ssl.SSLError",
    ],
)
def test_os_errors_are_seen_under_every_name(clause: str) -> None:
    """`OSError` is found as itself, as a subclass, as an alias and in a tuple."""
    assert [3] == list(caught_os_errors(ast.parse(f"try:\n    f()\n{clause}:\n    pass")))


def test_suppressed_os_errors_are_seen() -> None:
    """`contextlib.suppress` catches as well as `except` does."""
    source = "with contextlib.suppress(ConnectionResetError):\n    f()"

    assert [1] == list(caught_os_errors(ast.parse(source)))


def test_other_errors_may_be_caught_anywhere() -> None:
    """Trio's and our own exceptions, and other builtins, are no errors of the system."""
    source = "try:\n    f()\nexcept (trio.BrokenResourceError, WskError, ValueError):\n    pass"

    assert [] == list(caught_os_errors(ast.parse(source)))


@pytest.mark.parametrize("call", ["trio.open_nursery()", "open_nursery()"])
def test_nurseries_are_seen_under_both_names(call: str) -> None:
    """`open_nursery` is found however it was imported."""
    source = f"async def f():\n    async with {call}:\n        pass"

    assert [2] == list(opened_nurseries(ast.parse(source)))
