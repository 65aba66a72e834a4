"""What a piece of code in prose names: the rules, without Sphinx, so that tests can ask them.

A link that leads elsewhere is worse than none. So a name that could be two things is none of
them, and a bare word counts only if it looks like a name: it is a class or a function of ours, it
has an underscore in it, or it is called.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

CODE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(\(.*\)|=.*)?", re.DOTALL)
"""A name, then a call's parentheses, or a value for it."""

VARIABLES = (
    ("connection", "Connection"),
    ("dispatch", "ListenDispatch"),
    ("irp", "Irp"),
    ("listening", "ListeningSocket"),
    ("listening", "ListeningStatistics"),
    ("listening.statistics()", "ListeningStatistics"),
    ("request", "ConnectionRequest"),
    ("server", "Server"),
    ("server.statistics()", "ServerStatistics"),
    ("server.statistics().listening", "ListeningStatistics"),
    ("statistics()", "ServerStatistics"),
    ("statistics()", "ListeningStatistics"),
    ("statistics().listening", "ListeningStatistics"),
)
"""What our pages call things; where one has two meanings, the first that fits."""

SOMEBODY_ELSES = frozenset(
    {"accept", "bind", "close", "connect", "context", "listen", "recv", "send"}
)
"""System calls, mostly, and an option of several functions."""

CALLBACKS = ("ConnectionDispatch", "ListenDispatch")
"""Whose slots are called with a connection first: ``receive(connection, data)``."""

CALLED = {"function", "method", "classmethod", "staticmethod"}


class Names:
    """The public names, and which of them a piece of code means."""

    def __init__(self, kinds: Mapping[str, str], options: Iterable[str] = ()) -> None:
        """Take in full names with what each is, and the names of options."""
        self._kinds = kinds
        self._options = frozenset(options)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for name in kinds:
            parts = name.split(".")
            for at in range(len(parts)):
                self._by_end[".".join(parts[at:])].append(name)

    def option(self, code: str) -> str | None:
        """Tell which option a piece of code names: ``grace=5``, or a name with an underscore."""
        found = CODE.fullmatch(code)
        if found is None or found[1] not in self._options - SOMEBODY_ELSES:
            return None
        more = found[2] or ""
        return found[1] if more.startswith("=") or ("_" in found[1] and not more) else None

    def find(self, code: str) -> str | None:
        """Tell the full name that a piece of code names, if there is one."""
        code = code.removeprefix("await ")
        for holder, kind in VARIABLES:
            if code.startswith(f"{holder}."):
                whole = self._of_ours(f"{kind}.{code.removeprefix(f'{holder}.')}")
                if whole is not None:
                    return whole
        found = CODE.fullmatch(code)
        if found is None or (found[2] or "").startswith("="):
            return None
        name, is_called = found[1], bool(found[2])
        if is_called and found[2].startswith("(connection"):
            slots = (self._of_ours(f"{dispatch}.{name}") for dispatch in CALLBACKS)
            slot = next(filter(None, slots), None)
            if slot is not None:
                return slot
        if name in self._kinds:
            return name
        if "." in name or name[0].isupper():
            return self._only(self._by_end[name])
        return self._bare(name, is_called=is_called)

    def _of_ours(self, code: str) -> str | None:
        found = CODE.fullmatch(code)
        name = f"trio_wsk.{found[1]}" if found else ""
        return name if name in self._kinds else None

    def _bare(self, name: str, *, is_called: bool) -> str | None:
        if name in SOMEBODY_ELSES:
            return None
        named = self._by_end[name]
        functions = [each for each in named if self._kinds[each] == "function"]
        if functions:
            return self._only(functions)
        if not is_called and "_" not in name:
            return None
        methods = [each for each in named if self._kinds[each] in CALLED]
        return self._only(methods if is_called or methods else named)

    @staticmethod
    def _only(named: list[str]) -> str | None:
        """Choose the one there is; what `trio_wsk` itself exports comes before its modules'."""
        own = [each for each in named if re.match(r"trio_wsk\.(?:[A-Z]|\w+$)", each)]
        best = own or named
        return best[0] if len(best) == 1 else None
