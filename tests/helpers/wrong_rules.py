"""Arguments that can't be meant, of each rule; rows for `tests.test_wrong_arguments`."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from tests.helpers.wrong_values import (
    NO_COUNTS,
    NO_FLAGS,
    NO_INSPECTORS,
    NO_NUMBERS,
    NO_PLAIN_FUNCTIONS,
    NO_SECONDS,
    Row,
    wait,
    work,
)
from trio_wsk import InspectAction

if TYPE_CHECKING:
    from collections.abc import Mapping

RULE: Mapping[str, Row] = {
    "name": Row((None, "", 7, b"x"), "name is a text to count by"),
    "reason": Row((None, 7, b"busy", "Two Words", "x" * 100), "short slug"),
    "close": Row((None, True, "421 busy", b"", 7), "before FIN"),
}
NETWORKS: tuple[Any, ...] = (None, 7, "10.0.0.0/8", b"::/0", ["nonsense"], ["10.0.0.1/8"], [7])
SOURCES: Mapping[str, Row] = {
    "ipv4_prefix": Row((None, 33, *NO_COUNTS), "is a number of bits, 0 to 32"),
    "ipv6_prefix": Row((None, 129, *NO_COUNTS), "is a number of bits, 0 to 128"),
}
TABLE: Mapping[str, Row] = {
    **SOURCES,
    "exempt": Row(NETWORKS, "exempt"),
    "most_sources": Row((None, 0, *NO_COUNTS), "most_sources is a count, 1 or more"),
    "when_full": Row((None, True, "evict"), "'reject' or 'pass'"),
}
RATE: Mapping[str, Row] = {
    "count": Row((None, 0, math.inf, *NO_NUMBERS), "count is a number, more than 0"),
    "per": Row((None, 0, math.inf, *NO_NUMBERS), "per is a time in seconds, more than 0"),
    "burst": Row((0, *NO_COUNTS), "burst is a count, 1 or more"),
}
PENALIZED: Row = Row((None, 7, "192.0.2.1", "192.0.2.1:80"), "a connection, a request or an Addr")
RULES: Mapping[str, Mapping[str, Row]] = {
    "Rules": {"default": Row((None, True, 1, "no", wait), "default is an InspectAction")},
    "all_of": {"name": RULE["name"]},
    "when": {
        "condition": Row((*NO_PLAIN_FUNCTIONS, ["::/0"], "::/0"), "when takes a"),
        "rule": Row((*NO_INSPECTORS, InspectAction.ACCEPT), "when takes"),
    },
    "unless": {
        "condition": Row((*NO_PLAIN_FUNCTIONS, ["::/0"], "::/0"), "unless takes a"),
        "rule": Row((*NO_INSPECTORS, InspectAction.ACCEPT), "unless takes"),
    },
    "dry_run": {"rule": Row((*NO_INSPECTORS, InspectAction.ACCEPT), "dry_run takes")},
    "cached": {
        "rule": Row((*NO_INSPECTORS, InspectAction.ACCEPT), "cached takes"),
        "ttl": Row((None, math.inf, *NO_SECONDS), "ttl is a time in seconds"),
        "most": Row((None, 0, *NO_COUNTS), "most is a count, 1 or more"),
        **SOURCES,
    },
    "needs": {"need": Row((None, "octets", True), "needs takes a member of Need")},
    "deny": {"networks": Row(NETWORKS, "deny"), **RULE},
    "allow_only": {"networks": Row(NETWORKS, "allow_only"), **RULE},
    "from_networks": {"networks": Row(NETWORKS, "from_networks")},
    "client_hello": {name: RULE[name] for name in ("close", "name")},
    "server_names": {
        "or_none": Row(NO_FLAGS, "or_none is True or False"),
        **{name: RULE[name] for name in ("close", "name")},
    },
    "alpn": {
        "or_none": Row(NO_FLAGS, "or_none is True or False"),
        **{name: RULE[name] for name in ("close", "name")},
    },
    "DnsZone": {
        "name": Row((None, 7, b"bad.test", "", "test", "bad.test.", "a b.test"), "by its zone"),
        "weight": Row((None, 0, math.inf, math.nan, True, "1"), "weight is a number"),
        "answers": Row(NETWORKS, "answers"),
    },
    "DnsLists": {
        "threshold": Row((None, 0, math.inf, *NO_NUMBERS), "threshold is a number, more than 0"),
        "when_failed": Row((None, True, "open"), "'reject' or 'pass'"),
        "timeout": Row((None, math.inf, *NO_SECONDS), "timeout is a time in seconds"),
        "nameservers": Row((None, "127.0.0.1", ["ns.test"], [7], [b"x"]), "list of IP addresses"),
        "port": Row((None, 0, 65536, *NO_COUNTS), "port is a number, 1 to 65535"),
        "most": Row((None, 0, *NO_COUNTS), "most is a count, 1 or more"),
        **RULE,
    },
    "early_talkers": {
        "wait": Row((None, math.inf, *NO_SECONDS), "wait is a time in seconds"),
        **RULE,
    },
    "NetworksFile": {
        "path": Row((None, [], object()), "", TypeError),
        "observers": Row((7, print, [7]), "observers"),
    },
    "NetworksFile.watch": {"every": Row((None, math.inf, *NO_SECONDS), "every is a time")},
    "ConnectionLimit": {"most": Row((None, *NO_COUNTS), "most is a count, 0 or more"), **RULE},
    "SourceLimit": {
        "most": Row((None, *NO_COUNTS), "most is a count, 0 or more"),
        **TABLE,
        **RULE,
    },
    "ProxyProtocol": {
        "required": Row((*NETWORKS, ()), "required"),
        "optional": Row(NETWORKS, "optional"),
        "unix": Row((None, True, "always"), "'required', 'optional' or 'forbidden'"),
        "timeout": Row((None, math.inf, *NO_SECONDS), "timeout is a time in seconds"),
        "limit": Row((None, 15, 16385, *NO_COUNTS), "limit is"),
        "close": RULE["close"],
        "name": RULE["name"],
    },
    "SourceLimit.open_from": {"address": Row((None, 7, "192.0.2.1"), "is no Address")},
    "RateLimit": {**RATE, **RULE},
    "SourceRateLimit": {**RATE, **TABLE, **RULE},
    "Penalties": {
        "threshold": Row((None, math.inf, *NO_SECONDS), "threshold is a time in seconds"),
        "most_seconds": Row((None, math.inf, *NO_SECONDS, 15.0), "most_seconds is"),
        **TABLE,
        **RULE,
    },
    "Shared": {
        "client": Row((None, "redis://", 7, object()), "client is a coredis.Redis"),
        "rule": Row((None, 7, work, wait), "rule is a ConnectionLimit"),
        "name": Row(("", 7, b"x"), "name is a text to count by"),
        "prefix": Row((None, "", 7, b"x"), "prefix is what keys begin with"),
        "timeout": Row((None, 0, math.inf, *NO_SECONDS), "timeout is"),
        "lease": Row((None, 0, math.inf, *NO_SECONDS), "lease is"),
        "when_lost": Row((None, True, "open"), "'local', 'pass' or 'reject'"),
        "observers": Row((7, print, [7]), "observers"),
    },
    "Penalties.add": {
        "who": PENALIZED,
        "seconds": Row((None, math.inf, *NO_SECONDS), "seconds is a time in seconds"),
        "reason": Row((None, "", 7, b"busy", "Two Words"), "short slug"),
    },
    "Penalties.remaining": {"who": PENALIZED},
    "Penalties.forgive": {"who": PENALIZED},
    "Penalties.observer": {
        name: Row((None, math.inf, *NO_SECONDS), f"{name} is a time in seconds")
        for name in ("rejected", "timed_out", "handshake_failed")
    },
}
RULES_CALLED: Mapping[str, Mapping[str, Any]] = {
    "Rules": {},
    "all_of": {},
    "when": {"condition": work, "rule": work},
    "unless": {"condition": work, "rule": work},
    "dry_run": {},
    "cached": {"rule": work, "ttl": 1.0},
    "needs": {},
    "deny": {"networks": []},
    "allow_only": {"networks": []},
    "from_networks": {},
    "client_hello": {},
    "DnsZone": {"name": "bad.test"},
    "early_talkers": {},
    "NetworksFile": {"path": os.devnull},
    "ProxyProtocol": {"required": ["::/0"]},
    "ConnectionLimit": {"most": 1},
    "SourceLimit": {"most": 1},
    "RateLimit": {"count": 1},
    "SourceRateLimit": {"count": 1},
    "Penalties": {},
}
"""What else each of these is called with."""
