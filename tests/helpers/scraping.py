"""What a scrape shows: the samples of a registry, and a client that asks for pages."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import attrs
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as _openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.foreign import foreign
from trio_wsk import Reader

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Series = tuple[str, frozenset[tuple[str, str]]]


def registry_of(*collectors: Any) -> CollectorRegistry:
    """Make a registry of collectors."""
    registry = CollectorRegistry()
    for each in collectors:
        registry.register(each)
    return registry


def series(name: str, **labels: str) -> Series:
    """Name a series as `samples` does."""
    return f"trio_wsk_{name}", frozenset(labels.items())


def samples(text: str) -> dict[Series, float]:
    """Parse a page of Prometheus' text format, each series of which may be there once only."""
    found: dict[Series, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def scraped(*collectors: Any) -> dict[Series, float]:
    """Collect, write as Prometheus' text, and parse that."""
    return samples(generate_latest(registry_of(*collectors)).decode())


def parse_openmetrics(page: bytes) -> list[Metric]:
    """Parse a page of OpenMetrics, strictly."""
    return list(_openmetrics_families(page.decode()))  # type: ignore[no-untyped-call]  # not ours


def check_with_promtool(page: bytes) -> None:
    """Have Prometheus' own program look for what is wrong with a page."""
    command = [foreign("promtool"), "check", "metrics"]
    checked = subprocess.run(command, input=page, capture_output=True, check=False)  # noqa: S603 - ours

    assert (b"", b"") == (checked.stdout, checked.stderr)
    assert 0 == checked.returncode


@attrs.frozen
class Answer:
    """What a server of pages has answered."""

    status: int
    headers: dict[str, str]
    content: bytes


class Scraper:
    """A client that asks for pages over one stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._reader = Reader(stream)

    async def get(self, path: str, *headers: str, method: str = "GET") -> Answer:
        """Ask for a page, and read it."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
        await self.stream.send_all("\r\n".join(lines).encode("latin-1"))
        return await self.answer(has_content=method != "HEAD")

    async def answer(self, *, has_content: bool = True) -> Answer:
        """Read an answer."""
        head = (await self._reader.read_until(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"]) if has_content else 0
        return Answer(int(status.split()[1]), headers, await self._reader.read_exactly(length))

    async def is_left_alone(self) -> bool:
        """Whether the server ends the connection, and says no more."""
        return not await self._reader.read_some()
