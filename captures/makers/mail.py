"""Rows of the tables that speak SMTP, LDAP, DNS, Kerberos, POP3, IMAP4, NNTP, X.400 and link state."""

from __future__ import annotations

import base64
import struct
from functools import partial

from captures.makers import openings, rpc, talk, tokens
from captures.makers.catalogue import Story, enlist, story
from captures.makers.certificates import certificate
from captures.makers.documents import DIRECTORY
from captures.makers.openings import CLIENT_WORDS, COMMON_WORDS, EDGE_WORDS, INTERNAL_WORDS, dialogue, ehlo
from captures.makers.organisation import host, hosts, role_of
from captures.makers.scene import Host, Scene, Tcp

WORDS_IN = (*COMMON_WORDS, *INTERNAL_WORDS)
REMOTE = ("note-remote-smtp-opportunistic-tls", "note-domain-security")


def roles(client: Host, server: Host) -> tuple[str, str]:
    return client.role[0], server.role[0]


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- SMTP -----------------------------------------------------------------------------------------


@story("smtp-hub-to-hub", "Hub to Hub: X-ANONYMOUSTLS, the service ticket for SMTPSVC before it")
def hub_to_hub(scene: Scene) -> None:
    client, server, dc = hosts(scene, "hub1", "hub2", "dc1")
    openings.get_ticket(scene, client, dc, "HUB1$", f"SMTPSVC/{server.fqdn}").is_("kerberos")
    openings.upgraded_mail(scene, client, server, WORDS_IN, "X-ANONYMOUSTLS").is_(
        "smtp", data_paths=("transport-hub-to-hub",), roles=roles(client, server), certainty=("strong", "certain"),
        authentication=("exchange-server",), encryption=("tls-upgrade",),
    )  # fmt: skip


@story("smtp-hub-to-hub-tls-off", "Hub to Hub without TLS for WAN optimisation: X-EXPS GSSAPI in clear")
def hub_to_hub_clear(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "hub2")
    tcp = scene.tcp(client, server, 25)
    words = [word for word in WORDS_IN if word not in ("STARTTLS", "X-ANONYMOUSTLS")]
    token = coded(tokens.gss_kerberos(tokens.ap_req(scene.noise, f"SMTPSVC/{server.fqdn}")))
    dialogue(tcp, *ehlo(client, server, words), f"C:X-EXPS GSSAPI {token}")
    dialogue(
        tcp, f"S:334 {coded(tokens.gss_kerberos(tokens.ap_rep(scene.noise), bytes([2, 0])))}", "C:", "S:235 2.7.0 OK"
    )
    dialogue(tcp, *openings.clear_mail("a@example.test", "b@example.test"))
    tcp.close()
    tcp.is_(
        "smtp", data_paths=("note-hub-hub-tls-off",), also=("transport-hub-to-hub",), roles=roles(client, server),
        certainty=("strong", "certain"), authentication=("kerberos", "exchange-server"), encryption=("none",),
    )  # fmt: skip


@story("smtp-hub-and-edge", "Hub to Edge and Edge to Hub: STARTTLS with certificates of both sides (direct trust)")
def hub_and_edge(scene: Scene) -> None:
    hub, edge = hosts(scene, "hub1", "edge1")
    for client, server, path in ((hub, edge, "transport-hub-to-edge"), (edge, hub, "transport-edge-to-hub")):
        openings.upgraded_mail(scene, client, server, (*COMMON_WORDS, *EDGE_WORDS), "STARTTLS", mutual=True).is_(
            "smtp",
            data_paths=(path,),
            also=("note-domain-security",),
            roles=roles(client, server),
            certainty=("strong", "certain"),
            authentication=("direct-trust", "certificate"),
            encryption=("tls-upgrade",),
        )


