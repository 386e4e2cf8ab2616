"""Whole exchanges: ask the endpoint mapper, bind with credentials, make sealed calls; TLS openings.

Each function plays both sides on a conversation of the scene and returns the frames that matter.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from captures.makers import rpc, tokens
from captures.makers.rpc import Result, Syntax, Verifier
from captures.makers.scene import Host, Scene, Span, Tcp

NTLM, KERBEROS, SPNEGO, NETLOGON = 10, 16, 9, 68
CONNECT, INTEGRITY, PRIVACY = 2, 5, 6


class Mapping:
    """What the mapper was asked and what it said: frames of the two."""

    def __init__(self, asked: Span, answered: Span) -> None:
        self.asked, self.answered = asked, answered

    @property
    def announced(self) -> dict[str, object]:
        """`resolved_by` of the conversations on that port."""
        return {"kind": "ept_map", "frames": [self.answered.first, self.answered.last]}


def open_mapper(tcp: Tcp, *, wide: bool = False, order: str = rpc.LITTLE) -> None:
    """Bind the endpoint mapper; wide: three contexts as 64-bit Windows, answered in NDR64."""
    offers = rpc.windows_offer(rpc.EPM) if wide else [(rpc.EPM, [rpc.NDR32])]
    results = rpc.NDR64_ANSWERS if wide else (rpc.ACCEPTED,)
    tcp.ask(rpc.bind(offers, order=order))
    tcp.answer(rpc.bind_ack(results, "135", order=order))


def ask_port(
    tcp: Tcp, interface: Syntax, answers: Sequence[tuple[int, str]], *, call: int = 2, wide: bool = False,
    order: str = rpc.LITTLE, status: int = 0,
) -> Mapping:  # fmt: skip
    """One ept_map call. answers: (port, address) of each tower."""
    context = 1 if wide else 0
    question = rpc.map_request(rpc.tower(interface, 135), order=order, wide=wide)
    asked = tcp.ask(rpc.request(rpc.EPT_MAP, question, call=call, context=context, order=order))
    towers = [rpc.tower(interface, port, address) for port, address in answers]
    reply = rpc.map_response(towers, status=status, order=order, wide=wide)
    return Mapping(asked, tcp.answer(rpc.response(reply, call=call, context=context, order=order)))


def map_port(scene: Scene, client: Host, server: Host, interface: Syntax, port: int, **facts: object) -> Mapping:
    """A whole conversation with the mapper about one interface; facts: what is true of it."""
    tcp = scene.tcp(client, server, 135)
    open_mapper(tcp)
    address = "0.0.0.0" if server.is_v6 else server.address
    mapping = ask_port(tcp, interface, [(port, address)])
    tcp.close()
    tcp.is_("epm", interfaces=((rpc.EPM.uuid, True),), authentication=("none",), encryption=("none",), **facts)
    return mapping


class Credentials:
    """How a client proves itself in RPC: package, level, its name and the service it calls."""

    def __init__(self, kind: int, level: int, user: str = "alice", service: str = "exchangeMDB") -> None:
        self.kind, self.level, self.user, self.service = kind, level, user, service

    @property
    def authentication(self) -> str:
        return {NTLM: "ntlm", KERBEROS: "kerberos", SPNEGO: "kerberos", NETLOGON: "netlogon"}[self.kind]

    @property
    def encryption(self) -> str:
        return {CONNECT: "none", INTEGRITY: "rpc-integrity", PRIVACY: "rpc-privacy"}[self.level]

    def verifier(self, token: bytes) -> Verifier:
        return Verifier(self.kind, self.level, token)


def bind_with(
    tcp: Tcp, offers: Sequence[rpc.Offer], how: Credentials | None, results: Sequence[Result] = (),
    address: str | None = None,
) -> None:  # fmt: skip
    """bind, bind_ack and whatever legs the package needs."""
    answers = results or [rpc.ACCEPTED] * len(offers)
    endpoint = str(tcp.port) if address is None else address
    legs = _legs(tcp, how) if how else []
    first, second, *third = [*(how.verifier(token) for token in legs), None, None] if how else [None, None]
    tcp.ask(rpc.bind(offers, verifier=first))
    tcp.answer(rpc.bind_ack(answers, endpoint, verifier=second))
    if how and len(legs) > 2:
        _third_leg(tcp, offers, how, third[0])


def _third_leg(tcp: Tcp, offers: Sequence[rpc.Offer], how: Credentials, last: Verifier | None) -> None:
    """NTLM ends with auth3; Kerberos in DCE style (three legs) with an alter_context."""
    if how.kind == NTLM:
        tcp.ask(rpc.pdu(rpc.AUTH3, bytes(4), call=1, verifier=last))
        return
    done = how.verifier(tokens.spnego_response(state=0)) if how.kind == SPNEGO else how.verifier(b"")
    tcp.ask(rpc.bind(offers[:1], ptype=rpc.ALTER, call=2, group=0x5F31, verifier=last))
    tcp.answer(rpc.bind_ack([rpc.ACCEPTED], ptype=rpc.ALTER_ACK, call=2, verifier=done if done.token else None))


def _legs(tcp: Tcp, how: Credentials) -> list[bytes]:
    noise, server = tcp.scene.noise, tcp.server
    service = f"{how.service}/{server.fqdn}"
    if how.kind == NTLM:
        return [
            tokens.ntlm_negotiate(),
            tokens.ntlm_challenge(noise, server.name, server.fqdn),
            tokens.ntlm_authenticate(noise, how.user, tcp.client.name),
        ]
    if how.kind == NETLOGON:
        return [_netlogon(tcp.client.name), struct.pack("<III", 1, 0, 0x6D)]
    request = tokens.ap_req(noise, service)
    reply = tokens.ap_rep(noise)
    if how.kind == KERBEROS:
        return [request, reply, tokens.ap_rep(noise)]
    return [
        tokens.spnego_init(tokens.gss_kerberos(request)),
        tokens.spnego_response(tokens.gss_kerberos(reply, b"\x02\x00"), tokens.MS_KERBEROS),
        tokens.spnego_response(tokens.gss_kerberos(tokens.ap_rep(noise), b"\x02\x00")),
    ]


def _netlogon(workstation: str) -> bytes:
    """NL_AUTH_MESSAGE with NetBIOS names ([MS-NRPC] 2.2.1.3.1)."""
    return struct.pack("<II", 0, 3) + b"EXAMPLE\0" + workstation.encode() + b"\0"


def signature(scene: Scene, how: Credentials) -> bytes:
    """The token behind one protected message."""
    if how.kind == NTLM:
        return tokens.ntlm_signature(scene.noise)
    if how.kind == NETLOGON:
        return b"\x77\x00\x7a\x00\xff\xff\x00\x00" + scene.noise(48)
    return tokens.kerberos_wrap_signature(scene.noise)


def calls(tcp: Tcp, how: Credentials | None, opnums: Sequence[int], *, context: int = 0, first: int = 3) -> None:
    """Calls with protected (or, without credentials, plain) stubs of plausible size."""
    scene = tcp.scene
    for number, opnum in enumerate(opnums, first):
        for side, say in enumerate((tcp.ask, tcp.answer)):
            stub = scene.noise(16 * scene.random.randint(4, 30 if side else 14))
            sealed = how.verifier(signature(scene, how)) if how and how.level > CONNECT else None
            if side:
                say(rpc.response(stub, context=context, call=number, verifier=sealed))
            else:
                say(rpc.request(opnum, stub, context=context, call=number, verifier=sealed))


EMSMDB_CALLS = (10, 11, 11, 11, 11, 1)
"""EcDoConnectEx, some EcDoRpcExt2, EcDoDisconnect ([MS-OXCRPC] 3.1.4)."""
NSPI_CALLS = (0, 3, 20, 1)
"""NspiBind, NspiQueryRows, NspiResolveNamesW, NspiUnbind ([MS-OXNSPI] 3.1.4)."""
RFRI_CALLS = (0, 1)
"""RfrGetNewDSA, RfrGetFQDNFromServerDN ([MS-OXABREF] 3.1.4)."""


def session(
    scene: Scene, client: Host, server: Host, port: int, interface: Syntax, how: Credentials | None,
    opnums: Sequence[int], **facts: object,
) -> Tcp:  # fmt: skip
    """A whole RPC conversation on one port; facts: what is true of it."""
    tcp = scene.tcp(client, server, port)
    bind_with(tcp, [(interface, [rpc.NDR32])], how)
    calls(tcp, how, opnums)
    tcp.close()
    protection = (how.authentication, how.encryption) if how else ("none", "none")
    seen = {"interfaces": ((interface.uuid, True),), "authentication": protection[:1], "encryption": protection[1:]}
    tcp.is_("dcerpc", **{**seen, **facts})
    return tcp


# ---- TLS ----------------------------------------------------------------------------------------

CIPHERS = {
    "schannel-2008r2": (0x003C, 0x002F, 0x003D, 0x0035, 0x0005, 0x000A, 0xC027, 0xC013, 0xC014, 0xC02B, 0x0032, 0x0038),
    "schannel-2019": (0xC02C, 0xC02B, 0xC030, 0xC02F, 0xC024, 0xC023, 0xC028, 0xC027, 0xC00A, 0xC009, 0x009D, 0x009C),
    "browser": (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C),
}


def record(kind: int, body: bytes, version: int = 0x0301) -> bytes:
    return struct.pack(">BHH", kind, version, len(body)) + body


def _handshake(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def client_hello(random: bytes, name: str = "", *, stack: str = "schannel-2008r2", alpn: Sequence[bytes] = ()) -> bytes:
    """A ClientHello record. random: 64 bytes, the hello's random and its session id."""
    suites = struct.pack(f">{len(CIPHERS[stack])}H", *CIPHERS[stack])
    extensions = b""
    if name:
        host = struct.pack(">BH", 0, len(name)) + name.encode()
        extensions += extension(0, struct.pack(">H", len(host)) + host)
    extensions += extension(10, bytes.fromhex("0006001d00170018")) + extension(11, b"\x01\x00")
    extensions += extension(13, bytes.fromhex("000c040105010201040305030203")) + extension(0xFF01, b"\x00")
    if alpn:
        listed = b"".join(bytes([len(word)]) + word for word in alpn)
        extensions += extension(16, struct.pack(">H", len(listed)) + listed)
    if stack == "browser":
        extensions += extension(43, b"\x04\x03\x04\x03\x03")
        extensions += extension(51, struct.pack(">HHH", 36, 29, 32) + random[:32])
    body = b"\x03\x03" + random[:32] + b"\x20" + random[32:64] + struct.pack(">H", len(suites)) + suites
    body += b"\x01\x00" + struct.pack(">H", len(extensions)) + extensions
    return record(22, _handshake(1, body))


