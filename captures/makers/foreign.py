"""Traffic on Exchange's ports, or of Exchange's kind, that is none: nothing here may be labelled above weak."""

from __future__ import annotations

import struct
from collections.abc import Callable

from captures.makers import openings, rpc, smb, talk
from captures.makers.catalogue import story
from captures.makers.mail import tpkt
from captures.makers.openings import dialogue
from captures.makers.rows2010 import resolve_oxid
from captures.makers.scene import Host, Scene, Tcp
from captures.makers.talk import CONNECT, INTEGRITY, NTLM, PRIVACY, SPNEGO, Credentials
from captures.makers.voice_and_web import http, reply, sip

NOTHING = {"absence": ("not-exchange", "unmatched", "encrypted")}
"""No label; a reader that says `weak` for a dedicated port is not wrong either (tests allow it)."""


def strangers(scene: Scene) -> tuple[Host, Host]:
    """Two hosts of which nothing is known."""
    return scene.host("WS7", "10.30.0.7"), scene.host("SRV9", "10.30.0.9")


def foreign(name: str, about: str) -> Callable[[Callable[[Scene, Host, Host], None]], None]:
    """A story of two strangers."""

    def enter(play: Callable[[Scene, Host, Host], None]) -> None:
        story(f"foreign-{name}", about, inventory=False)(lambda scene: play(scene, *strangers(scene)))

    return enter


def spoken(tcp: Tcp, protocol: str, **facts: object) -> None:
    tcp.close()
    tcp.is_(protocol, **{**NOTHING, **facts})


@foreign("x11-on-6001", "X11 on 6001: byte order, version, set-up; no greeting of ncacn_http")
def x11(scene: Scene, client: Host, server: Host) -> None:
    tcp = scene.tcp(client, server, 6001)
    tcp.ask(b"l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1\0\0" + scene.noise(16))
    tcp.answer(b"\x01\0\x0b\0\0\0\x40\0" + scene.noise(256))
    tcp.ask(struct.pack("<BBHHH", 98, 0, 5, 12, 0) + b"BIG-REQUESTS")
    spoken(tcp, "x11")


@foreign("s7-on-102", "Siemens S7 on 102: TPKT and COTP as X.400 has them, then S7 set-up instead of a session")
def s7(scene: Scene, client: Host, server: Host) -> None:
    tcp = scene.tcp(client, server, 102)
    tcp.ask(tpkt(b"\x11\xe0\0\0\0\x01\0\xc0\x01\x0a\xc1\x02\x01\0\xc2\x02\x01\x02"))
    tcp.answer(tpkt(b"\x11\xd0\0\x01\0\x02\0\xc0\x01\x0a\xc1\x02\x01\0\xc2\x02\x01\x02"))
    tcp.ask(tpkt(b"\x02\xf0\x80\x32\x01\0\0\0\0\0\x08\0\0\xf0\0\0\x01\0\x01\x01\xe0"))
    tcp.answer(tpkt(b"\x02\xf0\x80\x32\x03\0\0\0\0\0\x08\0\0\0\0\xf0\0\0\x01\0\x01\0\xf0"))
    spoken(tcp, "", note="x400 as a protocol would be too much: there is no session layer")