@story("smtp-edge-to-edge", "Edge servers of two organisations: MX lookup, STARTTLS with a self-signed certificate")
def edge_to_edge(scene: Scene) -> None:
    edge = host(scene, "edge1")
    other = scene.host("EDGE9", "198.51.100.99", "edge-transport", version="2010")
    resolver = scene.host("NS1", "192.0.2.53", "dns-server")
    openings.look_up(scene, edge, resolver, "example.org", "MX", other.fqdn).is_(
        "dns", data_paths=("doc-edge-dns",), roles=roles(edge, resolver), certainty=("weak", "strong")
    )
    openings.upgraded_mail(scene, edge, other, (*COMMON_WORDS, *EDGE_WORDS), "STARTTLS").is_(
        "smtp",
        data_paths=("transport-edge-to-edge",),
        also=(*REMOTE, "transport-hub-to-edge", "transport-edge-to-hub"),
        roles=roles(edge, other),
        certainty=("strong", "certain"),
        encryption=("tls-upgrade",),
    )


@story("smtp-internet", "Internet to Edge (TLS offered, taken), Edge to Internet (clear), Hub to a smart host")
def internet(scene: Scene) -> None:
    mta, edge, hub = hosts(scene, "internet1", "edge1", "hub1")
    plain = (*COMMON_WORDS[:-1], "8BITMIME")
    openings.upgraded_mail(scene, mta, edge, (*COMMON_WORDS, "8BITMIME", "BINARYMIME", "CHUNKING"), "STARTTLS").is_(
        "smtp", data_paths=REMOTE[:1], also=REMOTE[1:], roles=roles(mta, edge), certainty=("strong", "certain"),
        encryption=("tls-upgrade",),
    )  # fmt: skip
    for client, path in ((edge, REMOTE[0]), (hub, "doc-hub-internet-smtp")):
        tcp = scene.tcp(client, mta, 25)
        dialogue(tcp, *ehlo(client, mta, plain, banner="ESMTP Postfix"))
        dialogue(tcp, *openings.clear_mail("a@example.test", "b@example.org"))
        tcp.close()
        tcp.is_(
            "smtp", data_paths=(path,), also=(*REMOTE, "doc-hub-internet-smtp"), roles=roles(client, mta),
            certainty=("weak", "strong"), authentication=("anonymous", "none"), encryption=("none",),
        )  # fmt: skip


@story("smtp-client", "A mail program submits on 587 with STARTTLS, on 25 with AUTH NTLM and AUTH LOGIN in clear")
def submission(scene: Scene) -> None:
    client, server = hosts(scene, "mailer1", "hub1")
    facts = {"data_paths": ("transport-smtp-client-to-hub",), "roles": roles(client, server)}
    openings.upgraded_mail(scene, client, server, (*COMMON_WORDS, *CLIENT_WORDS), "STARTTLS", port=587).is_(
        "smtp", certainty=("strong", "certain"), encryption=("tls-upgrade",), **facts
    )
    words = (*COMMON_WORDS, *CLIENT_WORDS)
    tcp = scene.tcp(client, server, 587)
    dialogue(tcp, *ehlo(client, server, words), f"C:AUTH NTLM {coded(tokens.ntlm_negotiate())}")
    dialogue(tcp, f"S:334 {coded(tokens.ntlm_challenge(scene.noise, server.name, server.fqdn))}")
    dialogue(tcp, f"C:{coded(tokens.ntlm_authenticate(scene.noise, 'alice', client.name))}", "S:235 2.7.0 OK")
    dialogue(tcp, *openings.clear_mail("alice@example.test", "b@example.test"))
    tcp.close()
    tcp.is_("smtp", certainty=("strong", "certain"), authentication=("ntlm",), encryption=("none",), **facts)
    tcp = scene.tcp(client, server, 25)
    dialogue(
        tcp, *ehlo(client, server, words), "C:AUTH LOGIN", "S:334 VXNlcm5hbWU6", "C:YWxpY2U=", "S:334 UGFzc3dvcmQ6"
    )
    dialogue(tcp, "C:bm90IGEgc2VjcmV0", "S:235 2.7.0 OK", *openings.clear_mail("alice@example.test", "b@example.test"))
    tcp.close()
    tcp.is_("smtp", certainty=("strong", "certain"), authentication=("basic",), encryption=("none",), **facts)


