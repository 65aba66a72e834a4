"""Tests of `trio_wsk._vocabulary.addresses`."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.helpers.strategies import (
    abstract_names,
    addresses,
    ipv4_hosts,
    ipv6_hosts,
    mapped,
    ports,
    scope_ids,
    tcp_addresses,
    unix_addresses,
    unix_paths,
)
from trio_wsk._vocabulary.addresses import Address

if TYPE_CHECKING:
    from collections.abc import Callable

needs_abstract_names = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has abstract names"
)

# ------------------------------------------------------------------- printing and parsing


@given(address=addresses())
def test_printing_parses_back(address: Address) -> None:
    """Whatever an address prints is read as that address again."""
    assert address == Address.parse(str(address))


@given(address=addresses())
def test_printing_fits_on_a_line(address: Address) -> None:
    """No name, however odd, can break out of a log line."""
    assert str(address).isprintable()


@given(address=addresses())
def test_repr_evaluates_to_the_address(address: Address) -> None:
    """What `repr` shows can be pasted into a program."""
    assert address == eval(repr(address), {"Address": Address})  # noqa: S307 -- the claim


@given(address=addresses(), other=addresses())
def test_addresses_are_equal_when_they_print_alike(address: Address, other: Address) -> None:
    """Equality, hash and text agree, so sets and logs count the same addresses."""
    assert (address == other) is (str(address) == str(other))
    assert hash(address) == hash(Address.parse(str(address)))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (Address.tcp("127.0.0.1", 80), "127.0.0.1:80"),
        (Address.tcp("::1", 80), "[::1]:80"),
        (Address.tcp("FE80:0::1", 80, scope_id=3), "[fe80::1%3]:80"),
        (Address.tcp("::ffff:192.0.2.1", 0), "192.0.2.1:0"),
        (Address.unix("/run/x.sock"), "unix:/run/x.sock"),
        (Address.unix("\0name"), "unix:@name"),
        (Address.unix(b"\0"), "unix:@"),
        (Address.unix(""), "unix:"),
        (Address.unix("relative/ü.sock"), "unix:relative/ü.sock"),
        (Address.unix("@literal"), r"unix:\x40literal"),
        (Address.unix("\0@name"), "unix:@@name"),
        (Address.unix("two\nlines"), r"unix:two\x0alines"),
        (Address.unix("back\\slash"), r"unix:back\\slash"),
        (Address.unix(b"/no text\xff"), r"unix:/no text\xff"),
        (Address.unix("\0nul\0inside"), r"unix:@nul\x00inside"),
        (Address.unix("right to left \u202e"), r"unix:right to left \xe2\x80\xae"),
    ],
)
def test_address_prints_as_people_write_it(address: Address, expected: str) -> None:
    """Ordinary addresses print plainly; what would not print is shown octet by octet."""
    assert expected == str(address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[FE80:0:0::0001%3]:080", Address.tcp("fe80::1", 80, scope_id=3)),
        ("[::1%0]:80", Address.tcp("::1", 80)),
        ("[::ffff:192.0.2.1]:80", Address.tcp("192.0.2.1", 80)),
        ("[::ffff:c000:201%3]:80", Address.tcp("192.0.2.1", 80)),
        (r"unix:/\x72un", Address.unix("/run")),
        (r"unix:\xC3\xBC", Address.unix("ü")),
        (r"unix:\x00name", Address.unix("\0name")),
        ("unix:a:b", Address.unix("a:b")),
    ],
)
def test_other_spellings_are_read_too(text: str, expected: Address) -> None:
    """What a person writes differently from us, and means the same, is the same."""
    assert expected == Address.parse(text)


@pytest.mark.skipif(not hasattr(socket, "if_nameindex"), reason="interfaces have no names here")
def test_scope_may_be_the_name_of_an_interface() -> None:
    """A link-local address can be written with an interface of this machine."""
    index, name = socket.if_nameindex()[0]

    assert Address.tcp("fe80::1", 80, scope_id=index) == Address.parse(f"[fe80::1%{name}]:80")
    assert Address.tcp("fe80::1", 80, scope_id=index) == Address.tcp(f"fe80::1%{name}", 80)


def test_unknown_interface_is_named_beside_those_that_exist() -> None:
    """A scope that is no interface here is refused, and the message lists what is."""
    _, name = socket.if_nameindex()[0]

    with pytest.raises(ValueError, match=rf"no interface 'nonesuch0', only .*\b{name}\b"):
        Address.parse("[fe80::1%nonesuch0]:80")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("127.0.0.1", "'127.0.0.1:80'"),
        ("::1", "'[::1]:80'"),
        ("[::1]", "'[::1]:80'"),
        ("::1:8080", "'[::1]:8080'"),
        ("2001:db8::1", "'[2001:db8::1]:80'"),
        ("[127.0.0.1]:80", "'127.0.0.1:80'"),
        ("/run/x.sock", "'unix:/run/x.sock'"),
        ("@name", "'unix:@name'"),
        ("localhost:80", "'127.0.0.1:80', .*'unix:@name'"),
        ("127.0.0.1:70000", "'127.0.0.1:80'"),
        ("127.0.0.1:-1", "'127.0.0.1:80'"),
        ("127.0.0.1:\uff18\uff10", "'127.0.0.1:80'"),
        ("127.0.0.01:80", "'127.0.0.1:80'"),
        ("127.0.0.1:80\n", "'127.0.0.1:80'"),
        ("[::1%]:80", r"'\[::1\]:80'"),
        ("[fe80::1%\uff13]:80", r"'\[fe80::1%3\]:80'"),
        ("[fe80::1%4294967296]:80", r"'\[fe80::1%3\]:80'"),
        ("127.0.0.1%3:80", "'127.0.0.1:80'"),
        (":80", "'127.0.0.1:80'"),
        ("", "'127.0.0.1:80'"),
        ("UNIX:/run", "'unix:/run/x.sock'"),
        (r"unix:\n", "'unix:/run/x.sock'"),
        ("unix:\\", "'unix:/run/x.sock'"),
        ("unix:a\0b", "'unix:/run/x.sock'"),
        ("unix:\ud800", "'unix:/run/x.sock'"),
    ],
)
def test_what_is_no_address_is_shown_beside_a_right_one(text: str, right: str) -> None:
    """The message repeats the text and shows what was meant, or else what addresses look like."""
    right = right if "*" in right or "\\" in right else right.replace("[", r"\[")

    with pytest.raises(ValueError, match=rf"(?s)is no address: .*; write .*{right}") as caught:
        Address.parse(text)
    assert str(caught.value).startswith(repr(text))


@given(text=st.text() | st.text().map("unix:{}".format) | st.text().map("[fe80::1%{}]:80".format))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    """Parsing fails in no other way, and what it accepts prints as something it accepts."""
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert address == Address.parse(str(address))


# --------------------------------------------------------------------- making and reading


@given(host=ipv4_hosts(), port=ports())
def test_ipv4_address_gives_back_what_it_was_made_of(host: IPv4Address, port: int) -> None:
    """Text and `ipaddress` objects make the same address, which has both parts."""
    address = Address.tcp(host, port)

    assert Address.tcp(str(host), port) == address
    assert (host, port, 0, None) == (address.host, address.port, address.scope_id, address.path)
    assert (socket.AF_INET, (str(host), port)) == (address.family, address.sockaddr)
    assert not address.is_unix


@given(host=ipv6_hosts(), port=ports(), scope_id=scope_ids())
def test_ipv6_address_gives_back_what_it_was_made_of(
    host: IPv6Address, port: int, scope_id: int
) -> None:
    """However the host is spelled, the address has the three parts, and no scope in its host."""
    assume(not host.ipv4_mapped)
    address = Address.tcp(host.exploded.upper(), port, scope_id)

    assert Address.tcp(host, port, scope_id) == address
    assert Address.tcp(f"{host}%{scope_id}", port) == address
    assert (host, port, scope_id) == (address.host, address.port, address.scope_id)
    assert socket.AF_INET6 == address.family
    assert address.path is None
    assert not address.is_unix


@given(name=st.one_of(st.just(b""), unix_paths(), abstract_names()))
def test_unix_address_gives_back_what_it_was_made_of(name: bytes) -> None:
    """A name of octets and the text it decodes to make the same address."""
    address = Address.unix(name)

    assert Address.unix(os.fsdecode(name)) == address
    assert os.fsdecode(name) == address.path
    assert (None, 0, 0) == (address.host, address.port, address.scope_id)
    assert socket.AF_UNIX == address.family
    assert address.is_unix


def test_unix_address_can_be_made_of_a_path_object() -> None:
    """`pathlib` and `os.PathLike` are as good as text."""
    assert Address.unix("/run/x.sock") == Address.unix(Path("/run/x.sock"))


def test_one_name_in_two_texts_is_one_address() -> None:
    """Text that encodes to the same octets names the same socket."""
    assert Address.unix("ü") == Address.unix("\udcc3\udcbc")


@given(address=tcp_addresses())
def test_kernels_form_makes_the_same_address(address: Address) -> None:
    """An address survives the form that sockets take and give."""
    assert address == Address.from_sockaddr(address.family, address.sockaddr)


@given(address=unix_addresses())
def test_kernels_form_makes_the_same_unix_address(address: Address) -> None:
    """So does a Unix address, as text and as octets."""
    assert isinstance(address.sockaddr, (str, bytes))
    octets = os.fsencode(address.sockaddr)

    assert address == Address.from_sockaddr(address.family, address.sockaddr)
    assert address == Address.from_sockaddr(address.family, octets)


@pytest.mark.parametrize("sockaddr", [("::1", 80, 7, 0), ("::1", 80)])
def test_flow_label_is_no_part_of_the_place(sockaddr: tuple[str, int, int, int]) -> None:
    """Two flows to one socket have one address, and the kernel's form is kept as it was."""
    address = Address.from_sockaddr(socket.AF_INET6, sockaddr)

    assert Address.tcp("::1", 80) == address
    assert sockaddr == address.sockaddr


