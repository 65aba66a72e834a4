"""The sleeper of all that run on asyncio."""

from __future__ import annotations

import asyncio

from ._common import has_sleeper
from ._lag import sleep_for_ever


def start_sleeper() -> asyncio.Task[None] | None:
    """Have a task tell how late it wakes, if the task is that; keep what is returned."""
    return asyncio.create_task(sleep_for_ever(asyncio.sleep)) if has_sleeper() else None
