"""Arguments that can't be meant, of the control socket; rows for `tests.test_wrong_arguments`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.helpers.wrong_values import Row, wait, work
from trio_wsk import open_server
from trio_wsk.control import Control, ask_control, serve_control
from trio_wsk.inspectors import Penalties, Rules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

NO_NAMES: tuple[Any, ...] = (None, 7, "", b"mail")

CONTROL: Mapping[str, Mapping[str, Row]] = {
    "Control.add": {
        "listener": Row(NO_NAMES, "listener is a text to know it by"),
        "server": Row((None, 7, work, Control()), "server is a Server"),
        "rules": Row((7, work, Rules, [Rules()]), "rules is a Rules or None"),
    },
    "Control.add_penalties": {
        "name": Row(NO_NAMES, "name is a text to know it by"),
        "penalties": Row((None, 7, work, Penalties), "penalties is a Penalties"),
    },
    "Control.remove": {"listener": Row(("other", 7), "is not steered")},
    "serve_control": {
        "control": Row((None, 7, work, Control), "control is a Control"),
        "path": Row((7, "", b"", object(), "/tmp/", "a\0b"), "path"),  # noqa: S108 - no file
        "task_status": Row((None, 7, work), "nursery.start(trio_wsk.serve"),
    },
    "ask_control": {
        "path": Row((7, "", b"", object(), "a\0b"), "a path is"),
        "command": Row((b"pause", object()), "what JSON can say"),
    },
}


async def _add(**argument: Any) -> None:
    async with open_server(wait, 0, host="127.0.0.1") as server:
        Control().add(**{"listener": "mail", "server": server, **argument})


async def _add_penalties(**argument: Any) -> None:
    Control().add_penalties(**{"name": "penalties", "penalties": Penalties(), **argument})


async def _remove(listener: Any) -> None:
    Control().remove(listener)


async def _serve_control(**argument: Any) -> None:
    await serve_control(**{"control": Control(), "path": "/nowhere/control", **argument})


async def _ask_control(**argument: Any) -> None:
    await ask_control(**{"path": "/nowhere/control", "command": "pause", **argument})


CONTROL_CALLS: Mapping[str, Callable[..., Awaitable[None]]] = {
    "Control.add": _add,
    "Control.add_penalties": _add_penalties,
    "Control.remove": _remove,
    "serve_control": _serve_control,
    "ask_control": _ask_control,
}
