"""Network namespaces: each test in a network of its own, or in two with a cable between them.

Where the process may, a namespace is entered by the thread that the test runs in and left
afterwards. Sockets stay in the namespace that they were made in, and threads and processes that
are started meanwhile are in it too; threads that were there before are not.

An ordinary user gets a namespace only together with a user namespace, which a process can't
leave again and may only enter while it has one thread; so the test's body runs in a process of
its own. That process is also how root finds out what an ordinary user can do.

Where neither can be had the test is skipped, and says why.
"""

from __future__ import annotations

import base64
import codecs
import ctypes
import fcntl
import functools
import importlib
import inspect
import os
import pickle
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec

import pytest
import trio

from trio_wsk.transports.linux._messages import CREATE, EXCLUSIVE, attribute, nested, text
from trio_wsk.transports.linux._netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

P = ParamSpec("P")

_NEW_NETWORK: Final = 0x40000000
_NEW_USER: Final = 0x10000000
_SET_DUMPABLE: Final = 4
_SET_FLAGS: Final = 0x8914
_UP_AND_RUNNING: Final = 0x41
_NOBODY: Final = 65534

_PATIENCE: Final = 240
"""Seconds that a test's process is given."""
_SKIPPED: Final = 77
_FUNCTION: Final = "TRIO_WSK_TEST_IN_NAMESPACE"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


# ------------------------------------------------------------------------------ namespaces


class Namespace:
    """A network namespace that exists as long as this is open."""

    def __init__(self) -> None:
        """Take the one that this thread is in."""
        self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def enter(self) -> None:
        """Go there, with this thread."""
        _check(_libc.setns(self._fd, _NEW_NETWORK))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Go there, and come back."""
        with _kept() as home:
            self.enter()
            try:
                yield
            finally:
                home.enter()

    def socket(self, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Make a socket that lives there."""
        with self.entered():
            return socket.socket(family, kind)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


@contextmanager
def _kept() -> Iterator[Namespace]:
    namespace = Namespace()
    try:
        yield namespace
    finally:
        namespace.close()


@contextmanager
def new_namespace() -> Iterator[Namespace]:
    """Make a namespace with loopback up, and stay where we are.

    Raises:
      PermissionError: this process may not.
    """
    with _kept() as home:
        _check(_libc.unshare(_NEW_NETWORK))
        try:
            _set_up("lo")
            new = Namespace()
        finally:
            home.enter()
    try:
        yield new
    finally:
        new.close()


@contextmanager
def own_namespace() -> Iterator[Namespace]:
    """Make a namespace with loopback up, and be in it.

    Raises:
      PermissionError: this process may not.
    """
    with new_namespace() as namespace, namespace.entered():
        yield namespace


def _set_up(interface: str) -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", interface.encode(), _UP_AND_RUNNING)
        fcntl.ioctl(any_socket, _SET_FLAGS, request)


def set_sysctl(name: str, value: object) -> None:
    """Set what ``sysctl`` would, in the namespace that this thread is in."""
    Path("/proc/sys", *name.split(".")).write_text(f"{value}\n", encoding="ascii")


# ---------------------------------------------------------------------------- the cable

_NEW_LINK: Final = 16
_NEW_ADDRESS: Final = 20
_ROUTE: Final = 0
_LINK_NAME: Final = 3
_LINK_INFO: Final = 18
_LINK_NAMESPACE: Final = 28
_NO_DETECTION: Final = 0x02
"""IFA_F_NODAD: the address can be used at once, since nobody else is on the cable."""
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")

HERE: Final = ("192.0.2.1", "2001:db8::1", "fe80::1")
"""The addresses of this end of the cable."""
THERE: Final = ("192.0.2.2", "2001:db8::2", "fe80::2")
"""The addresses of the other end."""


