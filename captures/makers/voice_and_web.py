"""Rows that speak SIP and RTP, HTTP and HTTPS, .NET framing, NegotiateStream, and cluster heartbeats."""

from __future__ import annotations

import base64
import struct

from captures.makers import openings, talk, tokens
from captures.makers.catalogue import story
from captures.makers.certificates import certificate
from captures.makers.documents import BETWEEN_CAS
from captures.makers.mail import roles
from captures.makers.openings import dialogue
from captures.makers.organisation import hosts
from captures.makers.scene import Host, Scene, Span, Tcp, Udp

UM_SERVER = "RTCC/4.0.0.0 MSExchangeUM/14.01.0218.012"
PHONE = ("um-phone-interaction",)
PHONE_NOTES = (
    "note-um-ip-based-auth",
    "note-um-sip-5060-5061",
    "doc-um-sip-redirect",
    "note-um-control-dynamic-tcp",
    "note-um-rtp-dynamic-udp",
)


def sip(first: str, client: Host, server: Host, headers: dict[str, str], body: str = "") -> bytes:
    """A SIP message (RFC 3261 section 7)."""
    lines = [first, f"Via: SIP/2.0/TCP {client.address}:5060;branch=z9hG4bK77", "Max-Forwards: 70"]
    lines += [
        f"From: <sip:gw@{client.address}>;tag=17",
        f"To: <sip:um@{server.address}>",
        f"Call-ID: 4711@{client.address}",
    ]
    lines += [f"{key}: {value}" for key, value in headers.items()] + [f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


def sdp(owner: Host, port: int, profile: str = "RTP/AVP") -> str:
    """A session description with one audio stream (RFC 4566)."""
    lines = ["v=0", f"o=- 1 1 IN IP4 {owner.address}", "s=call", f"c=IN IP4 {owner.address}", "t=0 0"]
    lines += [f"m=audio {port} {profile} 0 8 101", "a=rtpmap:0 PCMU/8000"]
    if profile == "RTP/SAVP":  # RFC 4568 section 4
        lines.append("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^31")
    return "\r\n".join([*lines, ""])


def invite(client: Host, server: Host, media: int, profile: str = "RTP/AVP") -> bytes:
    headers = {
        "CSeq": "1 INVITE",
        "Contact": f"<sip:{client.address}:5060;transport=TCP>",
        "Content-Type": "application/sdp",
    }
    line = f"INVITE sip:5000@{server.fqdn};transport=TCP SIP/2.0"
    return sip(line, client, server, headers, sdp(client, media, profile))


def rtp(number: int, source: int, noise: bytes) -> bytes:
    """One packet of G.711 (RFC 3550 section 5.1)."""
    return struct.pack(">BBHII", 0x80, 0x80 if number == 0 else 0, 7000 + number, 160 * number, source) + noise


@story(
    "um-phone-call", "A gateway calls UM: INVITE on 5060, 302 to 5065, INVITE there, 200 with SDP, then RTP both ways"
)
def phone_call(scene: Scene, profile: str = "RTP/AVP") -> None:
    gateway, um = hosts(scene, "gateway1", "um1")
    facts = {"roles": roles(gateway, um), "data_paths": PHONE, "also": PHONE_NOTES}
    tcp = scene.tcp(gateway, um, 5060)
    tcp.ask(invite(gateway, um, 20_100, profile))
    contact = {"CSeq": "1 INVITE", "Contact": f"<sip:{um.fqdn}:5065;transport=TCP>", "Server": UM_SERVER}
    moved = tcp.answer(sip("SIP/2.0 302 Moved Temporarily", gateway, um, contact))
    tcp.close()
    tcp.is_("sip", certainty=("strong", "certain"), encryption=("none",), **facts)
    worker = scene.tcp(gateway, um, 5065)
    offer = worker.ask(invite(gateway, um, 20_100, profile))
    accept = {"CSeq": "1 INVITE", "Server": UM_SERVER, "Content-Type": "application/sdp"}
    answer = worker.answer(sip("SIP/2.0 200 OK", gateway, um, accept, sdp(um, 31_620, profile)))
    worker.is_(
        "sip", certainty=("strong", "certain"), encryption=("none",), resolved=announced("sip-redirect", moved), **facts
    )
    voice = scene.udp(gateway, um, 31_620, client_port=20_100)
    for number in range(25):
        voice.ask(rtp(number, 0x11223344, scene.noise(160)))
        voice.answer(rtp(number, 0x55667788, scene.noise(160)))
        scene.wait(19)
    voice.is_(
        "rtp", certainty=("strong", "strong"), resolved=announced("sdp", Span(offer.first, answer.last)),
        encryption=("srtp" if profile == "RTP/SAVP" else "none",), **facts,
    )  # fmt: skip


@story("um-phone-call-srtp", "The same call with RTP/SAVP: the session descriptions carry keys")
def sealed_call(scene: Scene) -> None:
    phone_call(scene, "RTP/SAVP")


def announced(kind: str, span: Span) -> dict[str, object]:
    return {"kind": kind, "frames": [span.first, span.last]}


@story("um-secured", "Mutual TLS on 5061 and 5066 from the gateway; Play on Phone from Client Access on 5061")
def secured(scene: Scene) -> None:
    gateway, um, cas = hosts(scene, "gateway1", "um1", "cas1")
    for client, port, path in ((gateway, 5061, PHONE), (gateway, 5066, PHONE), (cas, 5061, ("cas-to-um",))):
        tcp = scene.tcp(client, um, port)
        proofs = [certificate(scene.noise, item.fqdn, issuer="Example Issuing CA") for item in (um, client)]
        talk.tls(tcp, certificate=proofs[0], client_certificate=proofs[1])
        tcp.close()
        also = PHONE_NOTES if path is PHONE else ("note-um-sip-5060-5061",)
        tcp.is_("tls", data_paths=path, also=also, roles=roles(client, um), certainty=("weak", "strong"),
                encryption=("tls-implicit",))  # fmt: skip


@story("um-play-on-phone", "Client Access asks UM over SIP on 5060 to call a telephone")
def play_on_phone(scene: Scene) -> None:
    cas, um = hosts(scene, "cas1", "um1")
    tcp = scene.tcp(cas, um, 5060)
    tcp.ask(sip(f"SERVICE sip:{um.fqdn} SIP/2.0", cas, um, {"CSeq": "1 SERVICE", "User-Agent": "RTCC/4.0.0.0"}))
    tcp.answer(sip("SIP/2.0 200 OK", cas, um, {"CSeq": "1 SERVICE", "Server": UM_SERVER}))
    tcp.close()
    tcp.is_(
        "sip",
        data_paths=("cas-to-um",),
        also=("note-um-sip-5060-5061",),
        roles=roles(cas, um),
        certainty=("strong", "certain"),
    )


@story("owa-instant-messaging", "Lync to Client Access on 5075, Client Access to Lync on 5061, UM on 5076: mutual TLS")
def instant_messaging(scene: Scene) -> None:
    lync, cas, um = hosts(scene, "lync1", "cas1", "um1")
    calls = (
        (lync, cas, 5075, "doc-ocs-to-cas-owa-im"),
        (cas, lync, 5061, "doc-cas-to-ocs-im"),
        (um, cas, 5076, "um-to-cas"),
    )
    for client, server, port, path in calls:
        tcp = scene.tcp(client, server, port)
        proofs = [certificate(scene.noise, item.fqdn, issuer="Example Issuing CA") for item in (server, client)]
        talk.tls(tcp, certificate=proofs[0], client_certificate=proofs[1])
        tcp.close()
        tcp.is_(
            "tls",
            data_paths=(path,),
            roles=roles(client, server),
            certainty=("weak", "strong"),
            encryption=("tls-implicit",),
        )


# ---- the web ------------------------------------------------------------------------------------------


def http(verb: str, path: str, name: str, **headers: str) -> bytes:
    lines = [
        f"{verb} {path} HTTP/1.1",
        f"Host: {name}",
        *(f"{key.replace('_', '-')}: {value}" for key, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def reply(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Server: Microsoft-IIS/7.5", f"Content-Length: {len(body)}"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


OFFICE, BROWSER = "Microsoft Office/14.0 (Windows NT 6.1; Outlook 14.0.4760)", "Mozilla/5.0 (Windows NT 6.1; WOW64)"
SYNC = "/Microsoft-Server-ActiveSync?User=alice&DeviceId=A1&DeviceType=SP&Cmd=Sync"
WEB = (
    ("ews1", "cas-autodiscover", "POST", "/Autodiscover/Autodiscover.xml", OFFICE, ""),
    ("ews1", "cas-availability", "POST", "/EWS/Exchange.asmx", OFFICE, "GetUserAvailabilityRequest"),
    ("ews1", "doc-ews", "POST", "/EWS/Exchange.asmx", "ExchangeServicesClient/14.00", "FindItem"),
    ("ews1", "um-web-service", "POST", "/EWS/UM2007Legacy.asmx", OFFICE, "PlayOnPhone"),
    ("browser1", "cas-owa", "GET", "/owa/auth/logon.aspx?replaceCurrent=1", BROWSER, ""),
    ("browser1", "doc-ecp", "GET", "/ecp/?rfr=owa", BROWSER, ""),
    ("phone1", "cas-activesync", "POST", SYNC, "MSFT-SPhone/5.2", ""),
    ("outlook1", "mailbox-outlook-oab", "GET", "/OAB/4667c322-5c08-4cda/oab.xml", "Microsoft BITS/7.5", ""),
    ("admin1", "doc-remote-powershell", "POST", "/PowerShell?PSVersion=2.0", "Microsoft WinRM Client", ""),
)
"""Who asks, the row, the request, the program, the SOAP call in its body."""

ANY_WEB = ("note-iis-http-https", "note-http-negotiate-order")


def web_story(key: str, path: str, verb: str, target: str, agent: str, call: str) -> None:
    """A request in clear, as behind a TLS offloader."""

    @story(f"http-{path}", f"{call or target.partition('?')[0]} in clear on 80, as behind a TLS offloader")
    def play(scene: Scene) -> None:
        client, cas = hosts(scene, key, "cas1")
        body = f"<soap:Envelope><soap:Body><{call}/></soap:Body></soap:Envelope>".encode() if call else b""
        headers = {"User_Agent": agent, "Authorization": "Basic ZXhhbXBsZVxhbGljZTpub3QgYSBzZWNyZXQ="}
        headers |= {"Content_Type": "text/xml; charset=utf-8"} if call else {}
        tcp = scene.tcp(client, cas, 80)
        tcp.ask(http(verb, target, "mail.example.test", Content_Length=str(len(body)), **headers) + body)
        tcp.answer(reply("200 OK", scene.noise(400), X_OWA_Version="14.1.218.13"))
        tcp.close()
        tcp.is_(
            "http",
            data_paths=(path,),
            also=ANY_WEB,
            roles=roles(client, cas),
            certainty=("strong", "certain"),
            authentication=("basic",),
            encryption=("none",),
        )


for _row in WEB:
    web_story(*_row)


@story(
    "http-cas-to-legacy-mailbox",
    "Client Access to an Exchange 2003 back-end: WebDAV on /exchange/, Negotiate with Kerberos",
)
def legacy(scene: Scene) -> None:
    cas, back = hosts(scene, "cas1", "be1")
    token = negotiate(scene, f"HTTP/{back.fqdn}")
    tcp = scene.tcp(cas, back, 80)
    tcp.ask(
        http(
            "PROPFIND",
            "/exchange/alice/Inbox",
            back.fqdn,
            Authorization=f"Negotiate {token}",
            Depth="1",
            Content_Length="0",
        )
    )
    tcp.answer(reply("207 Multi-Status", scene.noise(200), MicrosoftOfficeWebServer="5.0_Pub", X_Powered_By="ASP.NET"))
    tcp.close()
    tcp.is_("http", data_paths=("cas-to-legacy-mailbox",), also=("note-cas-to-exchange2003", "e2003-www-http"),
            roles=("client-access", "back-end"), certainty=("strong", "certain"), authentication=("kerberos",),
            encryption=("none",))  # fmt: skip


def negotiate(scene: Scene, service: str) -> str:
    """A SPNEGO token with a Kerberos ticket, as HTTP carries it."""
    return base64.b64encode(tokens.spnego_init(tokens.gss_kerberos(tokens.ap_req(scene.noise, service)))).decode()


@story("http-e2003-web", "Exchange 2003: a browser to the front-end on 80 and 443, the front-end to the back-end on 80")
def old_web(scene: Scene) -> None:
    browser, front, back = hosts(scene, "browser1", "fe1", "be1")
    for client, server, path in ((browser, front, "e2003-www-http"), (front, back, "e2003-www-fe-be")):
        tcp = scene.tcp(client, server, 80)
        tcp.ask(
            http(
                "GET",
                "/exchange/bob/Inbox/?Cmd=contents",
                server.fqdn,
                User_Agent="Mozilla/4.0",
                Authorization="Basic Ym9iOng=",
            )
        )
        tcp.answer(reply("200 OK", scene.noise(300), MS_WebStorage="6.5.7638"))
        tcp.close()
        tcp.is_("http", data_paths=(path,), roles=roles(client, server), certainty=("strong", "certain"),
                authentication=("basic",), encryption=("none",))  # fmt: skip
    openings.web(scene, browser, front, "mail.example.test").is_(
        "tls",
        data_paths=("e2003-www-https",),
        roles=roles(browser, front),
        certainty=("weak", "strong"),
        encryption=("tls-implicit",),
    )


CLIENT_HTTPS = (
    "cas-autodiscover",
    "cas-availability",
    "cas-owa",
    "cas-outlook-anywhere",
    "cas-activesync",
    "mailbox-outlook-oab",
    "doc-ecp",
    "doc-ews",
    "doc-mrsproxy",
    "doc-remote-powershell",
    "um-web-service",
    "note-iis-http-https",
    "note-http-negotiate-order",
)


@story(
    "tls-443",
    "HTTPS: browser to Client Access, Client Access to Client Access, Hub to AD RMS; paths inside can't be told",
)
def https(scene: Scene) -> None:
    browser, cas, other, hub, rms = hosts(scene, "browser1", "cas1", "cas2", "hub1", "rms1")
    sealed = {"certainty": ("weak", "strong"), "encryption": ("tls-implicit",)}
    openings.web(scene, browser, cas, "mail.example.test", stack="browser").is_(
        "tls", data_paths=("cas-owa",), also=CLIENT_HTTPS, roles=roles(browser, cas), **sealed
    )
    openings.web(scene, other, cas, cas.fqdn).is_(
        "tls", data_paths=BETWEEN_CAS, also=CLIENT_HTTPS, roles=roles(other, cas), **sealed
    )
    openings.web(scene, hub, rms, "rms.example.test").is_(
        "tls", data_paths=("transport-ad-rms",), also=("note-irm-agent-ad-rms",), roles=roles(hub, rms), **sealed
    )


# ---- .NET framing, replication, cluster ---------------------------------------------------------------


def preamble(via: str) -> bytes:
    """[MC-NMF] 2.2.3: version 1.0, duplex, via, binary with session dictionary."""
    return b"\x00\x01\x00\x01\x02\x02" + bytes([len(via)]) + via.encode() + b"\x03\x08"


def negotiate_stream(tcp: Tcp, service: str) -> None:
    """[MS-NNS] 2.2: handshake frames with SPNEGO and Kerberos, then sealed data frames."""
    noise = tcp.scene.noise
    request = tokens.spnego_init(tokens.gss_kerberos(tokens.ap_req(noise, service)))
    answer = tokens.spnego_response(tokens.gss_kerberos(tokens.ap_rep(noise), b"\x02\x00"), tokens.MS_KERBEROS, 0)
    tcp.ask(b"\x16\x01\x00" + struct.pack(">H", len(request)) + request)
    tcp.answer(b"\x14\x01\x00" + struct.pack(">H", len(answer)) + answer)
    for say, size in ((tcp.ask, 300), (tcp.answer, 2400), (tcp.ask, 120)):
        say(struct.pack("<I", size) + noise(size))


@story(
    "net-tcp-mrs-808", "Mailbox Replication Service on 808: the Via in clear, then Negotiate; MSExchangeRepl on 64337"
)
def replication_service(scene: Scene) -> None:
    cas, other, mailbox = hosts(scene, "cas1", "cas2", "mbx1")
    calls = (
        (other, cas, 808, "Microsoft.Exchange.MailboxReplicationService", "doc-mrs"),
        (cas, mailbox, 64337, "Microsoft.Exchange.HA.ServerLocator", "doc-repl-64337"),
    )
    for client, server, port, service, path in calls:
        tcp = scene.tcp(client, server, port)
        tcp.ask(preamble(f"net.tcp://{server.fqdn}:{port}/{service}") + b"\x09\x15application/negotiate")
        tcp.answer(b"\x0a")
        negotiate_stream(tcp, f"host/{server.fqdn}")
        tcp.close()
        tcp.is_("net.tcp", data_paths=(path,), roles=roles(client, server), certainty=("weak", "certain"),
                authentication=("kerberos",), encryption=("nego-stream",))  # fmt: skip


def heartbeats(scene: Scene, one: Host, other: Host) -> Udp:
    """Twelve seconds of a failover cluster."""
    beats = scene.udp(one, other, 3343, client_port=3343)
    for number in range(12):
        beats.ask(struct.pack("<IIQ", 0x48420001, number, 7) + bytes(64))
        beats.answer(struct.pack("<IIQ", 0x48420001, number, 9) + bytes(64))
        scene.wait(990)
    return beats


@story("dag-replication", "Two DAG members: log shipping on 64327 (NegotiateStream), heartbeats between ports 3343")
def replication(scene: Scene) -> None:
    active, passive = hosts(scene, "mbx1", "mbx2")
    beats = heartbeats(scene, active, passive)
    beats.is_("cluster-heartbeat", data_paths=("note-cluster-heartbeat",), also=("mailbox-clustering",),
              roles=("mailbox", "mailbox"), certainty=("weak", "strong"))  # fmt: skip
    tcp = scene.tcp(passive, active, 64327)
    negotiate_stream(tcp, f"host/{active.fqdn}")
    tcp.close()
    tcp.is_("nego-stream", data_paths=("mailbox-log-shipping", "mailbox-seeding"), also=("note-log-shipping-port",),
            roles=("mailbox", "mailbox"), certainty=("strong", "certain"), authentication=("kerberos",),
            encryption=("nego-stream",))  # fmt: skip


@story("proxy-test", "Sender reputation: a host mails Edge and is then probed for open proxies on 1080, 3128 and 23")
def proxy_test(scene: Scene) -> None:
    mta, edge = hosts(scene, "internet1", "edge1")
    tcp = scene.tcp(mta, edge, 25)
    dialogue(
        tcp, *openings.ehlo(mta, edge, openings.COMMON_WORDS), *openings.clear_mail("x@example.org", "a@example.test")
    )
    tcp.close()
    tcp.is_(
        "smtp",
        data_paths=("note-remote-smtp-opportunistic-tls",),
        also=("note-domain-security",),
        roles=roles(mta, edge),
        certainty=("weak", "certain"),
    )
    for port, probe in (
        (1080, b"\x04\x01\x00\x19\xc0\x00\x02\x19\x00"),
        (3128, b"CONNECT 192.0.2.25:25 HTTP/1.0\r\n\r\n"),
        (23, b""),
    ):
        test = scene.tcp(edge, mta, port, handshake=False)
        test.segment(edge, flags="S")
        if probe:
            test.segment(mta, flags="SA")
            test.segment(edge)
            test.ask(probe)
        test.segment(mta, flags="RA")
        test.is_(absence=("no-payload", "not-exchange", "unmatched"), note="weak is right too, for the pairing with 25")
    test.scene.conversations[-2].is_(
        "http",
        data_paths=("note-protocol-analysis-proxy-test",),
        roles=roles(edge, mta),
        certainty=("weak", "strong"),
    )
