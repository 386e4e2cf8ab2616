"""The hard cases of DCE/RPC and the endpoint mapper, one capture each (reference/epm.md sections 1 to 10)."""

from __future__ import annotations

import struct

from captures.makers import rpc, talk
from captures.makers.catalogue import story
from captures.makers.documents import MAPPER, OUTLOOK, OUTLOOK_ALSO, TO_MAILBOX
from captures.makers.organisation import host, hosts
from captures.makers.rows2010 import proof_of
from captures.makers.scene import Host, Scene, Span, Tcp
from captures.makers.talk import KERBEROS, NTLM, PRIVACY, Credentials, Mapping

HOW = Credentials(NTLM, PRIVACY, "CAS1$")
FACTS = {
    "data_paths": TO_MAILBOX,
    "also": ("note-cas-to-mailbox-many-ports", *MAPPER),
    "roles": ("client-access", "mailbox"),
}
CERTAIN = {**FACTS, "certainty": ("certain", "certain")}
STRONG = {**FACTS, "certainty": ("strong", "certain")}
ANNOUNCED = {**FACTS, "certainty": ("strong", "strong")}
PORT = 6_117
EPM_SEEN = ((rpc.EPM.uuid, True),)
EMSMDB_SEEN = ((rpc.EMSMDB.uuid, True),)


def pair(scene: Scene) -> tuple[Host, Host]:
    """Client Access and Mailbox, the two of most of these stories."""
    client, server = hosts(scene, "cas1", "mbx1")
    return client, server


def mailbox_session(scene: Scene, client: Host, server: Host, port: int = PORT, **facts: object) -> Tcp:
    return talk.session(scene, client, server, port, rpc.EMSMDB, HOW, talk.EMSMDB_CALLS, **{**CERTAIN, **facts})


@story("rpc-big-endian", "Mapper and EMSMDB in big-endian byte order: uuids, versions and lengths swapped, towers not")
def big_endian(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper, order=rpc.BIG)
    mapping = talk.ask_port(mapper, rpc.EMSMDB, [(PORT, server.address)], order=rpc.BIG)
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, authentication=("none",), **STRONG)
    tcp = scene.tcp(client, server, PORT)
    tcp.ask(rpc.bind([(rpc.EMSMDB, [rpc.NDR32])], order=rpc.BIG))
    tcp.answer(rpc.bind_ack([rpc.ACCEPTED], str(PORT), order=rpc.BIG))
    for number, opnum in enumerate(talk.EMSMDB_CALLS, 2):
        tcp.ask(rpc.request(opnum, scene.noise(120), call=number, order=rpc.BIG))
        tcp.answer(rpc.response(scene.noise(88), call=number, order=rpc.BIG))
    tcp.close()
    tcp.is_("dcerpc", interfaces=EMSMDB_SEEN, resolved=mapping.announced, authentication=("none",), **CERTAIN)


@story(
    "rpc-ndr64-three-contexts", "64-bit Windows: three contexts, NDR64 accepted, mapper's stubs in NDR64, two towers"
)
def ndr64(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper, wide=True)
    mapping = talk.ask_port(mapper, rpc.EMSMDB, [(PORT, server.address), (PORT, "192.0.2.21")], wide=True)
    mapper.close()
    mapper.is_("epm", **STRONG)
    tcp = scene.tcp(client, server, PORT)
    talk.bind_with(tcp, rpc.windows_offer(rpc.EMSMDB), HOW, rpc.NDR64_ANSWERS)
    talk.calls(tcp, HOW, talk.EMSMDB_CALLS, context=1)
    tcp.close()
    tcp.is_("dcerpc", resolved=mapping.announced, authentication=("ntlm",), encryption=("rpc-privacy",), **CERTAIN)


ANNOTATED = (
    (rpc.RFRI, 6_203, "MS Exchange Directory RFR Interface"),
    (rpc.NSPI, 6_204, "MS Exchange Directory NSPI Proxy"),
    (rpc.EMSMDB, PORT, "Exchange Server STORE EMSMDB Interface"),
    (rpc.STORE_PRIVATE, PORT, "Microsoft Information Store"),
)


