"""A client that connects and at once resets the connection, as crashed ones do."""

from __future__ import annotations

import socket
import struct

with socket.create_connection(("localhost", 7007)) as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
