"""``serve``: a server without a program of its own; and ``check``: whether it would start."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trio_wsk._configuration.configuration import ConfigurationError, configuration_of
from trio_wsk._configuration.options import OPTIONS
from trio_wsk._configuration.page import page_of
from trio_wsk._configuration.places import place_of
from trio_wsk._configuration.ready import made_ready
from trio_wsk._configuration.sources import FILE_VARIABLE, command_line, environment, file
from trio_wsk._configuration.targets import look_in_working_directory
from trio_wsk._serving.running import run_beside
from trio_wsk._supervisor.supervising import supervise
from trio_wsk._vocabulary.errors import InvalidParameterError

from .beside import beside

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from trio_wsk._configuration.configuration import Configuration

    AddParser = Callable[..., argparse.ArgumentParser]

__all__ = ["add_check", "add_serve"]

_SERVE: Final = "run a server until a signal asks for its end"
_CHECK: Final = "say what is wrong with a configuration, with the line, and start nothing"
_SOURCES: Final = (
    "Each option can be given in a file (max_connections = 100) and in the environment"
    " (TRIO_WSK_MAX_CONNECTIONS=100), too. The command line is stronger than the environment, and"
    " that is stronger than the file."
)

WRONG: Final = 2
"""The exit status of who was asked for something wrong, as argparse's."""


def add_serve(add_parser: AddParser) -> None:
    """Tell the parser of ``serve``."""
    parser = add_parser(
        "serve", help=_SERVE, description=f"{_SERVE.capitalize()}.", epilog=_SOURCES
    )
    _add_options(parser)
    parser.set_defaults(run=_serve)


def add_check(add_parser: AddParser) -> None:
    """Tell the parser of ``check``."""
    parser = add_parser(
        "check", help=_CHECK, description=f"{_CHECK.capitalize()}.", epilog=_SOURCES
    )
    _add_options(parser)
    parser.set_defaults(run=_check)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="read options from a TOML file")
    for option in OPTIONS.values():
        if option.metavar is None:
            parser.add_argument(option.name, nargs="?", help=option.help)
        elif option.is_flag:
            parser.add_argument(option.flag, action="store_const", const="yes", help=option.help)
        else:
            parser.add_argument(option.flag, metavar=option.metavar, help=option.help)


def _serve(options: argparse.Namespace) -> int:
    look_in_working_directory()
    try:
        configuration = _configuration(options)
        if configuration.workers is None and not configuration.reload:
            _serve_here(configuration)
        else:
            supervise(partial(_configuration, options))
    except (ConfigurationError, InvalidParameterError) as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    return 0


def _serve_here(configuration: Configuration) -> None:
    """Serve in this process."""
    ready = made_ready(configuration)
    options: Any = {**place_of(configuration), **ready.options}
    run_beside(
        partial(beside, configuration, ready, _say),
        ready.handler,
        options.pop("port", None),
        options,
    )


def _say(text: str) -> None:
    """Tell the operator."""
    sys.stderr.write(f"{text}\n")


def _check(options: argparse.Namespace) -> int:
    look_in_working_directory()
    try:
        configuration = _configuration(options)
        page_of(configuration)
        made_ready(configuration)
    except ConfigurationError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    for name, value, where in configuration.effective():
        sys.stdout.write(f"{name} = {value!r} ({where})\n")
    sys.stdout.write("nothing is wrong\n")
    return 0


def _configuration(options: argparse.Namespace) -> Configuration:
    """Put together what was given, everywhere."""
    given = {name: getattr(options, name) for name in OPTIONS}
    sources = [command_line(given), environment(os.environ)]
    name = options.config or os.environ.get(FILE_VARIABLE)
    if name:
        sources.append(file(name))
    return configuration_of(sources)
