"""Arguments that can't be meant, of the page; rows for `tests.test_wrong_arguments`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tests.helpers.wrong_values import Row, work
from trio_wsk.admin import serve_admin
from trio_wsk.control import Control

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

ADMIN: Mapping[str, Mapping[str, Row]] = {
    "serve_admin": {
        "control": Row((None, 7, work, Control), "control is a Control"),
        "port": Row((True, 1.5, "80", -1, 70000, math.nan), "port"),
        "token": Row(
            (7, "", "short", b"x" * 20, "x" * 20 + "\n", "ä" * 20), "token is a secret of 16"
        ),
        "hosts": Row((None, 7, "admin.example", [7], [""], [" x"]), "hosts are names"),
        "task_status": Row((None, 7, work), "nursery.start(trio_wsk.serve"),
    },
}


async def _serve_admin(**argument: Any) -> None:
    await serve_admin(**{"control": Control(), "port": 0, **argument})


ADMIN_CALLS: Mapping[str, Callable[..., Awaitable[None]]] = {"serve_admin": _serve_admin}
