"""HAProxy and nginx send PROXY headers that we read, and read those that we send."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.helpers.blocking_peers import connected
from tests.helpers.proxies import listening_socket, running_haproxy, running_nginx
from trio_wsk import Address
from trio_wsk._protocols.answers import MoreNeeded
from trio_wsk._protocols.proxy_header import ProxyHeader, parse_proxy_header
from trio_wsk._protocols.proxy_tlvs import ProxyClient, ProxySsl, ProxyTlv
from trio_wsk._protocols.proxy_words import ProxyCommand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT, SERVER = Address.tcp("192.0.2.1", 56324), Address.tcp("198.51.100.2", 443)
CLIENT6, SERVER6 = Address.tcp("2001:db8::1", 56324), Address.tcp("2001:db8::2", 443)


def address_of(listener: socket.socket) -> Address:
    """Return where it listens."""
    return Address.from_sockaddr(listener.family, listener.getsockname())


def received(listener: socket.socket) -> tuple[ProxyHeader, bytes]:
    """Accept the next connection, and read its header and the one octet behind that."""
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(listener.gettimeout())
        octets = b""
        found = parse_proxy_header(octets)
        while isinstance(found, MoreNeeded):
            octets += exactly(peer, found.at_least - len(octets))
            found = parse_proxy_header(octets)
        assert octets == bytes(found)
        return found, b"" if found.command is ProxyCommand.LOCAL else exactly(peer, 1)


def exactly(peer: socket.socket, count: int) -> bytes:
    """Receive so many octets, and no more."""
    octets = b""
    while len(octets) < count:
        more = peer.recv(count - len(octets))
        assert more
        octets += more
    return octets


@contextmanager
def haproxy_before_us(
    folder: Path, options: str, *, host: str = "127.0.0.1", bind: str = "", more: str = ""
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Run HAProxy as a sender; yield what it listens on, and what it sends to."""
    with ExitStack() as stack:
        front, back = stack.enter_context(listening_socket(host)), listening_socket()
        stack.enter_context(back)
        config = f"listen it\n  bind fd@{{0}} {bind}\n{more}"
        config += f"  server us {address_of(back)} {options}\n"
        stack.enter_context(running_haproxy(folder, config, front))
        yield front, back


# --- HAProxy sends ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_haproxy_names_its_client(tmp_path: Path, host: str, options: str) -> None:
    """Both versions name the client's address and the one that it has connected to."""
    with haproxy_before_us(tmp_path, options, host=host) as (front, back):
        with connected(address_of(front)) as client:
            client.sendall(b"x")
            found, behind = received(back)
            source = address_of(client)

        assert behind == b"x"
        assert found.version == (2 if "v2" in options else 1)
        assert found.transport.name == ("TCP4" if host == "127.0.0.1" else "TCP6")
        assert (found.source, found.destination) == (source, address_of(front))


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_client_of_a_socket_for_both_families_is_ipv4(tmp_path: Path, options: str) -> None:
    """However HAProxy writes an IPv4-mapped address, it is the IPv4 one here."""
    with haproxy_before_us(tmp_path, options, host="::") as (front, back):
        port = address_of(front).port
        with connected(Address.tcp("127.0.0.1", port)) as client:
            client.sendall(b"x")
            found, _ = received(back)

            assert found.source == address_of(client)
        assert found.destination == Address.tcp("127.0.0.1", port)


def test_haproxys_own_checks_are_local(tmp_path: Path) -> None:
    """A health check is the proxy's own connection, and says so."""
    options = "check check-send-proxy send-proxy-v2 inter 100ms"
    with haproxy_before_us(tmp_path, options) as (_, back):
        found, _ = received(back)

    assert (found.command, found.source) == (ProxyCommand.LOCAL, None)


def test_haproxy_says_what_it_knows_of_tls(tmp_path: Path) -> None:
    """Name, protocol, certificate, cipher, identity: all is read, and the checksum is right."""
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("example.com").private_key_and_cert_chain_pem.write_to_path(certificate)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    context = ssl.create_default_context(cafile=str(trusted))
    context.set_alpn_protocols(["h2"])
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert(common_name="Jörg").configure_cert(context)
    options = "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,"
    options += "crc32c,unique-id"
    bind = f"ssl crt {certificate} ca-file {trusted} verify required alpn h2"
    with haproxy_before_us(tmp_path, options, bind=bind, more="  unique-id-format %ci_%cp\n") as (
        front,
        back,
    ):
        plain = connected(address_of(front))
        with context.wrap_socket(plain, server_hostname="example.com") as client:
            client.sendall(b"x")
            found, behind = received(back)
            _, port, *_ = client.getsockname()
            cipher, *_ = client.cipher() or (None,)

    assert behind == b"x"
    assert 3 in {tlv.kind for tlv in found.tlvs}
    assert found.authority == "example.com"
    assert found.unique_id == f"127.0.0.1_{port}".encode()
    assert found.alpn == b"h2"
    assert found.ssl is not None
    assert found.ssl.client == ProxyClient.SSL | ProxyClient.CERT_CONN | ProxyClient.CERT_SESS
    assert found.ssl.verify == 0
    assert found.ssl.version == "TLSv1.3"
    assert found.ssl.common_name == "Jörg"
    assert found.ssl.cipher == cipher
    assert found.ssl.key_algorithm == "EC256"


