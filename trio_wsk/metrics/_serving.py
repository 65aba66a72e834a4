"""`serve_metrics`: the pages that Prometheus scrapes, and that Kubernetes asks for health."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, final

import trio
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from trio_wsk._http.answering import answer_requests
from trio_wsk._http.messages import Page
from trio_wsk._serving.opening import serve
from trio_wsk._vocabulary.arguments import check_async_function, check_function

from ._registry import check_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from prometheus_client.registry import CollectorRegistry
    from typing_extensions import Unpack

    from trio_wsk._http.messages import Request
    from trio_wsk._listening.options import ServerOptions
    from trio_wsk._serving.server import Server


__all__ = ["serve_metrics"]

MOST_CONNECTIONS: Final = 256
"""How many clients may be there at once by default: some scrapers, and probes."""

IDLE_SECONDS: Final = 75.0
"""How long a client may keep its connection between two requests by default: longer than the minute
after which Prometheus comes again by default, and as long as with nginx."""


async def serve_metrics(  # noqa: ASYNC128 - whom it hands the status to calls it
    port: int | None = None,
    *,
    unready: Callable[[], Collection[str] | Awaitable[Collection[str]]],
    registry: CollectorRegistry = REGISTRY,
    refresh: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve ``/metrics``, ``/health/live`` and ``/health/ready`` over HTTP/1.1.

    ``/metrics`` is the registry, as OpenMetrics for those who accept that and else as Prometheus'
    text format. ``/health/live`` is answered with 200 as long as Trio's loop goes round.
    ``/health/ready`` is answered with 200, or with 503 and what stands in the way.

    GET and HEAD are answered, and nothing else is. A client has ten seconds for a request, and
    16384 octets; it may keep its connection for 75 seconds between two.

    The registry is collected in this task, so whoever collects in it must be quick.

    Args:
      port: As for `trio_wsk.serve`. Nobody is asked who they are: name a ``host`` that only those
        reach who may know.
      unready: Says what stands in the way of serving, one line each; nothing if nothing does. Such
        as `Collector.unready`. It may be an async function, for who has to ask others first.
      registry: What is shown: a registry of prometheus_client's.
      refresh: Awaited before each scrape: to have workers send what they have counted. Give it a
        deadline of its own, since the scraper waits for it.
      task_status: As for `trio_wsk.serve`.
      **options: As for `trio_wsk.serve`; ``max_connections`` is 256 by default, and
        ``idle_timeout`` 75 seconds.

    Returns when the server has been drained or aborted; cancelling it aborts.

    Raises:
      InvalidParameterError, BindError, OSError: as for `open_listening_socket`.

    Error handling: what ``unready``, ``refresh`` or the registry raises is answered with 500, and
    reported like a crash of a handler.

    Source: RFC 9110, RFC 9112; the exposition formats of Prometheus.
    """
    check_function("unready", unready)
    if refresh is not None:
        check_async_function("refresh", refresh)
    check_registry(registry)
    options.setdefault("max_connections", MOST_CONNECTIONS)
    options.setdefault("idle_timeout", IDLE_SECONDS)
    pages = _Pages(registry, unready, refresh)
    handler = partial(answer_requests, pages.respond)
    await serve(handler, port, task_status=task_status, **options)


@final
class _Pages:
    """What is behind each path."""

    def __init__(
        self,
        registry: CollectorRegistry,
        unready: Callable[[], Collection[str] | Awaitable[Collection[str]]],
        refresh: Callable[[], Awaitable[object]] | None,
    ) -> None:
        self._registry = registry
        self._unready = unready
        self._refresh = refresh

    async def respond(self, request: Request) -> Page:
        """Make the page that a request asks for."""
        await trio.lowlevel.checkpoint()
        match request.path:
            case "/metrics":
                return await self._metrics(request)
            case "/health/live":
                return Page(b"live\n")
            case "/health/ready":
                return await self._ready()
        return Page(b"There are /metrics, /health/live and /health/ready.\n", HTTPStatus.NOT_FOUND)

    async def _metrics(self, request: Request) -> Page:
        if self._refresh is not None:
            await self._refresh()
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # as prometheus_client says of a version that is none
            encode, content_type = choose_encoder("")
        return Page(encode(self._registry), content_type=content_type)  # noqa: ASYNC910 - `respond` has one

    async def _ready(self) -> Page:
        found = self._unready()
        lines = list(await found if isinstance(found, Awaitable) else found)
        if not lines:
            return Page(b"ready\n")  # noqa: ASYNC910 - `respond` has a checkpoint
        text = "".join(f"{line}\n" for line in lines)
        return Page(text.encode(), HTTPStatus.SERVICE_UNAVAILABLE)  # noqa: ASYNC910 - as above
