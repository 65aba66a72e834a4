"""The gallery's programs are started, asked by clients that know nothing of us, and told to end."""

from __future__ import annotations

import re
import smtplib
import subprocess
import sys
from contextlib import closing, contextmanager
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.helpers.examples import serving
from tests.helpers.foreign import foreign
from tests.helpers.places import DOCS, EXAMPLES
from tests.helpers.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.programs import Program

GALLERY = ["key_value", "smtp_greeter", "proxy", "http_server"]

CURL_TIMED_OUT = 28

MESSAGE = "From: a@example.org\r\nSubject: hello\r\n\r\n.a dot, and a line\r\n"


def end(program: Program, at_least: int = 0) -> None:
    """
    Have a program end as an operator does, and see that it has cut nobody off. Of those who have
    just left it may not have heard yet, so they may be among those who finish.
    """
    program.process.send_signal(SIGTERM)
    status, _, errors = program.finish()
    drained = re.fullmatch(r"drained: (\d+) finished, 0 reset", errors.splitlines()[-1])

    assert 0 == status
    assert drained is not None, errors
    assert at_least <= int(drained[1])


@pytest.mark.parametrize("name", GALLERY)
def test_page_shows_the_program_as_it_is(name: str) -> None:
    """Each has its page, which includes the file and doesn't repeat it."""
    page = (DOCS / "gallery" / f"{name.replace('_', '-')}.md").read_text(encoding="utf-8")

    assert f"{{literalinclude}} ../../examples/{name}.py\n" in page
    assert f"python examples/{name}.py" in page
    assert (EXAMPLES / f"{name}.py").exists()


@pytest.mark.parametrize("name", ["key_value", "proxy"])
def test_program_says_what_it_needs(name: str) -> None:
    """Without its arguments it says what it does, and how to run it."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(EXAMPLES / f"{name}.py")], check=False, capture_output=True, text=True
    )

    assert 1 == done.returncode
    assert f"Run ``python examples/{name}.py " in done.stderr
    assert "Traceback" not in done.stderr


# --- Key-value store ---------------------------------------------------------------------


@contextmanager
def s_client(port: int, authority: Path) -> Iterator[subprocess.Popen[str]]:
    """Talk to a port over TLS, and verify who is there."""
    with subprocess.Popen(  # noqa: S603 - as a user would
        [
            *(foreign("openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{port}"),
            *("-CAfile", str(authority), "-verify_return_error", "-verify_hostname", "localhost"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_openssl_talks_to_the_key_value_store(tmp_path: Path) -> None:
    """
    ``openssl s_client`` sets a value, gets it, and is told over TLS that the server ends: not by
    an end that anybody between the two could have made.
    """
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for part in issued.cert_chain_pems:
        part.write_to_path(tmp_path / "certificate.pem", append=True)
    files = (tmp_path / "certificate.pem", tmp_path / "key.pem")
    with (
        serving("key_value", *files, 0) as (program, port),
        s_client(port, tmp_path / "authority.pem") as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("SET a 5\nhello\nGET a\nGET b\n")
        client.stdin.flush()

        assert ["STORED", "VALUE 5", "hello", "MISSING"] == [
            client.stdout.readline().strip() for _ in range(4)
        ]

        end(program, at_least=1)

        assert ("", 0) == (client.stdout.read(), client.wait(PATIENCE))


# --- SMTP --------------------------------------------------------------------------------


def test_smtplib_sends_mail_through_the_greeter() -> None:
    """Python's ``smtplib`` waits to be greeted, is let in, and delivers; who is denied is told."""
    with serving("smtp_greeter", 0, "127.0.0.2") as (program, port):
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtplib.SMTP("127.0.0.1", port, source_address=("127.0.0.2", 0), timeout=PATIENCE)

        assert (554, b"5.7.1 you are not welcome") == refused.value.args

        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            assert {} == client.sendmail("a@example.org", ["b@example.org"], MESSAGE)
            assert program.next_line().startswith(f"{len(MESSAGE)} octets from b'a@example.org'")

        with closing(smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)) as client:
            end(program, at_least=1)

            assert (421, b"4.3.2 come back later") == client.getreply()


# --- Proxy and HTTP ----------------------------------------------------------------------


def curl(*arguments: str) -> str:
    """Have curl ask, and return what it is answered."""
    options = ("--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", str(PATIENCE))
    return subprocess.run(  # noqa: S603 - as a user would
        [foreign("curl"), *options, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A file that is as large as the HTTP server takes it."""
    path = tmp_path / "upload"
    path.write_text("0123456789abcdef" * (1 << 16), encoding="ascii")
    return path


@pytest.mark.parametrize("through", ["", "the proxy"])
def test_curl_asks_the_http_server(through: str, upload: Path) -> None:
    """
    ``curl`` asks twice on one connection, and has a large upload sent back that it announces
    first; through the proxy, too.
    """
    with serving("http_server", 0) as (server, port):
        if not through:
            ask(port, upload)
        else:
            with serving("proxy", "127.0.0.1", port, 0) as (proxy, proxys_port):
                ask(proxys_port, upload)
                end(proxy)
        end(server)


def ask(port: int, upload: Path) -> None:
    """Ask for what the server has, and for a large answer."""
    url = f"http://127.0.0.1:{port}"
    count = "%{num_connects}\n"

    assert "Hello from trio_wsk.\n1\nHello from trio_wsk.\n0\n" == curl(
        "--write-out", count, f"{url}/", f"{url}/"
    )

    expect = ("--header", "Expect: 100-continue")
    echoed = curl(*expect, "--data-binary", f"@{upload}", f"{url}/echo")

    assert upload.read_text(encoding="ascii") == echoed


@pytest.mark.parametrize("pipelined", [1, 16])
def test_h2load_loads_the_http_server(pipelined: int) -> None:
    """``h2load`` has thousands of requests answered, one at a time and many at once."""
    program = foreign("h2load")
    with serving("http_server", 0) as (server, port):
        requests = (*("-n", "4000"), *("-c", "20"), *("-m", str(pipelined)))
        done = subprocess.run(  # noqa: S603 - as a user would
            [program, "--h1", *requests, f"http://127.0.0.1:{port}/"],
            check=True,
            capture_output=True,
            text=True,
        )

        assert "4000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout

        server.process.send_signal(SIGINT)

        assert 0 == server.finish()[0]


def test_proxy_says_that_there_is_no_backend() -> None:
    """A client whose backend is not there is not left waiting."""
    with serving("http_server", 0) as (server, port):
        server.process.send_signal(SIGTERM)
        server.finish()
    with serving("proxy", "127.0.0.1", port, 0) as (proxy, proxys_port):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            curl(f"http://127.0.0.1:{proxys_port}/")

        assert CURL_TIMED_OUT != failed.value.returncode
        assert proxy.next_line().endswith("CONNECTION_REFUSED")

        end(proxy)