@story("smtp-hybrid", "Hub to Exchange Online and back: STARTTLS with certificates of both sides")
def hybrid(scene: Scene) -> None:
    hub = host(scene, "hub1")
    online = scene.host("example-test.mail.protection.outlook.com", "203.0.113.25", "exchange-online")
    for client, server in ((hub, online), (online, hub)):
        words = (*COMMON_WORDS, *EDGE_WORDS[1:4])
        openings.upgraded_mail(scene, client, server, words, "STARTTLS", mutual=True, name=server.fqdn).is_(
            "smtp",
            data_paths=("doc-hybrid-smtp",),
            also=REMOTE,
            roles=roles(client, server),
            certainty=("strong", "certain"),
            encryption=("tls-upgrade",),
        )


@story("smtp-um-to-hub", "Unified Messaging sends a voice message: X-ANONYMOUSTLS to Hub")
def voice_mail(scene: Scene) -> None:
    client, server = hosts(scene, "um1", "hub1")
    openings.upgraded_mail(scene, client, server, WORDS_IN, "X-ANONYMOUSTLS").is_(
        "smtp",
        data_paths=("transport-um-to-hub", "um-to-hub"),
        roles=roles(client, server),
        certainty=("strong", "certain"),
        authentication=("exchange-server",),
        encryption=("tls-upgrade",),
    )


@story("smtp-e2003-link-state", "Exchange 2003 to 2003: X-EXPS, X-LINK2STATE and XEXCH50 in clear")
def link_state_mail(scene: Scene) -> None:
    client, server = hosts(scene, "be1", "be2")
    words = (
        "TURN",
        "SIZE 10485760",
        "ETRN",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "8bitmime",
        "BINARYMIME",
        "CHUNKING",
        "VRFY",
        "X-EXPS GSSAPI NTLM LOGIN",
        "X-EXPS=LOGIN",
        "AUTH GSSAPI NTLM LOGIN",
        "AUTH=LOGIN",
        "X-LINK2STATE",
        "XEXCH50",
        "OK",
    )
    banner = "Microsoft ESMTP MAIL Service, Version: 6.0.3790.4675 ready at  Wed, 10 Nov 2010 12:00:00 +0100"
    tcp = scene.tcp(client, server, 25)
    dialogue(tcp, *ehlo(client, server, words, banner=banner))
    dialogue(tcp, f"C:X-EXPS NTLM {coded(tokens.ntlm_negotiate())}")
    dialogue(tcp, f"S:334 {coded(tokens.ntlm_challenge(scene.noise, server.name, server.fqdn))}")
    dialogue(tcp, f"C:{coded(tokens.ntlm_authenticate(scene.noise, 'BE1$', client.name))}", "S:235 2.7.0 OK")
    dialogue(
        tcp, "C:X-LINK2STATE FIRST CHUNK={0000002c} DIGEST_QUERY 6d5a", "S:200 LAST CHUNK={0000001d} DONE_RESPONSE"
    )
    dialogue(tcp, *openings.clear_mail("a@example.test", "b@example.test"))
    tcp.close()
    tcp.is_(
        "smtp", data_paths=("e2003-smtp",), roles=("back-end", "back-end"), certainty=("strong", "certain"),
        authentication=("ntlm",), encryption=("none",),
    )  # fmt: skip


# ---- directory ---------------------------------------------------------------------------------------

DIRECTORY_ROWS = {
    "hub1": (("transport-active-directory",), ("note-rules-from-ad", "note-recipient-filtering-lookup")),
    "mbx1": (DIRECTORY, ("mailbox-oab-generation-active-directory",)),
    "cas1": (("cas-active-directory",), ("doc-cas-ldap-gc",)),
    "um1": (("um-active-directory",), ()),
}


