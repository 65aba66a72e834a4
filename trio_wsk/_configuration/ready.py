"""A configuration, made ready: what it names is imported, loaded, and checked as by `serve`."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from trio_wsk._listening.dispatch import ListenDispatch
from trio_wsk._serving.arguments import settings_for_either
from trio_wsk._vocabulary.arguments import check_async_function, check_function
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import InspectPoint

from .configuration import Configuration, ConfigurationError
from .targets import TargetError, found

if TYPE_CHECKING:
    from trio_wsk._listening.options import ServerOptions
    from trio_wsk.metrics import Durations

__all__ = ["NO_WATCHFILES", "Ready", "check_extras", "made_ready"]

NO_WATCHFILES: Final = (
    "reload needs watchfiles, which is not installed: pip install 'trio-wsk[reload]'"
)


@attrs.frozen
class Ready:
    """What a server is opened with, but for its place."""

    handler: Callable[[Any], Awaitable[object]] | ListenDispatch
    options: ServerOptions
    durations: Durations | None = None
    """What observes it for its metrics, if it has any."""


def made_ready(configuration: Configuration) -> Ready:
    """Import and load what a configuration names.

    Raises:
      ConfigurationError: a name leads nowhere, or to what can't be used; all of it is told. (The
        configuration's author's.)
      BaseException: what a module raises when it is imported. (The module's.)
    """
    loading = _Loading(configuration)
    handler: Any = loading.attempt("handler", _handler)
    inspect: Any = loading.attempt("inspect", _inspector)
    loading.attempt("reload", _can_watch)
    durations: Any = loading.attempt("metrics", _durations)
    loading.attempt("tls_cert", _readable)
    loading.attempt("tls_key", _readable)
    loading.finish()
    context: Any = loading.attempt("tls_cert", lambda _: _context(configuration))
    loading.finish()
    options = _options(configuration)
    if inspect is not None:
        options["inspect"] = inspect
    if context is not None:
        options["ssl_context"] = context
    if durations is not None:
        options["observers"] = [durations]
    try:
        settings_for_either(handler, "serve", **options)
    except InvalidParameterError as error:
        raise ConfigurationError(str(error)) from error
    return Ready(handler, options, durations)


def check_extras(configuration: Configuration) -> None:
    """See that what is wanted is installed: for a supervisor, which imports nothing else.

    Raises:
      ConfigurationError: something is not; all of it is told.
    """
    loading = _Loading(configuration)
    loading.attempt("metrics", _durations)
    loading.finish()


class _Loading:
    """Loads one thing after the other, and keeps what is wrong with each."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._problems: list[str] = []

    def attempt(self, name: str, load: Callable[[Any], object]) -> object:
        """Load what an option names, if it was given."""
        value = getattr(self._configuration, name)
        if value is None:
            return None
        try:
            return load(value)
        except OSError as error:
            self._complain(name, f"{value} can't be read: {error.strerror}")
        except (TargetError, InvalidParameterError) as error:
            self._complain(name, error)
        return None

    def _complain(self, name: str, problem: object) -> None:
        self._problems.append(f"{self._configuration.origins.get(name, name)}: {problem}")

    def finish(self) -> None:
        """Raise what is wrong."""
        if self._problems:
            raise ConfigurationError(*self._problems)


def _handler(target: str) -> object:
    handler = found(target)
    if not isinstance(handler, ListenDispatch):
        check_async_function("handler", handler)
    return handler


def _inspector(target: str) -> object:
    inspector = found(target)
    check_function("inspect", inspector)
    return inspector


def _can_watch(wanted: object) -> None:
    if wanted and find_spec("watchfiles") is None:
        raise TargetError(NO_WATCHFILES)


def _durations(_: object) -> Durations:
    try:
        from trio_wsk.metrics import Durations  # noqa: PLC0415 - an extra
    except ImportError as missing:
        raise TargetError(str(missing)) from None
    return Durations()


def _readable(name: str) -> None:
    """See that a file can be read: the error of `ssl` doesn't say which one it is that can't."""
    Path(name).read_bytes()


def _context(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate, key = cast("str", configuration.tls_cert), configuration.tls_key
    try:
        context.load_cert_chain(certificate, key, password=_password)
    except ssl.SSLError as error:
        raise InvalidParameterError(
            f"{certificate!r}{f' and {key!r}' if key else ''} can't be used:"
            f" {error.reason or error}; what is wanted is a certificate with its chain, and its"
            " key, as PEM"
        ) from error
    return context


def _password() -> str:
    """Have no server wait for somebody who types."""
    raise InvalidParameterError("tls_key is encrypted; decrypt it: openssl pkey -in KEY -out PLAIN")


def _options(configuration: Configuration) -> ServerOptions:
    """Return the options that are the same here and there."""
    options: dict[str, Any] = {}
    for name in ("max_connections", "idle_timeout", "max_lifetime", "grace"):
        value = getattr(configuration, name)
        if value is not None:
            options[name] = value
    if configuration.inspect_point is not None:
        options["inspect_point"] = InspectPoint(configuration.inspect_point)
    return cast("ServerOptions", options)
