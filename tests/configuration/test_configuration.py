"""Options from several sources: which one is stronger, and what is wrong with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk._configuration.configuration import (
    Configuration,
    ConfigurationError,
    configuration_of,
)
from trio_wsk._configuration.options import OPTIONS, PLACES
from trio_wsk._configuration.sources import command_line, environment, file

if TYPE_CHECKING:
    from pathlib import Path

ECHO = {"handler": "app:echo"}


def of_command_line(**options: str) -> Configuration:
    """Put together a command line alone."""
    return configuration_of([command_line({**ECHO, **options})])


def problems_of(*sources: object) -> list[str]:
    """Return all that is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        configuration_of(sources)  # type: ignore[arg-type]  # sources
    return list(caught.value.problems)


def in_file(folder: Path, text: str) -> str:
    """Write a file, and return its name."""
    path = folder / "trio-wsk.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


VALUES: dict[str, tuple[str, str, object]] = {
    "handler": ("app:echo", '"app:echo"', "app:echo"),
    "port": ("7007", "7007", 7007),
    "host": ("127.0.0.1,::1", '["127.0.0.1", "::1"]', ["127.0.0.1", "::1"]),
    "path": ("/run/a.sock", '"/run/a.sock"', "/run/a.sock"),
    "mode": ("660", "0o660", 0o660),
    "fd": ("3, 4", "[3, 4]", [3, 4]),
    "socket_name": ("echo", '"echo"', ["echo"]),
    "workers": ("4", "4", 4),
    "shared_queue": ("yes", "true", True),
    "reload": ("yes", "true", True),
    "tls_cert": ("a.pem", '"a.pem"', "a.pem"),
    "tls_key": ("b.pem", '"b.pem"', "b.pem"),
    "max_connections": ("100", "100", 100),
    "idle_timeout": ("1.5", "1.5", 1.5),
    "max_lifetime": ("inf", "inf", math.inf),
    "grace": ("0", "0", 0.0),
    "inspect": ("app.rules:all.of", '"app.rules:all.of"', "app.rules:all.of"),
    "inspect_point": ("before-handshake", '"before-handshake"', "before-handshake"),
    "admin": ("[::1]:8080", '"[::1]:8080"', "[::1]:8080"),
    "admin_token_file": ("token", '"token"', "token"),
    "metrics": ("[::1]:9464", '"[::1]:9464"', "[::1]:9464"),
    "control": ("/run/c.sock", '"/run/c.sock"', "/run/c.sock"),
}
NEEDED = {
    "host": "port",
    "mode": "path",
    "shared_queue": "workers",
    "tls_key": "tls_cert",
    "inspect_point": "inspect",
    "admin_token_file": "admin",
}


def with_needed(name: str) -> list[str]:
    """Name an option, and what it goes with."""
    return [*dict.fromkeys(["handler", *([NEEDED[name]] if name in NEEDED else []), name])]


def test_each_option_is_tried() -> None:
    """The table of this file is about all options."""
    assert {*OPTIONS} == {*VALUES}


@pytest.mark.parametrize("name", OPTIONS)
def test_option_is_the_same_from_everywhere(name: str, tmp_path: Path) -> None:
    """An option's value is the same from the command line, the environment and a file."""
    names = with_needed(name)
    typed = command_line({each: VALUES[each][0] for each in names})
    variables = environment({OPTIONS[each].variable: VALUES[each][0] for each in names})
    text = "".join(f"{each} = {VALUES[each][1]}\n" for each in names)
    for source in (typed, variables, file(in_file(tmp_path, text))):
        assert VALUES[name][2] == getattr(configuration_of([source]), name)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in PLACES])