def test_scope_in_the_kernels_text_is_read() -> None:
    """A host that was given with its scope means the same as the four-part form."""
    expected = Address.tcp("fe80::1", 80, scope_id=3)

    assert expected == Address.from_sockaddr(socket.AF_INET6, ("fe80::1%3", 80))
    assert expected == Address.from_sockaddr(socket.AF_INET6, ("fe80::1%other", 80, 0, 3))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_address_of_a_tcp_socket_can_be_connected_to(host: str) -> None:
    """What a listening socket is bound to, printed and parsed, is where it is reached."""
    wanted = Address.tcp(host, 0)
    with socket.socket(wanted.family) as listening, socket.socket(wanted.family) as client:
        listening.bind(wanted.sockaddr)
        listening.listen()
        address = Address.from_sockaddr(listening.family, listening.getsockname())
        client.connect(Address.parse(str(address)).sockaddr)
        accepted, peer = listening.accept()
        accepted.close()

        assert host == str(address.host)
        assert address.port > 0
        assert Address.from_sockaddr(client.family, client.getsockname()) == Address.from_sockaddr(
            listening.family, peer
        )


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with space",
        "@at",
        "ü",
        b"\xff\n",
        pytest.param("\0plain", marks=needs_abstract_names),
        pytest.param(b"\0\xff\0\n", marks=needs_abstract_names),
        pytest.param(b"\0", marks=needs_abstract_names),
    ],
    ids=repr,
)
def test_address_of_a_unix_socket_can_be_connected_to(
    name: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for Unix sockets of every kind of name; clients have none."""
    monkeypatch.chdir(tmp_path)
    wanted = Address.unix(name)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(wanted.sockaddr)
        listening.listen()
        address = Address.from_sockaddr(listening.family, listening.getsockname())
        client.connect(Address.parse(str(address)).sockaddr)
        accepted, peer = listening.accept()
        accepted.close()

        assert wanted == address
        assert Address.unix("") == Address.from_sockaddr(listening.family, peer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Address.tcp("localhost", 80), "'localhost' is no IP address .*not looked up"),
        (lambda: Address.tcp("", 80), "'' is no IP address"),
        (lambda: Address.tcp("127.0.0.1", 65536), "port 65536 is not between 0 and 65535"),
        (lambda: Address.tcp("127.0.0.1", -1), "port -1 is not"),
        (lambda: Address.tcp("127.0.0.1", 80, 3), "IPv4 address has no scope"),
        (lambda: Address.tcp("fe80::1", 80, 2**32), "scope_id 4294967296 is not"),
        (lambda: Address.tcp("fe80::1%3", 80, 4), "scope_id=4 is another"),
        (lambda: Address.unix("a\0b"), "cut the path 'a.*b' off at its NUL"),
        (lambda: Address.from_sockaddr(socket.AF_INET, "/run"), "neither TCP's nor a Unix"),
        (lambda: Address.from_sockaddr(socket.AF_UNIX, ("::1", 80)), "neither TCP's nor a Unix"),
        (lambda: Address.from_sockaddr(-1, ("::1", 80)), "neither TCP's nor a Unix"),
    ],
)
def test_wrong_value_is_named(make: Callable[[], Address], message: str) -> None:
    """A value that no address can have is a `ValueError` that shows it."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Address.tcp("127.0.0.1", "80"),  # type: ignore[arg-type]  # the mistake
        lambda: Address.tcp(2130706433, 80),  # type: ignore[arg-type]  # the mistake
        lambda: Address.tcp(b"\x7f\0\0\1", 80),  # type: ignore[arg-type]  # the mistake
        lambda: Address("127.0.0.1", 80),
    ],
)
def test_wrong_type_is_no_address(make: Callable[[], Address]) -> None:
    """Numbers as hosts and text as ports are mistakes, not spellings."""
    with pytest.raises(TypeError):
        make()


