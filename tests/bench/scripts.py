"""What the conversations of a benchmark capture say: openings of many protocols, with the places that differ.

The exchanges are those of the small captures (`captures.makers.talk`), recorded once; every random, token and
sealed stub in them is a place to be filled anew for each conversation, and so are the port and the address that
the endpoint mapper hands out.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

from captures.makers import rpc, talk, tokens
from captures.makers.certificates import certificate
from captures.makers.der import integer, octets, sequence, tagged, tlv
from captures.makers.scene import Host, Span

RANDOM, PORT, ADDRESS, PORT_TEXT, IDENTITY = range(5)
"""What a place in a message is filled with: noise, the port or address handed out, the port in digits, a DNS id."""
TLS_RECORD, RPC_FRAGMENT, OPAQUE = 1, 2, 3
CLIENT, SERVER = 0, 1

MARKED_PORT, MARKED_ADDRESS = 54_321, "203.0.113.77"

Patch = tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """One message. side: 0 client, 1 server; patches: (offset, size, what); bulk: may be repeated, framed like this."""

    side: int
    data: bytes
    patches: tuple[Patch, ...] = ()
    bulk: int = 0
    acknowledged: bool = False

    def cut(self, start: int, size: int) -> Step:
        """The part of it that travels in one segment; a patch over the border stays as it is."""
        inside = [
            (at - start, long, what) for at, long, what in self.patches if start <= at and at + long <= start + size
        ]
        return Step(self.side, self.data[start : start + size], tuple(inside), self.bulk)


@dataclass(frozen=True)
class Kind:
    """A kind of conversation. server: third byte of its servers' 10.0.x.y; share: how common it is."""

    name: str
    transport: str
    port: int
    server: int
    share: float
    variants: list[list[Step]] = field(repr=False)


class Recorder:
    """Plays the part of a `scene.Tcp` and writes down what is said, and where its randoms are."""

    def __init__(self, seed: str, port: int) -> None:
        self.random = random.Random(seed)
        self.scene = SimpleNamespace(noise=self.noise, random=self.random)
        self.client, self.server, self.port = Host("WS1", "10.1.0.1"), Host("EX1", MARKED_ADDRESS), port
        self.steps: list[Step] = []
        self._issued: list[bytes] = []

    def noise(self, size: int) -> bytes:
        blob = self.random.randbytes(size)
        if size >= 8:
            self._issued.append(blob)
        return blob

    def ask(self, data: bytes, **_: object) -> Span:
        return self._write(CLIENT, data)

    def answer(self, data: bytes, **_: object) -> Span:
        return self._write(SERVER, data)

    def _write(self, side: int, data: bytes) -> Span:
        patches = [(at, len(blob), RANDOM) for blob in self._issued if (at := data.find(blob)) >= 0]
        marks = (
            (struct.pack(">H", MARKED_PORT), PORT),
            (Host("", MARKED_ADDRESS).packed, ADDRESS),
            (b"54321", PORT_TEXT),
        )
        patches += [(at, len(mark), what) for mark, what in marks if (at := data.find(mark)) >= 0]
        self.steps.append(Step(side, data, tuple(patches), acknowledged=len(self.steps) % 3 == 2))
        return Span(0, 0)


def recorded(
    play: Callable[[Recorder], None], seed: str, port: int = MARKED_PORT, bulk: tuple[int, bytes] | None = None
) -> list[Step]:
    """The steps of a play, and two bulk steps (client's, server's) at its end if it has bulk."""
    recorder = Recorder(seed, port)
    play(recorder)
    if bulk:
        framing, head = bulk
        heads = (head, head) if framing != RPC_FRAGMENT else (_bulk_pdu(rpc.REQUEST), _bulk_pdu(rpc.RESPONSE))
        recorder.steps += [Step(side, heads[side], bulk=framing) for side in (CLIENT, SERVER)]
    return recorder.steps


