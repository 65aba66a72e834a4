"""What is read from the SYN of a connection request, and what is refused to be one."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.helpers import strategies
from tests.helpers.support import PATIENCE
from tests.helpers.syns import (
    DESTINATION,
    END,
    ESP,
    FRAGMENT,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MAPPED,
    NOP,
    OF_LINUX,
    ROUTING,
    SYN,
    UDP,
    Packet,
    extension,
    octets_of,
    written,
)
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports import _syn
from trio_wsk.transports._syn import (
    NotASynError,
    Syn,
    TcpOption,
    Timestamps,
    parse,
    reset_of,
)
from trio_wsk.transports.linux._syn_table import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@st.composite
def option_lists(draw: st.DrawFn) -> tuple[TcpOption, ...]:
    """Options of all kinds, as many as a header has room for, the end of the list marked or not."""
    options: list[TcpOption] = []
    room = 40
    for kind in draw(st.lists(st.sampled_from([1, 2, 3, 4, 8, 34, 254]) | st.integers(1, 255))):
        if kind == 1:
            option = NOP
        else:
            size = draw(st.sampled_from([0, 1, 2, 4, 8, 10, 16]) | st.integers(0, 38))
            option = TcpOption(kind, draw(st.binary(min_size=size, max_size=size)))
        if len(written(option)) <= room:
            options.append(option)
            room -= len(written(option))
    if room % 4 or (room and draw(st.booleans())):
        options.append(END)
    return tuple(options)


def ipv4_ends() -> st.SearchStrategy[Address]:
    """Addresses of an IPv4 header and the ports of TCP."""
    return st.builds(Address.tcp, strategies.ipv4_hosts(), strategies.ports())


def ipv6_ends() -> st.SearchStrategy[Address]:
    """Addresses that may stand in an IPv6 header, and the ports of TCP."""
    hosts = strategies.ipv6_hosts().filter(lambda host: host.ipv4_mapped is None)
    return st.builds(Address.tcp, hosts, strategies.ports())


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """SYNs of both families with everything that may be in one."""
    is_ipv4 = draw(st.booleans())
    ends = ipv4_ends() if is_ipv4 else ipv6_ends()
    kinds = st.lists(st.sampled_from([ROUTING, DESTINATION]), max_size=7)
    hop_by_hop = st.sampled_from([[], [HOP_BY_HOP]])
    return Packet(
        source=draw(ends),
        destination=draw(ends),
        hop_limit=draw(st.integers(0, 255)),
        dscp=draw(st.integers(0, 63)),
        ecn=draw(st.integers(0, 3)),
        flow_label=0 if is_ipv4 else draw(st.integers(0, 2**20 - 1)),
        sequence_number=draw(st.integers(0, 2**32 - 1)),
        # AE, CWR, ECE, URG and PSH
        control_bits=SYN | draw(st.integers(0, 0x1FF)) & 0x1E8,
        window=draw(st.integers(0, 65535)),
        options=draw(option_lists()),
        payload=draw(st.binary()),
        ip_options=bytes(4 * draw(st.integers(0, 10))) if is_ipv4 else b"",
        fragment=draw(st.sampled_from([0, 0x4000, 0x8000])) if is_ipv4 else 0,
        extensions=()
        if is_ipv4
        else tuple(
            extension(kind, draw(st.integers(0, 4))) for kind in draw(hop_by_hop) + draw(kinds)
        ),
    )


def test_what_linux_sends_is_read() -> None:
    """Each part of a SYN of Linux has its value under its name."""
    packet = attrs.evolve(IPV6, options=OF_LINUX, flow_label=0xABCDE, control_bits=0xC2)
    syn = parse(packet.octets)

    assert Address.parse("[2001:db8::1]:40000") == syn.source
    assert Address.parse("[2001:db8::2]:80") == syn.destination
    assert (1, 65535, 64) == (syn.sequence_number, syn.window, syn.hop_limit)
    assert (0xABCDE, 0, 0) == (syn.flow_label, syn.dscp, syn.ecn)
    assert (True, True, False) == (syn.ece, syn.cwr, syn.ae)
    assert OF_LINUX == syn.options
    assert 65495 == syn.maximum_segment_size
    assert 7 == syn.window_scale
    assert syn.sack_permitted
    assert Timestamps(0x12345678, 0) == syn.timestamps
    assert None is syn.fast_open_cookie
    assert (b"", 0) == (syn.payload, syn.payload_length)
    assert "<Syn from [2001:db8::1]:40000 to [2001:db8::2]:80, number 1>" == repr(syn)


def test_syn_without_options_says_little() -> None:
    """What a SYN doesn't say is None, or False where there is nothing else to say."""
    syn = parse(IPV4.octets)

    assert () == syn.options
    assert None is syn.maximum_segment_size is syn.window_scale is syn.timestamps
    assert None is syn.fast_open_cookie
    assert False is syn.sack_permitted
    assert 0 == syn.flow_label