def walk(server: Host) -> list[tuple[bytes, str]]:
    """Entries of a full ept_lookup: Exchange's own among many pipes and other services."""
    entries = [(rpc.tower(interface, port, server.address), text) for interface, port, text in ANNOTATED]
    for number in range(60):
        other = rpc.Syntax(f"0{number:03x}3c4d-6e5f-4a1b-8c9d-0e1f2a3b4c5d")
        entries.append((rpc.tower(other, 0, pipe=f"\\PIPE\\service{number}"), f"Windows service {number}"))
        entries.append((rpc.tower(other, 49_152 + number, server.address), ""))
    return entries


@story(
    "rpc-ept-lookup-fragments",
    "ept_lookup with 124 entries and annotations in several fragments; EMSMDB on a port from it",
)
def lookup(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper)
    mapper.ask(rpc.request(rpc.EPT_LOOKUP, rpc.lookup_request(), call=2))
    pieces = rpc.fragments(rpc.lookup_response(walk(server)), rpc.MAX_FRAGMENT - 24, call=2)
    spans = [mapper.answer(piece) for piece in pieces]
    mapper.ask(rpc.request(rpc.EPT_LOOKUP, rpc.lookup_request(), call=3))
    mapper.answer(rpc.response(rpc.lookup_response([], status=rpc.NOT_REGISTERED), call=3))
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, authentication=("none",), note="asks for all interfaces, not for one")
    announced = {"kind": "ept_lookup", "frames": [spans[0].first, spans[-1].last]}
    mailbox_session(scene, client, server, resolved=announced)


@story(
    "rpc-many-pdus-in-one-segment", "Three ept_map calls in one segment, their answers in another; likewise on the port"
)
def coalesced(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper)
    wanted = ((rpc.RFRI, 6_203), (rpc.NSPI, 6_204), (rpc.EMSMDB, PORT))
    asked, answered = b"", b""
    for call, (interface, port) in enumerate(wanted, 2):
        asked += rpc.request(rpc.EPT_MAP, rpc.map_request(rpc.tower(interface, 135)), call=call)
        answered += rpc.response(rpc.map_response([rpc.tower(interface, port, server.address)]), call=call)
    mapper.ask(asked)
    mapping = Mapping(Span(0, 0), mapper.answer(answered))
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, certainty=("weak", "certain"), note="three interfaces asked for")
    tcp = scene.tcp(client, server, PORT)
    tcp.ask(
        rpc.bind([(rpc.EMSMDB, [rpc.NDR32])])
        + rpc.request(10, scene.noise(120), call=2)
        + rpc.request(11, scene.noise(80), call=3)
    )
    tcp.answer(
        rpc.bind_ack([rpc.ACCEPTED], str(PORT))
        + rpc.response(scene.noise(64), call=2)
        + rpc.response(scene.noise(48), call=3)
    )
    tcp.close()
    tcp.is_("dcerpc", interfaces=EMSMDB_SEEN, resolved=mapping.announced, authentication=("none",), **CERTAIN)


@story(
    "rpc-tiny-segments",
    "PDUs over many segments, the first of 7 bytes: shorter than the header (tshark 4.0 misses these)",
)
def tiny(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    mapper.ask(rpc.bind([(rpc.EPM, [rpc.NDR32])]), sizes=(7, 3, 1, 9, 20), acknowledged=False)
    mapper.answer(rpc.bind_ack([rpc.ACCEPTED], "135"), sizes=(1,) * 24)
    mapper.ask(rpc.request(rpc.EPT_MAP, rpc.map_request(rpc.tower(rpc.EMSMDB, 135)), call=2), sizes=(7, 50))
    reply = rpc.response(rpc.map_response([rpc.tower(rpc.EMSMDB, PORT, server.address)]), call=2)
    answered = mapper.answer(reply, sizes=(7, 13, 40, 60, 5))
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, **STRONG)
    tcp = scene.tcp(client, server, PORT)
    tcp.ask(rpc.bind([(rpc.EMSMDB, [rpc.NDR32])]), sizes=(7, 9))
    tcp.answer(rpc.bind_ack([rpc.ACCEPTED], str(PORT)), sizes=(7, 9))
    talk.calls(tcp, None, talk.EMSMDB_CALLS)
    tcp.close()
    tcp.is_("dcerpc", interfaces=EMSMDB_SEEN, resolved=Mapping(answered, answered).announced, **CERTAIN)


