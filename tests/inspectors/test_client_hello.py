"""Rules about what TLS clients say first."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.client_hellos import Hello, server_name
from tests.helpers.client_hellos import alpn as alpn_extension
from tests.helpers.inspecting import inspecting
from tests.helpers.ruling import IN, UNDECIDED, Gate, gate
from tests.helpers.serving import CA, SERVER_CERTIFICATE, serving
from tests.helpers.support import connect_now, reset
from trio_wsk import CloseStyle, Connection, InspectPoint, InvalidParameterError
from trio_wsk.inspectors import (
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    ClientHello,
    Need,
    Rules,
    alpn,
    client_hello,
    dry_run,
    server_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk.inspectors import Rule

PLAIN = Hello().octets()
NAMELESS = Hello(extensions=[alpn_extension(b"h2")]).octets()
MUTE = Hello(extensions=[server_name(b"example.com")]).octets()


async def fate(at: Gate, octets: bytes, *, finish: bool = False) -> str:
    """Have a client send this; return what becomes of it."""
    visitor = await at.come()
    await visitor.stream.send_all(octets)
    if finish:
        await visitor.stream.send_eof()
    await at.look()
    return visitor.fate


def asks_for(name: bytes) -> bytes:
    """Write a ClientHello for a name."""
    return Hello(extensions=[server_name(name)]).octets()


def offers(*protocols: bytes) -> bytes:
    """Write a ClientHello for protocols."""
    return Hello(extensions=[alpn_extension(*protocols)]).octets()


# --- What is found ------------------------------------------------------------------------------


async def test_hello_is_among_the_facts_and_still_there() -> None:
    """What was found goes on with the connection, and nothing of it was taken."""
    async with gate(Rules(client_hello())) as at:
        visitor = await at.come()
        await visitor.stream.send_all(PLAIN + b"more")
        await at.look()

        assert visitor.connection is not None
        assert visitor.connection.facts[ClientHello].server_name == "example.com"
        assert await visitor.connection.receive_some() == PLAIN + b"more"


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_hello_is_found_however_it_comes(size: int) -> None:
    """A ClientHello in many pieces and many records is waited for."""
    octets = Hello().octets(1, 5, 60, 100)
    async with gate(Rules(client_hello())) as at:
        visitor = await at.come()
        for start in range(0, len(octets), size):
            assert visitor.fate == UNDECIDED
            await visitor.stream.send_all(octets[start : start + size])
            await at.look()

        assert visitor.fate == IN


@pytest.mark.parametrize("has_come", [True, False])
async def test_hello_that_has_come_needs_no_task(has_come: bool) -> None:  # noqa: FBT001 - a case
    """Only where a part of it is missing is the rule async, and somebody waits."""
    rule = client_hello()
    were_awaitable = []

    async def arrived(request: Any) -> None:
        await request.peek(len(PLAIN) if has_come else len(PLAIN) - 1)

    def asked(request: Any) -> Any:
        answer = rule(request)
        were_awaitable.append(isinstance(answer, Awaitable))
        return answer

    async with gate(Rules(arrived, asked)) as at:
        visitor = await at.come()
        await visitor.stream.send_all(PLAIN[:-1])
        if has_come:
            await visitor.stream.send_all(PLAIN[-1:])
        await at.look()

        assert [not has_come] == were_awaitable
        assert (IN if has_come else UNDECIDED) == visitor.fate

        if not has_come:
            await visitor.stream.send_all(PLAIN[-1:])
            await at.look()

        assert visitor.fate == IN


@pytest.mark.usefixtures("readiness")
async def test_reset_before_the_hello_is_looked_for_is_one() -> None:
    """The kernel tells of a reset once; who looked first and found nothing has not hushed it up."""
    client: trio.SocketStream

    def inspect(request: Any) -> Any:
        reset(client)
        return rule(request)

    rule = client_hello()
    async with inspecting(inspect) as desk:
        client = desk.client()
        await desk.aborted()

        assert {"reset": 1} == dict(desk.statistics().aborted)


async def test_hello_is_looked_for_once() -> None:
    """The first rule that needs it finds it, and those behind it have it."""
    found = []

    def note(request: Any) -> None:
        found.append(request.facts.get(ClientHello))

    first, second = server_names("example.com"), alpn("h2")
    async with gate(Rules(note, first, note, second, note)) as at:
        assert await fate(at, PLAIN) == IN
    before, between, after = found

    assert before is None
    assert between is after
    assert isinstance(after, ClientHello)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not-tls"),
        (b"\x80\x2e\x01\x03\x01", "ssl2-hello"),
        (b"\x16\x03\x01\x00\x05\x02\0\0\1\0", "no-client-hello"),
        (b"\x16\x03\x01\x00\x00", "client-hello-malformed"),
        (b"\x16\x03\x01\x00\x05\x01\1\0\0\0", "client-hello-too-long"),
        (asks_for(b"192.0.2.1"), "server-name-malformed"),
    ],
)
@pytest.mark.parametrize(
    "rule", [client_hello(), server_names("example.com"), alpn("h2")], ids=lambda rule: rule.name
)
async def test_what_is_no_hello_is_turned_away(rule: Rule, octets: bytes, reason: str) -> None:
    """Each of these rules turns away who doesn't begin with one, for the parser's reason."""
    async with gate(Rules(rule)) as at:
        assert await fate(at, octets) == reason


@pytest.mark.parametrize("there", [0, 1, 5, 100])
async def test_who_finishes_early_is_turned_away(there: int) -> None:
    """Who has finished in the middle is not waited for; who has said nothing has left."""
    async with gate(Rules(client_hello())) as at:
        expected = "client-hello-unfinished" if there else "fin"

        assert await fate(at, PLAIN[:there], finish=True) == expected


async def test_who_says_too_little_runs_out_of_time(autojump_clock: object) -> None:
    """The time for inspection bounds how long a ClientHello is waited for."""
    async with gate(Rules(client_hello())) as at:
        visitor = await at.come()
        await visitor.stream.send_all(PLAIN[:-1])
        await trio.sleep(20)
        await at.look()

        assert visitor.fate == "timed-out"


async def test_dry_run_finds_it_all_the_same() -> None:
    """A rule that is only tried adds the fact, and turns nobody away."""
    tried = dry_run(server_names("example.org"))
    async with gate(Rules(tried)) as at:
        assert await fate(at, PLAIN) == IN
        assert dict(tried.would_reject) == {"server-name-unknown": 1}  # type: ignore[attr-defined]


# --- Names and protocols ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "octets", "expected"),
    [
        (["example.com"], asks_for(b"example.com"), IN),
        (["EXAMPLE.com"], asks_for(b"example.COM"), IN),
        (["example.com"], asks_for(b"www.example.com"), "server-name-unknown"),
        (["example.com"], asks_for(b"example.org"), "server-name-unknown"),
        (["*.example.com"], asks_for(b"www.example.com"), IN),
        (["*.example.com"], asks_for(b"example.com"), "server-name-unknown"),
        (["*.example.com"], asks_for(b"a.b.example.com"), "server-name-unknown"),
        (["*.example.com", "example.com"], asks_for(b"example.com"), IN),
        (["localhost"], asks_for(b"localhost"), IN),
        (["*.localhost"], asks_for(b"localhost"), "server-name-unknown"),
        (["example.com"], NAMELESS, "server-name-missing"),
    ],
)
async def test_names_say_who_is_let_on(names: list[str], octets: bytes, expected: str) -> None:
    """A name in either case, or one label before those behind ``*.``; no name is none of them."""
    async with gate(Rules(server_names(*names))) as at:
        assert await fate(at, octets) == expected


@pytest.mark.parametrize(
    ("protocols", "octets", "expected"),
    [
        (["h2"], offers(b"h2"), IN),
        ([b"h2"], offers(b"http/1.1", b"h2"), IN),
        (["h2", "http/1.1"], offers(b"http/1.1"), IN),
        (["x"], offers(b"x"), IN),
        (["x" * 255], offers(b"x" * 255), IN),
        (["h2"], offers(b"H2"), "alpn-unknown"),
        (["h2"], offers(b"http/1.1"), "alpn-unknown"),
        (["h2"], MUTE, "alpn-missing"),
    ],
)
async def test_protocols_say_who_is_let_on(protocols: Any, octets: bytes, expected: str) -> None:
    """One of those that are offered is enough, and they are compared octet by octet."""
    async with gate(Rules(alpn(*protocols))) as at:
        assert await fate(at, octets) == expected


@pytest.mark.parametrize(
    ("rule", "octets"),
    [(server_names("example.com", or_none=True), NAMELESS), (alpn("h2", or_none=True), MUTE)],
    ids=["server_names", "alpn"],
)
async def test_none_may_be_enough(rule: Rule, octets: bytes) -> None:
    """Who names none can be let on."""
    async with gate(Rules(rule)) as at:
        assert await fate(at, octets) == IN


@pytest.mark.parametrize(
    ("rule", "octets", "alert"),
    [
        (server_names("example.org"), PLAIN, UNRECOGNIZED_NAME),
        (server_names("example.org"), asks_for(b"192.0.2.1"), UNRECOGNIZED_NAME),
        (alpn("smtp"), PLAIN, NO_APPLICATION_PROTOCOL),
    ],
    ids=["another name", "no name", "another protocol"],
)
async def test_who_is_turned_away_is_told_by_an_alert(
    rule: Rule, octets: bytes, alert: bytes
) -> None:
    """TLS has words for it, which the client gets before FIN."""
    async with gate(Rules(rule)) as at:
        visitor = await at.come()
        await visitor.stream.send_all(octets)
        await at.look()

        assert await visitor.stream.receive_some() == alert
        assert await visitor.stream.receive_some() == b""


@pytest.mark.parametrize(
    "make",
    [
        lambda close: client_hello(close=close),
        lambda close: server_names("example.org", close=close),
        lambda close: alpn("smtp", close=close),
    ],
    ids=["client_hello", "server_names", "alpn"],
)
def test_rules_say_how_they_turn_away(make: Callable[[Any], Any]) -> None:
    """Opening can say where a close style can't be had, since the rules say which theirs are."""
    assert make(CloseStyle.FIN).close_styles == {CloseStyle.FIN}
    assert make(b"no").close_styles == {CloseStyle.MESSAGE}
    assert make(b"no").needs is Need.OCTETS


