"""A server in a pod: it answers in capitals, and its metrics port answers Kubernetes."""

from __future__ import annotations

import signal
from functools import partial

import prometheus_client
import trio

import trio_wsk
from trio_wsk.metrics import Collector, serve_metrics

GRACE = 30.0
"""Seconds that open connections are given; the manifest gives the pod more."""


async def answer(connection: trio_wsk.Connection) -> None:
    """Answer each line, until the client has no more of them, or the server drains."""
    async for line in trio_wsk.Reader(connection).lines(idle=60):
        await connection.send_all(line.upper() + b"\n")


async def main(
    port: int,
    metrics_port: int,
    *,
    task_status: trio.TaskStatus[list[trio_wsk.Server]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM; the metrics port outlives the server, and says so."""
    collector = Collector()
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)
    show = partial(serve_metrics, metrics_port, unready=collector.unready, registry=registry)
    signals = [signal.SIGINT, signal.SIGTERM]
    async with trio.open_nursery() as nursery:
        pages = await nursery.start(show)
        async with trio_wsk.open_server(answer, port, grace=GRACE, signals=signals) as server:
            collector.add("upper", server)
            task_status.started([server, pages])
            await server.listening.draining.wait()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, 8000, 9464)
