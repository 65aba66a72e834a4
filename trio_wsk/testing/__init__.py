"""A network in memory for tests of servers, with hosts, clients and faults; and `check_transport`.

::

    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with trio_wsk.open_server(handler, transport=transport):
        client = await network.host("192.0.2.2").connect(("192.0.2.1", 80))
        await client.send_all(b"hello")
"""

from __future__ import annotations

from ._conformance import TRANSPORT_CHECKS, TransportCheck, TransportHarness, check_transport
from ._memory_transport import MemoryTransport
from ._network import MemoryHost, MemoryNetwork
from ._segments import Segment, SegmentKind, TcpState
from ._stream import MemoryStream

__all__ = [
    "TRANSPORT_CHECKS",
    "MemoryHost",
    "MemoryNetwork",
    "MemoryStream",
    "MemoryTransport",
    "Segment",
    "SegmentKind",
    "TcpState",
    "TransportCheck",
    "TransportHarness",
    "check_transport",
]

# So that tracebacks and documentation name the place to import them from.
for _name in sorted({*__all__} - {"TRANSPORT_CHECKS"}):
    globals()[_name].__module__ = __name__
del _name