@given(packets(), st.integers(0, 2**32 - 1))
def test_what_was_written_is_read(packet: Packet, scope_id: int) -> None:
    """Whatever a SYN says is read as it was written, and so are its options."""
    syn = parse(packet.octets, scope_id=scope_id)

    for name in (
        "hop_limit",
        "dscp",
        "ecn",
        "flow_label",
        "sequence_number",
        "control_bits",
        "window",
        "options",
        "payload",
    ):
        assert getattr(packet, name) == getattr(syn, name), name
    assert packet.octets == syn.packet
    assert len(packet.payload) == syn.payload_length
    for written_address, read in (
        (packet.source, syn.source),
        (packet.destination, syn.destination),
    ):
        assert (written_address.host, written_address.port) == (read.host, read.port)
        assert isinstance(read.host, (IPv4Address, IPv6Address))
        is_scoped = read.host.version == 6 and read.host.is_link_local
        assert (scope_id if is_scoped else 0) == read.scope_id


@given(packets())
def test_options_by_name_are_those_in_the_list(packet: Packet) -> None:
    """
    What an option is by its name is what the last of its kind and its length says; those of
    another length have no name.
    """
    syn = parse(packet.octets)
    last = {(option.kind, len(option.data)): option.data for option in syn.options}
    mss, scale, timestamps = last.get((2, 2)), last.get((3, 1)), last.get((8, 8))
    cookies = [b"\0"]
    for option in syn.options:
        if option.kind == 34:
            cookies.append(option.data)
        elif option.kind == 254 and option.data[:2] == b"\xf9\x89":
            cookies.append(option.data[2:])
    cookies = [cookie for cookie in cookies if len(cookie) in {0, 4, 6, 8, 10, 12, 14, 16}]

    assert (mss and int.from_bytes(mss, "big")) == syn.maximum_segment_size
    assert (scale and scale[0]) == syn.window_scale
    assert ((4, 0) in last) is syn.sack_permitted
    assert (timestamps and Timestamps(*struct.unpack(">II", timestamps))) == syn.timestamps
    assert (cookies[-1] if cookies else None) == syn.fast_open_cookie


def test_last_option_of_a_kind_counts() -> None:
    """Of options that are there twice the last one counts that has the right length."""
    twice = (TcpOption(2, b"\0\1"), TcpOption(2, b"\0\2"), TcpOption(2, b"\0"))
    syn = parse(attrs.evolve(IPV4, options=(*twice, END)).octets)

    assert 2 == syn.maximum_segment_size
    assert (*twice, END) == syn.options


@pytest.mark.parametrize("size", range(19))
@pytest.mark.parametrize("kind", [34, 254])
def test_cookie_has_an_even_length(kind: int, size: int) -> None:
    """
    A cookie has 4 to 16 octets, an even number, and who asks for one sends none; with another
    length the option is none, whether it has its number or is still the experiment it was.
    """
    magic = b"\xf9\x89" if kind == 254 else b""
    option = TcpOption(kind, magic + b"c" * size)
    syn = parse(attrs.evolve(IPV4, options=(option, END)).octets)
    is_cookie = size in {0, 4, 6, 8, 10, 12, 14, 16}

    assert (b"c" * size if is_cookie else None) == syn.fast_open_cookie


def test_other_experiments_are_no_cookies() -> None:
    """The number of experiments is shared: what begins otherwise is somebody else's."""
    option = TcpOption(254, b"\xf9\x88cook")

    assert None is parse(attrs.evolve(IPV4, options=(option,)).octets).fast_open_cookie


@given(packets(), st.binary(min_size=1))
def test_padding_is_dropped(packet: Packet, padding: bytes) -> None:
    """Octets behind the end of the packet are no part of it."""
    assert parse(packet.octets) == parse(packet.octets + padding)


@given(packets(), st.data())
def test_packet_may_be_cut_off_behind_its_header(packet: Packet, data: st.DataObject) -> None:
    """
    A packet whose payload was cut off, as those are that the kernel saves, is read up to there,
    and says how long it was; one that was cut off earlier is no SYN.
    """
    whole = packet.octets
    header = len(whole) - len(packet.payload)
    size = data.draw(st.integers(0, len(whole)))
    if size < header:
        with pytest.raises(NotASynError):
            parse(whole[:size])
    else:
        syn = parse(whole[:size])

        assert packet.payload[: size - header] == syn.payload
        assert len(packet.payload) == syn.payload_length
        assert packet.options == syn.options


