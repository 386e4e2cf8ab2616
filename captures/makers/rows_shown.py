"""Every row of the 2010 tables and every 2003 service, without an inventory: roles show in what hosts do.

Each capture begins with hosts that show their role by what only it does; then the rows of one subject follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from captures.makers import mail, openings, rows2003, rows2010, rpc, voice_and_web
from captures.makers.catalogue import STORIES, Play, Story, enlist
from captures.makers.organisation import host, hosts, role_of
from captures.makers.rows2010 import Row
from captures.makers.scene import Scene
from captures.makers.voice_and_web import http, reply, sip


def told(name: str) -> Play:
    """The play of a story that has an inventory when it stands alone."""
    return STORIES[name].play


def client_access_shows(*keys: str) -> Play:
    """A browser at Outlook Web App in clear, which tells its build."""

    def play(scene: Scene) -> None:
        for key in keys:
            browser, cas = hosts(scene, "browser1", key)
            tcp = scene.tcp(browser, cas, 80)
            tcp.ask(http("GET", "/owa/auth/logon.aspx", cas.fqdn, User_Agent=voice_and_web.BROWSER))
            tcp.answer(reply("200 OK", scene.noise(120), X_OWA_Version="14.1.218.13"))
            tcp.close()
            tcp.is_("http", data_paths=("cas-owa",), also=voice_and_web.ANY_WEB, roles=("browser", role_of(key)))

    return play


def lync_shows(scene: Scene) -> None:
    """A telephone asks Lync in clear."""
    phone, lync = scene.host("PHONE9", "10.10.9.129"), host(scene, "lync1")
    tcp = scene.tcp(phone, lync, 5060)
    tcp.ask(sip(f"OPTIONS sip:{lync.fqdn} SIP/2.0", phone, lync, {"CSeq": "1 OPTIONS"}))
    tcp.answer(sip("SIP/2.0 200 OK", phone, lync, {"CSeq": "1 OPTIONS", "Server": "RTC/4.0"}))
    tcp.close()
    tcp.is_("sip", absence=("not-exchange", "unmatched"))


def rights_show(scene: Scene) -> None:
    """The licensing pipeline of AD RMS without SSL."""
    hub, rms = hosts(scene, "hub1", "rms1")
    tcp = scene.tcp(hub, rms, 80)
    tcp.ask(http("POST", "/_wmcs/licensing/license.asmx", rms.fqdn, Content_Length="0"))
    tcp.answer(reply("200 OK", scene.noise(80)))
    tcp.close()
    tcp.is_("http", data_paths=("note-irm-agent-ad-rms",), roles=("hub-transport", "ad-rms"))


def old_hosts_show(scene: Scene) -> None:
    """A second back-end serves a mailbox; the server of 5.5 greets; a server asks the domain controller."""
    outlook, back, old, dc = hosts(scene, "outlook1", "be2", "old1", "dc1")
    store = Row("e2003-is-dynamic", "outlook1", "be2", rpc.EMSMDB, rows2003.USER, (0, 2, 2, 1), 1182,
                also=rows2003.both("is"))  # fmt: skip
    rows2003.play(store, scene)
    tcp = scene.tcp(back, old, 25)
    words = ["XEXCH50", "HELP", "ETRN", "DSN", "PIPELINING"]
    greeting = "ESMTP Server (Microsoft Exchange Internet Mail Service 5.5.2653.13) ready"
    openings.dialogue(tcp, *openings.ehlo(back, old, words[1:], banner=greeting))
    tcp.close()
    tcp.is_("smtp", note="Exchange 5.5 takes mail from 2003")
    openings.get_ticket(scene, outlook, dc, "bob", f"host/{outlook.fqdn}").is_("kerberos")


def from_outside(scene: Scene) -> None:
    """Mail from and to hosts of others."""
    mail.internet(scene)
    mail.edge_to_edge(scene)


ALL_2010: tuple[Play, ...] = (
    mail.hub_to_hub,
    mail.hub_and_edge,
    mail.edge_sync,
    client_access_shows("cas1", "cas2"),
    voice_and_web.phone_call,
    voice_and_web.replication,
    rows2010.row_named("mailbox-mapi-access"),
    rows2010.row_named("mailbox-system-attendant-mapi-client"),
)
"""Each server of 2010 does what only its role does."""

CHAPTERS: dict[str, tuple[str, Sequence[Play]]] = {
    "2010-rpc": (
        "every RPC row of the 2010 tables",
        (*ALL_2010, *(row.play for row in rows2010.ROWS), rows2010.mapi_clients),
    ),
    "2010-files": (
        "static ports, RPC over HTTP, files and the registry of Exchange 2010",
        (*ALL_2010, rows2010.row_named("mailbox-availability"), rows2010.mapi_clients,
         rows2010.static_ports, rows2010.remote_registry, rows2010.witness_smb,
         rows2010.witness_wmi, rows2010.admin_smb, rows2010.backup, rows2010.back_ends, rows2010.http_mapper,
         rows2010.over_http),
    ),
    "2010-mail": (
        "SMTP, POP3, IMAP4 and the directory of Exchange 2010",
        (*ALL_2010, mail.hub_to_hub_clear, from_outside, mail.submission, mail.hybrid,
         mail.voice_mail, mail.mailboxes, *(told(f"directory-{role_of(key)}") for key in mail.DIRECTORY_ROWS)),
    ),
    "2010-web": (
        "the web services of Exchange 2010, proxying between servers, AD RMS",
        (*ALL_2010, rights_show, *(told(f"http-{row[1]}") for row in voice_and_web.WEB), mail.old_mailboxes,
         rows2003.old_store, voice_and_web.legacy, voice_and_web.https, voice_and_web.replication_service),
    ),
    "2010-voice": (
        "Unified Messaging and instant messaging of Exchange 2010",
        (*ALL_2010, lync_shows, voice_and_web.secured, voice_and_web.play_on_phone, voice_and_web.instant_messaging,
         mail.voice_mail),
    ),
    "2003": (
        "every service of Exchange 2003",
        (old_hosts_show, mail.old_mailboxes, mail.link_state_mail, *(rows2003.play_of(row) for row in rows2003.ROWS),
         rows2003.address_book, rows2003.back_end, mail.link_state, rows2003.management, mail.x400, mail.news,
         mail.site_replication, mail.notifications, voice_and_web.old_web),
    ),
}  # fmt: skip


def chapter(plays: Sequence[Play]) -> Callable[[Scene], None]:
    """The plays one after the other. A redirect that names a host leads nowhere without an inventory."""

    def play(scene: Scene) -> None:
        for part in plays:
            part(scene)
            scene.wait(500)
        for talk in scene.conversations:
            if talk.truth.certainty:
                talk.truth = replace(talk.truth, certainty=("weak", "certain"))
            if talk.truth.resolved.get("kind") == "sip-redirect":
                talk.truth = replace(talk.truth, resolved={})

    return play


for _name, (_about, _plays) in CHAPTERS.items():
    _about = f"No inventory: {_about}"
    enlist(Story(f"shown-{_name}", _about, chapter(_plays), suffix=".pcapng", inventory=False, shown=True))