@story("rpc-bind-refused", "The server refuses EMSMDB in its bind_ack, then a second bind with bind_nak")
def refused(scene: Scene) -> None:
    client, server = pair(scene)
    tcp = scene.tcp(client, server, PORT)
    tcp.ask(rpc.bind([(rpc.EMSMDB, [rpc.NDR32])]))
    tcp.answer(rpc.bind_ack([rpc.REFUSED], str(PORT)))
    tcp.close()
    tcp.is_("dcerpc", interfaces=((rpc.EMSMDB.uuid, False),), note="refused: proves nothing about the port")
    tcp = scene.tcp(client, server, PORT + 1)
    tcp.ask(rpc.bind([(rpc.NSPI, [rpc.NDR32])]))
    tcp.answer(rpc.bind_nak(8))
    tcp.close()
    tcp.is_("dcerpc", interfaces=((rpc.NSPI.uuid, False),), note="bind_nak: authentication type not recognised")


@story("rpc-epm-not-registered", "The mapper knows no EMSMDB: no towers, status ept_s_not_registered")
def not_registered(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper)
    talk.ask_port(mapper, rpc.EMSMDB, [], status=rpc.NOT_REGISTERED)
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, authentication=("none",))
    tcp = scene.tcp(client, server, PORT)
    tcp.ask(scene.noise(90))
    tcp.close()
    tcp.is_(absence=("unmatched", "not-exchange"), note="an unknown protocol on a port nobody announced")


@story("rpc-epm-fault", "The mapper answers ept_map with a fault, access denied")
def mapper_fault(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper)
    mapper.ask(rpc.request(rpc.EPT_MAP, rpc.map_request(rpc.tower(rpc.EMSMDB, 135)), call=2))
    mapper.answer(rpc.fault(5, call=2))
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, authentication=("none",))


@story("rpc-alter-context", "RFRI first, EMSMDB added with alter_context, AsyncEMSMDB refused")
def alter_context(scene: Scene) -> None:
    client, server = hosts(scene, "outlook1", "cas1")
    tcp = scene.tcp(client, server, PORT)
    tcp.ask(rpc.bind([(rpc.RFRI, [rpc.NDR32])]))
    tcp.answer(rpc.bind_ack([rpc.ACCEPTED], str(PORT)))
    talk.calls(tcp, None, talk.RFRI_CALLS)
    offers = [(rpc.EMSMDB, [rpc.NDR32]), (rpc.ASYNC_EMSMDB, [rpc.NDR32])]
    tcp.ask(rpc.bind(offers, ptype=rpc.ALTER, call=9, first=1, group=0x5F31))
    tcp.answer(rpc.bind_ack([rpc.ACCEPTED, rpc.REFUSED], ptype=rpc.ALTER_ACK, call=9))
    talk.calls(tcp, None, talk.EMSMDB_CALLS, context=1, first=10)
    tcp.close()
    seen = ((rpc.RFRI.uuid, True), (rpc.EMSMDB.uuid, True), (rpc.ASYNC_EMSMDB.uuid, False))
    tcp.is_(
        "dcerpc",
        data_paths=OUTLOOK,
        also=OUTLOOK_ALSO,
        roles=("outlook", "client-access"),
        interfaces=seen,
        certainty=("certain", "certain"),
        authentication=("none",),
    )


@story(
    "rpc-several-interfaces-on-one-port",
    "NSPI and RFRI announced and bound on the same port of the address book service",
)
def shared_port(scene: Scene) -> None:
    client, server = hosts(scene, "outlook1", "cas1")
    facts = {
        "data_paths": OUTLOOK, "also": OUTLOOK_ALSO, "roles": ("outlook", "client-access"),
    }  # fmt: skip
    for interface, opnums in ((rpc.NSPI, talk.NSPI_CALLS), (rpc.RFRI, talk.RFRI_CALLS)):
        mapping = talk.map_port(scene, client, server, interface, PORT, certainty=("weak", "certain"), **facts)
        talk.session(
            scene,
            client,
            server,
            PORT,
            interface,
            HOW,
            opnums,
            certainty=proof_of(interface),
            resolved=mapping.announced,
            **facts,
        )


