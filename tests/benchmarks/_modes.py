"""What is measured: one row per figure, and one per mode, which says who takes part."""

from __future__ import annotations

import enum
from typing import Final

import attrs


@attrs.frozen
class Metric:
    """One figure of a sample."""

    name: str
    """Its key in `Sample.values`."""
    heading: str
    """Of a column: what it is, and its unit."""
    noun: str
    """What it is, in a page: a ratio has no unit."""
    is_cost: bool = True
    """Less is better. A ratio is turned so that more is better, always."""

    def ratio(self, own: float, base: float) -> float:
        """How many times better `own` is than `base`; 0 where a clock saw nothing."""
        over, under = (base, own) if self.is_cost else (own, base)
        return over / under if under else 0.0


RATE: Final = Metric("rate", "per second", "rate", is_cost=False)
CPU: Final = Metric("cpu_us", "CPU us", "CPU")
BOTH_CPU: Final = Metric("both_cpu_us", "both CPU us", "CPU of both sides")
P50: Final = Metric("p50_ms", "p50 ms", "median wait")
P99: Final = Metric("p99_ms", "p99 ms", "99th percentile of waits")
ALL: Final = Metric("all_ms", "all ms", "time until all")
BACKGROUND: Final = Metric("background_rate", "busy ones/s", "busy ones' rate", is_cost=False)
EVEN: Final = Metric("even", "least busy, %", "evenness", is_cost=False)
LAG_P50: Final = Metric("lag_p50_ms", "lag p50 ms", "median lag")
LAG_P99: Final = Metric("lag_p99_ms", "lag p99 ms", "99th percentile of lags")
MEMORY: Final = Metric("kib", "KiB each", "memory")
ARRIVE: Final = Metric("arrive_us", "us to pend", "CPU to pend")
ABORT: Final = Metric("abort_us", "us to abort", "CPU to abort")
ACCEPT: Final = Metric("accept_us", "us to accept", "CPU to accept")
REJECT: Final = Metric("reject_us", "us to reject", "CPU to reject")


class Procedure(enum.Enum):
    """How one contender is measured once."""

    LOAD = "load"
    """`_load`: the load generator for some time; all contenders run all the while."""
    IDLE = "idle"
    """`_idle`: what a fresh server weighs, with connections that do nothing."""
    PENDED = "pended"
    """`_pended`: requests that wait for a verdict at a fresh server, phase by phase."""


@attrs.frozen
class Mode:
    """One kind of load."""

    name: str
    description: str
    """For headings, and for who reads a chart alone."""
    task: str
    """What the servers do, as `contenders` says."""
    load: str
    """The row of ``MODES`` in ``load.c``, where a contender does not say otherwise."""
    connections: int
    """How many are open at once, at most."""
    unit: str
    """What is counted, in the plural."""
    contenders: tuple[str, ...]
    """Names, the baseline's among them."""
    compared: tuple[Metric, ...]
    """Shown as ratios, the most telling first, and as they are."""
    shown: tuple[Metric, ...] = ()
    """Shown as they are."""
    baseline: str = "trio_serve_tcp"
    """What every ratio is taken against, in the same round; it always takes part."""
    procedure: Procedure = Procedure.LOAD
    per_second: int = 0
    """Connections begun, in an open loop; 0: each follows the one before it."""
    busy: int = 0
    """Connections that play ping-pong meanwhile."""
    seconds: float | None = None
    """The window, where it is not the run's to choose."""
    usual_seconds: float | None = None
    """How long a window lasts that ends before its time; for the estimate only."""
    most_rounds: int = 1000
    """Where a round takes long and says the same each time."""
    tells: bool = False
    """Whether the servers measure something themselves, from being told to until asked."""
    has_tls: bool = False
    """Whether clients speak TLS."""
    spreads: bool = False
    """Whether servers may use all processors, which their clients then share."""
    is_apart: bool = False
    """Whether each server, with its client, has a network of its own."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All of them, once."""
        return tuple(dict.fromkeys((*self.compared, *self.shown)))


OURS: Final = ("wsk_serve", "wsk_events")
TRIO: Final = ("trio_serve_tcp", "trio_socket", "anyio_trio")
ASYNCIO: Final = ("anyio_asyncio", "asyncio_streams", "asyncio_protocol")
UVLOOP: Final = ("uvloop_streams", "uvloop_protocol")
ALL_PEERS: Final = (*TRIO, *ASYNCIO, *UVLOOP, "node", *OURS, "c_epoll")
SOME_PEERS: Final = (
    "trio_serve_tcp",
    "trio_socket",
    "asyncio_protocol",
    *UVLOOP,
    "node",
    *OURS,
    "c_epoll",
)
"""Where the rest would say nothing that it does not say elsewhere."""