def _bulk_pdu(ptype: int) -> bytes:
    return rpc.pdu(ptype, struct.pack("<IHH", 0, 0, 11 if ptype == rpc.REQUEST else 0), call=9)


APPLICATION_DATA = b"\x17\x03\x03\x00\x00"


def lines(*text: str) -> Callable[[Recorder], None]:
    """A text protocol: lines that begin with `C:` are the client's."""

    def play(recorder: Recorder) -> None:
        for line in text:
            say = recorder.ask if line.startswith("C:") else recorder.answer
            say(line[2:].replace("\n", "\r\n").encode())

    return play


def tls_variants() -> list[list[Step]]:
    """Server names and client stacks in all combinations."""
    names = [
        f"{word}.{domain}"
        for word in ("mail", "autodiscover", "www", "api", "cdn", "owa", "portal", "files")
        for domain in ("example.com", "example.net", "example.org", "contoso.example", "fabrikam.example")
    ]
    variants = []
    for number, name in enumerate(names):
        for stack in talk.CIPHERS:
            alpn = (b"h2", b"http/1.1") if stack == "browser" else ()

            def play(recorder: Recorder, name: str = name, stack: str = stack, alpn: tuple[bytes, ...] = alpn) -> None:
                proof = certificate(recorder.random.randbytes, name)
                talk.tls(recorder, name, certificate=proof, stack=stack, alpn=alpn)  # type: ignore[arg-type]

            variants.append(recorded(play, f"tls{number}{stack}", bulk=(TLS_RECORD, APPLICATION_DATA)))
    return variants


def http_variants() -> list[list[Step]]:
    paths = (
        "/",
        "/index.html",
        "/owa/",
        "/EWS/Exchange.asmx",
        "/img/logo.png",
        "/api/v1/items?id=7",
        "/OAB/oab.xml",
        "/Microsoft-Server-ActiveSync?Cmd=Sync&DeviceId=A1",
        "/autodiscover/autodiscover.xml",
        "/wsman",
    )
    agents = ("Mozilla/5.0 (Windows NT 6.1)", "Microsoft BITS/7.5", "curl/7.64", "Microsoft Office/14.0 (Outlook 14.0)")
    variants = []
    for number, path in enumerate(paths):
        for agent in agents:
            asked = f"C:GET {path} HTTP/1.1\nHost: web{number}.example.com\nUser-Agent: {agent}\nAccept: */*\n\n"
            said = "S:HTTP/1.1 200 OK\nServer: Microsoft-IIS/7.5\nContent-Type: text/html\nContent-Length: 900000\n\n"
            variants.append(recorded(lines(asked, said), f"http{number}{agent}", bulk=(OPAQUE, b"")))
    return variants


def smtp_variants(upgrade: str) -> list[list[Step]]:
    """upgrade: "" (clear mail to any server), STARTTLS or X-ANONYMOUSTLS."""
    variants = []
    for number in range(24):
        name = f"mx{number}.example.com"
        exchange = upgrade == "X-ANONYMOUSTLS"
        banner = f"220 {name} Microsoft ESMTP MAIL Service ready at Tue, 14 Nov 2023 22:13:{number:02d} +0000\n"
        hello = ["SIZE 10485760", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "STARTTLS", "8BITMIME", "CHUNKING"]
        hello += (
            ["X-ANONYMOUSTLS", "AUTH NTLM", "X-EXPS GSSAPI NTLM", "XEXCH50", "XRDST", "XSHADOW"] if exchange else []
        )
        said = "".join(f"250-{word}\n" for word in hello[:-1]) + f"250 {hello[-1]}\n"
        text = [f"S:{banner if exchange else f'220 {name} ESMTP Postfix'}\n", f"C:EHLO hub{number}.example.com\n"]
        text.append(f"S:250-{name} Hello\n{said}")
        if upgrade:
            text += [f"C:{upgrade}\n", "S:220 2.0.0 SMTP server ready\n"]
        else:
            text += [f"C:MAIL FROM:<u{number}@example.com>\n", "S:250 2.1.0 Sender OK\n", "C:DATA\n", "S:354 Start\n"]

        def play(recorder: Recorder, text: list[str] = text, name: str = name) -> None:
            lines(*text)(recorder)
            if upgrade:
                talk.tls(recorder, certificate=certificate(recorder.random.randbytes, name))  # type: ignore[arg-type]

        framing = (TLS_RECORD, APPLICATION_DATA) if upgrade else (OPAQUE, b"")
        variants.append(recorded(play, f"smtp{upgrade}{number}", bulk=framing))
    return variants


