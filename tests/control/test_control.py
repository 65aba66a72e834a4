"""The control socket: what each command does, who may give it, and what others can't do to it."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from tests.helpers.serving import stay
from tests.helpers.support import connect_now, fate_of, until
from trio_wsk import (
    Address,
    Connection,
    ConnectionRequest,
    InspectAction,
    InvalidParameterError,
    Reader,
    Server,
    open_server,
)
from trio_wsk.control import Control, ControlError, ask_control, serve_control
from trio_wsk.control._protocol import LONGEST_LINE
from trio_wsk.control._serving import LINE_SECONDS, only_ours
from trio_wsk.inspectors import Penalties, Rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("no_leak")

HOST = "127.0.0.1"


@attrs.frozen
class World:
    """A server that is steered, and how to ask for that."""

    server: Server
    control: Control
    penalties: Penalties
    socket: Server
    path: Path

    async def ask(self, command: str, **arguments: object) -> Any:
        """Ask for something."""
        return await ask_control(self.path, command, **arguments)

    async def client(self) -> trio.SocketStream:
        """Connect a client whom the server has."""
        client = connect_now(self.server.local_addresses[0])
        await client.send_all(b"x")
        assert b"x" == await client.receive_some()
        return client


@asynccontextmanager
async def steered(folder: Path) -> AsyncIterator[World]:
    """Open a server, and a control socket for it."""
    control, penalties, path = Control(), Penalties(), folder / "control"
    with trio.fail_after(60):
        async with open_server(stay, 0, host=HOST) as server, trio.open_nursery() as nursery:
            control.add("mail", server)
            control.add_penalties("penalties", penalties)
            socket = await nursery.start(partial(serve_control, control, path))
            yield World(server, control, penalties, socket, path)
            nursery.cancel_scope.cancel()


# --- Commands ---------------------------------------------------------------------------------


async def test_statistics_are_those_of_the_server(tmp_path: Path) -> None:
    """``statistics`` answers what `statistics()` says, by listener, as JSON."""
    async with steered(tmp_path) as world:
        client = await world.client()
        answered = await world.ask("statistics")
        counted = world.server.statistics()

        assert ["mail"] == list(answered)
        assert {field.name for field in attrs.fields(type(counted))} == set(answered["mail"])
        assert counted.open_connections == answered["mail"]["open_connections"] == 1
        assert counted.listening.accepted == answered["mail"]["listening"]["accepted"]
        assert dict(counted.listening.delivered) == answered["mail"]["listening"]["delivered"]
        assert "listening" == answered["mail"]["listening"]["state"]
        assert answered == await world.ask("statistics", listener="mail")
        await client.aclose()


async def test_rules_are_those_of_the_inspector(tmp_path: Path) -> None:
    """``rules`` answers what each rule of a listener has counted, by its name."""

    def nobody(_: ConnectionRequest) -> InspectAction:
        return InspectAction.REJECT

    rules = Rules(nobody)
    async with steered(tmp_path) as world, open_server(stay, 0, host=HOST, inspect=rules) as other:
        world.control.add("web", other, rules)
        client = connect_now(other.local_addresses[0])
        assert "reset" == await fate_of(client)
        await client.aclose()
        answered = await world.ask("rules")

        [(name, counted)] = rules.statistics().items()
        assert {"web": {name: attrs.asdict(counted, value_serializer=plain)}} == answered
        assert {"rejected": 1} == answered["web"][name]["rejected"]
        assert answered == await world.ask("rules", listener="web")
        with pytest.raises(ControlError, match="there is no listener 'mail', but web"):
            await world.ask("rules", listener="mail")

        world.control.remove("web")
        assert {} == await world.ask("rules")


def plain(_: object, __: object, value: Any) -> object:
    """Make of a mapping that is frozen one that JSON has."""
    return dict(value) if isinstance(value, Mapping) else value


async def test_process_is_listed_as_workers_are(tmp_path: Path) -> None:
    """``workers`` answers for the one process that there is what a supervisor answers for many."""
    async with steered(tmp_path) as world:
        [worker] = await world.ask("workers")

        assert (None, os.getpid(), {}) == (worker["worker"], worker["process"], worker["rules"])
        assert await world.ask("statistics") == worker["statistics"]


async def test_connections_are_listed_and_aborted(tmp_path: Path) -> None:
    """``connections`` lists those that are open, with an id by which ``abort`` resets one."""
    async with steered(tmp_path) as world:
        clients = [await world.client() for _ in range(3)]
        listed = await world.ask("connections")
        by_address = {each["remote_address"]: each for each in listed["connections"]}
        names = ["{}:{}".format(*client.socket.getsockname()) for client in clients]
        chosen = by_address[names[1]]

        assert 3 == listed["open"]
        assert set(names) == set(by_address)
        assert (1, 1, 0) == tuple(
            chosen[f"octets_{what}"] for what in ("received", "sent", "unsent")
        )
        assert 1 == len((await world.ask("connections", most=1))["connections"])
        assert await world.ask("abort", id=chosen["id"]) is None
        assert "reset" == await fate_of(clients[1])

        await until(lambda: len(world.server.connections) == 2)
        with pytest.raises(ControlError, match="no open connection has the id"):
            await world.ask("abort", id=chosen["id"])
        for client in clients:
            await client.aclose()


async def test_pause_refuse_and_resume(tmp_path: Path) -> None:
    """``pause``, ``refuse`` and ``resume`` do what the listening socket's methods do."""
    async with steered(tmp_path) as world:
        states = []
        for command in ("pause", "refuse", "resume"):
            assert await world.ask(command, listener="mail") is None
            states.append(world.server.listening.statistics().state.value)

        assert ["paused", "refusing", "listening"] == states


