"""Descriptors: how many there are, and how many there may be."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_more_descriptors(*, but: int = 0) -> Iterator[None]:
    """Let this process open so many more descriptors and not one further (EMFILE).

    The limit is one on numbers: what is open stays open, and all numbers below are taken.
    """
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while fillers[-1] <= highest:
            fillers.append(os.open(os.devnull, os.O_RDONLY))
        with descriptor_limit(fillers[-1] + 1 + but):
            yield
    finally:
        for filler in fillers:
            os.close(filler)


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Let this process have so many descriptors, at least; skip the test where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"a process may have no more than {hard} descriptors here (ulimit -Hn)")
    with descriptor_limit(max(soft, count)):
        yield


@contextmanager
def descriptor_limit(limit: int) -> Iterator[None]:
    """Let descriptors have numbers below this one, and then all that they could have before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - less its own


def named_descriptors() -> set[str]:
    """Return what this process has open, apart from what looking needs."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path has more to it than a number
        try:
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115
        except FileNotFoundError:
            pass  # the listing's own
    return found
