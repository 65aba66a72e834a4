"""Who takes part: one row per server. What they take part in, `_modes` says."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

import attrs

from ._modes import INSPECTED, RULED


class Language(enum.Enum):
    """What a server is written in, and so how it is started."""

    PYTHON = ".py"
    C = ".c"
    """Compiled before it is run."""
    NODE = ".js"
    """Left out where there is no Node."""


@attrs.frozen
class Contender:
    """One server: a file in ``contenders/``, of its own unless it names another's."""

    name: str
    """Of the file, without its suffix."""
    is_ours: bool = False
    """Ours must start: when it cannot, the run ends with an error."""
    language: Language = Language.PYTHON
    program: str = attrs.field()
    """The file, where it serves more than one."""
    folder: str = "contenders"
    arguments: tuple[str, ...] = ()
    """What it is told besides the task."""
    load: str | None = None
    """The row of ``MODES`` in ``load.c``, where it isn't the mode's."""
    needs: str = ""
    """The program that it is, if that isn't ours. Where it is missing, it is left out."""
    behind: str = ""
    """The contender in C that it forwards to, and whose program it is told of, last."""
    takes_a_gate: bool = False
    """Whether it has the kernel hold SYNs. Where that can't be had it is left out."""
    title: str = attrs.field()
    """What a page calls it."""

    @program.default
    def _own_program(self) -> str:
        return self.name

    @title.default
    def _own_title(self) -> str:
        return self.name.replace("_", " ")


def _inspected() -> Iterator[Contender]:
    """Make one for each way of inspecting requests."""
    for name in INSPECTED:
        point, form, verdict = name.split("_")
        rejected = "reset" if point == "after" else "refused"
        yield Contender(
            name,
            is_ours=True,
            program="wsk_inspected",
            arguments=(point, form, verdict),
            load="closed" if verdict == "accept" else rejected,
            takes_a_gate=point == "before",
            title=f"{point}, {form}, {verdict}",
        )


def _with_rules() -> Iterator[Contender]:
    """Make one for each rule, and as many of HAProxy, which has to have somebody behind it."""
    loads = {"denied": "reset", "proxied": "proxied", "hello": "hello"}
    for rule, title in RULED.items():
        load = loads.get(rule)
        yield Contender(
            f"wsk_{rule}",
            is_ours=True,
            program="wsk_ruled",
            arguments=(rule,),
            load=load,
            title=f"serve, {title}",
        )
        yield _haproxy(rule, title, load)
    yield Contender(
        "wsk_hello_unread", is_ours=True, program="wsk_serve", load="hello", title="serve, a hello"
    )
    yield _haproxy("none", "no rule", None)
    yield _haproxy("unread", "a hello", "hello")


def _haproxy(rule: str, title: str, load: str | None) -> Contender:
    return Contender(
        f"haproxy_{rule}",
        program="haproxy",
        arguments=(rule,),
        load=load,
        needs="haproxy",
        behind="c_epoll",
        title=f"HAProxy, {title}",
    )


CONTENDERS: Final = (
    Contender("trio_serve_tcp", title="trio.serve_tcp"),
    Contender("trio_socket", title="trio.socket, bare loop"),
    Contender("anyio_trio", title="anyio on Trio"),
    Contender("anyio_asyncio", title="anyio on asyncio"),
    Contender("asyncio_streams"),
    Contender("asyncio_protocol", title="asyncio Protocol"),
    Contender("uvloop_streams"),
    Contender("uvloop_protocol", title="uvloop Protocol"),
    Contender("node", language=Language.NODE, title="Node"),
    Contender("wsk_serve", is_ours=True, title="serve"),
    Contender("wsk_events", is_ours=True, title="serve_events"),
    Contender("wsk_events_disconnect", is_ours=True, title="serve_events, disconnect()"),
    Contender("c_epoll", language=Language.C, title="C, epoll"),
    *(
        Contender(
            f"{loop}_protocol_eof",
            program=f"{loop}_protocol",
            arguments=("eof",),
            title=f"{loop} Protocol, write_eof()",
        )
        for loop in ("asyncio", "uvloop")
    ),
    *(
        Contender(
            f"{program}_{form}",
            is_ours=True,
            program=program,
            arguments=(form,),
            title=f"{title}, {form} inspector",
        )
        for program, title in (("wsk_serve", "serve"), ("wsk_events", "serve_events"))
        for form in ("sync", "async")
    ),
    *(
        Contender(
            f"wsk_{form}",
            is_ours=True,
            program="wsk_lines",
            arguments=(form,),
            title=f"serve, Reader.{form}",
        )
        for form in ("lines", "batches")
    ),
    Contender("plain", is_ours=True, program="wsk_inspected", title="not inspected"),
    *_inspected(),
    *_with_rules(),
    *(
        Contender(
            f"workers_{name}", is_ours=True, program="wsk_workers", arguments=arguments, title=title
        )
        for name, arguments, title in (
            ("one", ("1",), "one worker"),
            ("own", ("2",), "two workers, a queue each"),
            ("shared", ("2", "--shared-queue"), "two workers, one queue"),
        )
    ),
    *(
        Contender(
            f"pended_{program}",
            is_ours=program != "trio_tasks",
            program=program,
            folder="pended",
            title=title,
        )
        for program, title in (
            ("trio_tasks", "a task of Trio each"),
            ("wsk_async", "async inspector"),
            ("wsk_plain", "sync inspector"),
        )
    ),
)

BY_NAME: Final = {contender.name: contender for contender in CONTENDERS}
