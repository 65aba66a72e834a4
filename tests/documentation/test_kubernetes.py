"""The manifest in `examples/kubernetes/` fits the program beside it, which does what it is told."""

from __future__ import annotations

import inspect
from signal import SIGTERM, raise_signal
from typing import Any

import pytest
import trio
import yaml

from tests.helpers.examples import example
from tests.helpers.places import EXAMPLES
from tests.helpers.scraping import Scraper
from tests.helpers.support import PATIENCE, connect, read_to_end, until

pytest.importorskip("prometheus_client")

FOLDER = EXAMPLES / "kubernetes"
DOCUMENTS: list[dict[str, Any]] = [*yaml.safe_load_all((FOLDER / "upper.yaml").read_text("utf-8"))]
DEPLOYMENT, SERVICE, BUDGET = DOCUMENTS
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
PROBES = [CONTAINER["readinessProbe"]["httpGet"], CONTAINER["livenessProbe"]["httpGet"]]
PORTS = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}


def test_manifest_is_of_one_piece() -> None:
    """What names something in another place of the manifest names what is there."""
    labels = POD["metadata"]["labels"]

    assert ["Deployment", "Service", "PodDisruptionBudget"] == [each["kind"] for each in DOCUMENTS]
    assert labels == DEPLOYMENT["spec"]["selector"]["matchLabels"]
    assert labels == SERVICE["spec"]["selector"] == BUDGET["spec"]["selector"]["matchLabels"]
    assert {each["targetPort"] for each in SERVICE["spec"]["ports"]} <= PORTS.keys()
    assert {probe["port"] for probe in PROBES} == {"metrics"}
    assert str(PORTS["metrics"]) == POD["metadata"]["annotations"]["prometheus.io/port"]
    assert BUDGET["spec"]["minAvailable"] < DEPLOYMENT["spec"]["replicas"]


def test_manifest_fits_the_program() -> None:
    """The container runs the program, on its ports, and gives it the time that it takes."""
    program = example("kubernetes/upper")
    source = inspect.getsource(program)
    _, waited = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]

    assert ["python", "/srv/upper.py"] == CONTAINER["command"]
    assert f"trio.run(main, {PORTS['upper']}, {PORTS['metrics']})" in source
    assert int(waited) + program.GRACE < POD["spec"]["terminationGracePeriodSeconds"]


async def test_program_is_ready_until_it_drains() -> None:
    """
    The probes are answered on the metrics port. SIGTERM drains: the pod is not ready any more, but
    alive, who is connected is served, and when the last one has finished the program has ended.
    """
    ready, live = [probe["path"] for probe in PROBES]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            server, pages = await nursery.start(example("kubernetes/upper").main, 0, 0)
            scraper = Scraper(await connect(pages.local_addresses[0]))

            assert 200 == (await scraper.get(ready)).status
            assert 200 == (await scraper.get(live)).status
            assert b"trio_wsk_active_connections" in (await scraper.get("/metrics")).content

            client = await connect(server.local_addresses[0])
            await client.send_all(b"he")
            await until(lambda: server.statistics().open_connections)
            raise_signal(SIGTERM)
            await server.listening.draining.wait()

            assert 503 == (await scraper.get(ready)).status
            assert 200 == (await scraper.get(live)).status

            await client.send_all(b"llo\n")
            assert b"HELLO\n" == await read_to_end(client)
            await client.aclose()
            await scraper.stream.aclose()
