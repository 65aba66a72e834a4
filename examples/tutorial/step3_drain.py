"""Tutorial, step 3: a server that ends in good order."""

from __future__ import annotations

import signal

import trio

import trio_wsk


async def echo(connection: trio_wsk.Connection) -> None:
    """Send back what one client sends."""
    async for data in connection:
        await connection.send_all(data)


async def main() -> None:
    """Serve until Ctrl-C; then give clients two seconds to finish."""
    async with trio_wsk.open_server(echo, 7007, host="localhost", grace=2) as server:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            print("listening on", *server.local_addresses, flush=True)
            await anext(signals)
        report = await server.drain()
        print(f"{report.finished} finished, {report.reset} reset", flush=True)


if __name__ == "__main__":
    trio.run(main)
