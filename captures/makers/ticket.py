"""The firewall ticket: "unknown traffic to port 49734".

Eleven seconds of an Exchange 2010 network. Client Access asks Mailbox's endpoint mapper for EMSMDB, is told
49734 in frame 400, and speaks MAPI there, with Kerberos, encrypted. Everything else is what a network says besides.
"""

from __future__ import annotations

from captures.makers import openings, rpc, talk
from captures.makers.catalogue import story
from captures.makers.documents import MAPPER, OUTLOOK, OUTLOOK_ALSO, TO_MAILBOX
from captures.makers.organisation import hosts
from captures.makers.scene import MILLISECOND, Host, Scene
from captures.makers.talk import KERBEROS, PRIVACY, SPNEGO, Credentials

PORT = 49_734
ANNOUNCING_FRAME = 400
FRAMES_OF_MAPPING = 10
"""Handshake (3), bind and bind_ack with acknowledgements (4), ept_map (2), its answer."""


@story(
    "ticket-49734",
    "CAS to Mailbox, EMSMDB with Kerberos and privacy on 49734, announced in frame 400",
    suffix=".pcapng",
)
def ticket(scene: Scene) -> None:
    outlook, other, cas, mailbox, hub, hub2, dc = hosts(
        scene, "outlook1", "outlook2", "cas1", "mbx1", "hub1", "hub2", "dc1"
    )
    for number, (user, start) in enumerate(((outlook, 0), (other, 900), (outlook, 3500), (other, 4200))):
        with scene.meanwhile(start):
            open_outlook(scene, user, cas, dc, full=number < 2)
    with scene.meanwhile(1500):
        mail(scene, hub, hub2, dc)
    with scene.meanwhile(5200):
        lookups(scene, cas, dc)
    the_question(scene, cas, mailbox)


def open_outlook(scene: Scene, user: Host, cas: Host, dc: Host, *, full: bool) -> None:
    """Outlook starts: names, ticket, autodiscover, the mapper, then address book and mail."""
    facts = {"data_paths": OUTLOOK, "also": OUTLOOK_ALSO, "roles": ("outlook", "client-access")}
    openings.look_up(scene, user, dc, "cas1.example.test", "A", cas.address).is_("dns")
    openings.get_ticket(scene, user, dc, user.name.lower(), f"exchangeMDB/{cas.fqdn}").is_("kerberos")
    if full:
        web = openings.web(scene, user, cas, "autodiscover.example.test")
        web.is_("tls", encryption=("tls-implicit",))
    mapping = talk.map_port(scene, user, cas, rpc.EMSMDB, 6005, certainty=("strong", "certain"), **facts)
    how = Credentials(SPNEGO, PRIVACY, user.name.lower())
    talk.session(
        scene, user, cas, 6005, rpc.EMSMDB, how, talk.EMSMDB_CALLS, certainty=("certain", "certain"),
        resolved=mapping.announced, **facts,
    )  # fmt: skip


def mail(scene: Scene, hub: Host, hub2: Host, dc: Host) -> None:
    """Hub to Hub: a ticket for SMTPSVC, then X-ANONYMOUSTLS."""
    openings.get_ticket(scene, hub, dc, "HUB1$", f"SMTPSVC/{hub2.fqdn}").is_("kerberos")
    smtp = openings.upgraded_mail(scene, hub, hub2, openings.INTERNAL_WORDS, "X-ANONYMOUSTLS")
    smtp.is_(
        "smtp", data_paths=("transport-hub-to-hub",), roles=("hub-transport", "hub-transport"),
        certainty=("strong", "certain"), encryption=("tls-upgrade",),
    )  # fmt: skip


def lookups(scene: Scene, cas: Host, dc: Host) -> None:
    """Client Access reads the directory: SRV records, LDAP and the global catalog."""
    openings.look_up(scene, cas, dc, "_ldap._tcp.gc._msdcs.example.test", "SRV", dc.fqdn, 3268).is_("dns")
    for port in (389, 3268):
        openings.directory(scene, cas, dc, port).is_(
            "ldap",
            data_paths=("cas-active-directory",),
            also=("doc-cas-ldap-gc",),
            roles=("client-access", "active-directory"),
            certainty=("strong", "certain"),
            authentication=("kerberos",),
            encryption=("sasl-seal",),
        )


def the_question(scene: Scene, cas: Host, mailbox: Host) -> None:
    """Make room in the traffic so that the mapper's answer is frame 400, then let Client Access call Mailbox."""
    before = ANNOUNCING_FRAME - FRAMES_OF_MAPPING
    frames, _ = scene.in_time()
    moment = frames[before - 1].ns
    for frame in frames[before:]:
        frame.ns += 10 * MILLISECOND
    facts = {
        "data_paths": TO_MAILBOX,
        "also": ("note-cas-to-mailbox-many-ports", *MAPPER),
        "roles": ("client-access", "mailbox"),
    }
    scene.now = moment
    mapping = talk.map_port(scene, cas, mailbox, rpc.EMSMDB, PORT, certainty=("strong", "certain"), **facts)
    how = Credentials(KERBEROS, PRIVACY, "CAS1$")
    talk.session(
        scene,
        cas,
        mailbox,
        PORT,
        rpc.EMSMDB,
        how,
        (*talk.EMSMDB_CALLS[:-1], 11, 11, 1),
        certainty=("certain", "certain"),
        resolved=mapping.announced,
        **facts,
    )
