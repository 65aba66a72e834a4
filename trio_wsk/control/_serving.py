"""`serve_control`: the socket, and who may speak there."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_wsk._reading.reader import Reader
from trio_wsk._serving.opening import serve
from trio_wsk._vocabulary.errors import InvalidParameterError, ReadLimitError
from trio_wsk._vocabulary.verdict import InspectAction, Verdict

from ._control import Control
from ._protocol import LONGEST_LINE, answered, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsk._connection.connection import Connection
    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._serving.server import Server

    from ._protocol import Commands

__all__ = ["serve_commands", "serve_control"]

MOST_CONNECTIONS: Final = 16
"""How many may speak at once; an operator, and a few programs that watch."""

IDLE_SECONDS: Final = 600.0
"""How long who has a connection may say nothing: somebody is typing."""

LINE_SECONDS: Final = 10.0
"""How long a line may take to come once it has begun, and an answer to be taken."""

OWNER_ONLY: Final = 0o600
"""The mode of the socket: its owner, and root, may connect."""

NOT_OURS: Final = Verdict(InspectAction.REJECT, "another-user")


async def serve_control(  # noqa: ASYNC128 - whom it hands the status to calls it
    control: Control,
    path: str | os.PathLike[str],
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on a Unix socket, and do what its owner asks for.

    The socket has mode 0600; and whoever connects is looked at once more, since a mode can be
    changed: the kernel says which user it is (SO_PEERCRED), and only this process's own and root
    are let in. Others are reset.

    Sixteen may speak at once. A line has 4096 octets at most, and ten seconds to come; what is no
    request is answered with an error, and a line that is too long with the last one. Who takes no
    answers for ten seconds is left.

    Args:
      control: What can be steered.
      path: Where; as ``path`` of `trio_wsk.serve`.
      task_status: As for `trio_wsk.serve`.

    Returns when the socket's server has been drained or aborted; cancelling it aborts, also a drain
    that somebody has asked for here.

    Raises:
      InvalidParameterError, BindError, OSError: as for `open_listening_socket`.
    """
    given: object = control  # by a caller without a type checker, perhaps
    if not isinstance(given, Control):
        raise InvalidParameterError(f"control is a Control, not {control!r}")
    await serve_commands(control, {"path": path, "mode": OWNER_ONLY}, task_status=task_status)


async def serve_commands(  # noqa: ASYNC128 - as above
    commands: Commands,
    place: Mapping[str, Any],
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Do as `serve_control`, for whoever does the commands, and wherever that is.

    Args:
      commands: Who does them.
      place: Where to listen, in the words of `serve`.
      task_status: As for `serve`.
    """
    options: dict[str, Any] = {**place, "inspect": only_ours, "max_connections": MOST_CONNECTIONS}
    await serve(partial(_answer_all, commands), task_status=task_status, **options)


def only_ours(request: ConnectionRequest) -> InspectAction | Verdict:
    """Let in who is this user, or root; where the kernel can't tell, the mode has to do."""
    credentials = request.peer_credentials
    if credentials is None or credentials.uid in {0, os.geteuid()}:
        return InspectAction.ACCEPT
    return NOT_OURS


async def _answer_all(  # noqa: ASYNC910 - it ends by a wait, or after sending
    commands: Commands, connection: Connection
) -> None:
    """Answer one line after the other."""
    reader = Reader(connection, max_octets=LONGEST_LINE)
    try:
        while await reader.more(idle=IDLE_SECONDS):
            with trio.fail_after(LINE_SECONDS):
                line = await reader.read_line()
            await _send(connection, await answered(commands, line))
    except ReadLimitError:
        await _send(connection, refusal(f"a line has {LONGEST_LINE} octets at most"))
    except trio.TooSlowError:
        connection.abort()


async def _send(connection: Connection, line: bytes) -> None:
    with trio.fail_after(LINE_SECONDS):
        await connection.send_all(line)
