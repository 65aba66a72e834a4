"""Metrics of the command line's servers, scraped from real processes while they are under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.programs import LONG, reserved
from tests.helpers.scraping import Scraper, check_with_promtool, samples, series
from tests.helpers.supervised import ON_LINUX, Supervised, ask, connected, gone, supervised
from trio_wsk.control import ask_control

if TYPE_CHECKING:
    from tests.helpers.scraping import Series

pytestmark = ON_LINUX

ON = ("--host", "127.0.0.1", "--port", "0")
ACCEPTED = series("accepted_connections_total", listener="server")


async def got(port: int, path: str) -> tuple[int, bytes]:
    """Get a page; return its status, and what is on it."""
    with trio.fail_after(LONG):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            answer = await Scraper(stream).get(path)
            return answer.status, answer.content


async def scraped(port: int) -> dict[Series, float]:
    """Scrape."""
    status, page = await got(port, "/metrics")

    assert 200 == status

    return samples(page.decode())


async def statistics(server: Supervised) -> dict[str, int]:
    """Ask for the same counts over the control socket."""
    counted = (await ask_control(server.folder / "c", "statistics"))["server"]
    return {"accepted": counted["listening"]["accepted"], "served": counted["served"]}


async def asked(port: int, times: int) -> None:
    """Come so often, several at a time, and be answered each time."""

    async def come() -> None:
        for _ in range(times // 5):
            await ask(port)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(come)


async def test_one_scrape_sees_all_workers(tmp_path: Path) -> None:
    """
    A scrape shows the sums of all workers, the same as their statistics, and they never go back:
    not while clients come and go, not when workers are replaced, which say at their end what they
    have counted, and not when one is killed, of which what was scraped last stays. The page is
    clean. The service is ready as long as every worker serves, and not while it drains.
    """
    with reserved() as sock:
        port = sock.getsockname()[1]
        more = ["--metrics", f"127.0.0.1:{port}", "--control", "c", "--workers", "2"]
        async with supervised(tmp_path, "app:who", *ON, *more) as server:
            where = await server.port()
            answered, seen = 0, [0.0]

            async def come_and_scrape() -> None:
                nonlocal answered
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(asked, where, 20)
                    seen.append((await scraped(port))[ACCEPTED])
                answered += 20
                seen.append((await scraped(port))[ACCEPTED])

                assert answered == seen[-1]

            await come_and_scrape()
            counted = await statistics(server)
            page = await scraped(port)

            assert counted["accepted"] == page[ACCEPTED]
            assert {"1", "2"} == {
                dict(labels)["worker"]
                for name, labels in page
                if name == "trio_wsk_active_connections"
            }
            assert (200, b"ready\n") == await got(port, "/health/ready")
            assert (200, b"live\n") == await got(port, "/health/live")

            server.send(signal.SIGHUP)
            await server.line("reloaded: ")
            await come_and_scrape()
            workers = await ask_control(tmp_path / "c", "workers")
            os.kill(workers[-1]["process"], signal.SIGKILL)
            await server.line("worker ")
            await come_and_scrape()

            assert sorted(seen) == seen

            with connected(where):
                server.send(signal.SIGTERM)
                await server.line("draining")

                assert (503, b"the service drains\n") == await got(port, "/health/ready")

                page_as_text = (await got(port, "/metrics"))[1]

            assert 0 == await server.ends()

    check_with_promtool(page_as_text)


async def test_worker_that_does_not_serve_is_told_of(tmp_path: Path) -> None:
    """
    While a worker hangs, or is paused, the service is not ready, and the page says which worker it
    is; the sums have what that one had said before. (An answer has half a second here.)
    """
    soon = "import sys, trio_wsk._supervisor.steering as it; it.PATIENCE = float(sys.argv.pop()); "
    program = soon + "from trio_wsk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    with reserved() as sock:
        port = sock.getsockname()[1]
        more = ["--metrics", f"127.0.0.1:{port}", "--control", "c", "--workers", "2", "0.5"]
        async with supervised(tmp_path, "app:who", *ON, *more, before=program) as server:
            await asked(await server.port(), 10)

            assert 10 == (await scraped(port))[ACCEPTED]

            await ask_control(tmp_path / "c", "pause", worker=2)

            assert (503, b"worker 2: server: paused\n") == await got(port, "/health/ready")

            await ask_control(tmp_path / "c", "resume", worker=2)
            (first, _) = await ask_control(tmp_path / "c", "workers")
            os.kill(first["process"], signal.SIGSTOP)

            status, page = await got(port, "/health/ready")

            assert 503 == status
            assert page == b"worker 1: has not answered within 0.5 s\n"
            assert 10 == (await scraped(port))[ACCEPTED]

            os.kill(first["process"], signal.SIGKILL)
            await server.line("worker 1 ")


async def test_new_supervisor_takes_the_pages_over(tmp_path: Path) -> None:
    """After an upgrade the same address shows the workers of the new supervisor."""
    with reserved() as sock:
        port = sock.getsockname()[1]
        more = ["--metrics", f"127.0.0.1:{port}", "--workers", "1"]
        async with supervised(tmp_path, "app:who", *ON, *more) as server:
            where = await server.port()
            server.send(signal.SIGUSR2)
            line = await server.line("the new supervisor, process ")
            successor = int(line.partition(",")[0])
            try:
                assert 0 == await server.ends()

                await asked(where, 5)

                assert 5 == (await scraped(port))[ACCEPTED]
                assert (200, b"ready\n") == await got(port, "/health/ready")
            finally:
                os.kill(successor, signal.SIGTERM)
            await gone(successor)


async def test_one_process_shows_itself(tmp_path: Path) -> None:
    """Without workers the process shows itself, and is not ready while it drains."""
    with reserved() as sock:
        port = sock.getsockname()[1]
        async with supervised(
            tmp_path, "app:echo", *ON, "--metrics", f"127.0.0.1:{port}"
        ) as server:
            where = await server.port()
            with connected(where) as client:
                client.sendall(b"x")
                await trio.to_thread.run_sync(client.recv, 1)
                page = (await got(port, "/metrics"))[1]

                assert 1 == samples(page.decode())[ACCEPTED]
                assert (200, b"ready\n") == await got(port, "/health/ready")

                server.send(signal.SIGTERM)
                await server.line("draining")
                status, reason = await got(port, "/health/ready")

                assert 503 == status
                assert reason.startswith(b"server: ")

            assert 0 == await server.ends()
    check_with_promtool(page)


@pytest.mark.parametrize("more", [[], ["--workers", "1"]])
@pytest.mark.parametrize(("command", "status"), [("check", 1), ("serve", 2)])
def test_missing_extra_is_named(command: str, status: int, more: list[str], tmp_path: Path) -> None:
    """Without prometheus_client one line says what to install, before anything is started."""
    (tmp_path / "app.py").write_text("async def echo(stream): pass\n", "utf-8")
    program = (
        "import sys; sys.modules['prometheus_client'] = None; from trio_wsk.__main__ import main;"
        " sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["app:echo", "--port", "0", "--metrics", "[::1]:0", *more]
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, command, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=LONG,
        check=False,
        encoding="utf-8",
    )

    assert status == done.returncode
    assert (
        "--metrics: trio_wsk.metrics needs prometheus_client, which is not installed:"
        " pip install 'trio-wsk[prometheus]'\n"
    ) == done.stdout + done.stderr
