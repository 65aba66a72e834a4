"""
`trio_wsk.serve` with a `trio_wsk.Reader`, which answers lines until end of file.

    python -m tests.benchmarks.contenders.wsk_lines lines FORM

FORM is how: ``lines``, each answered by itself, or ``batches``, those that have come together
answered together, and at once, with a wait only for a client that does not take its answers.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

import trio

import trio_wsk

from ._common import HOST, announce


async def answer_lines(connection: trio_wsk.Connection) -> None:
    """Answer each line by itself."""
    async for line in trio_wsk.Reader(connection).lines():
        await connection.send_all(line + b"\n")


async def answer_batches(connection: trio_wsk.Connection) -> None:
    """Answer all lines that are there at once."""
    async for lines in trio_wsk.Reader(connection).batches():
        if connection.send_nowait(b"\n".join([*lines, b""])):
            await connection.wait_send_all_might_not_block()


HANDLERS: Final = {"lines": answer_lines, "batches": answer_batches}


async def main(form: str) -> None:
    """Serve until killed."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_wsk.serve, HANDLERS[form], 0, host=HOST))
        announce(server.local_addresses[0].port)


if __name__ == "__main__":
    trio.run(main, sys.argv[2])