def opaque(scene: Scene, client: Host, server: Host, port: int, **facts: object) -> Tcp:
    """Sealed requests without the bind: the capture missed it."""
    tcp = scene.tcp(client, server, port, handshake=False)
    talk.calls(tcp, HOW, (11, 11, 11), first=40)
    tcp.close()
    tcp.is_("dcerpc", encryption=("rpc-privacy",), **facts)
    return tcp


@story(
    "rpc-service-restart",
    "The store restarts: 6117, refused, then 6320 from the mapper; another program takes 6117",
)
def restart(scene: Scene) -> None:
    client, server = pair(scene)
    first = talk.map_port(scene, client, server, rpc.EMSMDB, PORT, **STRONG)
    opaque(scene, client, server, PORT, resolved=first.announced, **ANNOUNCED)
    scene.wait(60_000)
    closed = scene.tcp(client, server, PORT, handshake=False)
    closed.segment(client, flags="S")
    closed.segment(server, flags="RA")
    closed.is_(note="refused: whether the earlier announcement still labels it, the documents leave open")
    scene.wait(60_000)
    second = talk.map_port(scene, client, server, rpc.EMSMDB, 6_320, **STRONG)
    opaque(scene, client, server, 6_320, resolved=second.announced, **ANNOUNCED)
    other = scene.tcp(client, server, PORT)
    for say in (other.ask, other.answer):
        say(scene.noise(120))
    other.close()
    other.is_(absence=("unmatched", "not-exchange"), note="after the restart 6117 is no longer the store's")


@story("rpc-port-reused", "A port announced for EMSMDB is announced for and bound by the print spooler after a restart")
def reused(scene: Scene) -> None:
    client, server = pair(scene)
    first = talk.map_port(scene, client, server, rpc.EMSMDB, PORT, **STRONG)
    mailbox_session(scene, client, server, resolved=first.announced)
    scene.wait(600_000)
    mapper = {"data_paths": ("note-rpc-epm-135",), "certainty": ("weak", "strong"), "roles": FACTS["roles"]}
    second = talk.map_port(scene, client, server, rpc.SPOOLSS, PORT, **mapper)
    nothing = {"absence": ("not-exchange", "unmatched"), "note": "nothing of Exchange, though the port once was"}
    talk.session(scene, client, server, PORT, rpc.SPOOLSS, HOW, (1, 29), resolved=second.announced, **nothing)


@story("rpc-nat", "The tower names the server's inner address; clients reach it through another")
def nat(scene: Scene) -> None:
    client = host(scene, "cas1")
    server = scene.host("MBX1", "198.51.100.21", "mailbox", version="2010")
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper)
    mapping = talk.ask_port(mapper, rpc.EMSMDB, [(PORT, "10.10.1.21")])
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, **STRONG)
    mailbox_session(scene, client, server, resolved=mapping.announced)


@story("rpc-tower-without-address", "Towers with 0.0.0.0, one of them on a port of its own")
def zero_address(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper)
    mapping = talk.ask_port(mapper, rpc.EMSMDB, [(PORT, "0.0.0.0"), (PORT + 1, "0.0.0.0")])
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, **STRONG)
    for port in (PORT, PORT + 1):
        mailbox_session(scene, client, server, port, resolved=mapping.announced)


@story("rpc-ipv6", "Mapper and EMSMDB over IPv6: towers can't hold the address, the TCP peer counts")
def ipv6(scene: Scene) -> None:
    client = scene.host("CAS1", "2001:db8:10::31", "client-access", version="2010")
    server = scene.host("MBX1", "2001:db8:10::21", "mailbox", version="2010")
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, PORT, **STRONG)
    mailbox_session(scene, client, server, resolved=mapping.announced)


@story("rpc-mid-stream", "The capture begins inside an EMSMDB session: no SYN, no bind, no mapper")
def mid_stream(scene: Scene) -> None:
    client, server = pair(scene)
    opaque(scene, client, server, PORT, note="sealed requests with opnums alone")
    scene.conversations[-1].truth.certainty = None