def netlogon_ping(scene: Scene, client: Host, server: Host) -> bytes:
    """The CLDAP search for a domain controller ([MS-ADTS] 6.3.3)."""
    clauses = [("DnsDomain", b"example.test"), ("Host", client.name.encode()), ("NtVer", b"\x06\x00\x00\x00")]
    filters = [openings.tlv(0xA3, openings.octets(key), openings.octets(value)) for key, value in clauses]
    fields = [openings.octets(""), openings.integer(0, 0x0A), openings.integer(0, 0x0A), openings.integer(0)]
    fields += [openings.integer(0), openings.tlv(1, b"\0"), openings.tlv(0xA0, *filters)]
    return openings.ldap(7, openings.tlv(0x63, *fields, openings.sequence(openings.octets("Netlogon"))))


def directory_of(scene: Scene, key: str, *, clear: tuple[int, ...] = (389,)) -> None:
    """The directory rows of one server: DNS, CLDAP, Kerberos, LDAP, global catalog; clear: ports that seal nothing."""
    client, dc = hosts(scene, key, "dc1")
    paths, also = DIRECTORY_ROWS[key]
    facts = {"data_paths": paths, "also": also, "roles": roles(client, dc)}
    general = {**facts, "certainty": ("weak", "strong")}
    name = "_ldap._tcp.dc._msdcs.example.test"
    openings.look_up(scene, client, dc, name, "SRV", dc.fqdn, 389).is_("dns", **general)
    ping = scene.udp(client, dc, 389)
    ping.ask(netlogon_ping(scene, client, dc))
    ping.answer(openings.found(7, "", Netlogon="\x17\0\0\0 DC1 example.test"))
    ping.is_("ldap", **general)
    openings.get_ticket(scene, client, dc, f"{client.name}$", f"ldap/{dc.fqdn}").is_("kerberos", **general)
    for port in (389, 3268):
        openings.directory(scene, client, dc, port, sealed=port not in clear).is_(
            "ldap", certainty=("strong", "certain"), authentication=("kerberos",),
            encryption=("none",) if port in clear else ("sasl-seal",), **facts,
        )  # fmt: skip


for _key, (_paths, _) in DIRECTORY_ROWS.items():
    enlist(
        Story(
            f"directory-{role_of(_key)}",
            f"Directory access of one role: 53, 88, 389 (TCP, UDP) and 3268: {_paths[0]}",
            partial(directory_of, key=_key),
        )
    )


@story(
    "ldap-edgesync", "EdgeSync from Hub to Edge: LDAP inside TLS on 50636; AD LDS in clear on 50389 from a workstation"
)
def edge_sync(scene: Scene) -> None:
    hub, edge, admin = hosts(scene, "hub1", "edge1", "admin1")
    tcp = scene.tcp(hub, edge, 50636)
    talk.tls(tcp, certificate=certificate(scene.noise, edge.name, (edge.fqdn,)))
    tcp.close()
    tcp.is_(
        "tls", data_paths=("transport-edgesync-hub-to-edge",), also=("note-edgesync-50636",), roles=roles(hub, edge),
        certainty=("weak", "strong"), encryption=("tls-implicit",),
    )  # fmt: skip
    tcp = scene.tcp(admin, edge, 50389)
    tcp.ask(openings.simple_bind(1, "cn=esra,cn=services", "not a secret"))
    tcp.answer(openings.result(1, 0x61))
    tcp.ask(openings.search(2, openings.EXCHANGE_BASE, ["cn"]))
    tcp.answer(openings.found(2, openings.EXCHANGE_BASE, cn="Microsoft Exchange"))
    tcp.close()
    tcp.is_(
        "ldap", authentication=("basic",), encryption=("none",), note="the row is local; an administrator's tool here"
    )


