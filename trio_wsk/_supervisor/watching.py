"""Source files that are watched while somebody writes them: ``--reload``.

watchfiles tells of changes, in a thread that waits for them. A change is a SIGHUP to ourselves: so
it is told as one, done as one, and what comes meanwhile is done next, once.

Source: the documentation of watchfiles, "Rust backend direct usage".
"""

from __future__ import annotations

import signal
import threading
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._configuration.configuration import ConfigurationError
from trio_wsk._configuration.ready import NO_WATCHFILES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from watchfiles._rust_notify import RustNotify

    from trio_wsk._configuration.configuration import Configuration

__all__ = ["reloading", "watch"]

_ALSO: Final = ".toml"
"""Beside Python's own: a configuration file, perhaps."""

_LONGEST: Final = 1600
_QUIET: Final = 50
"""Milliseconds for which nothing more has to change, so that files which are written together are
one change; and after which it is told in any case."""

_FOREVER: Final = 0


def watch(configuration: Configuration, say: Callable[[str], object]) -> RustNotify | None:
    """Take note of every change from now on, if that is asked for.

    Args:
      configuration: What is served, and whether to watch.
      say: Is given what an operator should know.

    Raises:
      ConfigurationError: there is no watchfiles, or the files can't be watched.
    """
    if not configuration.reload:
        return None
    paths = _watched(configuration)
    notify = _notify(paths, configuration.origins["reload"])
    say(f"watching {', '.join(paths)} for changes of *.py and *{_ALSO}")
    return notify


@asynccontextmanager
async def reloading(notify: RustNotify | None, say: Callable[[str], object]) -> AsyncIterator[None]:
    """Reload when a source file changes, for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        if notify is not None:
            nursery.start_soon(_reload, notify, say)
        yield
        nursery.cancel_scope.cancel(reason="nobody reloads any more")


def _watched(configuration: Configuration) -> list[str]:
    """Return the working directory, and what is served from elsewhere."""
    paths = [Path.cwd()]
    for target in filter(None, [configuration.handler, configuration.inspect]):
        path = _place_of(target.partition(":")[0].partition(".")[0])
        if path is not None and not any(path.is_relative_to(other) for other in paths):
            paths.append(path)
    return [str(path) for path in paths]


def _place_of(module: str) -> Path | None:
    """Return the folder of a package, or the file of a module; None for one that has neither."""
    spec = find_spec(module)
    if spec is None:
        return None  # as the first worker will say
    if spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]).resolve()
    return Path(spec.origin).resolve() if spec.has_location and spec.origin else None


def _notify(paths: list[str], where: str) -> RustNotify:
    try:
        from watchfiles._rust_notify import RustNotify  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(f"{where}: {NO_WATCHFILES}") from error
    try:
        return RustNotify(paths, False, False, 0, True, True)  # noqa: FBT003 - its signature
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"{where}: {', '.join(paths)} can't be watched: {error}"
        ) from error


async def _reload(notify: RustNotify, say: Callable[[str], object]) -> None:
    over = threading.Event()
    try:
        while True:
            changes = await trio.to_thread.run_sync(
                notify.watch, _LONGEST, _QUIET, _FOREVER, over, abandon_on_cancel=True
            )
            changed = sorted(_sources(changes))
            if changed:
                say(f"{', '.join(changed)} changed")
                signal.raise_signal(signal.SIGHUP)
    finally:
        over.set()


def _sources(changes: object) -> set[str]:
    """Return which sources are among the files that have changed."""
    from watchfiles import Change, PythonFilter  # noqa: PLC0415 - an extra

    is_source = PythonFilter(extra_extensions=[_ALSO])
    found = changes if isinstance(changes, set) else set()
    return {path for kind, path in found if is_source(Change(kind), path)}