async def test_drain_answers_when_it_is_over(tmp_path: Path) -> None:
    """``drain`` drains with the grace that it is given, and answers with the report."""
    async with steered(tmp_path) as world:
        client = await world.client()

        assert {"finished": 1, "reset": 0} == await world.ask("drain", grace=30)

        with pytest.raises(ControlError, match="has ended"):
            await world.ask("drain")
        with pytest.raises(ControlError, match="closed"):
            await world.ask("pause")
        await client.aclose()


async def test_drain_goes_on_without_who_asked(tmp_path: Path) -> None:
    """Who asks for a drain and leaves has asked for a drain."""

    async def until_released(connection: Connection) -> None:
        await connection.draining.wait()
        draining.set()
        await released.wait()

    draining, released = trio.Event(), trio.Event()
    control, path = Control(), tmp_path / "control"
    async with open_server(until_released, 0, host=HOST) as server, trio.open_nursery() as nursery:
        control.add("mail", server)
        await nursery.start(partial(serve_control, control, path))
        client = connect_now(server.local_addresses[0])
        await until(lambda: server.connections)
        async with trio.open_nursery() as asking:
            asking.start_soon(ask_control, path, "drain")
            await draining.wait()
            asking.cancel_scope.cancel()
        released.set()
        await until(lambda: server.statistics().listening.state.value == "closed")
        await until(lambda: not server.connections)

        assert "fin" == await fate_of(client)
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_penalties_are_listed_and_lifted(tmp_path: Path) -> None:
    """``penalties`` lists who has some, the most first; ``forgive`` takes them from one."""
    async with steered(tmp_path) as world:
        world.penalties.add(Address.tcp("192.0.2.1", 7), 50, "spam")
        world.penalties.add(Address.tcp("2001:db8::1", 7), 100, "spam")
        listed = await world.ask("penalties")
        networks = [each["network"] for each in listed["sources"]]

        assert (2, 15.0) == (listed["penalized"], listed["threshold"])
        assert ["2001:db8::/64", "192.0.2.1/32"] == networks
        assert 90 < listed["sources"][0]["seconds"] <= 100
        assert 1 == len((await world.ask("penalties", most=1))["sources"])

        await world.ask("forgive", address=networks[0])
        await world.ask("forgive", penalties="penalties", address="192.0.2.1")

        assert 0 == (await world.ask("penalties"))["penalized"]


async def test_log_level_is_set(tmp_path: Path) -> None:
    """``log-level`` sets that of the library's logger, or of another one, and says what it was."""
    logger = logging.getLogger("trio_wsk.tests.control")
    async with steered(tmp_path) as world:
        answered = await world.ask("log-level", logger=logger.name, level="DEBUG")

        assert {"logger": logger.name, "before": "NOTSET", "level": "DEBUG"} == answered
        assert logging.DEBUG == logger.level
        with pytest.raises(ControlError, match="Unknown level: 'LOUD'"):
            await world.ask("log-level", logger=logger.name, level="LOUD")


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("nonsense", {}, "there is no command 'nonsense', but statistics, connections"),
        ("pause", {"listener": "web"}, "there is no listener 'web', but mail"),
        ("statistics", {"listener": 7}, "statistics takes listener, a text, not 7"),
        ("abort", {}, "abort takes id, a number"),
        ("abort", {"id": True}, "abort takes id, a number"),
        ("abort", {"id": 99}, "no open connection has the id 99"),
        ("drain", {"grace": -1}, "drain takes grace, a number, 0 or more"),
        ("connections", {"most": "all"}, "connections takes most, a number"),
        ("forgive", {}, "forgive takes address, a text"),
        ("forgive", {"address": "nonsense"}, "no address, nor a network"),
        ("penalties", {"penalties": "x"}, "there is no penalties 'x'"),
        ("log-level", {}, "log-level takes level, a text"),
    ],
)
async def test_what_cannot_be_done_is_said(
    tmp_path: Path, command: str, arguments: dict[str, object], says: str
) -> None:
    """Who asks for what isn't there, or in the wrong way, is told what is right."""
    async with steered(tmp_path) as world:
        with pytest.raises(ControlError, match=re.escape(says)):
            await world.ask(command, **arguments)
        assert await world.ask("resume") is None


