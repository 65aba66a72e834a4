"""Scripts on Redis or Valkey: the one module of ours that imports coredis."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import trio

try:
    import coredis
    import coredis.exceptions
except ImportError as _missing:
    raise ImportError(
        "Shared needs coredis, which is not installed: pip install 'trio-wsk[redis]'"
    ) from _missing

from trio_wsk._vocabulary.errors import InvalidDeviceStateError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import SupportsFloat

    from ._scripts import Script

    Argument: TypeAlias = "str | int | float"

__all__ = ["RedisClient"]

BUCKETS: Final = 16
"""Over so many slots of a cluster the keys of one rule are spread: a batch is no more commands than
that, and no more nodes have them."""


@final
class RedisClient:
    """Runs scripts that decide about many keys.

    coredis loses a place in its pool of connections for each connection that breaks while a
    pipeline has it, and for each attempt to connect that is cancelled (seen in 6.9). So all keys
    are in one command, and what has begun is never cancelled by us: `disconnect` ends it.

    Args:
      client: A `coredis.Redis`, which `coredis.Sentinel.primary_for` gives, too, or a
        `coredis.RedisCluster`.
      prefix: What all keys begin with.

    Raises:
      InvalidParameterError: it is none. (The caller's.)
    """

    def __init__(self, client: object, prefix: str) -> None:
        if not isinstance(client, (coredis.Redis, coredis.RedisCluster)):
            raise InvalidParameterError(
                "client is a coredis.Redis, a coredis.RedisCluster, or what"
                f" coredis.Sentinel(...).primary_for(...) returns, not {client!r}"
            )
        self._client: Any = client
        self._prefix = prefix
        self._has_slots = isinstance(client, coredis.RedisCluster)

    def check_entered(self) -> None:
        """Refuse a client whose block has not been entered.

        Raises:
          InvalidDeviceStateError: it has not. (The caller's.)
        """
        try:
            _ = self._client.connection_pool.task_group
        except RuntimeError as error:
            raise InvalidDeviceStateError(
                "the client's block is not entered: write async with client, Shared(client, ...)"
            ) from error

    async def evaluate(
        self,
        script: Script,
        constants: Sequence[Argument],
        lines: Sequence[tuple[tuple[int, int], Sequence[Argument]]],
    ) -> list[float | Exception]:
        """Run a script; return what it answers to each line, or why there is no answer.

        Args:
          script: The script.
          constants: Its first arguments.
          lines: By source, its other arguments.
        """
        answers: list[float | Exception] = [NO_ANSWER] * len(lines)
        buckets: dict[int, list[int]] = defaultdict(list)
        for position, ((_, bits), _) in enumerate(lines):
            buckets[bits % BUCKETS if self._has_slots else 0].append(position)

        async def _ask_one(positions: list[int]) -> None:  # noqa: ASYNC910 - or it has failed
            keys = [self._key(lines[each][0]) for each in positions]
            words = [*constants, *(word for each in positions for word in lines[each][1])]
            try:
                reply = await self._run(script, keys, [_written(word) for word in words])
                for position, answer in zip(positions, reply, strict=True):
                    answers[position] = float(answer)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                for position in positions:
                    answers[position] = error

        if len(buckets) == 1:
            await _ask_one(*buckets.values())
            return answers
        async with trio.open_nursery() as nursery:
            for positions in buckets.values():
                nursery.start_soon(_ask_one, positions)
        return answers

    def disconnect(self) -> None:
        """Break all connections: what is on its way fails, and what comes next connects anew."""
        self._client.connection_pool.disconnect()

    async def _run(
        self, script: Script, keys: list[str], arguments: list[str]
    ) -> Iterable[SupportsFloat]:
        try:
            reply = await self._client.evalsha(script.digest, keys=keys, args=arguments)
        except coredis.exceptions.NoScriptError:  # a new server, or one that was restarted
            reply = await self._client.eval(script.text, keys=keys, args=arguments)
        found: Iterable[SupportsFloat] = reply
        return found

    def _key(self, source: tuple[int, int]) -> str:
        length, bits = source
        return f"{self._prefix}{{{bits % BUCKETS}}}:{length}-{bits:x}"


def _written(word: Argument) -> str:
    return word if isinstance(word, str) else repr(word)  # coredis would round it


NO_ANSWER: Final = ConnectionError("there was no answer")
