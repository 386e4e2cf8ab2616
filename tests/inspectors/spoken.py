"""For each inspector a conversation of its protocol, split by field: who says what, each field by its name.

So tests can cut between any two fields and inside each, and change one field while its neighbours stay true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from inspectors import hellos, rpc_writer, test_rpc_http, test_smb
from inspectors.playbook import stream
from inspectors.rpc_writer import EPM, NDR32
from inspectors.test_connectionless import REQUEST as ASKS
from inspectors.test_connectionless import RESPONSE as TELLS
from inspectors.test_connectionless import datagram
from inspectors.test_directory import BOUND, NTLM1, answer, bind, der, framed, kdc_answer, kdc_request, question, search
from inspectors.test_directory import message as ldap_message
from inspectors.test_framed import CONFIRM, CONNECT, FOREIGN_TCP, FOREIGN_UDP, VIA, nns, tpkt, voice
from inspectors.test_lines import GREETING, HELLO, KEYWORDS, SERVER_HELLO
from inspectors.test_lines import NTLM1 as NTLM1_IN_WORDS

from classifier.inspectors.base import Dialogue

CLIENT, SERVER = "client", "server"
Fields = Mapping[str, bytes]


class Said(NamedTuple):
    """One message: by whom, and its fields in order."""

    by: str
    fields: Fields

    @property
    def data(self) -> bytes:
        return b"".join(self.fields.values())


class Talk(NamedTuple):
    """What one inspector should recognise; ports: of the server, of the client."""

    inspector: str
    transport: Literal["tcp", "udp"]
    said: Sequence[Said]
    ports: tuple[int, int] = (40_000, 50_000)

    def dialogue(self, said: Sequence[Said] | None = None, *, turned: bool = False) -> Dialogue:
        """What was said, or something else instead, as an inspector meets it; turned: the wrong way round."""
        sides: dict[str, list[bytes]] = {CLIENT: [], SERVER: []}
        for each in self.said if said is None else said:
            sides[each.by].append(each.data)
        pieces = [sides[by] if self.transport == "udp" else [b"".join(sides[by])] for by in (CLIENT, SERVER)]
        ports = self.ports[::-1] if turned else self.ports
        return Dialogue(self.transport, *(stream(*each) for each in pieces[:: -1 if turned else 1]), *ports, not turned)


def client(**fields: bytes) -> Said:
    return Said(CLIENT, fields)


def server(**fields: bytes) -> Said:
    return Said(SERVER, fields)


def cut(by: str, data: bytes, **widths: int) -> Said:
    """A message whose fields have these widths; what is left is the last field, `rest`."""
    fields, at = {}, 0
    for name, width in widths.items():
        fields[name] = data[at : at + width]
        at += width
    return Said(by, {**fields, "rest": data[at:]})


# ---- the shapes of messages -----------------------------------------------------------------------------------------

RECORD = {"type": 1, "version": 2, "length": 2}
HANDSHAKE = {**RECORD, "message": 1, "size": 3, "legacy_version": 2, "random": 32, "session_length": 1}
CLIENT_HELLO = {**HANDSHAKE, "session": 32, "suites_length": 2, "suites": 32, "compressions": 2, "extensions_length": 2}
SERVER_SAYS = {**HANDSHAKE, "suite": 2, "compression": 1, "extensions_length": 2, "certificates": 1, "chain_size": 3}
PDU = {"major": 1, "minor": 1, "type": 1, "flags": 1, "label": 4, "length": 2, "token_length": 2, "call": 4}
BIND = {
    **PDU, "transmit": 2, "receive": 2, "group": 4, "contexts": 1, "reserved": 3, "context": 2, "syntaxes": 2,
    "uuid": 16, "version": 4, "transfer": 16,
}  # fmt: skip
BIND_ACK = {**PDU, "transmit": 2, "receive": 2, "group": 4, "address_length": 2, "address": 4}
REQUEST = {**PDU, "hint": 4, "context": 2, "opnum": 2}
DATAGRAM = {
    "major": 1, "type": 1, "flags": 2, "label": 3, "serial": 1, "object": 16, "uuid": 16, "activity": 16, "boot": 4,
    "version": 4, "sequence": 4, "opnum": 2, "hints": 4, "length": 2, "fragment": 2, "auth": 1,
}  # fmt: skip
SMB = {
    "marker": 1, "frame_length": 3, "protocol": 4, "size": 2, "charge": 2, "status": 4, "command": 2, "credits": 2,
    "flags": 4, "next": 4, "number": 8, "process": 4, "tree": 4, "session": 8, "signature": 16, "body_size": 2,
}  # fmt: skip
SMB1 = {
    "marker": 1, "frame_length": 3, "protocol": 4, "command": 1, "status": 4, "flags": 3, "process_high": 2,
    "signature": 8, "reserved": 2, "tree": 2, "process": 2, "user": 2, "multiplex": 2, "word_count": 1, "words": 10,
}  # fmt: skip
LDAP = {"tag": 1, "length": 1, "number": 3, "operation": 2, "version": 3}
KDC = {"frame": 4, "tag": 1, "length": 3, "sequence": 4, "version": 5, "type": 5}
DNS = {"id": 2, "flags": 2, "questions": 2, "answers": 2, "authorities": 2, "additional": 2, "name": 33, "kind": 2}
TPKT = {"version": 1, "reserved": 1, "length": 2, "header_length": 1, "code": 1}
NNS = {"kind": 1, "version": 2, "length": 2}
RTP = {"version": 1, "kind": 1, "sequence": 2, "time": 4, "source": 4}

TLS13 = hellos.record(hellos.server_hello(extensions=hellos.TLS13)) + hellos.CHANGE + hellos.SECRET
NAME = "_ldap._tcp.gc._msdcs.contoso.com"
TARGET = b"\0\0\0\1\x0c\xc4\3dc1\7contoso\3com\0"
TICKET = kdc_request(0x6C, (b"SMTPSVC", b"hub")), kdc_answer(0x6D)
SEALED = b"\x05\x04\x06\xff\0\0\0\x1c" + bytes(40)
CODED = bytes(0x41 + part for octet in b"EX1            \x20" for part in (octet >> 4, octet & 15))
SMB_ASKED, SMB_TOLD = test_smb.playbook()
SMB1_ASKED, SMB1_TOLD = test_smb.first_version()
MAP, MAPPED = rpc_writer.map_request(), rpc_writer.map_answer([rpc_writer.tower()])
WALK = (
    cut(CLIENT, rpc_writer.bind([(0, EPM, "3.0", [NDR32])]), **BIND),
    cut(SERVER, rpc_writer.ack([(0, NDR32)]), **BIND_ACK),
    cut(CLIENT, rpc_writer.request(3, MAP), **REQUEST),
    cut(SERVER, rpc_writer.response(MAPPED), **REQUEST),
)
BASE = b"CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=contoso,DC=com"


def in_turns(asked: Sequence[bytes], told: Sequence[bytes], **widths: int) -> list[Said]:
    """Question and answer, one pair after the other."""
    pairs = zip(asked, told, strict=True)
    return [cut(by, data, **widths) for pair in pairs for by, data in zip((CLIENT, SERVER), pair, strict=True)]


def prefixed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def words_of_sip(first_line: bytes, **more: bytes) -> Fields:
    names = {"via": b"Via: SIP/2.0/TCP 10.0.0.9\r\n", "to": b"To: <sip:5555@um.contoso.com>\r\n", **more}
    return {"first_line": first_line, **names, "length": b"Content-Length: 0\r\n", "end": b"\r\n"}


SIP = (
    client(**words_of_sip(b"INVITE sip:5555@um.contoso.com SIP/2.0\r\n")),
    server(**words_of_sip(b"SIP/2.0 302 Moved\r\n", contact=b"Contact: <sip:um1.contoso.com:5065>\r\n")),
)

TALKS = (
    Talk("tls", "tcp", (
        cut(CLIENT, HELLO, **CLIENT_HELLO),
        cut(SERVER, SERVER_HELLO, **SERVER_SAYS),
        cut(CLIENT, hellos.CHANGE + hellos.SECRET, **RECORD, change=1, next_type=1, next_version=2),
    )),
    Talk("tls", "tcp", (
        cut(CLIENT, HELLO, **CLIENT_HELLO),
        cut(SERVER, TLS13, **HANDSHAKE, suite=2, compression=1, extensions_length=2),
    )),
    Talk("smb", "tcp", in_turns(SMB_ASKED[:3] + SMB_ASKED[4:], SMB_TOLD[:3] + SMB_TOLD[5:], **SMB)),
    Talk("smb", "tcp", (*in_turns(SMB1_ASKED[:3], SMB1_TOLD, **SMB1), cut(CLIENT, SMB1_ASKED[3], **SMB1))),
    Talk("ncacn-http", "tcp", (
        server(name=b"ncacn_http", version=b"/1.0"), *WALK,
    )),
    Talk("rpc-over-http", "tcp", (
        client(verb=b"RPC_IN_DATA ", path=b"/rpc/rpcproxy.dll", target=b"?mail.example.com:6001",
               version=b" HTTP/1.1\r\n", host=b"Host: owa.example.com\r\n", agent=b"User-Agent: MSRPC\r\n",
               length=b"Content-Length: 1073741824\r\n", end=b"\r\n"),
        cut(CLIENT, test_rpc_http.B1, **PDU, rts_flags=2, commands=2),
        cut(CLIENT, test_rpc_http.CALLS[0], **BIND), cut(CLIENT, test_rpc_http.CALLS[1], **REQUEST),
    )),
    Talk("rpc-over-http", "tcp", (
        client(verb=b"RPC_OUT_DATA ", path=b"/rpc/rpcproxy.dll", target=b"?mail.example.com:6001",
               version=b" HTTP/1.1\r\n", host=b"Host: owa.example.com\r\n", agent=b"User-Agent: MSRPC\r\n",
               length=b"Content-Length: 76\r\n", end=b"\r\n"),
        cut(CLIENT, test_rpc_http.A1, **PDU, rts_flags=2, commands=2),
        server(version=b"HTTP/1.1 ", status=b"200 Success\r\n", kind=b"Content-Type: application/rpc\r\n",
               length=b"Content-Length: 1073741824\r\n", end=b"\r\n"),
        cut(SERVER, test_rpc_http.A3, **PDU, rts_flags=2, commands=2),
        cut(SERVER, test_rpc_http.C2, **PDU, rts_flags=2, commands=2),
        cut(SERVER, test_rpc_http.ANSWERS[0], **BIND_ACK), cut(SERVER, test_rpc_http.ANSWERS[1], **REQUEST),
    )),
    Talk("dcerpc", "tcp", WALK),
    Talk("dcerpc", "udp", (
        cut(CLIENT, datagram(ASKS, EPM, MAP, 3), **DATAGRAM), cut(SERVER, datagram(TELLS, EPM, MAPPED, 3), **DATAGRAM),
    )),
    Talk("http", "tcp", (
        client(verb=b"POST ", path=b"/EWS/Exchange.asmx", version=b" HTTP/1.1\r\n", host=b"Host: mail.contoso.com\r\n",
               agent=b"User-Agent: Microsoft Office/14.0\r\n", proof=b"Authorization: NTLM " + NTLM1_IN_WORDS + b"\r\n",
               length=b"Content-Length: 3\r\n", end=b"\r\n", body=b"<a>"),
        server(version=b"HTTP/1.1 ", status=b"200 ", reason=b"OK\r\n", server=b"Server: Microsoft-IIS/7.5\r\n",
               coding=b"Transfer-Encoding: chunked\r\n", end=b"\r\n", size=b"3\r\n", chunk=b"<b>\r\n",
               last=b"0\r\n\r\n"),
    )),
    Talk("smtp", "tcp", (
        cut(SERVER, GREETING, code=3, space=1, host=15),
        client(verb=b"EHLO ", name=b"ex2.contoso.com", end=b"\r\n"),
        Said(SERVER, {str(number): line + b"\r\n" for number, line in enumerate(KEYWORDS.split(b"\r\n")[:-1])}),
        client(verb=b"X-ANONYMOUSTLS", end=b"\r\n"),
        server(code=b"220 ", words=b"2.0.0 SMTP server ready", end=b"\r\n"),
        cut(CLIENT, HELLO, **CLIENT_HELLO), cut(SERVER, SERVER_HELLO, **SERVER_SAYS),
    )),
    Talk("ldap", "tcp", (
        cut(CLIENT, bind(der(0xA3, der(4, b"GSS-SPNEGO"), der(4, NTLM1))), **LDAP, name=2, choice=2, mechanism=12),
        cut(SERVER, BOUND, **LDAP), cut(CLIENT, search(BASE), **{**LDAP, "length": 3, "operation": 4}, base=2),
        cut(SERVER, ldap_message(der(0x65, der(10, b"\0"), der(4), der(4))), **LDAP),
    )),
    Talk("ldap", "udp", (
        cut(CLIENT, search(b"", attributes=(b"Netlogon",)), **LDAP),
        cut(SERVER, ldap_message(der(0x64, der(4), der(0x30))), **LDAP),
    )),
    Talk("ldap", "tcp", (
        cut(CLIENT, ldap_message(der(0x77, der(0x80, b"1.3.6.1.4.1.1466.20037"))), **LDAP),
        cut(SERVER, ldap_message(der(0x78, der(10, b"\0"), der(4), der(4))), **LDAP),
        cut(CLIENT, HELLO, **CLIENT_HELLO), cut(SERVER, SERVER_HELLO, **SERVER_SAYS),
    )),
    Talk("ldap", "tcp", (
        cut(CLIENT, bind(der(0xA3, der(4, b"GSSAPI"), der(4, NTLM1))), **LDAP, name=2, choice=2, mechanism=8),
        cut(SERVER, BOUND, **LDAP), cut(CLIENT, framed(SEALED), size=4, kind=2, flags=1, filler=1, count=2, rotation=2),
        cut(SERVER, framed(SEALED), size=4, kind=2, flags=1, filler=1, count=2, rotation=2),
    )),
    Talk("kerberos", "tcp", in_turns([framed(TICKET[0])], [framed(TICKET[1])], **KDC)),
    Talk("kerberos", "udp", in_turns([TICKET[0]], [TICKET[1]], **{**KDC, "frame": 0})),
    Talk("pop3", "tcp", (
        server(mark=b"+OK", space=b" ", words=b"The Microsoft Exchange POP3 service is ready.", end=b"\r\n"),
        client(verb=b"USER ", name=b"contoso\\ann", end=b"\r\n"), server(mark=b"+OK", end=b"\r\n"),
        client(verb=b"PASS ", secret=b"hunter2", end=b"\r\n"),
        server(mark=b"+OK ", words=b"User successfully logged on.", end=b"\r\n"),
    )),
    Talk("pop3", "tcp", (
        server(mark=b"+OK", space=b" ", words=b"The Microsoft Exchange POP3 service is ready.", end=b"\r\n"),
        client(verb=b"STLS", end=b"\r\n"), server(mark=b"+OK", words=b" Begin TLS negotiation.", end=b"\r\n"),
        cut(CLIENT, HELLO, **CLIENT_HELLO), cut(SERVER, SERVER_HELLO, **SERVER_SAYS),
    )),
    Talk("imap4", "tcp", (
        server(tag=b"*", status=b" OK ", words=b"The Microsoft Exchange IMAP4 service is ready.", end=b"\r\n"),
        client(tag=b"a1 ", verb=b"CAPABILITY", end=b"\r\n"),
        server(tag=b"* ", what=b"CAPABILITY", one=b" IMAP4rev1", two=b" AUTH=NTLM", end=b"\r\n", done=b"a1 OK\r\n"),
        client(tag=b"a2 ", verb=b"LOGIN ", name=b"ann ", secret=b"hunter2", end=b"\r\n"),
        server(tag=b"a2 ", status=b"OK ", words=b"LOGIN completed.", end=b"\r\n"),
    )),
    Talk("nntp", "tcp", (
        server(code=b"200 ", words=b"NNTP Service 6.0.3790.3959 Version: 6.0.3790.3959 Posting Allowed", end=b"\r\n"),
        client(verb=b"MODE ", what=b"READER", end=b"\r\n"), server(code=b"200 ", words=b"Posting Allowed", end=b"\r\n"),
        client(verb=b"AUTHINFO ", what=b"USER ", name=b"ann", end=b"\r\n"),
        server(code=b"381 ", words=b"PASS", end=b"\r\n"),
    )),
    Talk("sip", "tcp", SIP),
    Talk("sip", "udp", SIP),
    Talk("net.tcp", "tcp", (
        client(version=b"\0\1\0", mode=b"\1\2", via=b"\2", via_length=bytes((len(VIA),)), uri=VIA, encoding=b"\3\x08",
               upgrade=b"\x09", upgrade_length=b"\x15", name=b"application/negotiate"),
        server(accepted=b"\x0a"), cut(CLIENT, nns(NTLM1), **NNS), cut(SERVER, nns(b"", 0x14), **NNS),
    )),
    Talk("nego-stream", "tcp", (
        cut(CLIENT, nns(NTLM1), **NNS), cut(SERVER, nns(b"", 0x14), **NNS),
        client(size=b"\x18\0\0\0", sealed=bytes(range(24))),
    )),
    Talk("link-state", "tcp", (
        server(length=b"{0000004c} ", kind=b"NODEINFO ", number=b"(5) ", size=b"{38}", version=b"Version: 6.0.6249 ",
               words=b"Microsoft Routing Server ready", end=b"\r\n  "),
    )),
    Talk("ssh", "tcp", (
        server(mark=b"SSH-", version=b"2.0-", software=b"OpenSSH_9.2p1 Debian", end=b"\r\n"),
        client(mark=b"SSH-", version=b"2.0-", software=b"OpenSSH_9.6", end=b"\r\n"),
    )),
    Talk("foreign", "tcp", (cut(CLIENT, FOREIGN_TCP["rdp"][0], **TPKT, destination=2, source=2, options=1, cookie=8),)),
    Talk("foreign", "tcp", (
        server(code=b"220 ", words=b"ProFTPD ready", end=b"\r\n"),
        client(verb=b"USER ", name=b"anonymous", end=b"\r\n"), server(code=b"331 ", words=b"ok", end=b"\r\n"),
        client(verb=b"PASS ", secret=b"x", end=b"\r\n"),
    )),
    Talk("foreign", "udp", (cut(CLIENT, FOREIGN_UDP["quic"], flags=1, version=4, length=1, destination=8),)),
    Talk("foreign", "udp", (cut(CLIENT, FOREIGN_UDP["stun"], kind=2, length=2, cookie=4),)),
    Talk("x400", "tcp", (
        cut(CLIENT, CONNECT, **TPKT, destination=2, source=2, options=1, calling=5), cut(SERVER, CONFIRM, **TPKT),
        cut(CLIENT, tpkt(b"\2\xf0\x80\x0d\x20" + bytes(20) + b"\x06\4\x56\0\1\6"), **TPKT, end=1, connect=2),
        cut(SERVER, tpkt(b"\2\xf0\x80\x0e\4abcd"), **TPKT, end=1, accept=2),
    )),
    Talk("dns", "tcp", in_turns([prefixed(question(NAME, 33))], [prefixed(answer(NAME, 33, TARGET))],
                                frame_length=2, **DNS)),
    Talk("dns", "udp", in_turns([question(NAME, 33)], [answer(NAME, 33, TARGET)], **DNS)),
    Talk("netbios-names", "udp", (
        client(id=b"\x12\x34", flags=b"\1\x10", counts=b"\0\1" + bytes(6), length=b"\x20", name=CODED, end=b"\0",
               kind=b"\0\x20", space=b"\0\1"),
    ), (137, 137)),
    Talk("rtp", "udp", [cut(CLIENT, data, **RTP) for data in voice(5)]),
    Talk("cluster-heartbeat", "udp", [cut(by, bytes(48), first=4) for by in (CLIENT, SERVER) * 3], (3343, 3343)),
    Talk("new-mail", "udp", [client(one=b"\x5a\x81\x23\x99", two=b"\xfe\x01\x02\x77")] * 2, (1095, 1234)),
)  # fmt: skip
