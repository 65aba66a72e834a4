"""HAProxy and nginx, started by a test: real senders and receivers of PROXY headers.

The sockets on which they listen are made here and given to them, so that clients may connect at
once. Debian's packages `haproxy` and `nginx` have them; where one is missing, its tests are
skipped, and fail in CI.
"""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .blocking_peers import PATIENCE
from .foreign import foreign, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["listening_socket", "running_haproxy", "running_nginx"]


def listening_socket(host: str = "127.0.0.1") -> socket.socket:
    """Listen on a free port; ``::`` is for both families."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
    listener.settimeout(PATIENCE)
    return listener


@contextmanager
def running_haproxy(folder: Path, config: str, *listeners: socket.socket) -> Iterator[None]:
    """Run HAProxy.

    Args:
      folder: Where its configuration may be written.
      config: What follows the global section. ``fd@{0}`` stands for the first listener, and so on.
      listeners: What it listens on.
    """
    descriptors = [listener.fileno() for listener in listeners]
    file = folder / "haproxy.cfg"
    general = "global\n  maxconn 100\ndefaults\n  mode tcp\n"
    general += "".join(
        f"  timeout {each} {PATIENCE}s\n" for each in ("connect", "client", "server")
    )
    file.write_text(general + config.format(*descriptors), encoding="utf-8")
    with _running([foreign("haproxy"), "-db", "-f", str(file)], descriptors):
        yield


@contextmanager
def running_nginx(
    folder: Path, servers: str, *listeners: socket.socket, module: str = ""
) -> Iterator[None]:
    """Run nginx.

    Args:
      folder: Where its configuration may be written.
      servers: What follows the events: ``http {...}``, and braces are doubled. ``{0}`` stands for
        the address of the first listener, and so on.
      listeners: What it listens on.
      module: What has to be loaded for that, such as ``ngx_stream_module.so``.
    """
    program = foreign("nginx")
    descriptors = [listener.fileno() for listener in listeners]
    addresses = [_written(listener) for listener in listeners]
    file = folder / "nginx.conf"
    general = f"load_module {_module(program, module)};\n" if module else ""
    general += "daemon off;\nworker_processes 1;\nerror_log stderr;\npid nginx.pid;\n"
    general += "events {{ worker_connections 100; }}\n"
    file.write_text((general + servers).format(*addresses), encoding="utf-8")
    # By this variable it hands sockets to its successor.
    handed = "".join(f"{descriptor};" for descriptor in descriptors)
    command = [program, "-p", str(folder), "-c", str(file), "-e", "stderr"]
    with _running(command, descriptors, NGINX=handed):
        yield


def _written(listener: socket.socket) -> str:
    """Write where it listens as nginx compares it with what it was given."""
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port} ipv6only=off" if ":" in host else f"{host}:{port}"


def _module(program: str, name: str) -> str:
    """Find a module of nginx's, which Debian has in a package of its own."""
    module = Path(program).parent.parent / "lib" / "nginx" / "modules" / name
    if not module.exists():
        missing(f"{module} is not there: apt-get install libnginx-mod-stream")
    return str(module)


@contextmanager
def _running(command: list[str], descriptors: list[int], **variables: str) -> Iterator[None]:
    process = subprocess.Popen(  # noqa: S603 - found above
        command,
        pass_fds=descriptors,
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield
        finally:
            process.terminate()
