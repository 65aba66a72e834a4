"""The plugin for pytest, as a user's test file meets it."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

import trio_wsk.pytest_plugin

if TYPE_CHECKING:
    from trio_wsk.testing import MemoryHost, MemoryNetwork

pytest_plugins = ["pytester"]

SETTINGS = """
[pytest]
trio_mode = true
filterwarnings = error
"""


@pytest.fixture
def user(pytester: pytest.Pytester) -> pytest.Pytester:
    """A user's folder, with pytest-trio in charge and warnings as errors."""
    pytester.makeini(SETTINGS)
    return pytester


def test_fixtures_serve_a_users_test(user: pytest.Pytester) -> None:
    """A server is tested over the network in memory, with nothing imported for it."""
    user.makepyfile(
        """
        import trio_wsk


        async def echo(connection):
            async for data in connection:
                await connection.send_all(data)


        async def test_echo(memory_server, memory_client):
            async with trio_wsk.open_server(echo, transport=memory_server.transport(7)):
                async with await memory_client.connect(("192.0.2.1", 7)) as client:
                    await client.send_all(b"hello")
                    assert b"hello" == await client.receive_some()
                    await client.send_eof()
                    assert b"" == await client.receive_some()
        """
    )

    user.runpytest("-q").assert_outcomes(passed=1)


def test_network_is_on_the_virtual_clock(user: pytest.Pytester) -> None:
    """With the autojump clock, time on the network passes at once, and exactly."""
    user.makepyfile(
        """
        import trio
        import trio_wsk


        async def test_latency(memory_network, memory_server, memory_client, autojump_clock):
            memory_network.latency = 20
            async with trio_wsk.open_listening_socket(transport=memory_server.transport(7)):
                started = trio.current_time()
                client = await memory_client.connect(("192.0.2.1", 7))
                assert 40 == trio.current_time() - started
            client.vanish()
        """
    )

    user.runpytest("-q").assert_outcomes(passed=1)


def test_each_test_has_a_network_of_its_own(user: pytest.Pytester) -> None:
    """What one test leaves on the network is not there in the next, under one clock or another."""
    user.makepyfile(
        """
        import pytest


        @pytest.mark.parametrize("turn", range(3))
        async def test_port(turn, memory_network, memory_server, memory_client, autojump_clock):
            transport = memory_server.transport(7)
            await transport.bind()
            with pytest.raises(ConnectionRefusedError):
                await memory_client.connect(("192.0.2.1", 7))
            with pytest.raises(TimeoutError):
                await memory_client.connect(("192.0.2.99", 7))
        """
    )

    user.runpytest("-q").assert_outcomes(passed=3)


def test_fixtures_are_listed(user: pytest.Pytester) -> None:
    """``pytest --fixtures`` says what each fixture is."""
    shown = user.runpytest("--fixtures").stdout

    shown.fnmatch_lines(
        [
            "memory_network -- *trio_wsk/pytest_plugin.py:*",
            "*MemoryNetwork*without latency or loss*",
            "memory_server -- *",
            "*192.0.2.1*",
            "memory_client -- *",
            "*192.0.2.2*",
        ]
    )


def test_plugin_is_registered() -> None:
    """pytest finds the plugin by the package's entry point."""
    (found,) = (each for each in entry_points(group="pytest11") if each.name == "trio_wsk")

    assert trio_wsk.pytest_plugin is found.load()


def test_loading_the_plugin_loads_no_network(user: pytest.Pytester) -> None:
    """Who has no use for the fixtures pays nothing for the network in memory."""
    user.makepyfile(
        """
        import sys


        def test_nothing():
            assert "trio_wsk.testing" not in sys.modules
        """
    )

    user.runpytest_subprocess("-q").assert_outcomes(passed=1)


async def test_fixtures_are_those_of_this_run(
    memory_network: MemoryNetwork, memory_server: MemoryHost, memory_client: MemoryHost
) -> None:
    """The two hosts are on the one network."""
    assert memory_server is memory_network.host("192.0.2.1")
    assert memory_client is memory_network.host("192.0.2.2")
