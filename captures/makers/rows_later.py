"""Rows of Exchange 2016, without an inventory: two Mailbox servers with all services, an Edge server, their clients.

What the front end takes and hands on to the back end runs between the same two hosts, as in a group of servers.
"""

from __future__ import annotations

from collections.abc import Sequence

from captures.makers import mail, openings, rows2010, smb, talk, voice_and_web
from captures.makers.catalogue import Play, Story, enlist
from captures.makers.certificates import certificate
from captures.makers.openings import dialogue
from captures.makers.organisation import host, hosts
from captures.makers.rows_shown import chapter
from captures.makers.scene import Host, Scene, Tcp
from captures.makers.voice_and_web import http, invite, negotiate_stream, preamble, reply, rtp, sdp, sip

COMMON = ("SIZE 37748736", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "STARTTLS", "8BITMIME", "BINARYMIME", "CHUNKING")
WORDS = (*COMMON[:5], "X-ANONYMOUSTLS", "AUTH NTLM", "X-EXPS GSSAPI NTLM", *COMMON[5:], "XRDST")
CLIENT_WORDS = (*COMMON, "AUTH GSSAPI NTLM")
EDGE_WORDS = (*COMMON, "X-ANONYMOUSTLS", "XRDST")
PROXY_WORDS = (*WORDS, "XPROXY", "XPROXYFROM")
BETWEEN_TRANSPORTS = ("mail-transport-to-transport", "mail-submission-to-transport")
UM = "RTCC/5.0.0.0 MSExchangeUM/15.01.2507.017"
OUTLOOK = "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.4266; Pro)"
BROWSER = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"
ABROAD = ("note-remote-smtp-opportunistic-tls", "note-domain-security")
"""Notes of 2010 that say the same of an Edge server whose version does not show."""

WEB = (
    ("ews1", "client-autodiscover", "POST", "/autodiscover/autodiscover.xml", OUTLOOK),
    ("ews1", "client-ews", "POST", "/EWS/Exchange.asmx", "ExchangeServicesClient/15.01.0.0"),
    ("phone1", "client-activesync", "POST", "/Microsoft-Server-ActiveSync?User=alice&Cmd=Sync", "Apple-iPhone9C1"),
    ("outlook1", "client-oab", "GET", "/OAB/4667c322-5c08-4cda/oab.xml", "Microsoft BITS/7.8"),
    ("outlook2", "client-mapi-http", "POST", "/mapi/emsmdb/?MailboxId=1@example.test", OUTLOOK),
    ("browser1", "client-owa", "GET", "/owa/", BROWSER),
    ("browser1", "client-ecp", "GET", "/ecp/", BROWSER),
    ("admin1", "client-powershell", "POST", "/PowerShell?PSVersion=5.1", "Microsoft WinRM Client"),
)
"""Who asks, the row, the request, the program."""


def web(scene: Scene, client: Host, server: Host, port: int, verb: str, target: str, agent: str) -> Tcp:
    """A request in clear and its answer, which tells the build."""
    tcp = scene.tcp(client, server, port)
    mapi = {"Content_Type": "application/mapi-http", "X_RequestType": "Connect"} if target.startswith("/mapi/") else {}
    tcp.ask(http(verb, target, server.fqdn, User_Agent=agent, Content_Length="0", **mapi))
    tcp.answer(reply("200 OK", scene.noise(90), X_OWA_Version="15.1.2507.6", X_FEServer=server.name))
    tcp.close()
    return tcp


def clients(scene: Scene) -> None:
    """Everything that asks the front end of EX1."""
    ex1, ex2 = hosts(scene, "ex1", "ex2")
    for key, path, verb, target, agent in WEB:
        client = host(scene, key)
        web(scene, client, ex1, 80, verb, target, agent).is_(
            "http", data_paths=(path,), also=("client-ews",), roles=(client.role[0], "mailbox"),
            certainty=("certain", "certain"),
        )  # fmt: skip
    web(scene, host(scene, "browser1"), ex2, 80, "GET", "/owa/", BROWSER).is_("http", data_paths=("client-owa",))
    rows2010.outlook_anywhere(scene, host(scene, "outlook1"), ex1, "client-outlook-anywhere")
    for key, port, greeting, path in (
        ("pop1", 110, mail.POP3_2010, "client-pop3"),
        ("imap1", 143, mail.IMAP4_2010, "client-imap4"),
    ):
        client = host(scene, key)
        mailbox(scene, client, ex1, port, greeting).is_(
            "pop3" if port == 110 else "imap4", data_paths=(path,), roles=(client.role[0], "mailbox"),
            certainty=("certain", "certain"),
        )  # fmt: skip


