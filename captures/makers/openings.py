"""Messages and first exchanges of the protocols around Exchange: DNS, Kerberos, LDAP, text protocols, HTTP, SIP."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRMX, DNSRRSRV

from captures.makers import talk, tokens
from captures.makers.certificates import certificate
from captures.makers.der import integer, octets, sequence, tagged, tlv
from captures.makers.scene import Host, Scene, Tcp, Udp
from captures.makers.tokens import Noise

# ---- DNS ----------------------------------------------------------------------------------------

RECORDS = {"A": 1, "MX": 15, "SRV": 33}


def look_up(scene: Scene, client: Host, server: Host, name: str, kind: str, answer: str, port: int = 0) -> Udp:
    """One DNS question and its answer (an address, or the host of an MX or SRV record)."""
    number = scene.random.randrange(1 << 16)
    question = DNSQR(qname=name, qtype=RECORDS[kind])
    record = {
        "A": lambda: DNSRR(rrname=name, type=1, ttl=600, rdata=answer),
        "MX": lambda: DNSRRMX(rrname=name, ttl=600, preference=10, exchange=answer),
        "SRV": lambda: DNSRRSRV(rrname=name, ttl=600, priority=0, weight=100, port=port, target=answer),
    }[kind]()
    udp = scene.udp(client, server, 53)
    udp.ask(bytes(DNS(id=number, rd=1, qd=question)))
    udp.answer(bytes(DNS(id=number, qr=1, rd=1, ra=1, qd=question, an=record)))
    return udp


# ---- Kerberos (RFC 4120 section 5.4) ---------------------------------------------------------------

REALM = "EXAMPLE.TEST"


def tgs_request(noise: Noise, service: str, size: int = 900) -> bytes:
    """A TGS-REQ: a ticket-granting ticket in its PA-TGS-REQ, and the service asked for."""
    proof = tokens.ap_req(noise, f"krbtgt/{REALM}", mutual=False, size=size)
    body = sequence(
        tagged(0, tlv(3, b"\x00\x40\x81\x00\x00")),
        tagged(2, tokens.general_string(REALM)),
        tagged(3, tokens.principal(service)),
        tagged(5, tlv(0x18, b"20370913024805Z")),
        tagged(7, integer(int.from_bytes(b"\x11" + noise(3), "big"))),
        tagged(8, sequence(integer(18), integer(17), integer(23))),
    )
    return tlv(
        0x6C,
        sequence(
            tagged(1, integer(5)),
            tagged(2, integer(12)),
            tagged(3, sequence(sequence(tagged(1, integer(1)), tagged(2, octets(proof))))),
            tagged(4, body),
        ),
    )


def tgs_reply(noise: Noise, client: str, service: str, size: int = 900, etype: int = 18) -> bytes:
    """A TGS-REP with a ticket for the service."""
    return tlv(
        0x6D,
        sequence(
            tagged(0, integer(5)),
            tagged(1, integer(13)),
            tagged(3, tokens.general_string(REALM)),
            tagged(4, tokens.principal(client)),
            tagged(5, tokens.ticket(noise, service, size=size, etype=etype)),
            tagged(6, tokens.encrypted(noise, 250)),
        ),
    )


def get_ticket(scene: Scene, client: Host, server: Host, user: str, service: str, *, etype: int = 18) -> Tcp:
    """A TGS exchange over TCP."""
    tcp = scene.tcp(client, server, 88)
    for say, data in (
        (tcp.ask, tgs_request(scene.noise, service)),
        (tcp.answer, tgs_reply(scene.noise, user, service, etype=etype)),
    ):
        say(struct.pack(">I", len(data)) + data)
    tcp.close()
    return tcp


# ---- LDAP (RFC 4511 section 4) ------------------------------------------------------------------------


def ldap(number: int, operation: bytes) -> bytes:
    """One LDAPMessage."""
    return sequence(integer(number), operation)


def search(number: int, base: str, attributes: Sequence[str], *, scope: int = 2, wanted: str = "objectClass") -> bytes:
    """A searchRequest with a presence filter."""
    fields = [octets(base), integer(scope, 0x0A), integer(0, 0x0A), integer(0), integer(120), tlv(1, b"\0")]
    return ldap(number, tlv(0x63, *fields, tlv(0x87, wanted.encode()), sequence(*map(octets, attributes))))


def found(number: int, name: str, **attributes: str) -> bytes:
    """A searchResultEntry and the searchResultDone behind it."""
    values = [sequence(octets(key), tlv(0x31, octets(value))) for key, value in attributes.items()]
    return ldap(number, tlv(0x64, octets(name), sequence(*values))) + result(number, 0x65)


def result(number: int, tag: int, code: int = 0, *extra: bytes) -> bytes:
    """An LDAPResult of the given operation."""
    return ldap(number, tlv(tag, integer(code, 0x0A), octets(""), octets(""), *extra))


def sasl_bind(number: int, token: bytes) -> bytes:
    return ldap(number, tlv(0x60, integer(3), octets(""), tlv(0xA3, octets("GSS-SPNEGO"), octets(token))))


def simple_bind(number: int, name: str, password: str) -> bytes:
    return ldap(number, tlv(0x60, integer(3), octets(name), tlv(0x80, password.encode())))


EXCHANGE_BASE = "CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=example,DC=test"


def directory(
    scene: Scene, client: Host, server: Host, port: int = 389, *, sealed: bool = True, kind: int = talk.KERBEROS
) -> Tcp:
    """rootDSE, a bind, then sealed buffers (or, unsealed, a search below Exchange's configuration)."""
    tcp = scene.tcp(client, server, port)
    tcp.ask(search(1, "", ["configurationNamingContext", "isGlobalCatalogReady"], scope=0))
    tcp.answer(
        found(1, "", configurationNamingContext="CN=Configuration,DC=example,DC=test", isGlobalCatalogReady="TRUE")
    )
    (_bind_ntlm if kind == talk.NTLM else _bind_kerberos)(tcp)
    if sealed:
        for number, say in enumerate((tcp.ask, tcp.answer, tcp.ask, tcp.answer)):
            wrapped = tokens.ntlm_signature(scene.noise) if kind == talk.NTLM else _kerberos_wrap(number)
            body = wrapped + scene.noise(180)
            say(struct.pack(">I", len(body)) + body)
    else:
        tcp.ask(search(3, EXCHANGE_BASE, ["msExchServerSite"], wanted="msExchVersion"))
        tcp.answer(found(3, f"CN=HUB1,{EXCHANGE_BASE}", msExchServerSite="CN=Site1"))
    tcp.close()
    return tcp


def _kerberos_wrap(number: int) -> bytes:
    """The head of a sealed buffer (RFC 4121 section 4.2.6.2)."""
    return b"\x05\x04\x06\xff\x00\x00\x00\x1c" + struct.pack(">Q", number)


def _bind_kerberos(tcp: Tcp) -> None:
    noise = tcp.scene.noise
    tcp.ask(sasl_bind(2, tokens.spnego_init(tokens.gss_kerberos(tokens.ap_req(noise, f"ldap/{tcp.server.fqdn}")))))
    proof = tokens.gss_kerberos(tokens.ap_rep(noise), b"\x02\x00")
    tcp.answer(result(2, 0x61, 0, tlv(0x87, tokens.spnego_response(proof, tokens.MS_KERBEROS, 0))))


BIND_IN_PROGRESS = 14
"""saslBindInProgress (RFC 4511 appendix A.2)."""


def _bind_ntlm(tcp: Tcp) -> None:
    noise, server = tcp.scene.noise, tcp.server
    tcp.ask(sasl_bind(2, tokens.spnego_init(tokens.ntlm_negotiate(), (tokens.NTLMSSP,))))
    challenge = tokens.spnego_response(tokens.ntlm_challenge(noise, server.name, server.fqdn), tokens.NTLMSSP)
    tcp.answer(result(2, 0x61, BIND_IN_PROGRESS, tlv(0x87, challenge)))
    answer = tokens.ntlm_authenticate(noise, f"{tcp.client.name}$", tcp.client.name)
    tcp.ask(sasl_bind(3, tokens.spnego_response(answer)))
    tcp.answer(result(3, 0x61, 0, tlv(0x87, tokens.spnego_response(state=0))))


# ---- text protocols --------------------------------------------------------------------------------


def dialogue(tcp: Tcp, *lines: str) -> None:
    """Lines that begin with `C:` are the client's, with `S:` the server's; newlines become CRLF."""
    for line in lines:
        say = {"C": tcp.ask, "S": tcp.answer}[line[0]]
        say((line[2:] + "\n").replace("\n", "\r\n").encode())


BANNER_2010 = "Microsoft ESMTP MAIL Service ready at Wed, 10 Nov 2010 11:00:00 +0000"
COMMON_WORDS = ("SIZE", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "STARTTLS")
INTERNAL_WORDS = (
    "X-ANONYMOUSTLS",
    "AUTH NTLM",
    "X-EXPS GSSAPI NTLM",
    "8BITMIME",
    "BINARYMIME",
    "CHUNKING",
    "XEXCH50",
    "XRDST",
    "XSHADOW",
)
CLIENT_WORDS = ("AUTH GSSAPI NTLM LOGIN", "8BITMIME", "BINARYMIME", "CHUNKING")
EDGE_WORDS = ("X-ANONYMOUSTLS", "8BITMIME", "BINARYMIME", "CHUNKING", "XEXCH50", "XRDST", "XSHADOW")


def ehlo(client: Host, server: Host, words: Sequence[str], *, banner: str = BANNER_2010) -> list[str]:
    """Greeting, EHLO and its answer."""
    listed = [f"{server.fqdn} Hello [{client.address}]", *words]
    answer = "\n".join(f"250{' ' if word is listed[-1] else '-'}{word}" for word in listed)
    return [f"S:220 {server.fqdn} {banner}", f"C:EHLO {client.fqdn}", f"S:{answer}"]


def upgraded_mail(
    scene: Scene, client: Host, server: Host, words: Sequence[str], verb: str, *, port: int = 25, mutual: bool = False,
    name: str = "", banner: str = BANNER_2010,
) -> Tcp:  # fmt: skip
    """SMTP that turns to TLS with STARTTLS or X-ANONYMOUSTLS; mutual: the client has a certificate too; name: SNI."""
    tcp = scene.tcp(client, server, port)
    dialogue(tcp, *ehlo(client, server, words, banner=banner), f"C:{verb}", "S:220 2.0.0 SMTP server ready")
    proof = certificate(scene.noise, server.name, (server.fqdn,))
    own = certificate(scene.noise, client.name, (client.fqdn,)) if mutual else b""
    talk.tls(tcp, name, certificate=proof, client_certificate=own)
    tcp.close()
    return tcp


def clear_mail(sender: str, recipient: str) -> list[str]:
    """One message in clear."""
    return [
        f"C:MAIL FROM:<{sender}> SIZE=1200",
        "S:250 2.1.0 Sender OK",
        f"C:RCPT TO:<{recipient}>",
        "S:250 2.1.5 Recipient OK",
        "C:DATA",
        "S:354 Start mail input; end with <CRLF>.<CRLF>",
        f"C:From: {sender}\nTo: {recipient}\nSubject: lunch\n\nToday at noon?\n.",
        "S:250 2.6.0 <1@example.test> [InternalId=7] Queued mail for delivery",
        "C:QUIT",
        "S:221 2.0.0 Service closing transmission channel",
    ]


def web(scene: Scene, client: Host, server: Host, name: str, *, stack: str = "schannel-2008r2") -> Tcp:
    """HTTPS on 443."""
    tcp = scene.tcp(client, server, 443)
    proof = certificate(scene.noise, name, (f"autodiscover.{name.partition('.')[2]}",), issuer="Example Issuing CA")
    talk.tls(tcp, name, certificate=proof, stack=stack)
    tcp.close()
    return tcp