INSPECTED: Final = tuple(
    f"{point}_{form}_{verdict}"
    for point in ("after", "before")
    for form in ("sync", "async")
    for verdict in ("accept", "reject")
)

RULED: Final = {
    "listed": "a list",
    "limited": "a limit and a rate",
    "denied": "on a list",
    "proxied": "PROXY",
    "hello": "server names",
}
"""Rules by which is served, and what a page calls each."""

BY_LINE: Final = (
    "trio_serve_tcp",
    "anyio_trio",
    "anyio_asyncio",
    "asyncio_streams",
    "uvloop_streams",
    "wsk_lines",
    "wsk_batches",
)
"""Who reads by the line: with what its library has for that, or by hand where that is nothing."""

WHO_LEAVE: Final = ("trio_serve_tcp", "asyncio_streams", *UVLOOP, *OURS, "c_epoll")
"""Who shows what a client's way of leaving costs."""

GRACEFUL: Final = ("wsk_events_disconnect", "asyncio_protocol_eof", "uvloop_protocol_eof")
"""Who finishes, and closes when the client has finished, too."""

LEAVING: Final = {
    "first": "answered, leaves by {}, and is closed",
    "last": "answered, is closed, and leaves by {}",
}
"""How a client leaves that ends before its server does, or after."""