INTERFACES = (
    (rpc.EMSMDB, talk.EMSMDB_CALLS),
    (rpc.NSPI, talk.NSPI_CALLS),
    (rpc.RFRI, talk.RFRI_CALLS),
    (rpc.NETLOGON, (4, 2)),
    (rpc.DRSUAPI, (0, 12)),
    (rpc.CLUSAPI, (0, 5)),
    (rpc.SPOOLSS, (1, 29)),
)
PACKAGES = (talk.NTLM, talk.KERBEROS, talk.SPNEGO)


def epm_variants() -> list[list[Step]]:
    """One for each interface and package, in the order of `rpc_variants`."""
    variants = []
    for number, (interface, _) in enumerate(INTERFACES):
        for kind in PACKAGES:

            def play(recorder: Recorder, interface: rpc.Syntax = interface, wide: bool = kind == talk.SPNEGO) -> None:
                talk.open_mapper(recorder, wide=wide)  # type: ignore[arg-type]
                talk.ask_port(recorder, interface, [(MARKED_PORT, MARKED_ADDRESS)], wide=wide)  # type: ignore[arg-type]

            variants.append(recorded(play, f"epm{number}{kind}", 135))
    return variants


def rpc_variants() -> list[list[Step]]:
    """A bind on the port that was handed out, and sealed calls."""
    variants = []
    for number, (interface, opnums) in enumerate(INTERFACES):
        for kind in PACKAGES:

            def play(
                recorder: Recorder,
                interface: rpc.Syntax = interface,
                kind: int = kind,
                opnums: tuple[int, ...] = opnums,
            ) -> None:
                how = talk.Credentials(kind, talk.PRIVACY)
                talk.bind_with(recorder, [(interface, [rpc.NDR32])], how)  # type: ignore[arg-type]
                talk.calls(recorder, how, opnums)  # type: ignore[arg-type]

            variants.append(recorded(play, f"rpc{number}{kind}", bulk=(RPC_FRAGMENT, b"")))
    return variants


def ldap_message(number: int, operation: bytes) -> bytes:
    return sequence(integer(number), operation)


def ldap_search(base: str, attribute: str, number: int) -> bytes:
    body = [octets(base), integer(2, 0x0A), integer(0, 0x0A), integer(0), integer(120), tlv(1, b"\0")]
    return ldap_message(number, tlv(0x63, *body, tlv(0x87, b"objectClass"), sequence(octets(attribute))))


def ldap_variants() -> list[list[Step]]:
    """rootDSE, SASL bind with Kerberos, then sealed buffers; or an anonymous search in clear."""
    bases = ("", "DC=example,DC=test", "CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=example,DC=test")
    variants = []
    for number in range(12):

        def play(recorder: Recorder, base: str = bases[number % 3], number: int = number) -> None:
            recorder.ask(ldap_search(base, "defaultNamingContext" if not base else "mail", 1))
            found = sequence(sequence(octets("cn"), tlv(0x31, octets(f"entry{number}"))))
            recorder.answer(ldap_message(1, tlv(0x64, octets(base), found)))
            recorder.answer(ldap_message(1, tlv(0x65, integer(0, 0x0A), octets(""), octets(""))))
            token = tokens.spnego_init(tokens.gss_kerberos(tokens.ap_req(recorder.noise, "ldap/dc1.example.test")))
            sasl = tlv(0xA3, octets("GSS-SPNEGO"), octets(token))
            recorder.ask(ldap_message(2, tlv(0x60, integer(3), octets(""), sasl)))
            recorder.answer(ldap_message(2, tlv(0x61, integer(0, 0x0A), octets(""), octets(""))))

        variants.append(recorded(play, f"ldap{number}", bulk=(OPAQUE, b"")))
    return variants