# ---- POP3, IMAP4, NNTP --------------------------------------------------------------------------------

POP3_2010 = "S:+OK The Microsoft Exchange POP3 service is ready."
IMAP4_2010 = "S:* OK The Microsoft Exchange IMAP4 service is ready."
CAPABILITY = "S:* CAPABILITY IMAP4 IMAP4rev1 LOGINDISABLED STARTTLS UIDPLUS CHILDREN IDLE\na1 OK CAPABILITY completed."


def sealed_port(scene: Scene, client: Host, server: Host, port: int, **facts: object) -> Tcp:
    """TLS from the first byte."""
    tcp = scene.tcp(client, server, port)
    talk.tls(tcp, server.fqdn, certificate=certificate(scene.noise, server.name, (server.fqdn,)))
    tcp.close()
    tcp.is_("tls", roles=roles(client, server), encryption=("tls-implicit",), **facts)
    return tcp


@story(
    "pop3-imap4",
    "POP3 and IMAP4 to Client Access: 110 with STLS, 143 with STARTTLS, 995, 993; proxying between servers",
)
def mailboxes(scene: Scene) -> None:
    pop, imap, cas, other = hosts(scene, "pop1", "imap1", "cas1", "cas2")
    tcp = scene.tcp(pop, cas, 110)
    dialogue(tcp, POP3_2010, "C:CAPA", "S:+OK\nTOP\nUIDL\nSTLS\n.", "C:STLS", "S:+OK Begin TLS negotiation.")
    talk.tls(tcp, certificate=certificate(scene.noise, cas.name, (cas.fqdn,)))
    tcp.is_("pop3", data_paths=("cas-pop3",), also=("note-pop-imap-no-ntlm",), roles=roles(pop, cas),
            certainty=("strong", "certain"), encryption=("tls-upgrade",))  # fmt: skip
    tcp = scene.tcp(imap, cas, 143)
    dialogue(tcp, IMAP4_2010, "C:a1 CAPABILITY", CAPABILITY, "C:a2 STARTTLS", "S:a2 OK Begin TLS negotiation now.")
    talk.tls(tcp, certificate=certificate(scene.noise, cas.name, (cas.fqdn,)))
    tcp.is_("imap4", data_paths=("cas-imap4",), also=("note-pop-imap-no-ntlm",), roles=roles(imap, cas),
            certainty=("strong", "certain"), encryption=("tls-upgrade",))  # fmt: skip
    note = {"also": ("note-pop-imap-no-ntlm",), "certainty": ("weak", "strong")}
    sealed_port(scene, pop, cas, 995, data_paths=("cas-pop3",), **note)
    sealed_port(scene, imap, cas, 993, data_paths=("cas-imap4",), **note)
    for port, word in ((995, "pop3"), (993, "imap4")):
        sealed_port(
            scene, other, cas, port, data_paths=(f"cas-to-cas-{word}",), also=(f"note-{word}-proxy-always-{port}",),
            certainty=("weak", "strong"),
        )  # fmt: skip


