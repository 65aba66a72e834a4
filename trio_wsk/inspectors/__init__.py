"""Rules of who is let in, and `Rules`, the inspector that is made of them.

A rule is asked about a `~trio_wsk.ConnectionRequest` and answers None, which is no objection, an
`~trio_wsk.InspectAction`, or a `~trio_wsk.Verdict`. So every inspector is a rule, and so is any
function of yours, plain or async::

    import trio_wsk
    from trio_wsk.inspectors import Rules, SourceLimit, deny

    rules = Rules(deny(["203.0.113.0/24"]), SourceLimit(20))
    trio_wsk.run(handler, 8000, inspect=rules)

What lives here knows requests, a clock, and where a rule looks something up: a file, a resolver.
Never a listening socket, a transport, or who gets a connection.
"""

from __future__ import annotations

from trio_wsk._protocols.answers import MalformedError, ProxyHeaderError
from trio_wsk._protocols.client_hello import ClientHello, TlsExtension
from trio_wsk._protocols.proxy_header import ProxyHeader
from trio_wsk._protocols.proxy_tlvs import ProxyClient, ProxySsl, ProxyTlv, TlvKind
from trio_wsk._protocols.proxy_words import ProxyCommand, ProxyTransport
from trio_wsk._vocabulary.need import Need

from ._cached import cached
from ._client_hello import (
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    alpn,
    client_hello,
    server_names,
)
from ._composing import any_of, dry_run, unless, when
from ._dns_lists import DnsListing, DnsLists, DnsZone
from ._early_talkers import early_talkers
from ._limits import ConnectionLimit, SourceLimit
from ._networks import allow_only, deny, from_networks
from ._networks_file import NetworksFile
from ._penalties import Penalties
from ._proxy_protocol import ProxyProtocol
from ._rates import RateLimit, SourceRateLimit
from ._rule import Answer, Rule, RuleStatistics, needs
from ._rules import Rules, all_of
from ._shared import Shared
from ._sources import HasAddresses, Networks

__all__ = [
    "NO_APPLICATION_PROTOCOL",
    "UNRECOGNIZED_NAME",
    "Answer",
    "ClientHello",
    "ConnectionLimit",
    "DnsListing",
    "DnsLists",
    "DnsZone",
    "HasAddresses",
    "MalformedError",
    "Need",
    "Networks",
    "NetworksFile",
    "Penalties",
    "ProxyClient",
    "ProxyCommand",
    "ProxyHeader",
    "ProxyHeaderError",
    "ProxyProtocol",
    "ProxySsl",
    "ProxyTlv",
    "ProxyTransport",
    "RateLimit",
    "Rule",
    "RuleStatistics",
    "Rules",
    "Shared",
    "SourceLimit",
    "SourceRateLimit",
    "TlsExtension",
    "TlvKind",
    "all_of",
    "allow_only",
    "alpn",
    "any_of",
    "cached",
    "client_hello",
    "deny",
    "dry_run",
    "early_talkers",
    "from_networks",
    "needs",
    "server_names",
    "unless",
    "when",
]

_CONSTANTS = {"NO_APPLICATION_PROTOCOL", "UNRECOGNIZED_NAME"}
for _name in sorted({*__all__} - {"Answer", "Networks", "Rule"} - _CONSTANTS):
    globals()[_name].__module__ = __name__
del _name, _CONSTANTS