# Most numbers of connections are those of the tables the project's targets were taken from.
MODES: Final = (
    Mode(
        "echo1",
        "connect, 1 byte, echo, close; 64 at once",
        task="once",
        load="echo1",
        connections=64,
        unit="connections",
        contenders=(*ALL_PEERS, "wsk_events_disconnect"),
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    *(
        Mode(
            f"{how}-{when}",
            f"connect, 1 byte; the client is {LEAVING[when].format(what)}; 64 at once",
            task="all" if when == "first" else "once",
            load="echo1" if (how, when) == ("reset", "first") else f"{how}-{when}",
            connections=64,
            unit="connections",
            contenders=(*WHO_LEAVE, *(GRACEFUL if when == "last" else ())),
            compared=(CPU,),
            shown=(RATE,),
            most_rounds=5,
        )
        for when in LEAVING
        for how, what in (("fin", "FIN"), ("reset", "reset"))
    ),
    Mode(
        "connect-close",
        "connect, and be closed; 64 at once",
        task="close",
        load="ended",
        connections=64,
        unit="connections",
        contenders=ALL_PEERS,
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    Mode(
        "late",
        "connect, 1 byte 8 ms later, echo, close; 256 at once",
        task="once",
        load="late",
        connections=256,
        unit="connections",
        contenders=SOME_PEERS,
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    Mode(
        "pingpong",
        "64 B back and forth on 100 open connections",
        task="all",
        load="pingpong",
        connections=100,
        unit="round trips",
        contenders=ALL_PEERS,
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    Mode(
        "pingpong-one",
        "64 B back and forth on one open connection",
        task="all",
        load="pingpong",
        connections=1,
        unit="round trips",
        contenders=SOME_PEERS,
        compared=(RATE, CPU),
        shown=(P50, P99),
    ),
    Mode(
        "bulk",
        "64 KiB back and forth on 8 open connections",
        task="all",
        load="bulk",
        connections=8,
        unit="round trips",
        contenders=ALL_PEERS,
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    Mode(
        "lines1",
        "a line of 64 B back and forth on 100 open connections",
        task="lines",
        load="lines1",
        connections=100,
        unit="round trips",
        contenders=BY_LINE,
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    Mode(
        "lines16",
        "16 lines of 64 B, sent at once, back and forth on 100 open connections",
        task="lines",
        load="lines16",
        connections=100,
        unit="round trips of 16 lines",
        contenders=BY_LINE,
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    Mode(
        "tls",
        "64 B back and forth on 100 open connections, over TLS",
        task="tls",
        load="tls",
        connections=100,
        unit="round trips",
        contenders=(
            "trio_serve_tcp",
            "asyncio_streams",
            "asyncio_protocol",
            *UVLOOP,
            *OURS,
        ),
        compared=(CPU, RATE),
        shown=(P50, P99),
        has_tls=True,
    ),
    *(
        Mode(
            f"tls-{how}",
            f"connect, {what}, 1 byte, echo, close; 8 at once",
            task="tls-once",
            load=f"tls-{how}",
            connections=8,  # a handshake takes milliseconds
            unit="connections",
            contenders=("trio_serve_tcp", "asyncio_streams", "asyncio_protocol", *UVLOOP, *OURS),
            compared=(CPU,),
            shown=(RATE,),
            has_tls=True,
            most_rounds=5,
        )
        for how, what in (("full", "shake hands for TLS"), ("resumed", "resume TLS"))
    ),
    Mode(
        "burst",
        "1,000 connect at once, 1 byte each; until all have their echo; they stay",
        task="all",
        load="burst",
        connections=1000,
        unit="connections",
        contenders=SOME_PEERS,
        compared=(ALL, CPU),
        shown=(P50, P99),
        seconds=10.0,  # it ends when all have it
        usual_seconds=0.2,
    ),
    Mode(
        "busy",
        "connect, 1 byte, echo, leave; 32 at once, beside 100 busy connections",
        task="all",
        load="echo1",
        connections=32,
        unit="connections",
        contenders=SOME_PEERS,
        compared=(RATE, P50, P99),
        shown=(BACKGROUND,),
        busy=100,
    ),
    Mode(
        "partial-2000",
        "connect, 1 byte, echo, close; 2,000 a second, whatever the server does",
        task="once",
        load="echo1",
        connections=4000,
        unit="connections",
        contenders=SOME_PEERS,
        compared=(CPU,),
        shown=(RATE, P50, P99),
        per_second=2000,
    ),
    Mode(
        "partial-10000",
        "connect, 1 byte, echo, close; 10,000 a second, whatever the server does",
        task="once",
        load="echo1",
        connections=4000,
        unit="connections",
        contenders=SOME_PEERS,
        compared=(CPU,),
        shown=(RATE, P50, P99),
        per_second=10000,
    ),
    Mode(
        "lag",
        "a task that sleeps for 1 ms again and again; beside echo1 with 256 at once",
        task="lag",
        load="echo1",
        connections=256,
        unit="connections",
        contenders=SOME_PEERS,
        compared=(LAG_P99, RATE),
        shown=(LAG_P50,),
        seconds=1.0,  # a 99th percentile needs hundreds of them
        tells=True,
    ),
    Mode(
        "idle",
        "10,000 open connections, answered once each, that do nothing",
        task="all",
        load="pingpong",
        connections=10000,
        unit="connections",
        contenders=ALL_PEERS[:-1],
        compared=(MEMORY,),
        procedure=Procedure.IDLE,
        most_rounds=3,
    ),
    Mode(
        "pended",
        "10,000 wait for their verdict at once; half leave, half of the rest is let through",
        task="10000",
        load="",
        connections=10000,
        unit="connections",
        contenders=("pended_trio_tasks", "pended_wsk_async", "pended_wsk_plain"),
        compared=(MEMORY, ARRIVE, ABORT, ACCEPT, REJECT),
        baseline="pended_trio_tasks",
        procedure=Procedure.PENDED,
        most_rounds=3,
    ),
    Mode(
        "inspected",
        "connect, 1 byte, echo, close; 64 at once; inspected after the handshake, or not",
        task="once",
        load="echo1",
        connections=64,
        unit="connections",
        contenders=(
            "trio_serve_tcp",
            *OURS,
            "wsk_serve_sync",
            "wsk_serve_async",
            "wsk_events_sync",
            "wsk_events_async",
        ),
        compared=(CPU, RATE),
        shown=(P50, P99),
    ),
    Mode(
        "rules",
        "connect, say something, echo, close, by rules or not; or be reset; 64 at once",
        task="once",
        load="echo1",
        connections=64,
        unit="connections",
        contenders=(
            "wsk_serve",
            "wsk_hello_unread",
            *(f"wsk_{rule}" for rule in RULED),
            *(f"haproxy_{rule}" for rule in ("none", "unread", *RULED)),
        ),
        compared=(CPU, RATE),
        shown=(P50, P99),
        baseline="wsk_serve",
    ),
    Mode(
        "handshake",
        "connect, and be closed or turned away; inspected or not; 64 at once",
        task="close",
        load="closed",
        connections=64,
        unit="connections",
        contenders=("plain", *INSPECTED),
        # Some servers do themselves what others leave to the client's processor.
        compared=(CPU, BOTH_CPU, RATE),
        shown=(P50, P99),
        baseline="plain",
        is_apart=True,
    ),
    Mode(
        "workers",
        "connect, 1 byte, milliseconds of work, echo, close; 64 at once; on two processors",
        task="work",
        load="echo1",
        connections=64,
        unit="connections",
        contenders=("workers_one", "workers_own", "workers_shared"),
        compared=(RATE, P99),
        shown=(EVEN, CPU, P50),
        baseline="workers_one",
        seconds=2.0,  # a 99th percentile needs hundreds of them
        tells=True,
        spreads=True,
    ),
)