@story("e2003-pop3-imap4", "Exchange 2003: clients to front-end, front-end to back-end in clear; 995 and 993")
def old_mailboxes(scene: Scene) -> None:
    pop, imap, front, back = hosts(scene, "pop1", "imap1", "fe1", "be1")
    hello = "S:+OK Microsoft Exchange Server 2003 POP3 server version 6.5.7638.1 ({}) ready."
    star = "S:* OK Microsoft Exchange Server 2003 IMAP4rev1 server version 6.5.7638.1 ({}) ready."
    calls = (
        (pop, front, 110, "pop3", "e2003-pop3", hello), (front, back, 110, "pop3", "e2003-pop3-fe-be", hello),
        (imap, front, 143, "imap4", "e2003-imap4", star), (front, back, 143, "imap4", "e2003-imap4-fe-be", star),
    )  # fmt: skip
    for client, server, port, protocol, path, greeting in calls:
        tcp = scene.tcp(client, server, port)
        dialogue(tcp, greeting.format(server.fqdn))
        if protocol == "pop3":
            dialogue(tcp, "C:USER bob", "S:+OK", "C:PASS not-a-secret", "S:+OK User successfully logged on.", "C:QUIT")
        else:
            dialogue(tcp, "C:1 LOGIN bob not-a-secret", "S:1 OK LOGIN completed.", "C:2 LOGOUT", "S:* BYE")
        tcp.close()
        tcp.is_(
            protocol,
            data_paths=(path,),
            roles=roles(client, server),
            certainty=("strong", "certain"),
            encryption=("none",),
            authentication=("basic",),
        )
    sealed_port(scene, pop, front, 995, data_paths=("e2003-pop3s",), certainty=("weak", "strong"))
    sealed_port(scene, imap, front, 993, data_paths=("e2003-imap4s",), certainty=("weak", "strong"))


@story("e2003-nntp", "Exchange 2003 NNTP: a reader, a feed to another server, NNTP over TLS")
def news(scene: Scene) -> None:
    reader, server, peer = hosts(scene, "reader1", "be1", "news1")
    greeting = "S:200 NNTP Service 6.0.3790.3959 Version: 6.0.3790.3959 Posting Allowed"
    tcp = scene.tcp(reader, server, 119)
    dialogue(
        tcp,
        greeting,
        "C:MODE READER",
        "S:200 Posting Allowed",
        "C:GROUP example.test",
        "S:211 0 0 0 example.test",
        "C:QUIT",
    )
    tcp.close()
    tcp.is_("nntp", data_paths=("e2003-nntp",), roles=roles(reader, server), certainty=("weak", "certain"))
    tcp = scene.tcp(server, peer, 119)
    dialogue(
        tcp,
        "S:200 news1 InterNetNews NNRP server ready",
        "C:IHAVE <1@example.test>",
        "S:335 send it",
        "C:x\n.",
        "S:235 ok",
    )
    tcp.close()
    tcp.is_("nntp", data_paths=("e2003-nntp-feed",), roles=roles(server, peer), certainty=("weak", "strong"))
    sealed_port(scene, reader, server, 563, data_paths=("e2003-nntps",), certainty=("weak", "strong"))


# ---- X.400, link state, site replication, notifications ---------------------------------------------------


def tpkt(body: bytes) -> bytes:
    return struct.pack(">BBH", 3, 0, 4 + len(body)) + body


@story("e2003-x400", "X.400 connector: TPKT, COTP with TSAPs, session CONNECT with an association for message transfer")
def x400(scene: Scene) -> None:
    client, server = hosts(scene, "x400", "be1")
    tcp = scene.tcp(client, server, 102)
    tsaps = b"\xc1\x03MTA\xc2\x03EX1\xc0\x01\x0a"
    tcp.ask(tpkt(bytes([6 + len(tsaps), 0xE0]) + b"\0\0\0\x51\0" + tsaps))
    tcp.answer(tpkt(bytes([6 + len(tsaps), 0xD0]) + b"\0\x51\0\x07\0" + tsaps))
    session = b"\x05\x06\x13\x01\x00\x16\x01\x02\x14\x02\x00\x02\x33\x03MTA\x34\x03EX1"
    user = openings.tlv(0x31, openings.tagged(0, b"\x80\x01\x01"), openings.tagged(2, openings.octets("EX1")))
    connect = session + b"\xc1" + bytes([len(user)]) + user
    tcp.ask(tpkt(b"\x02\xf0\x80" + b"\x0d" + bytes([len(connect)]) + connect))
    accept = b"\x05\x06\x13\x01\x00\x16\x01\x02\x14\x02\x00\x02"
    tcp.answer(tpkt(b"\x02\xf0\x80" + b"\x0e" + bytes([len(accept)]) + accept))
    for say in (tcp.ask, tcp.answer):
        say(tpkt(b"\x02\xf0\x80\x01\x00\x01\x00" + scene.noise(120)))
    tcp.close()
    tcp.is_("x400", data_paths=("e2003-mta-x400",), roles=roles(client, server), certainty=("weak", "certain"))