async def test_one_of_several_has_to_be_named(tmp_path: Path) -> None:
    """A command is for the only listener there is, or for the one that it names."""
    async with steered(tmp_path) as world, open_server(stay, 0, host=HOST) as other:
        world.control.add("web", other)
        with pytest.raises(ControlError, match="pause takes listener, one of these: mail, web"):
            await world.ask("pause")

        assert ["mail", "web"] == list(await world.ask("statistics"))

        world.control.remove("web")
        assert await world.ask("pause") is None


# --- Who may ------------------------------------------------------------------------------------


async def test_socket_is_its_owners(tmp_path: Path) -> None:
    """The socket has mode 0600."""
    async with steered(tmp_path) as world:
        assert 0o600 == stat.S_IMODE(world.path.stat().st_mode)


ASK: str = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
try:
    peer.connect(sys.argv[1])
    peer.sendall(b'{"command": "statistics"}\\n')
    print(peer.recv(100) or "left alone")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_another_users_process_is_refused(tmp_path: Path) -> None:
    """
    Another user can't connect; and where the mode was changed, the kernel says that it is another
    one, who is reset before a word is read.
    """
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    async with steered(tmp_path) as world:
        command = [sys.executable, "-c", ASK, str(world.path)]
        refused = await trio.run_process(command, capture_stdout=True)
        world.path.chmod(0o666)
        turned_away = await trio.run_process(command, capture_stdout=True)

        assert "PermissionError" == refused.stdout.decode().strip()
        assert turned_away.stdout.decode().strip() in {"ConnectionResetError", "BrokenPipeError"}
        assert {"another-user": 1} == world.socket.statistics().listening.rejected


@pytest.mark.parametrize(
    ("uid", "is_let_in"),
    [(os.geteuid(), True), (0, True), (os.geteuid() + 1, False), (65534, False), (None, True)],
)
def test_user_decides(uid: int | None, *, is_let_in: bool) -> None:
    """This user and root are let in; where there is nothing to know the mode has to do."""

    class Asked:
        peer_credentials = None if uid is None else type("Credentials", (), {"uid": uid})

    request: Any = Asked()

    assert is_let_in == (only_ours(request) is InspectAction.ACCEPT)


# --- Clients that are wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[]", b"7", b"null", b"{}", b'{"command": 7}', b"\xff\xfe", b"[" * 4000, b""],
)
async def test_malformed_line_is_told_and_hurts_nobody(tmp_path: Path, line: bytes) -> None:
    """A line that is no request is answered with an error, and the next one is answered."""
    async with steered(tmp_path) as world:
        client = connect_now(Address.unix(world.path))
        reader = Reader(client)
        await client.send_all(line + b'\n{"command": "resume"}\n')
        refused = json.loads(await reader.read_line())

        assert refused["ok"] is False
        assert "statistics" in refused["error"]
        assert {"ok": True, "result": None} == json.loads(await reader.read_line())
        await client.aclose()


async def test_huge_line_is_the_last(tmp_path: Path) -> None:
    """A line that is longer than it may be is answered with an error, and nothing after it is."""
    async with steered(tmp_path) as world:
        client = connect_now(Address.unix(world.path))
        await client.send_all(b"x" * LONGEST_LINE * 2)
        reader = Reader(client)
        refused = json.loads(await reader.read_line())

        assert f"a line has {LONGEST_LINE} octets at most" == refused["error"]
        assert b"" == await reader.read_some()
        assert await world.ask("resume") is None
        await client.aclose()


# --- Mistakes -----------------------------------------------------------------------------------


async def test_mistakes_are_told(tmp_path: Path) -> None:
    """A name that is taken, or isn't there, and what JSON can't say, are refused at the call."""
    async with steered(tmp_path) as world:
        with pytest.raises(InvalidParameterError, match="'mail' is taken"):
            world.control.add("mail", world.server)
        with pytest.raises(InvalidParameterError, match="'penalties' is taken"):
            world.control.add_penalties("penalties", world.penalties)
        with pytest.raises(InvalidParameterError, match="'web' is not steered"):
            world.control.remove("web")
        with pytest.raises(InvalidParameterError, match="what JSON can say"):
            await world.ask("pause", listener=object())

        assert "<Control of mail, penalties>" == repr(world.control)
    assert "<Control of nothing>" == repr(Control())


# --- Clients that stall -------------------------------------------------------------------------


async def test_who_stalls_in_a_line_is_left(tmp_path: Path, autojump_clock: Any) -> None:
    """A line that has begun has ten seconds to come; then its connection is reset."""
    control = Control()
    async with trio.open_nursery() as nursery:
        path = tmp_path / "control"
        socket = await nursery.start(partial(serve_control, control, path))
        began = trio.current_time()
        client = connect_now(Address.unix(path))
        await client.send_all(b'{"comm')
        await until(lambda: socket.connections)
        await until(lambda: not socket.connections)

        assert LINE_SECONDS <= trio.current_time() - began < 2 * LINE_SECONDS
        await client.aclose()
        nursery.cancel_scope.cancel()
