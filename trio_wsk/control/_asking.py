"""`ask_control`: one question to a running server, and its answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from trio_wsk._connection.connecting import connect
from trio_wsk._reading.reader import Reader
from trio_wsk._vocabulary.errors import InvalidParameterError, WskError
from trio_wsk._vocabulary.status import Status

if TYPE_CHECKING:
    import os

__all__ = ["ControlError", "ask_control"]

LONGEST_ANSWER: Final = 1 << 26
"""How many octets an answer may have: a list of very many connections."""


class ControlError(WskError):
    """A running server was asked for what it can't do; the text is its own.

    Who has asked is to blame: there is no such command, listener or connection, an argument is
    wrong, or it is not the time.
    """

    status = Status.INVALID_PARAMETER


async def ask_control(path: str | os.PathLike[str], command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever JSON can say
    """Ask a server that runs `serve_control`.

    Args:
      path: Where its socket is.
      command: What is to be done, such as ``"statistics"``.
      **arguments: What the command takes.

    Returns:
      What the command answers; None if it has nothing to say.

    Raises:
      ControlError: it can't be done. (Yours.)
      InvalidParameterError: that can't be written as JSON. (Yours.)
      ConnectError: nobody listens there, or you may not connect.
      ConnectionBrokenError, EndOfStreamError: the server has turned you away, or has ended.

    Always a checkpoint. If cancelled, what was asked for may have been done; a drain goes on.
    """
    try:
        line = json.dumps({**arguments, "command": command}).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"{command} takes what JSON can say: {error}") from error
    async with await connect(path=path) as connection:
        await connection.send_all(line)
        reader = Reader(connection, max_octets=LONGEST_ANSWER)
        answered = json.loads(await reader.read_line())
    if not answered["ok"]:
        raise ControlError(answered["error"])
    return answered["result"]