@contextmanager
def cabled_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Make two namespaces with a cable between them (veth), and be in the first.

    Raises:
      PermissionError: this process may not.
    """
    with new_namespace() as there, own_namespace() as here:
        with closing(_Routes()) as routes:
            routes.make_cable("veth0", there)
        for namespace, addresses in ((here, HERE), (there, THERE)):
            with namespace.entered(), closing(_Routes()) as routes:
                # The kernel would make link-local addresses of its own, and detect duplicates.
                set_sysctl("net.ipv6.conf.veth0.addr_gen_mode", 1)
                for address in addresses:
                    routes.add_address("veth0", address)
                _set_up("veth0")
        yield here, there


class _Routes:
    """What is needed of rtnetlink(7)."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_ROUTE)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def make_cable(self, name: str, there: Namespace) -> None:
        """Make a pair of interfaces, one here and one there, both of this name."""
        end = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        where = attribute(_LINK_NAMESPACE, there.fileno().to_bytes(4, sys.byteorder))
        peer = attribute(1, end + text(_LINK_NAME, name) + where)
        self._socket.request(
            _NEW_LINK,
            end + text(_LINK_NAME, name) + nested(_LINK_INFO, text(1, "veth"), nested(2, peer)),
            flags=CREATE | EXCLUSIVE,
            step="make a cable",
        )

    def add_address(self, interface: str, address: str) -> None:
        """Give an interface an address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        octets = socket.inet_pton(family, address)
        bits = 64 if family == socket.AF_INET6 else 24
        index = socket.if_nametoindex(interface)
        self._socket.request(
            _NEW_ADDRESS,
            _ADDRESS.pack(family, bits, _NO_DETECTION, 0, index)
            + attribute(1, octets)
            + attribute(2, octets),
            flags=CREATE | EXCLUSIVE,
            step=f"add the address {address}",
        )


# -------------------------------------------------------------------------------- tests


def in_own_namespace(test: Callable[P, object]) -> Callable[P, None]:
    """Run a test, plain or async, in a network namespace that it has for itself.

    If this process may not make one, the test runs in another process, which it reaches by
    its name; its arguments must be such as can be pickled.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with ExitStack() as stack:
            try:
                stack.enter_context(own_namespace())
            except PermissionError:
                pass
            else:
                _run(test, *args, **kwargs)
                return
        _run_elsewhere(test, args, kwargs)

    return _without_trio(run)


def as_ordinary_user(test: Callable[P, object]) -> Callable[P, None]:
    """Run a test, plain or async, as a user without rights, in namespaces of that user's own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _run_elsewhere(test, args, kwargs)

    return _without_trio(run)


def _without_trio(run: Callable[P, None]) -> Callable[P, None]:
    # The wrapper is plain, whatever it wraps: pytest-trio must not take it for async.
    run.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]  # functools does not tell
    return pytest.mark.kernel(run)


def _run(test: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    if inspect.iscoroutinefunction(test):

        async def _whole() -> None:
            awaitable: Awaitable[object] = test(*args, **kwargs)
            await awaitable

        trio.run(_whole)
    else:
        test(*args, **kwargs)


def _run_elsewhere(
    test: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    what = (test.__module__, test.__qualname__, args, kwargs)
    environment = dict(os.environ)
    environment[_FUNCTION] = base64.b64encode(pickle.dumps(what)).decode("ascii")
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", "-c", f"import {__name__} as it; it._main()"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
        encoding="utf-8",
    )
    if done.returncode == _SKIPPED:
        pytest.skip(done.stdout.strip())
    if done.returncode:
        pytest.fail(f"in a process of its own: {done.returncode}\n{done.stdout}{done.stderr}")


def _main() -> None:
    """Be the process of `_run_elsewhere`."""
    # The variable's author is our own parent.
    module, name, args, kwargs = pickle.loads(base64.b64decode(os.environ[_FUNCTION]))  # noqa: S301
    # What is imported late could be where root only may read.
    for encoding in ("ascii", "idna"):
        codecs.lookup(encoding)
    test: Any = importlib.import_module(module)
    for part in name.split("."):
        test = getattr(test, part)
    try:
        _become_ordinary_user()
        _enter_namespaces()
    except OSError as error:
        print(f"no user namespace with a network can be had here: {error}")  # noqa: T201
        sys.exit(_SKIPPED)
    try:
        _run(test.__wrapped__, *args, **kwargs)
    except pytest.skip.Exception as skipped:
        print(skipped)  # noqa: T201
        sys.exit(_SKIPPED)


def _become_ordinary_user() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        # Else /proc/self would be root's, who alone could then write the maps below.
        _check(_libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0))


def _enter_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEW_USER | _NEW_NETWORK))
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path("/proc/self", name).write_text(line, encoding="ascii")
    _set_up("lo")