async def test_before_the_handshake_it_is_asked_when_that_is_over() -> None:
    """So the name decides about a request whose SYN was inspected, too."""
    async with gate(Rules(server_names("example.com")), InspectPoint.BEFORE_HANDSHAKE) as at:
        visitors = [await at.come(), await at.come()]
        for visitor, name in zip(visitors, (b"example.com", b"example.net"), strict=True):
            await visitor.stream.send_all(Hello(extensions=[server_name(name)]).octets())
        await at.look()

        assert [IN, "server-name-unknown"] == [visitor.fate for visitor in visitors]


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"example.com"],
        [None],
        [["example.com"]],
        ["bücher.example"],
        ["example.com."],
        ["192.0.2.1"],
        ["*"],
        ["*."],
        ["*.*.example.com"],
        ["www.*.com"],
        ["https://example.com"],
        ["example.com:443"],
        [""],
    ],
    ids=str,
)
def test_what_clients_cannot_ask_for_is_a_mistake(names: Any) -> None:
    """A name that no client could ask for is refused when the rule is made."""
    with pytest.raises(InvalidParameterError, match=r"server_names.*example\.com"):
        server_names(*names)


@pytest.mark.parametrize(
    "protocols", [[], [""], [b""], ["x" * 256], [2], [None], [["h2"]]], ids=str
)
def test_what_clients_cannot_offer_is_a_mistake(protocols: Any) -> None:
    """A protocol that no client could offer is refused when the rule is made."""
    with pytest.raises(InvalidParameterError, match=r"alpn.*h2"):
        alpn(*protocols)