def server_hello(
    random: bytes, certificate: bytes, *, ask_certificate: bool = False, cipher: int = 0x002F, version: int = 0x0303
) -> bytes:
    """ServerHello (TLS 1.2), Certificate, (CertificateRequest,) ServerHelloDone in one record."""
    hello = struct.pack(">H", version) + random[:32] + b"\x20" + random[32:64] + struct.pack(">HB", cipher, 0)
    hello += b"\x00\x05" + extension(0xFF01, b"\0")
    chain = len(certificate).to_bytes(3, "big") + certificate
    parts = [_handshake(2, hello), _handshake(11, len(chain).to_bytes(3, "big") + chain)]
    if ask_certificate:
        parts.append(_handshake(13, bytes.fromhex("0201400006040105010201") + b"\x00\x00"))
    return record(22, b"".join(parts) + _handshake(14, b""), 0x0303)


def tls(
    tcp: Tcp, name: str = "", *, certificate: bytes, client_certificate: bytes = b"", stack: str = "schannel-2008r2",
    alpn: Sequence[bytes] = (), records: Sequence[tuple[Callable[..., Span], int]] = (), version: int = 0x0303,
) -> None:  # fmt: skip
    """A TLS 1.2 handshake with RSA key exchange, then sealed records in both directions."""
    noise = tcp.scene.noise
    tcp.ask(client_hello(noise(64), name, stack=stack, alpn=alpn))
    tcp.answer(server_hello(noise(64), certificate, ask_certificate=bool(client_certificate), version=version))
    keys = _handshake(16, b"\x01\x00" + noise(256))
    if client_certificate:
        chain = len(client_certificate).to_bytes(3, "big") + client_certificate
        proof = _handshake(15, b"\x04\x01\x01\x00" + noise(256))
        keys = _handshake(11, len(chain).to_bytes(3, "big") + chain) + keys + proof
    tcp.ask(record(22, keys, 0x0303) + record(20, b"\x01", 0x0303) + record(22, noise(80), 0x0303))
    tcp.answer(record(20, b"\x01", 0x0303) + record(22, noise(80), 0x0303))
    for say, size in records or ((tcp.ask, 512), (tcp.answer, 1800), (tcp.ask, 304)):
        say(record(23, noise(size), 0x0303))