def test_name_of_a_host_is_no_address_of_the_kernel() -> None:
    """A host name where the kernel would have put an IP address is noticed at once."""
    with pytest.raises(OSError, match="illegal IP address"):
        Address.from_sockaddr(socket.AF_INET, ("localhost", 80))


def test_odd_integers_print_as_numbers() -> None:
    """A port is a plain integer, whichever kind of integer it came as."""
    address = Address.tcp("127.0.0.1", True)  # noqa: FBT003 -- the claim

    assert "127.0.0.1:1" == str(address)
    assert "1" == repr(address.port)


@pytest.mark.parametrize("spelled", ["address", "text", "printed", "kernel's", "with scope"])
@given(host=ipv4_hosts(), port=ports())
def test_mapped_address_is_the_ipv4_address(host: IPv4Address, port: int, spelled: str) -> None:
    """
    However an IPv4-mapped address is made, it is the IPv4 address that it stands for: equal,
    printed alike, of that family, and in the form that sockets of that family take.
    """
    wrapped = mapped(host)
    make: dict[str, Callable[[], Address]] = {
        "address": lambda: Address.tcp(wrapped, port),
        "text": lambda: Address.tcp(str(wrapped), port),
        "printed": lambda: Address.parse(f"[{wrapped}]:{port}"),
        "kernel's": lambda: Address.from_sockaddr(socket.AF_INET6, (str(wrapped), port, 7, 3)),
        "with scope": lambda: Address.tcp(wrapped, port, scope_id=3),
    }
    plain, address = Address.tcp(host, port), make[spelled]()

    assert plain == address
    assert hash(plain) == hash(address)
    assert (str(plain), repr(plain)) == (str(address), repr(address))
    assert (socket.AF_INET, host, 0) == (address.family, address.host, address.scope_id)
    assert plain.sockaddr == address.sockaddr


def test_address_is_frozen() -> None:
    """No public attribute of an address can be set, deleted or added."""
    address = Address.tcp("127.0.0.1", 80)

    for name in ["family", "host", "port", "scope_id", "path", "sockaddr", "other"]:
        with pytest.raises(AttributeError):
            setattr(address, name, 1)
        with pytest.raises(AttributeError):
            delattr(address, name)


def test_address_is_final() -> None:
    """Equality holds between addresses of one class, so there are no subclasses."""
    with pytest.raises(TypeError, match="is final"):
        type("Sub", (Address,), {})


def test_address_equals_nothing_else() -> None:
    """An address is not its text, nor its parts."""
    address = Address.tcp("127.0.0.1", 80)

    assert address != "127.0.0.1:80"
    assert address != ("127.0.0.1", 80)


@given(address=addresses())
def test_address_survives_pickling_and_copying(address: Address) -> None:
    """An equal address arrives in another process, and in a deep copy of whatever held it."""
    assert address == pickle.loads(pickle.dumps(address))  # noqa: S301 -- our own
    assert address == copy.deepcopy(address)


def test_host_is_made_once() -> None:
    """Asking twice costs one `ipaddress` object."""
    address = Address.tcp("127.0.0.1", 80)

    assert address.host is address.host