@foreign("nginx-on-443-and-80", "nginx: TLS on 443 with a public name, plain HTTP on 80")
def nginx(scene: Scene, client: Host, server: Host) -> None:
    openings.web(scene, client, server, "www.example.org", stack="browser").is_("tls", **NOTHING)
    tcp = scene.tcp(client, server, 80)
    tcp.ask(http("GET", "/index.html", "www.example.org", User_Agent="curl/7.88.1"))
    tcp.answer(b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nContent-Length: 5\r\n\r\nhello")
    spoken(tcp, "http")


@foreign("postfix-and-dovecot", "Postfix on 25 and 587, Dovecot on 110 and 143")
def unix_mail(scene: Scene, client: Host, server: Host) -> None:
    words = (
        "PIPELINING",
        "SIZE 10240000",
        "VRFY",
        "ETRN",
        "STARTTLS",
        "ENHANCEDSTATUSCODES",
        "8BITMIME",
        "DSN",
        "CHUNKING",
    )
    for port in (25, 587):
        tcp = scene.tcp(client, server, port)
        dialogue(tcp, *openings.ehlo(client, server, words, banner="ESMTP Postfix (Debian/GNU)"))
        dialogue(tcp, *openings.clear_mail("a@example.org", "b@example.org"))
        spoken(tcp, "smtp")
    tcp = scene.tcp(client, server, 110)
    dialogue(
        tcp, "S:+OK Dovecot (Debian) ready.", "C:USER bob", "S:+OK", "C:PASS not-a-secret", "S:+OK Logged in.", "C:QUIT"
    )
    spoken(tcp, "pop3")
    tcp = scene.tcp(client, server, 143)
    dialogue(
        tcp,
        "S:* OK [CAPABILITY IMAP4rev1 LITERAL+ IDLE STARTTLS] Dovecot ready.",
        "C:a LOGIN bob not-a-secret",
        "S:a OK Logged in",
    )
    spoken(tcp, "imap4")


@foreign(
    "windows-logon",
    "A workstation logs on: DNS, CLDAP-free LDAP, Kerberos, netlogon and LSARPC through the mapper, SYSVOL",
)
def logon(scene: Scene, client: Host, server: Host) -> None:
    openings.look_up(scene, client, server, "_ldap._tcp.dc._msdcs.example.test", "SRV", server.fqdn, 389).is_(
        "dns", **NOTHING
    )
    openings.get_ticket(scene, client, server, "WS7$", f"cifs/{server.fqdn}").is_("kerberos", **NOTHING)
    openings.directory(scene, client, server).is_("ldap", **NOTHING)
    calls = (
        (rpc.NETLOGON, Credentials(talk.NETLOGON, PRIVACY), (39,)),
        (rpc.LSARPC, Credentials(SPNEGO, INTEGRITY), (44, 0)),
    )
    for number, (interface, how, opnums) in enumerate(calls):
        mapping = talk.map_port(scene, client, server, interface, 49_155 + number, **NOTHING)
        talk.session(
            scene, client, server, 49_155 + number, interface, how, opnums, resolved=mapping.announced, **NOTHING
        )
    tcp = scene.tcp(client, server, 445)
    share = smb.Session(tcp, kerberos=True)
    share.connect("SYSVOL")
    share.create("example.test\\Policies\\gpt.ini")
    share.close()
    spoken(tcp, "smb")


@foreign("wmi", "WMI from a management station to a server that is not Exchange")
def wmi(scene: Scene, client: Host, server: Host) -> None:
    announced = resolve_oxid(scene, client, server, 49_160, **NOTHING)
    how = Credentials(SPNEGO, PRIVACY, service="host")
    talk.session(scene, client, server, 49_160, rpc.WBEM_SERVICES, how, (20, 6, 3), resolved=announced, **NOTHING)


@foreign("print-spooler-and-msdtc", "Print spooler and MSDTC through the endpoint mapper")
def windows_services(scene: Scene, client: Host, server: Host) -> None:
    for interface, port, level in ((rpc.SPOOLSS, 49_170, PRIVACY), (rpc.MSDTC, 49_171, CONNECT)):
        mapping = talk.map_port(scene, client, server, interface, port, **NOTHING)
        talk.session(
            scene,
            client,
            server,
            port,
            interface,
            Credentials(NTLM, level),
            (0, 1),
            resolved=mapping.announced,
            **NOTHING,
        )


@foreign("spooler-pipe", "The print spooler in a named pipe, the bind with FSCTL_PIPE_TRANSCEIVE")
def pipe(scene: Scene, client: Host, server: Host) -> None:
    tcp = scene.tcp(client, server, 445)
    session = smb.Session(tcp)
    session.connect("IPC$")
    session.create("spoolss")
    ack = rpc.bind_ack([rpc.ACCEPTED], "\\PIPE\\spoolss")
    session.transceive(rpc.bind([(rpc.SPOOLSS, [rpc.NDR32])]), ack)
    session.close()
    spoken(tcp, "smb", interfaces=((rpc.SPOOLSS.uuid, True),))


@foreign("remote-desktop-gateway", "RPC over HTTP to a Remote Desktop gateway: same verbs, port 3388 in the path")
def gateway(scene: Scene, client: Host, server: Host) -> None:
    tcp = scene.tcp(client, server, 80)
    tcp.ask(
        http(
            "RPC_OUT_DATA",
            "/rpc/rpcproxy.dll?localhost:3388",
            "rdg.example.org",
            User_Agent="MSRPC",
            Content_Length="76",
        )
    )
    tcp.answer(reply("401 Unauthorized", WWW_Authenticate="Negotiate"))
    spoken(tcp, "rpc-over-http", absence=("not-exchange", "unmatched"))


@foreign(
    "services-on-exchange-ports",
    "Other programs on 808, 64327, 3343, 50636, 691, 2883 and 5060: an HTTP proxy, noise, SSH, Asterisk",
)
def squatters(scene: Scene, client: Host, server: Host) -> None:
    proxy = scene.tcp(client, server, 808)
    proxy.ask(http("CONNECT", "www.example.org:443", "www.example.org", User_Agent="curl/7.88.1"))
    proxy.answer(b"HTTP/1.1 200 Connection established\r\nProxy-agent: CCProxy\r\n\r\n")
    spoken(proxy, "http")
    for port in (64327, 50636, 691):
        shell = scene.tcp(client, server, port)
        dialogue(shell, "S:SSH-2.0-OpenSSH_9.2p1 Debian-2", "C:SSH-2.0-OpenSSH_9.2p1 Debian-2")
        spoken(shell, "ssh")
    for port in (3343, 2883):
        noise = scene.udp(client, server, port)
        noise.ask(scene.noise(300))
        noise.is_(**{**NOTHING, "absence": ("not-exchange", "unmatched")})
    phone = scene.tcp(client, server, 5060)
    phone.ask(sip("OPTIONS sip:srv9.example.org SIP/2.0", client, server, {"CSeq": "1 OPTIONS"}))
    phone.answer(sip("SIP/2.0 200 OK", client, server, {"CSeq": "1 OPTIONS", "Server": "Asterisk PBX 18"}))
    spoken(phone, "sip")


@foreign("unknown-rpc", "An interface nobody knows between strangers, through the mapper: RPC, not Exchange")
def unknown(scene: Scene, client: Host, server: Host) -> None:
    interface = rpc.Syntax("0d5a1f2e-3c4b-4a59-8e77-665544332211", 1)
    mapping = talk.map_port(scene, client, server, interface, 6_500, **NOTHING)
    talk.session(
        scene,
        client,
        server,
        6_500,
        interface,
        Credentials(NTLM, PRIVACY),
        (0, 1),
        resolved=mapping.announced,
        **NOTHING,
    )


@foreign(
    "nspi-on-a-domain-controller", "NSPI on a global catalog, from a stranger: the interface is not Exchange's alone"
)
def nspi(scene: Scene, client: Host, server: Host) -> None:
    openings.directory(scene, client, server, 3268).is_("ldap", **NOTHING)
    openings.get_ticket(scene, client, server, "alice", f"exchangeAB/{server.fqdn}").is_("kerberos", **NOTHING)
    mapping = talk.map_port(scene, client, server, rpc.NSPI, 49_157, note="NSPI alone does not prove Exchange")
    tcp = talk.session(
        scene, client, server, 49_157, rpc.NSPI, Credentials(SPNEGO, PRIVACY, service="exchangeAB"), talk.NSPI_CALLS,
        resolved=mapping.announced, note="server role active-directory, or none",
    )  # fmt: skip
    tcp.truth.roles = ("", "")


@foreign("silence", "SYN without answer, refused connection, UDP to a closed port, a connection without a byte")
def silence(scene: Scene, client: Host, server: Host) -> None:
    for answers in ((), ("RA",), ("SA",)):
        tcp = scene.tcp(client, server, 6001, handshake=False)
        tcp.segment(client, flags="S")
        for flags in answers:
            tcp.segment(server, flags=flags)
        if answers == ("SA",):
            tcp.segment(client)
            tcp.close()
        tcp.is_(absence=("no-payload",))