def mailbox(scene: Scene, client: Host, server: Host, port: int, greeting: str) -> Tcp:
    """A greeting, a login, good bye."""
    tcp = scene.tcp(client, server, port)
    if "POP3" in greeting:
        dialogue(tcp, greeting, "C:USER bob", "S:+OK", "C:PASS not-a-secret", "S:+OK", "C:QUIT")
    else:
        dialogue(tcp, greeting, "C:1 LOGIN bob not-a-secret", "S:1 OK LOGIN completed.", "C:2 LOGOUT", "S:* BYE")
    tcp.close()
    return tcp


def behind_the_front_end(scene: Scene) -> None:
    """What EX1's front end hands on to EX2, and what their transports tell each other."""
    ex1, ex2 = hosts(scene, "ex1", "ex2")
    between = {"roles": ("mailbox", "mailbox"), "certainty": ("weak", "certain")}
    tcp = scene.tcp(ex1, ex2, 444)
    talk.tls(tcp, ex2.fqdn, certificate=certificate(scene.noise, ex2.name, (ex2.fqdn,)))
    tcp.close()
    tcp.is_("tls", data_paths=("be-https",), **between)
    web(scene, ex1, ex2, 81, "GET", "/owa/", BROWSER).is_("http", data_paths=("be-http",), **between)
    mailbox(scene, ex1, ex2, 1995, mail.POP3_2010).is_("pop3", data_paths=("be-pop3",), **between)
    mailbox(scene, ex1, ex2, 1993, mail.IMAP4_2010).is_("imap4", data_paths=("be-imap4",), **between)
    for port, paths, also in (
        (2525, BETWEEN_TRANSPORTS, ("mail-frontend-to-transport",)),
        (475, ("mail-transport-to-mailbox-delivery",), ()),
    ):
        openings.upgraded_mail(scene, ex1, ex2, WORDS, "X-ANONYMOUSTLS", port=port).is_(
            "smtp", data_paths=paths, also=also, **between
        )
    for port, paths, also in (
        (2525, ("mail-frontend-to-transport",), BETWEEN_TRANSPORTS),
        (465, ("mail-client-proxy",), ()),
        (717, ("mail-outbound-proxy",), ()),
    ):
        proxied(scene, ex1, ex2, port).is_("smtp", data_paths=paths, also=also, **between)


def proxied(scene: Scene, client: Host, server: Host, port: int) -> Tcp:
    """A session that is handed on in clear."""
    tcp = scene.tcp(client, server, port)
    dialogue(tcp, *openings.ehlo(client, server, PROXY_WORDS))
    dialogue(tcp, "C:XPROXY SID=08D4 IP=10.10.9.141 PORT=51000", "S:250 OK")
    dialogue(tcp, *openings.clear_mail("a@example.test", "b@example.test"))
    tcp.close()
    return tcp


def mail_in_and_out(scene: Scene) -> None:
    """Clients, the Internet, the Edge server."""
    ex1, edge, mta, mailer = hosts(scene, "ex1", "edge2", "internet1", "mailer1")
    openings.upgraded_mail(scene, mailer, ex1, CLIENT_WORDS, "STARTTLS", port=587).is_(
        "smtp", data_paths=("client-smtp-587",), roles=("smtp-client", "mailbox"), certainty=("certain", "certain")
    )
    tcp = scene.tcp(ex1, edge, 50636)
    talk.tls(tcp, certificate=certificate(scene.noise, edge.name, (edge.fqdn,)))
    tcp.close()
    tcp.is_("tls", data_paths=("edgesync",), roles=("mailbox", "edge-transport"), certainty=("strong", "strong"))
    for client, server, path in ((ex1, edge, "mail-mailbox-to-edge"), (edge, ex1, "mail-edge-to-mailbox")):
        openings.upgraded_mail(scene, client, server, EDGE_WORDS, "STARTTLS", mutual=True).is_(
            "smtp", data_paths=(path,), roles=(client.role[0], server.role[0]), certainty=("certain", "certain")
        )
    for server, path in ((ex1, "mail-inbound-internet"), (edge, "mail-internet-to-edge")):
        openings.upgraded_mail(scene, mta, server, COMMON, "STARTTLS").is_(
            "smtp",
            data_paths=(path,),
            also=ABROAD if server is edge else (),
            roles=("internet-mta", server.role[0]),
            certainty=("certain", "certain"),
        )
    for client, path in ((ex1, "mail-outbound-internet"), (edge, "mail-edge-to-internet")):
        tcp = scene.tcp(client, mta, 25)
        dialogue(tcp, *openings.ehlo(client, mta, ("SIZE", "PIPELINING", "DSN", "8BITMIME"), banner="ESMTP Postfix"))
        dialogue(tcp, *openings.clear_mail("a@example.test", "b@example.org"))
        tcp.close()
        tcp.is_("smtp", data_paths=(path,), also=ABROAD if client is edge else (),
                roles=(client.role[0], "internet-mta"), certainty=("strong", "strong"))  # fmt: skip


