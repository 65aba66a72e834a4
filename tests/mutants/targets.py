"""Which modules mutants are made of, which tests have to notice them, and which are no faults."""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["SAME", "TARGETS", "Target"]


@attrs.frozen
class Target:
    """A module, and who answers for it."""

    module: str
    """Below ``trio_wsk``."""
    tests: tuple[str, ...]
    """Below ``tests``. All run until one fails, so that the quick ones stand first."""
    most: int = 1000
    """Of more mutants than this, so many are tried, spread over the module."""


TARGETS: Final = (
    Target("_delivery/delivery.py", ("delivery/test_delivery.py",)),
    Target("_intake/backoff.py", ("intake/test_backoff.py",)),
    Target("_inspection/table.py", ("inspection/test_table.py",), most=60),
    Target("_inspection/conditions.py", ("inspection/test_conditions.py",)),
    Target("_vocabulary/verdict.py", ("vocabulary/test_verdict.py",)),
    Target("_protocols/crc32c.py", ("protocols/test_crc32c.py",)),
    Target("_protocols/ja4.py", ("protocols/test_ja4.py",)),
    Target("_protocols/server_name.py", ("protocols/test_server_name.py",)),
    Target("_protocols/tls_records.py", ("protocols/test_tls_records.py",)),
    Target("_protocols/proxy_v1.py", ("protocols/test_proxy_v1.py",), most=60),
    Target(
        "_protocols/proxy_tlvs.py",
        ("protocols/test_proxy_tlvs.py", "protocols/test_proxy_header.py"),
        most=60,
    ),
    Target(
        "_protocols/proxy_v2.py",
        ("protocols/test_proxy_v2.py", "protocols/test_proxy_tlvs.py"),
        most=60,
    ),
    Target("_engine/deadlines.py", ("engine/test_deadlines.py",)),
    Target("transports/linux/_alarms.py", ("transports/linux/test_alarms.py",)),
    Target("transports/linux/_syn_table.py", ("transports/linux/test_syn_table.py",), most=60),
    Target(
        "_connection/wire.py",
        (
            "connection/test_send_queue.py",
            "connection/test_closed.py",
            "connection/test_ends.py",
            "connection/test_events.py",
            "connection/test_event_ends.py",
            "connection/test_known.py",
            "connection/test_public_socket.py",
            "connection/test_half_close.py",
            "connection/test_cut_short.py",
            "connection/test_stream_errors.py",
            "connection/test_lingering.py",
            "engine/test_edges.py",
            "inspectors/test_proxy_protocol.py",
            "connection/test_connection.py",
            "reading/test_more.py",
            "serving/test_idle_timeout.py",
            "connection/test_after_the_block.py",
            "transports/test_tls_channel.py",
            "serving/test_tls.py",
            "serving/test_tls_events.py",
            "transports/test_urgent.py",
        ),
        most=40,
    ),
    Target(
        "_connection/events.py",
        (
            "connection/test_events.py",
            "connection/test_send_queue.py",
            "connection/test_event_ends.py",
            "connection/test_peers_end.py",
            "connection/test_ends.py",
            "connection/test_closed.py",
            "connection/test_public_socket.py",
            "connection/test_connecting.py",
            "serving/test_serving_events.py",
        ),
        most=40,
    ),
)

_ALARMS: Final = "transports/linux/_alarms.py Alarms."
_BOTH_OR_NONE: Final = "Who calls it has both addresses or none."
_READ_IN_VAIN: Final = "Who reads once too often finds nothing; who is closed is not closed again."
_MORE_OFTEN: Final = "Only how often it is cleaned up differs, which costs time, and no more stays."

SAME: Final[dict[str, str]] = {
    "_intake/backoff.py Backoff.__init__: self._last = 0.0 -> self._last = 1.0": (
        "It is written before it is read."
    ),
    "_intake/backoff.py Backoff.failed: return wait * (1 + JITTER * (2 * chance - 1))"
    " -> return wait * (1 - JITTER * (2 * chance - 1))": "Chance is as good the other way round.",
    "_protocols/crc32c.py module: _TABLE: Final = tuple(map(_entry, range(256)))"
    " -> _TABLE: Final = tuple(map(_entry, range(256000)))": "An octet finds its entry as before.",
    '_protocols/ja4.py _first_and_last: text = alpn.decode("latin-1") if ends <= _ALPHANUMERIC'
    ' else alpn.hex() -> text = alpn.decode("latin-1") if ends < _ALPHANUMERIC else alpn.hex()': (
        "Two octets are never all letters and digits that there are."
    ),
    "_protocols/proxy_v1.py write_v1: if source is None or destination is None:"
    " -> if source is None and destination is None:": _BOTH_OR_NONE,
    "_protocols/proxy_v2.py write_v2: if source is not None and destination is not None:"
    " -> if source is not None or destination is not None:": _BOTH_OR_NONE,
    "_connection/wire.py Wire._peek_now: return channel.recv(1, socket.MSG_PEEK)"
    " -> return channel.recv(2, socket.MSG_PEEK)": "Who looks asks whether anything is there.",
    "_connection/wire.py Wire._discard_now: return 0, FINISHED -> return 1, FINISHED": (
        "How much was discarded is asked only where more may come."
    ),
    "_connection/events.py EventSide._turn: due, self._due = self._due, 0"
    " -> due, self._due = self._due, 1": _READ_IN_VAIN,
    "_connection/events.py EventSide._turn: if due & (READ | ENDED) and self._channel is not None:"
    " -> if due & (READ | ENDED) or self._channel is not None:": _READ_IN_VAIN,
    f"{_ALARMS}__init__: self._numbers = count(1) -> self._numbers = count(2)": (
        "A number is one that no other alarm has, and not 0."
    ),
    f"{_ALARMS}__init__: self._set = 0 -> self._set = 1": "Two more may stay.",
    f"{_ALARMS}set: self._set += 1 -> pass": _MORE_OFTEN,
    f"{_ALARMS}call_off: self._set -= 1 -> self._set -= 2": _MORE_OFTEN,
    f"{_ALARMS}ring: self._set -= 1 -> self._set -= 2": _MORE_OFTEN,
    **{
        f"{_ALARMS}call_off: if len(heap) > _FEW + 2 * self._set: -> if len(heap) {other}:": (
            _MORE_OFTEN
        )
        for other in (">= _FEW + 2 * self._set", "> _FEW - 2 * self._set")
    },
}
"""Mutants that are no faults, as they are printed, and why no test can tell them."""
