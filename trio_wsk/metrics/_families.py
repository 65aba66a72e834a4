"""The families: how each count of `statistics()` is called, and what it is to Prometheus.

Where they mean the same, names are those that Kestrel has in OpenTelemetry: active, queued,
rejected connections, their duration. The others are the words of `statistics()`.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["OF_LISTENING", "OF_SERVERS", "PREFIX", "STATE", "Family"]

PREFIX: Final = "trio_wsk_"
"""What all names begin with."""


@attrs.frozen
class Family:
    """One field of statistics, as a family of metrics."""

    field: str
    """The field."""
    name: str
    """What the family is called behind the prefix, and without ``_total``."""
    help: str
    """What it says."""
    label: str = ""
    """What the keys are of a field that is a mapping; empty for one that is a number."""
    is_gauge: bool = False
    """Whether it goes down as well."""


def _gauge(field: str, name: str, text: str, label: str = "") -> Family:
    return Family(field, name, text, label, is_gauge=True)


STATE: Final = _gauge("state", "listener_state", "1 for the state that it is in.", "state")
"""The family of the one field that is no count."""

OF_LISTENING: Final = (
    Family("accepted", "accepted_connections", "Connections, or requests for one, that came."),
    Family("delivered", "delivered_connections", "Connections that somebody got.", "way"),
    _gauge("parked", "queued_connections", "Connections that wait to be taken (parked)."),
    _gauge("parked_most", "queued_connections_most", "The most that were queued at once."),
    Family("dropped", "dropped_connections", "Connections closed that nobody got.", "reason"),
    Family("inspected", "inspected_connections", "Requests that an inspector was asked about."),
    Family("let_on", "let_on_connections", "Requests let through by the first of two stages."),
    Family("approved", "approved_connections", "Requests that were let through."),
    _gauge("pending", "pending_inspections", "Requests that are undecided, or not established."),
    _gauge("pending_most", "pending_inspections_most", "The most that were pending at once."),
    Family("rejected", "rejected_connections", "Requests that were refused.", "reason"),
    Family("aborted", "aborted_connections", "Requests that ended undelivered.", "reason"),
    Family("close_fallbacks", "close_fallbacks", "Peers reset that were to be told otherwise."),
    _gauge("straggling", "straggling_inspectors", "Cancelled inspectors that still run."),
    Family("callback_failures", "callback_failures", "Callbacks that failed.", "callback"),
    _gauge("queued_accepts", "queued_accepts", "Accepts that wait for a connection."),
    Family("accept_errors", "accept_errors", "Failed calls of accept.", "error_type"),
    Family("accept_backoffs", "accept_backoffs", "Times without descriptors or memory."),
    Family("shed", "shed_connections", "Peers reset for want of a descriptor."),
    _gauge("backlog", "backlog_connections", "Connections that wait in the kernel."),
    _gauge("backlog_limit", "backlog_connections_limit", "How many may wait in the kernel."),
    _gauge("transport", "transport_counts", "What the transport counts by itself.", "count"),
)
"""What a listening socket counts."""

OF_SERVERS: Final = (
    _gauge("open_connections", "active_connections", "Connections that are open."),
    _gauge("open_most", "active_connections_most", "The most that were open at once."),
    _gauge("lingering", "lingering_connections", "Closed ones whose peers have not finished."),
    Family("served", "ended_connections", "Connections that were open, and have ended."),
    Family("ended_idle", "idle_connections_ended", "Those that were idle for too long."),
    Family("expired", "expired_connections", "Those that were open for too long."),
    Family("handler_failures", "handler_failures", "Those whose handler crashed."),
    Family("peers_left", "peers_left", "Those whose peer went away in the middle."),
    Family("handshake_failures", "tls_handshake_failures", "Failed TLS handshakes.", "reason"),
)
"""What a server counts beside that; its callback failures are those of its listening socket."""