def kerberos_variants(*, stream: bool) -> list[list[Step]]:
    """TGS exchanges for the services of Exchange and of Windows."""
    services = ("exchangeMDB/cas.example.test", "exchangeAB/cas.example.test", "ldap/dc1.example.test", "cifs/fs1",
                "HTTP/mail.example.test", "SMTPSVC/hub1.example.test", "host/ws1", "krbtgt/EXAMPLE.TEST")  # fmt: skip
    variants = []
    for service in services:

        def play(recorder: Recorder, service: str = service) -> None:
            framed = (lambda data: struct.pack(">I", len(data)) + data) if stream else (lambda data: data)
            size = 900 if stream else 300
            proof = sequence(
                tagged(1, integer(1)),
                tagged(2, octets(tokens.ap_req(recorder.noise, "krbtgt/EXAMPLE.TEST", size=size))),
            )
            body = sequence(tagged(2, tokens.general_string("EXAMPLE.TEST")), tagged(3, tokens.principal(service)),
                            tagged(7, integer(77)), tagged(8, sequence(integer(18), integer(23))))  # fmt: skip
            recorder.ask(framed(tlv(0x6C, sequence(
                tagged(1, integer(5)), tagged(2, integer(12)), tagged(3, sequence(proof)), tagged(4, body),
            ))))  # fmt: skip
            recorder.answer(framed(tlv(0x6D, sequence(
                tagged(0, integer(5)), tagged(1, integer(13)), tagged(3, tokens.general_string("EXAMPLE.TEST")),
                tagged(4, tokens.principal("alice")), tagged(5, tokens.ticket(recorder.noise, service, size=size)),
                tagged(6, tokens.encrypted(recorder.noise, 250)),
            ))))  # fmt: skip

        variants.append(recorded(play, f"krb{service}{stream}"))
    return variants


def dns_variants() -> list[list[Step]]:
    """Queries and answers with their id."""
    names = [f"{word}{number}.example.com" for word in ("www", "mail", "host", "cdn") for number in range(12)]
    names += ["_ldap._tcp.gc._msdcs.example.test", "_kerberos._tcp.dc._msdcs.example.test", "autodiscover.example.com"]
    variants = []
    for name in names:
        question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\x01\0\x01"
        answer = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\x0a\0\0\x07"
        variants.append([
            Step(CLIENT, b"\0\0\x01\0\0\x01\0\0\0\0\0\0" + question, ((0, 2, IDENTITY),)),
            Step(SERVER, b"\0\0\x81\x80\0\x01\0\x01\0\0\0\0" + question + answer, ((0, 2, IDENTITY),)),
        ])  # fmt: skip
    return variants


def smb_variants() -> list[list[Step]]:
    """SMB2 negotiation and a session set-up with NTLM."""

    def message(command: int, body: bytes, number: int, *, reply: bool) -> bytes:
        head = b"\xfeSMB" + struct.pack(
            "<HHIHHIIQIIQ", 64, 1, 0, command, 31, int(reply), 0, number, 0xFEFF, 0, 0x4400_0000_0051
        )
        data = head + bytes(16) + body
        return struct.pack(">I", len(data)) + data

    def play(recorder: Recorder) -> None:
        dialects = (0x0202, 0x0210, 0x0300, 0x0302)
        guid = recorder.noise(16)
        recorder.ask(
            message(
                0,
                struct.pack("<HHHHI", 36, 4, 1, 0, 0x7F) + guid + bytes(8) + struct.pack("<4H", *dialects),
                0,
                reply=False,
            )
        )
        recorder.answer(
            message(0, struct.pack("<HHHH", 65, 1, 0x0302, 0) + recorder.noise(16) + bytes(40), 0, reply=True)
        )
        token = tokens.spnego_init(tokens.ntlm_negotiate(), (tokens.NTLMSSP,))
        recorder.ask(message(1, struct.pack("<HBBIIHHQ", 25, 0, 1, 1, 0, 88, len(token), 0) + token, 1, reply=False))
        challenge = tokens.spnego_response(
            tokens.ntlm_challenge(recorder.noise, "FS1", "fs1.example.test"), tokens.NTLMSSP
        )
        recorder.answer(message(1, struct.pack("<HHHH", 9, 0, 72, len(challenge)) + challenge, 1, reply=True))

    return [recorded(play, f"smb{number}", bulk=(OPAQUE, b"")) for number in range(4)]