# --- HAProxy and nginx receive ------------------------------------------------------------------


HEADERS = {
    "v1 TCP4": ProxyHeader.v1(CLIENT, SERVER),
    "v1 TCP6": ProxyHeader.v1(CLIENT6, SERVER6),
    "v2 TCP4": ProxyHeader.v2(CLIENT, SERVER),
    "v2 TCP6": ProxyHeader.v2(CLIENT6, SERVER6),
    "v2 with everything": ProxyHeader.v2(
        CLIENT,
        SERVER,
        alpn=b"h2",
        authority="example.com",
        unique_id=b"identity",
        ssl=ProxySsl(ProxyClient.SSL, 0, [ProxyTlv(0x21, b"TLSv1.3")]),
        tlvs=[ProxyTlv(0xE0, b"own")],
        checksum=True,
    ),
}


@contextmanager
def haproxy_behind_us(folder: Path) -> Iterator[Address]:
    """Run HAProxy as a receiver that answers with what it was told."""
    words = "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"
    config = "listen it\n  mode http\n  bind fd@{0} accept-proxy\n  http-request return status 200"
    config += f' content-type text/plain lf-string "{words}"\n'
    with listening_socket() as front, running_haproxy(folder, config, front):
        yield address_of(front)


@contextmanager
def nginx_behind_us(folder: Path) -> Iterator[Address]:
    """Run nginx as a receiver that answers with what it was told."""
    words = " ".join(
        f"$proxy_protocol_{each}" for each in ("addr", "port", "server_addr", "server_port")
    )
    places = "".join(
        f"{each}_temp_path {each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = f"http {{{{ access_log off; {places} server {{{{ listen {{0}} proxy_protocol;"
    servers += f' return 200 "{words} - -"; }}}} }}}}'
    with listening_socket() as front, running_nginx(folder, servers, front):
        yield address_of(front)


RECEIVERS = {"HAProxy": haproxy_behind_us, "nginx": nginx_behind_us}


def told(place: Address, header: ProxyHeader) -> list[str]:
    """Send a header and a request; return what the receiver answers with."""
    with connected(place) as client:
        client.sendall(bytes(header) + b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    return body.decode().split()


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_addresses_arrive(tmp_path: Path, receiver: str) -> None:
    """Every header that we make says the addresses that it was made of, to others as well."""
    with RECEIVERS[receiver](tmp_path) as place:
        for name, header in HEADERS.items():
            ends = (CLIENT6, SERVER6) if name.endswith("TCP6") else (CLIENT, SERVER)
            expected = [word for each in ends for word in (str(each.host), str(each.port))]

            assert told(place, header)[:4] == expected


def test_tlvs_arrive(tmp_path: Path) -> None:
    """What else is said arrives, and HAProxy finds the checksum right."""
    with haproxy_behind_us(tmp_path) as place:
        assert told(place, HEADERS["v2 with everything"])[4:] == ["example.com", "identity"]


def test_connection_of_our_own_arrives(tmp_path: Path) -> None:
    """With LOCAL, HAProxy takes the connection's own addresses, and answers."""
    with haproxy_behind_us(tmp_path) as place:
        assert told(place, ProxyHeader.local())[2:4] == [str(place.host), str(place.port)]


# --- nginx sends --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_nginx_names_its_client(tmp_path: Path, host: str) -> None:
    """It sends version 1, with the addresses of its client."""
    with listening_socket(host) as front, listening_socket() as back:
        servers = f"stream {{{{ server {{{{ listen {{0}}; proxy_pass {address_of(back)};"
        servers += " proxy_protocol on; }} }}"
        here = Address.tcp("127.0.0.1", address_of(front).port)
        with (
            running_nginx(tmp_path, servers, front, module="ngx_stream_module.so"),
            connected(here) as client,
        ):
            client.sendall(b"x")
            found, behind = received(back)

            assert (found.version, behind) == (1, b"x")
            assert (found.source, found.destination) == (address_of(client), here)