@story("e2003-link-state-691", "Routing engine on 691: NODEINFO greeting, NTLM, a link state update")
def link_state(scene: Scene) -> None:
    client, server = hosts(scene, "be1", "be2")
    tcp = scene.tcp(client, server, 691)
    dialogue(tcp, f"S:200 {server.fqdn} Microsoft Routing Server ready NODEINFO 6.5.7638")
    dialogue(tcp, f"C:NODEINFO {client.fqdn}", "S:200 OK", f"C:AUTH NTLM {coded(tokens.ntlm_negotiate())}")
    dialogue(tcp, f"S:334 {coded(tokens.ntlm_challenge(scene.noise, server.name, server.fqdn))}")
    dialogue(tcp, f"C:{coded(tokens.ntlm_authenticate(scene.noise, 'BE1$', client.name))}", "S:200 OK")
    tcp.ask(scene.noise(300))
    tcp.close()
    tcp.is_("link-state", data_paths=("e2003-resvc",), roles=("back-end", "back-end"), certainty=("strong", "certain"))


@story("e2003-srs-and-adc", "Site Replication Service on 379, the Active Directory Connector on 379 and 389")
def site_replication(scene: Scene) -> None:
    adc, srs, dc = hosts(scene, "be2", "be1", "dc1")
    for server, port, paths in ((srs, 379, ("e2003-adc-379", "e2003-srs-ldap")), (dc, 389, ("e2003-adc-389",))):
        tcp = scene.tcp(adc, server, port)
        tcp.ask(openings.simple_bind(1, "cn=adc,cn=services,o=Example", "not a secret"))
        tcp.answer(openings.result(1, 0x61))
        tcp.ask(openings.search(2, "/o=Example/ou=Site1", ["cn"]))
        tcp.answer(openings.found(2, "/o=Example/ou=Site1/cn=Recipients", cn="Recipients"))
        tcp.close()
        tcp.is_("ldap", data_paths=paths, roles=roles(adc, server), certainty=("weak", "certain"),
                authentication=("basic",), encryption=("none",))  # fmt: skip


@story("e2003-notifications", "New mail told to Outlook over UDP, Direct Push told to the front-end on UDP 2883")
def notifications(scene: Scene) -> None:
    outlook, back, front = hosts(scene, "outlook1", "be1", "fe1")
    how = talk.Credentials(talk.NTLM, talk.PRIVACY, "bob")
    store = {"roles": ("outlook", "back-end"), "also": ("e2003-is-epm", "note-rpc-epm-135")}
    mapping = talk.map_port(scene, outlook, back, rpc.EMSMDB, 1_181, data_paths=("e2003-is-epm",), **store)
    talk.session(
        scene, outlook, back, 1_181, rpc.EMSMDB, how, (0, 4, 2, 1), data_paths=("e2003-is-dynamic",),
        resolved=mapping.announced, **store,
    )  # fmt: skip
    mail = scene.udp(back, outlook, 3_177, client_port=1_184)
    for _ in range(3):
        mail.ask(bytes.fromhex("0100000042a70000"))
        scene.wait(30_000)
    mail.is_(data_paths=("e2003-is-newmail-udp",), roles=("back-end", "outlook"), certainty=("weak", "strong"),
             note="eight bytes chosen by the client: told by roles and shape alone")  # fmt: skip
    push = scene.udp(back, front, 2_883)
    for _ in range(3):
        push.ask(struct.pack("<II", 1, 17) + scene.noise(24))
        scene.wait(5_000)
    push.is_(data_paths=("e2003-eas-autd",), roles=("back-end", "front-end"), certainty=("weak", "strong"))