def _clear(kind: str, *text: str) -> list[list[Step]]:
    return [recorded(lines(*text), kind, bulk=(OPAQUE, b""))]


POP3 = ("S:+OK The Microsoft Exchange POP3 service is ready.\n", "C:CAPA\n", "S:+OK\nTOP\nUIDL\nSTLS\n.\n", "C:QUIT\n")
IMAP4 = (
    "S:* OK The Microsoft Exchange IMAP4 service is ready.\n",
    "C:a1 CAPABILITY\n",
    "S:* CAPABILITY IMAP4rev1\na1 OK\n",
)
SIP = (
    """C:OPTIONS sip:um1.example.test:5060 SIP/2.0
Via: SIP/2.0/TCP 10.1.0.9:5060;branch=z9hG4bK7
Max-Forwards: 70
From: <sip:gw@example.test>;tag=1
To: <sip:um1.example.test>
Call-ID: 71@10.1.0.9
CSeq: 1 OPTIONS
Content-Length: 0

""",
    """S:SIP/2.0 200 OK
Server: RTCC/4.0.0.0 MSExchangeUM/14.01.0218.012
Call-ID: 71@10.1.0.9
CSeq: 1 OPTIONS
Content-Length: 0

""",
)


def _opaque(recorder: Recorder) -> None:
    recorder.ask(recorder.noise(96))
    recorder.answer(recorder.noise(240))


SCRIPTS: list[Kind] = [
    Kind("dns", "udp", 53, 1, 18, dns_variants()),
    Kind("epm", "tcp", 135, 2, 6, epm_variants()),
    Kind("http", "tcp", 80, 3, 8, http_variants()),
    Kind("imap4", "tcp", 143, 4, 0.7, _clear("imap4", *IMAP4)),
    Kind("kerberos-tcp", "tcp", 88, 5, 3, kerberos_variants(stream=True)),
    Kind("kerberos-udp", "udp", 88, 5, 4, kerberos_variants(stream=False)),
    Kind("ldap", "tcp", 389, 5, 5, ldap_variants()),
    Kind("opaque", "tcp", 9000, 6, 2, [recorded(_opaque, "opaque", bulk=(OPAQUE, b""))]),
    Kind("pop3", "tcp", 110, 4, 0.7, _clear("pop3", *POP3)),
    Kind("refused", "tcp", 8080, 7, 1.5, [[]]),
    Kind("rpc", "tcp", 0, 2, 6, rpc_variants()),
    Kind("sip", "tcp", 5060, 8, 0.6, _clear("sip", *SIP)),
    Kind("smb", "tcp", 445, 9, 4, smb_variants()),
    Kind("smtp", "tcp", 25, 10, 4, smtp_variants("")),
    Kind("smtp-starttls", "tcp", 25, 10, 2.5, smtp_variants("STARTTLS")),
    Kind("smtp-x-anonymoustls", "tcp", 25, 11, 2.5, smtp_variants("X-ANONYMOUSTLS")),
    Kind("unanswered", "tcp", 8081, 7, 1.5, [[]]),
    Kind("tls", "tcp", 443, 12, 31, tls_variants()),
]
