"""Rules about what TLS clients say first: whom they want, and what they speak.

They look at the ClientHello, and leave it for who shakes hands. Whichever is asked first finds it
and adds it to the facts, so that the others have it already and are plain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, Final, final

from trio_wsk._inspection import control
from trio_wsk._protocols.answers import ClientHelloError, MalformedError, MoreNeeded
from trio_wsk._protocols.client_hello import ClientHello, parse_client_hello
from trio_wsk._protocols.server_name import checked_server_name
from trio_wsk._vocabulary.arguments import check_flag
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.need import Need
from trio_wsk._vocabulary.verdict import CloseStyle, InspectAction, Verdict

from ._rule import checked_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._inspection.request import ConnectionRequest

    from ._rule import Answer, Rule

    Judge = Callable[[ClientHello], str]

__all__ = ["NO_APPLICATION_PROTOCOL", "UNRECOGNIZED_NAME", "alpn", "client_hello", "server_names"]

UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"
"""TLS's fatal alert unrecognized_name (112), to be sent with ``close=``: RFC 6066, section 3."""

NO_APPLICATION_PROTOCOL: Final = b"\x15\x03\x03\x00\x02\x02\x78"
"""TLS's fatal alert no_application_protocol (120), as above: RFC 7301, section 3.2."""

_AT_ONCE: Final = 4096
"""How many octets are looked at before anything is waited for: more than any usual ClientHello."""

_LONGEST_PROTOCOL: Final = 255
_WILDCARD: Final = "*."


def client_hello(
    *, close: CloseStyle | bytes = CloseStyle.RESET, name: str = "client-hello"
) -> Rule:
    """Make a rule that finds out what a TLS client says first, and turns other peers away.

    `ClientHello` is in ``request.facts`` then, and in ``connection.facts``; nothing of it was
    taken, so that TLS begins as ever. The reasons are ``not-tls``, ``ssl2-hello``,
    ``no-client-hello``, ``client-hello-malformed``, ``client-hello-too-long``,
    ``client-hello-unfinished`` and ``server-name-malformed``. Who sends too little is aborted when
    the time for inspection is over.

    Args:
      close: How they are told; see `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """
    return _AboutHello(name, lambda _: "", close)


def server_names(
    *names: str,
    or_none: bool = False,
    close: CloseStyle | bytes = UNRECOGNIZED_NAME,
    name: str = "server-names",
) -> Rule:
    """Make a rule that turns away who wants another server than these.

    What `client_hello` turns away, this does as well; the reasons of its own are
    ``server-name-missing`` and ``server-name-unknown``. That a client wants a server is no proof
    of anything: it may ask for another one once it is in.

    Args:
      names: Names such as ``"example.com"``, in either case; ``"*.example.com"`` is each name with
        one label more, and not ``example.com``, as in certificates (RFC 6125, section 6.4.3). One
        with letters beyond ASCII is written as in DNS: ``"xn--bcher-kva.example"``.
      or_none: Whether who names no server is let on.
      close: How they are told; by default with TLS's alert. See `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """
    known = frozenset(_checked_names(names))
    check_flag("or_none", or_none)

    def judge(hello: ClientHello) -> str:
        if hello.server_name is None:
            return "" if or_none else "server-name-missing"
        _, _, rest = hello.server_name.partition(".")
        is_known = hello.server_name in known or _WILDCARD + rest in known
        return "" if is_known else "server-name-unknown"

    return _AboutHello(name, judge, close)


def alpn(
    *protocols: str | bytes,
    or_none: bool = False,
    close: CloseStyle | bytes = NO_APPLICATION_PROTOCOL,
    name: str = "alpn",
) -> Rule:
    """Make a rule that turns away who offers to speak none of these.

    What `client_hello` turns away, this does as well; the reasons of its own are ``alpn-missing``
    and ``alpn-unknown``.

    Args:
      protocols: Those of ALPN, such as ``"h2"`` and ``"http/1.1"``; IANA has a list.
      or_none: Whether who offers none at all is let on.
      close: How they are told; by default with TLS's alert. See `Verdict`.
      name: What the rule is counted by.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """
    known = frozenset(_checked_protocols(protocols))
    check_flag("or_none", or_none)

    def judge(hello: ClientHello) -> str:
        if not hello.alpn_protocols:
            return "" if or_none else "alpn-missing"
        return "alpn-unknown" if known.isdisjoint(hello.alpn_protocols) else ""

    return _AboutHello(name, judge, close)


@final
class _AboutHello:
    """A rule that needs the ClientHello: why it would be turned away, or ``""``, says ``judge``."""

    def __init__(self, name: str, judge: Judge, close: CloseStyle | bytes) -> None:
        self.name: Final = checked_name(name)
        self.needs: Final = Need.OCTETS
        self.close_styles: Final = frozenset({Verdict(InspectAction.REJECT, close=close).style})
        self._judge = judge
        self._close = close

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    def __call__(self, request: ConnectionRequest) -> Answer | Awaitable[Answer]:
        found = request.facts.get(ClientHello) or _find(control.look(request, _AT_ONCE))
        if isinstance(found, MoreNeeded):
            return self._wait(request, found)
        return self._answer(request, found)

    async def _wait(
        self, request: ConnectionRequest, found: ClientHello | MoreNeeded | str
    ) -> Answer:
        """Look at as many octets as the ClientHello needs."""
        while isinstance(found, MoreNeeded):
            octets = await request.peek(found.at_least)
            has_finished = len(octets) < found.at_least
            found = "client-hello-unfinished" if has_finished else _find(octets)
        return self._answer(request, found)  # noqa: ASYNC910 - it is called when more is needed

    def _answer(self, request: ConnectionRequest, found: ClientHello | str) -> Answer:
        if isinstance(found, ClientHello):
            request.facts.add(found)
            found = self._judge(found)
        return Verdict(InspectAction.REJECT, found, self._close) if found else None


def _find(octets: bytes) -> ClientHello | MoreNeeded | str:
    """Return the ClientHello, how many octets it needs, or the reason why there is none."""
    try:
        return parse_client_hello(octets)
    except MalformedError as error:
        return error.reason


def _checked_names(names: tuple[Any, ...]) -> Iterable[str]:
    """Yield the names that may be asked for, in lower case."""
    if not names:
        raise InvalidParameterError("server_names takes names: server_names('example.com')")
    for name in names:
        if not isinstance(name, str) or not name.isascii():
            raise InvalidParameterError(
                f"server_names takes text in ASCII, such as 'example.com', not {name!r}"
            )
        wildcard = _WILDCARD if name.startswith(_WILDCARD) else ""
        try:
            yield wildcard + checked_server_name(name.removeprefix(wildcard).encode())
        except ClientHelloError as error:
            raise InvalidParameterError(
                f"server_names takes what clients can ask for, and {error}; write 'example.com',"
                " or '*.example.com'"
            ) from None


def _checked_protocols(protocols: tuple[Any, ...]) -> Iterable[bytes]:
    """Yield the protocols that may be offered, in octets."""
    if not protocols:
        raise InvalidParameterError("alpn takes protocols: alpn('h2', 'http/1.1')")
    for protocol in protocols:
        octets = protocol.encode() if isinstance(protocol, str) else protocol
        if not isinstance(octets, bytes) or not 0 < len(octets) <= _LONGEST_PROTOCOL:
            raise InvalidParameterError(
                f"alpn takes protocols of 1 to {_LONGEST_PROTOCOL} octets, such as 'h2', not"
                f" {protocol!r}"
            )
        yield octets
