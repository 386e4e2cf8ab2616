"""Documented paths protected as the documents have it: TLS on, RPC at privacy level, Kerberos where it is the default.

An audit has nothing to say of these captures above `info`. Where the documents call a path unencrypted (SMB, voice,
old mail connectors) it is so here too. What carries passwords in clear, or is local to a server, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from captures.makers import mail, openings, rows2003, rows2010, rows_later, talk, voice_and_web
from captures.makers.catalogue import Play, Story, enlist
from captures.makers.certificates import certificate
from captures.makers.documents import restated
from captures.makers.openings import COMMON_WORDS
from captures.makers.organisation import host, hosts, role_of
from captures.makers.rows2010 import Row
from captures.makers.scene import Host, Scene, Tcp
from captures.makers.talk import KERBEROS, NTLM, PRIVACY, Credentials
from captures.makers.voice_and_web import http, negotiate, reply

NTLM_BY_DEFAULT = ("transport-mailbox-to-hub-mail-submission", "transport-hub-to-mailbox-mapi")
OTHERS = "ESMTP Postfix"
SEALED = {"encryption": ("tls-implicit",), "certainty": ("weak", "strong")}


def protected(row: Row) -> Row:
    """A row at privacy level, with Kerberos unless the documents call NTLM its default."""
    how = row.how
    kind = KERBEROS if how.kind == NTLM and row.id not in NTLM_BY_DEFAULT else how.kind
    return replace(row, how=Credentials(kind, PRIVACY, how.user, how.service))


def sealed(tcp: Tcp, name: str = "") -> Tcp:
    """TLS from the first byte with a certificate that somebody issued; name: SNI."""
    talk.tls(tcp, name, certificate=certificate(tcp.scene.noise, tcp.server.fqdn, issuer="Example Issuing CA"))
    tcp.close()
    return tcp


def edge_sync(scene: Scene, client: Host, edge: Host, path: str) -> None:
    """LDAP inside TLS to an Edge server, which has signed its certificate itself."""
    facts = {"also": ("note-edgesync-50636",), "certainty": ("weak", "strong")}
    mail.sealed_port(scene, client, edge, 50636, data_paths=(path,), **facts)


# ---- 2010 -------------------------------------------------------------------------------------------------


def web(scene: Scene) -> None:
    """Every web service of Client Access and Outlook Anywhere inside TLS; a browser that is sent on to HTTPS."""
    cas, also = host(scene, "cas1"), (*voice_and_web.CLIENT_HTTPS, "cas-webdav")
    for key, path in [("outlook1", "cas-outlook-anywhere"), *(row[:2] for row in voice_and_web.WEB)]:
        client = host(scene, key)
        sealed(scene.tcp(client, cas, 443), "mail.example.test").is_(
            "tls", data_paths=(path,), also=also, roles=(role_of(key), "client-access"), **SEALED
        )
    browser = host(scene, "browser1")
    tcp = scene.tcp(browser, cas, 80)
    tcp.ask(http("GET", "/owa/", "mail.example.test", User_Agent=voice_and_web.BROWSER))
    tcp.answer(reply("302 Found", b"", Location="https://mail.example.test/owa/"))
    tcp.close()
    tcp.is_("http", data_paths=("cas-owa",), also=voice_and_web.ANY_WEB, roles=("browser", "client-access"),
            certainty=("strong", "certain"), encryption=("none",))  # fmt: skip


def remote_shell(scene: Scene) -> None:
    """WS-Management on 80, its bodies sealed by Kerberos ([MS-WSMV] 2.2.9.1)."""
    admin, cas = hosts(scene, "admin1", "cas1")
    kind = 'multipart/encrypted;protocol="application/HTTP-Kerberos-session-encrypted";boundary="Encrypted Boundary"'
    proof = {"Authorization": f"Negotiate {negotiate(scene, f'HTTP/{cas.fqdn}')}", "Content_Type": kind}
    tcp = scene.tcp(admin, cas, 80)
    body = b"--Encrypted Boundary\r\n" + scene.noise(300)
    tcp.ask(http("POST", "/PowerShell?PSVersion=2.0", cas.fqdn, Content_Length=str(len(body)), **proof) + body)
    tcp.answer(reply("200 OK", scene.noise(400), Content_Type=kind))
    tcp.close()
    tcp.is_("http", data_paths=("doc-remote-powershell",), also=voice_and_web.ANY_WEB, certainty=("strong", "certain"),
            roles=("admin-workstation", "client-access"), authentication=("kerberos",),
            encryption=("sasl-seal",))  # fmt: skip


def mail_2010(scene: Scene) -> None:
    """Mail of others, of clients and of voice, all with STARTTLS; EdgeSync."""
    mta, edge, hub, mailer = hosts(scene, "internet1", "edge1", "hub1", "mailer1")
    remote = ("note-remote-smtp-opportunistic-tls", "note-domain-security", "doc-hub-internet-smtp")
    for client, server, path in (
        (mta, edge, remote[0]), (edge, mta, remote[0]), (hub, mta, "doc-hub-internet-smtp"),
        (mailer, hub, "transport-smtp-client-to-hub"),
    ):  # fmt: skip
        words = (*COMMON_WORDS, *(openings.CLIENT_WORDS if client is mailer else ("8BITMIME", "CHUNKING")))
        port = 587 if client is mailer else 25
        banner = OTHERS if server is mta else openings.BANNER_2010
        openings.upgraded_mail(scene, client, server, words, "STARTTLS", port=port, banner=banner).is_(
            "smtp", data_paths=(path,), also=remote if client is not mailer else (), certainty=("weak", "certain"),
            roles=mail.roles(client, server), encryption=("tls-upgrade",),
        )  # fmt: skip
    edge_sync(scene, hub, edge, "transport-edgesync-hub-to-edge")


RPC_2010: tuple[Play, ...] = (
    *(protected(row).play for row in rows2010.ROWS), rows2010.mapi_clients, rows2010.static_ports,
)  # fmt: skip
FILES_2010: tuple[Play, ...] = (
    rows2010.witness_smb, rows2010.witness_wmi, rows2010.backup, voice_and_web.replication_service,
    voice_and_web.replication,
    partial(rows2010.remote_registry, kerberos=True), partial(rows2010.admin_smb, kerberos=True),
    *(partial(mail.directory_of, key=key, clear=()) for key in mail.DIRECTORY_ROWS),
)  # fmt: skip
MAIL_2010: tuple[Play, ...] = (
    mail.hub_to_hub, mail.hub_to_hub_clear, mail.hub_and_edge, mail.edge_to_edge, mail_2010, mail.hybrid,
    mail.voice_mail, mail.mailboxes,
)  # fmt: skip
WEB_2010: tuple[Play, ...] = (
    web, remote_shell, voice_and_web.https, voice_and_web.legacy, voice_and_web.phone_call, voice_and_web.secured,
    voice_and_web.instant_messaging,
)  # fmt: skip


# ---- 2016 and 2003 ----------------------------------------------------------------------------------------


def clients_2016(scene: Scene) -> None:
    """Who asks the front end, inside TLS, and what the front end hands on."""
    ex1, ex2, pop, imap = hosts(scene, "ex1", "ex2", "pop1", "imap1")
    rows = [("outlook1", "client-outlook-anywhere"), *(row[:2] for row in rows_later.WEB)]
    also = (*(path for _, path in rows), "client-rest-api", "hybrid-agent", "office-online-server")
    for key, path in rows:
        sealed(scene.tcp(host(scene, key), ex1, 443), "mail.example.test").is_(
            "tls", data_paths=(path,), also=also, roles=(role_of(key), "mailbox"), **SEALED
        )
    for client, server, port, path in (
        (pop, ex1, 995, "client-pop3"), (imap, ex1, 993, "client-imap4"),
        (ex1, ex2, 1995, "be-pop3"), (ex1, ex2, 1993, "be-imap4"), (ex1, ex2, 444, "be-https"),
    ):  # fmt: skip
        sealed(scene.tcp(client, server, port), server.fqdn).is_(
            "tls", data_paths=(path,), roles=mail.roles(client, server), **SEALED
        )


def transports_2016(scene: Scene) -> None:
    """The front end and the transports of two servers, with X-ANONYMOUSTLS."""
    ex1, ex2 = hosts(scene, "ex1", "ex2")
    inside = ("mail-frontend-to-transport", *rows_later.BETWEEN_TRANSPORTS)
    for port, paths in (
        (2525, inside), (475, ("mail-transport-to-mailbox-delivery",)), (465, ("mail-client-proxy",)),
        (717, ("mail-outbound-proxy",)),
    ):  # fmt: skip
        openings.upgraded_mail(scene, ex1, ex2, rows_later.WORDS, "X-ANONYMOUSTLS", port=port).is_(
            "smtp", data_paths=paths, roles=("mailbox", "mailbox"), certainty=("weak", "certain"),
            authentication=("exchange-server",), encryption=("tls-upgrade",),
        )  # fmt: skip


def edges_2016(scene: Scene) -> None:
    """Clients, the Internet and the Edge server, all with STARTTLS; EdgeSync; the directory."""
    ex1, edge, mta, mailer, dc = hosts(scene, "ex1", "edge2", "internet1", "mailer1", "dc1")
    for client, server, path, port in (
        (mailer, ex1, "client-smtp-587", 587), (mta, ex1, "mail-inbound-internet", 25),
        (mta, edge, "mail-internet-to-edge", 25), (ex1, mta, "mail-outbound-internet", 25),
        (edge, mta, "mail-edge-to-internet", 25), (ex1, edge, "mail-mailbox-to-edge", 25),
        (edge, ex1, "mail-edge-to-mailbox", 25),
    ):  # fmt: skip
        mutual = {client, server} == {ex1, edge}
        words = rows_later.EDGE_WORDS if mutual else rows_later.CLIENT_WORDS if port == 587 else rows_later.COMMON
        banner = OTHERS if server is mta else openings.BANNER_2010
        openings.upgraded_mail(scene, client, server, words, "STARTTLS", port=port, mutual=mutual, banner=banner).is_(
            "smtp", data_paths=(path,), also=rows_later.ABROAD if edge in (client, server) else (),
            roles=mail.roles(client, server), certainty=("weak", "certain"), encryption=("tls-upgrade",),
        )  # fmt: skip
    edge_sync(scene, ex1, edge, "edgesync")
    openings.directory(scene, ex1, dc).is_(
        "ldap", data_paths=("active-directory",), roles=mail.roles(ex1, dc), authentication=("kerberos",),
        encryption=("sasl-seal",),
    )  # fmt: skip


PLAYS_2016: tuple[Play, ...] = (clients_2016, transports_2016, edges_2016, rows_later.voice, rows_later.group)


def services_2003(scene: Scene) -> None:
    """What front-ends of 2003 serve inside TLS."""
    front = host(scene, "fe1")
    for key, port, path in (
        ("browser1", 443, "e2003-www-https"), ("pop1", 995, "e2003-pop3s"), ("imap1", 993, "e2003-imap4s"),
        ("reader1", 563, "e2003-nntps"),
    ):  # fmt: skip
        sealed(scene.tcp(host(scene, key), front, port), "mail.example.test").is_(
            "tls", data_paths=(path,), also=restated((path,)), roles=(role_of(key), "front-end"), **SEALED
        )


PLAYS_2003: tuple[Play, ...] = (
    *(rows2003.play_of(row) for row in rows2003.ROWS), rows2003.address_book, rows2003.back_end, rows2003.management,
    services_2003, mail.link_state_mail, mail.link_state, mail.x400, mail.notifications,
)  # fmt: skip


def together(plays: Sequence[Play]) -> Play:
    """One after the other."""

    def play(scene: Scene) -> None:
        for part in plays:
            part(scene)
            scene.wait(500)

    return play


CHAPTERS: dict[str, tuple[str, Sequence[Play]]] = {
    "2010-rpc": ("RPC of Exchange 2010", RPC_2010),
    "2010-files": ("files, replication and directory of Exchange 2010", FILES_2010),
    "2010-mail": ("mail of Exchange 2010", MAIL_2010),
    "2010-web": ("web services and voice of Exchange 2010", WEB_2010),
    "2016": ("Exchange 2016", PLAYS_2016),
    "2003": ("Exchange 2003", PLAYS_2003),
}  # fmt: skip

for _name, (_about, _plays) in CHAPTERS.items():
    enlist(Story(f"conforming-{_name}", f"Protected as the documents have it: {_about}", together(_plays),
                 suffix=".pcapng"))  # fmt: skip