# --- On the wire --------------------------------------------------------------------------------


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a server's and a client's."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    SERVER_CERTIFICATE.configure_cert(server)
    server.set_alpn_protocols(["h2"])
    client = ssl.create_default_context()
    client.check_hostname = False
    client.set_alpn_protocols(["h2"])
    CA.configure_trust(client)
    return server, client


async def greet(connection: Connection) -> None:
    """Say whom the client wants."""
    hello = connection.facts[ClientHello]
    await connection.send_all((hello.server_name or "nobody").encode())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
async def test_handshake_follows_on_the_wire(version: ssl.TLSVersion, readiness: str) -> None:
    """A client of OpenSSL's is looked at, let in, and shakes hands as ever."""
    server_context, client_context = contexts()
    client_context.maximum_version = version
    rules = Rules(server_names("server.test"), alpn("h2"))
    async with serving(greet, ssl_context=server_context, inspect=rules) as (server, _):
        stream = connect_now(server.local_addresses[0])
        client = trio.SSLStream(stream, client_context, server_hostname="Server.TEST")

        assert await client.receive_some() == b"server.test"
        await client.aclose()


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (server_names("other.test"), "UNRECOGNIZED_NAME"),
        (alpn("smtp"), "NO_APPLICATION_PROTOCOL"),
    ],
    ids=["server_names", "alpn"],
)
async def test_alert_is_understood_on_the_wire(rule: Rule, says: str, readiness: str) -> None:
    """A client of OpenSSL's says by the name of the alert why there is no handshake."""
    server_context, client_context = contexts()
    async with serving(greet, ssl_context=server_context, inspect=Rules(rule)) as (server, _):
        stream = connect_now(server.local_addresses[0])
        client = trio.SSLStream(stream, client_context, server_hostname="server.test")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        await trio.aclose_forcefully(client)

    assert says in str(caught.value.__cause__).upper().replace(" ", "_")


def test_alerts_are_fatal_ones() -> None:
    """They are records of TLS with two octets: fatal, and the number of the alert."""
    assert (UNRECOGNIZED_NAME[-2:], NO_APPLICATION_PROTOCOL[-2:]) == (b"\2\x70", b"\2\x78")
