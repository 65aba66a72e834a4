"""A filter of system calls, as service managers and containers put one before a process.

It can't be taken off again, so only a process, or a thread, of its own puts one on.

Source: seccomp(2), ``linux/seccomp.h``, ``linux/filter.h``; systemd.exec(5).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

NUMBERS = {
    "x86_64": {"socket": 41, "accept4": 288},
    "aarch64": {"socket": 198, "accept4": 242},
}
"""The system calls' numbers, by machine."""

_SET_NO_NEW_PRIVILEGES = 38
_SET_SECCOMP = 22
_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16


def knows_this_machine() -> bool:
    """Whether the numbers of its system calls are known here."""
    return platform.machine() in NUMBERS


def refuse(call: str, error: int, *, first_argument: int | None = None) -> None:
    """From now on have the kernel answer a system call with an error, in this thread.

    Args:
      call: Its name.
      error: The errno.
      first_argument: Only when its first argument is this.
    """
    is_argument = [] if first_argument is None else [first_argument]
    refused = 2 * len(is_argument)
    program = [
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, refused + 1, NUMBERS[platform.machine()][call]),
        *(
            instruction
            for value in is_argument
            for instruction in ((_LOAD, 0, 0, _FIRST_ARGUMENT), (_IF_EQUAL, 0, 1, value))
        ),
        (_RETURN, 0, 0, _ERRNO | error),
        (_RETURN, 0, 0, _ALLOW),
    ]
    octets = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    instructions = ctypes.create_string_buffer(octets, len(octets))
    filters = struct.pack("HP", len(program), ctypes.addressof(instructions))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, filters)):
        if libc.prctl(*arguments):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
