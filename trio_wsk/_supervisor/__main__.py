"""A worker's process: the supervisor starts it with the number of a descriptor."""

from __future__ import annotations

import sys

from .worker import work

if __name__ == "__main__":
    work(int(sys.argv[1]))