WRONG: Final = {
    "nothing": (b"", "0 octets are no packet"),
    "too short": (IPV4.octets[:19], "19 octets are no packet"),
    "no IP": (b"\x50" + bytes(60), "no version 5 of IP"),
    "IPv4 header too short": (
        attrs.evolve(IPV4, version_and_length=0x44).octets,
        "its IPv4 header would have 16 octets",
    ),
    "IPv4 header beyond its end": (
        attrs.evolve(IPV4, version_and_length=0x4F).octets,
        "ends before its TCP header",
    ),
    "no TCP": (attrs.evolve(IPV4, protocol=UDP).octets, "the protocol 17"),
    "first fragment": (attrs.evolve(IPV4, fragment=0x2000).octets, "it is a fragment"),
    "later fragment": (attrs.evolve(IPV4, fragment=1).octets, "it is a fragment"),
    "last fragment": (attrs.evolve(IPV4, fragment=0x1FFF).octets, "it is a fragment"),
    "length too small": (attrs.evolve(IPV4, length=39).octets, "ends before its TCP header"),
    "length zero": (attrs.evolve(IPV4, length=0).octets, "ends before its TCP header"),
    "length within the options": (
        attrs.evolve(IPV4, options=OF_LINUX, length=44).octets,
        "its TCP header would end at 60",
    ),
    "short IPv6": (IPV6.octets[:39], "39 octets are no IPv6 packet"),
    "jumbogram": (attrs.evolve(IPV6, length=0).octets, "ends before its TCP header"),
    "IPv6 fragment": (
        attrs.evolve(IPV6, extensions=(extension(FRAGMENT),)).octets,
        "it is a fragment",
    ),
    "late IPv6 fragment": (
        attrs.evolve(IPV6, extensions=(extension(DESTINATION), extension(FRAGMENT))).octets,
        "it is a fragment",
    ),
    "encrypted": (attrs.evolve(IPV6, extensions=(extension(ESP),)).octets, "a header 50"),
    "no TCP over IPv6": (attrs.evolve(IPV6, protocol=UDP).octets, "a header 17"),
    "hop-by-hop later": (
        attrs.evolve(IPV6, extensions=(extension(DESTINATION), extension(HOP_BY_HOP))).octets,
        "a header 0",
    ),
    "on its way": (
        attrs.evolve(IPV6, extensions=(extension(ROUTING, segments_left=1),)).octets,
        "not come to its destination",
    ),
    "extension beyond the end": (
        attrs.evolve(IPV6, extensions=((DESTINATION, bytes([255] + [0] * 6)),)).octets,
        "ends before its TCP header",
    ),
    "two extensions beyond the end": (
        attrs.evolve(
            IPV6,
            extensions=(
                extension(DESTINATION),
                (DESTINATION, bytes([255] + [0] * 6)),
                extension(DESTINATION),
            ),
        ).octets,
        "ends in an extension header",
    ),
    "cut off in a routing header": (
        attrs.evolve(IPV6, extensions=(extension(ROUTING),)).octets[:43],
        "ends in an extension header",
    ),
    "too many extensions": (
        attrs.evolve(IPV6, extensions=(extension(DESTINATION),) * 9).octets,
        "more than 8 extension headers",
    ),
    "mapped source": (
        IPV6.octets.replace(octets_of(IPV6.source), MAPPED),
        "IPv4-mapped",
    ),
    "mapped destination": (
        IPV6.octets.replace(octets_of(IPV6.destination), MAPPED),
        "IPv4-mapped",
    ),
    "data offset too small": (attrs.evolve(IPV4, data_offset=4).octets, "would end at 36"),
    "data offset too large": (attrs.evolve(IPV4, data_offset=15).octets, "would end at 80"),
    "no length of an option": (
        attrs.evolve(IPV4, option_octets=b"\1\1\1\2").octets,
        "option 2 has no length",
    ),
    "option of length zero": (
        attrs.evolve(IPV4, option_octets=b"\2\0\1\1").octets,
        "option 2 has no length",
    ),
    "option of length one": (
        attrs.evolve(IPV4, option_octets=b"\1\1\2\1").octets,
        "option 2 has no length",
    ),
    "option beyond the header": (
        attrs.evolve(IPV4, option_octets=b"\1\2\4\0", payload=b"\0\0").octets,
        "beyond the header",
    ),
}