@story("rpc-epm-afterwards", "The mapper's answer comes after the conversation whose bind the capture missed")
def afterwards(scene: Scene) -> None:
    client, server = pair(scene)
    with scene.meanwhile(2000):
        mapping = talk.map_port(scene, client, server, rpc.EMSMDB, PORT, **STRONG)
    opaque(scene, client, server, PORT, resolved=mapping.announced, **ANNOUNCED)


@story("rpc-sequence-wrap", "Sequence numbers of both sides wrap inside the bind and the mapper's answer")
def wrap(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135, isn=((1 << 32) - 40, (1 << 32) - 100))
    talk.open_mapper(mapper)
    mapping = talk.ask_port(mapper, rpc.EMSMDB, [(PORT, server.address)])
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, **STRONG)
    tcp = scene.tcp(client, server, PORT, isn=((1 << 32) - 30, (1 << 32) - 20))
    talk.bind_with(tcp, [(rpc.EMSMDB, [rpc.NDR32])], HOW)
    talk.calls(tcp, HOW, talk.EMSMDB_CALLS)
    tcp.close()
    tcp.is_("dcerpc", interfaces=EMSMDB_SEEN, resolved=mapping.announced, authentication=("ntlm",), **CERTAIN)


def out_of_order(tcp: Tcp, sender: Host, data: bytes, pieces: tuple[tuple[int, int], ...]) -> Span:
    """Send slices (start, end) of one message in the given order, then count it as sent."""
    numbers = [tcp.segment(sender, data[start:end], flags="PA", at=start) for start, end in pieces]
    tcp.skip(sender, len(data))
    tcp.segment(tcp.other(sender))
    return Span(min(numbers), max(numbers))


@story("rpc-reordered-and-repeated", "Bind and mapper's answer reordered, repeated and overlapping")
def reordered(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    out_of_order(mapper, client, rpc.bind([(rpc.EPM, [rpc.NDR32])]), ((40, 72), (0, 24), (16, 48), (0, 24)))
    mapper.answer(rpc.bind_ack([rpc.ACCEPTED], "135"))
    mapper.ask(rpc.request(rpc.EPT_MAP, rpc.map_request(rpc.tower(rpc.EMSMDB, 135)), call=2))
    reply = rpc.response(rpc.map_response([rpc.tower(rpc.EMSMDB, PORT, server.address)]), call=2)
    answered = out_of_order(mapper, server, reply, ((100, len(reply)), (60, 110), (0, 60), (0, len(reply))))
    mapper.close()
    mapper.is_("epm", interfaces=EPM_SEEN, **STRONG)
    mailbox_session(scene, client, server, resolved={"kind": "ept_map", "frames": [answered.first, answered.last]})


@story(
    "rpc-hole", "A segment of the mapper's bind_ack is lost to the capture, later a call's; what follows is still read"
)
def hole(scene: Scene) -> None:
    client, server = pair(scene)
    mapper = scene.tcp(client, server, 135)
    mapper.ask(rpc.bind([(rpc.EPM, [rpc.NDR32])]))
    mapper.skip(server, len(rpc.bind_ack([rpc.ACCEPTED], "135")))
    mapping = talk.ask_port(mapper, rpc.EMSMDB, [(PORT, server.address)])
    mapper.close()
    mapper.is_("epm", note="the bind's answer is missing, the mapper's is there")
    tcp = scene.tcp(client, server, PORT)
    talk.bind_with(tcp, [(rpc.EMSMDB, [rpc.NDR32])], HOW)
    tcp.skip(client, 500)
    talk.calls(tcp, HOW, talk.EMSMDB_CALLS)
    tcp.close()
    tcp.is_("dcerpc", interfaces=EMSMDB_SEEN, resolved=mapping.announced, authentication=("ntlm",), **CERTAIN)


@story("rpc-udp-connectionless", "EMSMDB over UDP as NT 4.0 clients spoke it: the interface is in every datagram")
def connectionless(scene: Scene) -> None:
    client, server = hosts(scene, "outlook1", "old1")
    udp = scene.udp(client, server, 1_090)
    activity = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
    for number, opnum in enumerate((0, 2, 2, 1)):
        udp.ask(rpc.datagram(rpc.REQUEST, rpc.EMSMDB, opnum, scene.noise(160), activity=activity, number=number))
        udp.answer(rpc.datagram(rpc.RESPONSE, rpc.EMSMDB, opnum, scene.noise(120), activity=activity, number=number))
    udp.is_("dcerpc", roles=("outlook", "exchange-server"), interfaces=EMSMDB_SEEN)


@story("rpc-kerberos-long-bind", "A Kerberos bind larger than one segment, its first piece ending inside the token")
def large_bind(scene: Scene) -> None:
    client, server = pair(scene)
    how = Credentials(KERBEROS, PRIVACY, "CAS1$")
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, PORT, **STRONG)
    talk.session(scene, client, server, PORT, rpc.EMSMDB, how, talk.EMSMDB_CALLS, resolved=mapping.announced, **CERTAIN)


