"""Questions to DNS: the one module of ours that imports dnspython."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, final

import attrs

try:
    import dns.asyncbackend
    import dns.asyncresolver
    import dns.exception
    import dns.name
    import dns.rdatatype
    import dns.resolver
    import dns.ttl
except ImportError as _missing:
    raise ImportError(
        "DnsLists needs dnspython, which is not installed: pip install 'trio-wsk[dns]'"
    ) from _missing

from trio_wsk._vocabulary.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dns.message

__all__ = ["DnsAnswer", "DnsClient"]

TRIES: Final = 3
"""How often a question is asked that nobody answers, over UDP: datagrams get lost."""


@attrs.frozen
class DnsAnswer:
    """What a name's A records are, if it has any."""

    addresses: tuple[IPv4Address, ...]
    ttl: float
    """For how many seconds this may be kept; that there are none, as RFC 2308 says."""


@final
class DnsClient:
    """Asks for the A records of names.

    Args:
      nameservers: The IP addresses of whom to ask; none for those of ``/etc/resolv.conf``.
      port: Their port.
      timeout: Seconds for one question.

    Raises:
      InvalidParameterError: there are none. (The caller's.)
    """

    def __init__(self, nameservers: Sequence[str], port: int, timeout: float) -> None:
        try:
            resolver = dns.asyncresolver.Resolver(configure=not nameservers)
        except dns.resolver.NoResolverConfiguration as error:
            raise InvalidParameterError(
                f"nameservers says whom to ask, since this machine doesn't ({error}); write"
                " nameservers=['127.0.0.1'] for a resolver that runs on it"
            ) from error
        if nameservers:
            resolver.nameservers = list(nameservers)
            resolver.port = port
        resolver.lifetime = timeout
        resolver.timeout = timeout / TRIES
        self._resolver = resolver
        self._backend = dns.asyncbackend.get_backend("trio")

    async def ask(self, name: str) -> DnsAnswer | None:
        """Return the A records of a name that ends with a dot; None if there is no answer.

        An answer that was truncated is fetched over TCP. What is no message of DNS, or answers
        another question, is not looked at.
        """
        absolute = dns.name.from_text(name)
        try:
            answer = await self._resolver.resolve(
                absolute, raise_on_no_answer=False, search=False, backend=self._backend
            )
        except dns.resolver.NXDOMAIN as error:
            response = error.response(absolute)  # type: ignore[no-untyped-call]  # dnspython's
            return DnsAnswer((), _ttl(response))  # noqa: ASYNC910 - it has answered
        except dns.exception.DNSException:
            return None  # noqa: ASYNC910 - each of the tries was one
        found = tuple(IPv4Address(record.to_text()) for record in answer.rrset or ())
        return DnsAnswer(found, _ttl(answer.response))


def _ttl(response: dns.message.QueryMessage) -> float:
    ttl = response.resolve_chaining().minimum_ttl
    return 0 if ttl == dns.ttl.MAX_TTL else ttl  # without an SOA record, as dnspython 2.7 has it
