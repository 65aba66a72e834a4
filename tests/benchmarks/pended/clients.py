"""The clients of this mode: they connect, wait, and on a word half of them leave with a reset."""

from __future__ import annotations

import random
import socket
import struct
import sys

from ._common import HOST, take_descriptors

RESET_ON_CLOSE = struct.pack("ii", 1, 0)

CONNECT_SECONDS = 30
"""For one client; the server's backlog is drained all the while."""


def main() -> None:
    """Connect, say so, wait for the word, leave, and stay until killed."""
    take_descriptors()
    port, number = int(sys.argv[1]), int(sys.argv[2])
    clients = [socket.create_connection((HOST, port), CONNECT_SECONDS) for _ in range(number)]
    print("connected", flush=True)
    sys.stdin.readline()
    random.shuffle(clients)
    for client in clients[: number // 2]:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.close()
    print("left", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