@story("rpc-orphan-answers", "Only the server's side was captured: bind_ack with its secondary address, responses")
def one_sided(scene: Scene) -> None:
    client, server = pair(scene)
    tcp = scene.tcp(client, server, PORT, handshake=False)
    tcp.segment(server, rpc.bind_ack([rpc.ACCEPTED], str(PORT)), flags="PA")
    for number in range(3):
        tcp.segment(server, rpc.response(scene.noise(90), call=number + 2), flags="PA")
    tcp.is_("dcerpc", note="bind_ack proves who is server, not which interface")


@story(
    "rpc-wan-optimiser", "A WAN optimiser rewrites the tower: the client sees port 7830, the server's answer said 6117"
)
def optimiser(scene: Scene) -> None:
    client, server = hosts(scene, "outlook1", "cas1")
    facts = {"data_paths": OUTLOOK, "also": OUTLOOK_ALSO, "roles": ("outlook", "client-access")}
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, 7_830, certainty=("strong", "certain"), **facts)
    talk.session(
        scene, client, server, 7_830, rpc.EMSMDB, HOW, talk.EMSMDB_CALLS, certainty=("certain", "certain"),
        resolved=mapping.announced, **facts,
    )  # fmt: skip


@story("rpc-udp-mapper", "The endpoint mapper asked over UDP 135 for the store's datagram port")
def datagram_mapper(scene: Scene) -> None:
    client, server = hosts(scene, "outlook1", "old1")
    udp = scene.udp(client, server, 135)
    activity = "3f2504e0-4f89-11d3-9a0c-0305e82c3302"
    question = rpc.map_request(rpc.tower(rpc.EMSMDB, 135, transport="udp"))
    udp.ask(rpc.datagram(rpc.REQUEST, rpc.EPM, rpc.EPT_MAP, question, activity=activity))
    reply = rpc.map_response([rpc.tower(rpc.EMSMDB, 1_091, server.address, transport="udp")])
    answered = udp.answer(rpc.datagram(rpc.RESPONSE, rpc.EPM, rpc.EPT_MAP, reply, activity=activity))
    udp.is_("epm", roles=("outlook", "exchange-server"))
    store = scene.udp(client, server, 1_091)
    store.ask(rpc.datagram(rpc.REQUEST, rpc.EMSMDB, 0, scene.noise(100), activity=activity, number=1))
    store.is_(
        "dcerpc", roles=("outlook", "exchange-server"), interfaces=((rpc.EMSMDB.uuid, None),),
        resolved={"kind": "ept_map", "frames": [answered.first, answered.last]},
    )  # fmt: skip


def verification_trailer(interface: rpc.Syntax) -> bytes:
    """The pcontext command of a verification trailer ([MS-RPCE] 2.2.2.13): the interface in clear behind a stub."""
    body = interface.packed() + rpc.NDR32.packed()
    return bytes.fromhex("8ae3137102f43671") + struct.pack("<HH", 0x4002, len(body)) + body


@story(
    "rpc-verification-trailer", "The bind is missing, but requests end with a verification trailer that names EMSMDB"
)
def trailer(scene: Scene) -> None:
    client, server = pair(scene)
    tcp = scene.tcp(client, server, PORT, handshake=False)
    for number in range(40, 43):
        stub = scene.noise(96) + verification_trailer(rpc.EMSMDB)
        tcp.ask(rpc.request(11, stub, call=number))
        tcp.answer(rpc.response(scene.noise(64), call=number))
    tcp.is_("dcerpc", note="a second witness of the interface; a reader may use it")