def voice(scene: Scene) -> None:
    """The call router answers 302, the UM service too, a worker takes the call."""
    gateway, ex1 = hosts(scene, "gateway1", "ex1")
    facts = {"roles": ("ip-gateway", "mailbox"), "certainty": ("strong", "certain")}
    paths = {5060: "um-call-router", 5062: "um-service"}
    for port, onward in ((5060, 5062), (5062, 5065)):
        tcp = scene.tcp(gateway, ex1, port)
        tcp.ask(invite(gateway, ex1, 20_100))
        contact = {"CSeq": "1 INVITE", "Contact": f"<sip:{ex1.fqdn}:{onward};transport=TCP>", "Server": UM}
        tcp.answer(sip("SIP/2.0 302 Moved Temporarily", gateway, ex1, contact))
        tcp.close()
        tcp.is_("sip", data_paths=(paths[port],), **facts)
    worker = scene.tcp(gateway, ex1, 5065)
    worker.ask(invite(gateway, ex1, 20_100))
    accept = {"CSeq": "1 INVITE", "Server": UM, "Content-Type": "application/sdp"}
    worker.answer(sip("SIP/2.0 200 OK", gateway, ex1, accept, sdp(ex1, 31_620)))
    worker.is_("sip", data_paths=("um-worker",), **facts)
    media = scene.udp(gateway, ex1, 31_620, client_port=20_100)
    for number in range(8):
        media.ask(rtp(number, 0x11223344, scene.noise(80)))
        media.answer(rtp(number, 0x55667788, scene.noise(80)))
        scene.wait(19)
    media.is_("rtp", data_paths=("um-rtp",), **facts)


SERVICES = (
    (64337, "Microsoft.Exchange.HA.ServerLocator", "repl-server-locator"),
    (808, "Microsoft.Exchange.MailboxReplicationService.ProxyService", "mrs"),
    (890, "Microsoft.Exchange.Directory.TopologyService", "adtopology-wcf"),
)


def group(scene: Scene) -> None:
    """Replication, heartbeats, the witness, services over .NET framing."""
    ex1, ex2, witness = hosts(scene, "ex1", "ex2", "fsw1")
    between = {"roles": ("mailbox", "mailbox"), "certainty": ("weak", "certain")}
    voice_and_web.heartbeats(scene, ex1, ex2).is_("cluster-heartbeat", data_paths=("dag-cluster-heartbeat",), **between)
    tcp = scene.tcp(ex2, ex1, 64327)
    negotiate_stream(tcp, f"host/{ex1.fqdn}")
    tcp.close()
    tcp.is_("nego-stream", data_paths=("dag-replication",), **between)
    for port, service, path in SERVICES:
        tcp = scene.tcp(ex1, ex2, port)
        tcp.ask(preamble(f"net.tcp://{ex2.fqdn}:{port}/{service}") + b"\x09\x15application/negotiate")
        tcp.answer(b"\x0a")
        negotiate_stream(tcp, f"host/{ex2.fqdn}")
        tcp.close()
        tcp.is_("net.tcp", data_paths=(path,), **between)
    tcp = scene.tcp(ex1, witness, 445)
    share = smb.Session(tcp, kerberos=True)
    share.connect("DAG1.example.test")
    share.create("fsw\\Witness.log")
    share.close()
    tcp.close()
    tcp.is_("smb", data_paths=("dag-witness-smb",), roles=("mailbox", "witness-server"), certainty=("weak", "strong"))


def directory(scene: Scene) -> None:
    """EX1 asks the domain controller, and a name server where to send mail."""
    ex1, dc = hosts(scene, "ex1", "dc1")
    resolver = scene.host("NS1", "192.0.2.53", "dns-server")
    facts = {"data_paths": ("active-directory",), "roles": ("mailbox", "active-directory")}
    openings.get_ticket(scene, ex1, dc, "EX1$", f"ldap/{dc.fqdn}").is_("kerberos", **facts)
    openings.directory(scene, ex1, dc, 389, sealed=False).is_("ldap", **facts)
    openings.look_up(scene, ex1, resolver, "example.org", "MX", "mx.example.org").is_(
        "dns", data_paths=("dns",), roles=("mailbox", "dns-server"), certainty=("strong", "strong")
    )


CHAPTERS: dict[str, tuple[str, Sequence[Play]]] = {
    "web": ("clients of Exchange 2016, and what its front end hands on", (clients, behind_the_front_end)),
    "mail": (
        "mail, voice, groups and directory of Exchange 2016",
        (lambda scene: web(scene, *hosts(scene, "browser1", "ex1"), 80, "GET", "/owa/", BROWSER).is_("http"),
         lambda scene: web(scene, *hosts(scene, "browser1", "ex2"), 80, "GET", "/owa/", BROWSER).is_("http"),
         mail_in_and_out, voice, group, directory),
    ),
}  # fmt: skip

for _name, (_about, _plays) in CHAPTERS.items():
    enlist(
        Story(f"shown-later-{_name}", f"No inventory: {_about}", chapter(_plays), suffix=".pcapng", inventory=False,
              shown=True)
    )  # fmt: skip