def test_stronger_source_wins(name: str, tmp_path: Path) -> None:
    """The command line is stronger than the environment, and that is stronger than a file."""
    names = with_needed(name)
    text = "".join(f"{each} = {VALUES[each][1]}\n" for each in names)
    from_file = file(in_file(tmp_path, text))
    variables = environment({OPTIONS[name].variable: VALUES[name][0]})
    typed = command_line({name: VALUES[name][0]})

    def origin(*sources: object) -> str:
        return configuration_of(sources).origins[name]  # type: ignore[arg-type]  # sources

    assert OPTIONS[name].variable == origin(variables, from_file)
    assert OPTIONS[name].flag in {origin(typed, variables, from_file), "--handler"}
    assert origin(from_file).endswith(f"line {names.index(name) + 1}")


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["port", "host", "path", "mode", "fd"]), st.just("0"), max_size=3
        ),
        min_size=1,
        max_size=3,
    )
)
def test_place_is_one_thing(given_options: list[dict[str, str]]) -> None:
    """
    The strongest source that names a place to listen at says which, whatever weaker ones say of
    another kind of place; what it contradicts itself, or is stronger and doesn't fit, is a mistake.
    """
    texts = {"port": "1", "host": "a", "path": "/p", "mode": "600", "fd": "3"}
    sources = [{name: texts[name] for name in each} for each in given_options]
    placed = next((n for n, each in enumerate(sources) if {*each} & {*PLACES}), len(sources))
    places = {*sources[placed]} & {*PLACES} if placed < len(sources) else set()
    told = {name for each in sources[: placed + 1] for name in each}
    idle = {
        name
        for name, place in [("host", "port"), ("mode", "path")]
        if {name} & told - {place} and place not in places
    }
    parts = [command_line(each) for each in ({**ECHO, **sources[0]}, *sources[1:])]
    if len(places) > 1 or idle:
        assert problems_of(*parts)
    else:
        configuration = configuration_of(parts)

        assert places == {name for name in PLACES if getattr(configuration, name) is not None}


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("handler", "app", "a module and a name in it, package.module:name"),
        ("handler", "app:", "a module and a name in it"),
        ("handler", "./app.py:echo", "a module and a name in it"),
        ("port", "65536", "a number from 0 (any that is free) to 65535"),
        ("port", "-1", "a number from 0"),
        ("port", "http", "a number from 0"),
        ("host", "127.0.0.1,", "a text, or several"),
        ("mode", "999", "the permissions of a file, such as 0o660"),
        ("fd", "3,3", "the number of a descriptor that is a socket"),
        ("fd", "x", "the number of a descriptor that is a socket"),
        ("workers", "0", "a count, 1 or more"),
        ("shared_queue", "maybe", "true or false"),
        ("max_connections", "0", "a count, 1 or more"),
        ("max_connections", "1e3", "a count, 1 or more"),
        ("idle_timeout", "0", "a time in seconds, more than 0, or inf for no limit"),
        ("max_lifetime", "nan", "a time in seconds, more than 0"),
        ("grace", "-1", "a time in seconds, 0 or more"),
        ("inspect", "rules()", "a module and a name in it"),
        ("inspect_point", "before", "before-handshake or after-handshake"),
    ],
)
def test_wrong_value_is_told_with_its_place(name: str, text: str, wanted: str) -> None:
    """Of a value that is none, what is wanted is told, what was given, and where."""
    given_options = {"handler": "app:echo", name: text}
    (problem, *_) = problems_of(
        environment({OPTIONS[n].variable: t for n, t in given_options.items()})
    )

    assert problem.startswith(f"{OPTIONS[name].variable}: {name} is {wanted}")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Each mistake is a line by itself, with the line of the file in which it stands."""
    name = in_file(tmp_path, 'port = "x"\n\nhosts = "a"\nmode = 0o660\nmax_connections = true\n')

    assert [
        f"{name}, line 3: hosts is no option; did you mean host?",
        f"{name}, line 1: port is a number from 0 (any that is free) to 65535, not 'x'",
        f"{name}, line 5: max_connections is a count, 1 or more, not True",
        f"there is no handler: write {OPTIONS['handler'].help}",
        f"{name}, line 4: mode goes with path, which is not given",
    ] == problems_of(file(name))


def test_second_place_is_a_mistake() -> None:
    """Two places in one source are a mistake, and both are named."""
    assert [
        "--path: path names a second place to listen at, beside port (--port); leave one out"
    ] == (problems_of(command_line({**ECHO, "port": "1", "path": "/p"})))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"inspect": "a:b", "inspect_point": "before-handshake"},
            "--inspect-point: inspect_point is after-handshake with workers: the kernel gives",
        ),
        (
            {"max_connections": "3"},
            "--max-connections: max_connections is for all workers together, and each of 4 needs",
        ),
    ],
)
def test_what_workers_can_not_have_is_told(options: dict[str, str], complaint: str) -> None:
    """What makes no sense in several processes is refused, with the reason."""
    (problem,) = problems_of(command_line({**ECHO, "workers": "4", **options}))

    assert problem.startswith(complaint)


def test_reload_can_not_inspect_before_the_handshake() -> None:
    """A reload has two processes at one port for a while, also without workers."""
    options = {**ECHO, "reload": "yes", "inspect": "a:b", "inspect_point": "before-handshake"}
    (problem,) = problems_of(command_line(options))

    assert "after-handshake with reload: the kernel gives" in problem
    assert "leave reload out, or inspect after" in problem


def test_variable_that_is_nearly_ours_is_a_mistake() -> None:
    """A slip in a variable's name is told; others may have names that begin as ours do."""
    assert ["TRIO_WSK_PROT is no variable of ours; did you mean TRIO_WSK_PORT?"] == problems_of(
        command_line(ECHO), environment({"TRIO_WSK_PROT": "1", "TRIO_WSK_EXAMPLES": "5"})
    )
    assert [] == list(environment({"TRIO_WSK_EXAMPLES": "5"}).problems)


def test_empty_variable_says_nothing() -> None:
    """A variable that is empty is as if it weren't there, which not everybody can have."""
    assert (
        of_command_line().port
        == configuration_of([command_line(ECHO), environment({"TRIO_WSK_PORT": ""})]).port
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a = \n", "line 1"),
        (b"a = '\xff'", "no text in UTF-8"),
        (None, "can't be read: No such file or directory"),
    ],
)
def test_file_that_is_none_is_told(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    """A file that can't be read, or isn't TOML, is a mistake like others."""
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    (problem,) = problems_of(command_line(ECHO), file(str(path)))

    assert str(path) in problem
    assert complaint in problem