@pytest.mark.parametrize(("packet", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_syn_is_refused(packet: bytes, why: str) -> None:
    """A packet that is none, or whose lengths contradict each other, is refused with a reason."""
    with pytest.raises(NotASynError, match=why):
        parse(packet)


@pytest.mark.parametrize("control_bits", range(0x200))
def test_syn_alone_makes_a_syn(control_bits: int) -> None:
    """A SYN has SYN set, and none of FIN, RST and ACK; whatever else is set."""
    octets = attrs.evolve(IPV4, control_bits=control_bits).octets
    if control_bits & 0b10111 == SYN:
        assert control_bits == parse(octets).control_bits
    else:
        with pytest.raises(NotASynError, match="not SYN alone"):
            parse(octets)


def everything(syn: Syn) -> Iterator[object]:
    """Read everything that a SYN says."""
    for name in dir(Syn):
        if not name.startswith("_"):
            yield getattr(syn, name)
    yield from (repr(syn), hash(syn))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """SYNs with some octets changed, added and lost."""
    octets = bytearray(draw(packets()).octets)
    places = st.integers(0, min(len(octets) - 1, 100))
    for at, value in draw(st.dictionaries(places, st.integers(0, 255), max_size=4)).items():
        octets[at] = value
    return bytes(octets[: draw(st.integers(20, len(octets)))]) + draw(st.binary(max_size=4))


@given(st.binary() | damaged())
@example(b"\x45" + bytes(19))
@example(b"\x60" + bytes(39))
def test_nothing_else_is_raised(packet: bytes) -> None:
    """Whatever the octets are, they are a SYN that can be read, or `NotASynError`."""
    try:
        syn = parse(packet, scope_id=2)
    except NotASynError:
        return

    assert list(everything(syn))
    assert syn == parse(syn.packet, scope_id=2)


@given(st.binary() | damaged())
def test_reset_is_one_or_none(packet: bytes) -> None:
    """Whatever the octets are, they are a reset or None; never both a reset and a SYN."""
    found = reset_of(packet)
    if found is not None:
        with pytest.raises(NotASynError):
            parse(packet)


@given(packets(), st.integers(0, 2**32 - 1), st.sampled_from([0x04, 0x14]))
def test_reset_says_what_it_resets(packet: Packet, scope_id: int, control_bits: int) -> None:
    """A reset, with ACK or without, has the key of the SYN before it, and its sequence number."""
    reset = attrs.evolve(packet, control_bits=control_bits)
    found = reset_of(reset.octets, scope_id=scope_id)

    assert (parse(packet.octets, scope_id=scope_id).key, packet.sequence_number) == found


@pytest.mark.parametrize("control_bits", [0x02, 0x06, 0x05, 0x10, 0x12, 0x00])
def test_others_are_no_resets(control_bits: int) -> None:
    """What has no RST, or SYN or FIN beside it, resets nothing."""
    assert None is reset_of(attrs.evolve(IPV4, control_bits=control_bits).octets)


@given(packets(), st.integers(0, 2**32 - 1))
def test_key_is_that_of_the_addresses(packet: Packet, scope_id: int) -> None:
    """The connection that a SYN asks for is the one between its addresses."""
    syn = parse(packet.octets, scope_id=scope_id)

    assert key_of(syn.destination, syn.source) == syn.key


def test_options_are_not_read_before_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a packet makes no object for an option, nor for an address."""

    def _fail(*_: object) -> None:
        raise AssertionError("nobody has asked for it")

    monkeypatch.setattr(_syn, "TcpOption", _fail)
    monkeypatch.setattr(_syn, "Address", _fail)
    syn = parse(attrs.evolve(IPV4, options=OF_LINUX).octets)

    assert 1 == syn.sequence_number
    with pytest.raises(AssertionError, match="nobody has asked for it"):
        assert syn.options


# --- As the kernel writes and reads them ---------------------------------------------------------

TCP_SAVE_SYN: Final = 27
TCP_SAVED_SYN: Final = 28
TCP_FASTOPEN_CONNECT: Final = 30
FAST_OPEN: Final = Path("/proc/sys/net/ipv4/tcp_fastopen")
IPV6_TCLASS: Final = 67
HAS_TIMESTAMPS, HAS_SACK, HAS_WINDOW_SCALE = 1, 2, 4
LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux saves SYNs")
families = pytest.mark.parametrize("family", LOOPBACK, ids=["ipv4", "ipv6"])


@attrs.frozen
class Captured:
    """A real SYN, and both ends of the connection that came of it."""

    syn: Syn
    client: socket.socket
    accepted: socket.socket

    @property
    def kernels_view(self) -> tuple[int, int]:
        """What the kernel has read in the SYN: its flags of options, and the window scale."""
        info = self.accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
        return info[5], info[6] & 0x0F

    def address(self, sockaddr: tuple[str, int]) -> Address:
        """Read an address that one of the two has given."""
        return Address.from_sockaddr(self.client.family, sockaddr)


@pytest.fixture
def capture() -> Iterator[Callable[..., Captured]]:
    """Connect over loopback, after something was done to the client, and return the SYN."""
    opened: list[socket.socket] = []

    def _capture(
        family: int,
        prepare: Callable[[socket.socket], object] = lambda _: None,
        first_octets: bytes = b"",
    ) -> Captured:
        listening = socket.create_server((LOOPBACK[socket.AddressFamily(family)], 0), family=family)
        client = socket.socket(family)
        opened.extend([listening, client])
        for sock in (listening, client):
            sock.settimeout(PATIENCE)
        listening.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        prepare(client)
        client.connect(listening.getsockname())
        if first_octets:
            client.send(first_octets)
        accepted, _ = listening.accept()
        opened.append(accepted)
        saved = accepted.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 256)
        return Captured(parse(saved), client, accepted)

    yield _capture
    for sock in opened:
        sock.close()


@on_linux
@families
def test_real_syn_is_that_of_its_connection(
    capture: Callable[..., Captured], family: socket.AddressFamily
) -> None:
    """
    The SYN that the kernel has saved has the addresses of its connection, and the options that
    the kernel itself has read in it.
    """
    captured = capture(family)
    syn = captured.syn
    flags, scale = captured.kernels_view

    assert captured.address(captured.client.getsockname()) == syn.source
    assert captured.address(captured.client.getpeername()) == syn.destination
    assert bool(flags & HAS_TIMESTAMPS) is (syn.timestamps is not None)
    assert bool(flags & HAS_SACK) is syn.sack_permitted
    assert bool(flags & HAS_WINDOW_SCALE) is (syn.window_scale is not None)
    assert scale == (syn.window_scale or 0)
    assert syn.maximum_segment_size
    assert syn.window > 0
    assert (b"", 0, None) == (syn.payload, syn.payload_length, syn.fast_open_cookie)
    assert syn.timestamps is None or syn.timestamps.echo_reply == 0


@on_linux
@families
def test_real_syn_says_what_its_sender_was_told(
    capture: Callable[..., Captured], family: socket.AddressFamily
) -> None:
    """
    What a client sets before it connects is in its SYN: segment size, hop limit, traffic class,
    and a smaller buffer as a smaller scale.
    """

    def _prepare(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 77)
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 46 << 2)
        else:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 77)
            client.setsockopt(socket.IPPROTO_IPV6, IPV6_TCLASS, 46 << 2)

    told = capture(family, _prepare).syn
    untold = capture(family).syn

    assert (77, 46, 0) == (told.hop_limit, told.dscp, told.ecn)
    assert 0 == untold.dscp
    assert told.maximum_segment_size is not None
    assert told.maximum_segment_size <= 1000
    assert untold.maximum_segment_size is not None
    assert untold.maximum_segment_size > 1000
    assert (told.window_scale or 0) < (untold.window_scale or 0)
    assert told.sequence_number != untold.sequence_number


@on_linux
@families
def test_real_syn_asks_for_a_cookie(
    capture: Callable[..., Captured], family: socket.AddressFamily
) -> None:
    """A client that wants to use TCP Fast Open for the first time asks for a cookie."""

    def _prepare(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)

    if not int(FAST_OPEN.read_text(encoding="ascii")) & 1:
        pytest.skip(f"clients don't use TCP Fast Open here: {FAST_OPEN}")
    syn = capture(family, _prepare, first_octets=b"hello").syn

    assert b"" == syn.fast_open_cookie
    assert (b"", 0) == (syn.payload, syn.payload_length)


@on_linux
def test_accepted_connection_has_the_key_of_its_syn() -> None:
    """
    What a socket for both families accepts from an IPv4 client has IPv4-mapped addresses, and
    the key of the SYN, which had none.
    """
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening,
        socket.socket() as client,
    ):
        listening.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        listening.settimeout(PATIENCE)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", listening.getsockname()[1]))
        accepted, remote = listening.accept()
        with accepted:
            saved = accepted.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 256)
            local = accepted.getsockname()

    assert "::ffff:127.0.0.1" == local[0]
    assert parse(saved).key == key_of(
        Address.from_sockaddr(socket.AF_INET6, local),
        Address.from_sockaddr(socket.AF_INET6, remote),
    )
