"""What `exflow audit` finds, each beside its nearest neighbour that it must not find: first the one, then the other."""

from __future__ import annotations

import base64
from typing import Any

from captures.makers import mail, openings, rpc, rpc_corners, talk, tokens
from captures.makers.catalogue import story
from captures.makers.certificates import certificate
from captures.makers.openings import COMMON_WORDS, INTERNAL_WORDS, dialogue, ehlo
from captures.makers.organisation import hosts
from captures.makers.scene import Host, Scene, Tcp
from captures.makers.talk import KERBEROS, NTLM, PRIVACY, Credentials

EDGESYNC: dict[str, Any] = {
    "data_paths": ("transport-edgesync-hub-to-edge",),
    "also": ("note-edgesync-50636",),
    "certainty": ("weak", "strong"),
}
ALSO_TO_MAILBOX = ("mailbox-availability", "note-cas-to-mailbox-many-ports")


@story("audit-refused-exchange-authentication", "Hub to Hub: X-EXPS refused with 454; mail inside TLS; X-EXPS accepted")
def refused_authentication(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "hub2")
    proof = tokens.gss_kerberos(tokens.ap_req(scene.noise, f"SMTPSVC/{server.fqdn}"))
    asked = f"C:X-EXPS GSSAPI {base64.b64encode(tokens.spnego_init(proof)).decode()}"

    def answered(answer: str) -> None:
        tcp = scene.tcp(client, server, 25)
        dialogue(tcp, *ehlo(client, server, INTERNAL_WORDS), asked, answer, "C:QUIT", "S:221 2.0.0 Bye")
        tcp.close()
        tcp.is_("smtp")

    answered("S:454 4.7.0 Cannot achieve Exchange Server authentication")
    openings.upgraded_mail(scene, client, server, (*COMMON_WORDS, *INTERNAL_WORDS), "X-ANONYMOUSTLS").is_("smtp")
    answered("S:235 2.7.0 Authentication successful")


@story("audit-overwritten-keywords", "Hub to Hub: a device overwrites STARTTLS with XXXXXXXA; then without the device")
def overwritten(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "hub2")
    words = (*COMMON_WORDS, *INTERNAL_WORDS[1:])
    for offered in ([word if word != "STARTTLS" else "XXXXXXXA" for word in words], words):
        tcp = scene.tcp(client, server, 25)
        dialogue(tcp, *ehlo(client, server, offered), "C:QUIT", "S:221 2.0.0 Bye")
        tcp.close()
        tcp.is_("smtp")


@story("audit-no-answer", "Hub to Edge's directory on 50636: three SYNs without answer; a refusal; a TLS session")
def no_answer(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "edge1")
    silent = Tcp(scene, client, server, 50636, handshake=False)
    for pause in (0, 3000, 6000):
        scene.wait(pause)
        silent.segment(client, flags="S", at=0)
    silent.is_(**EDGESYNC)
    refused = Tcp(scene, client, server, 50636, handshake=False)
    refused.segment(client, flags="S")
    refused.segment(server, flags="RA")
    refused.is_(**EDGESYNC)
    _tls(scene, client, server, 50636, 0x0303)


@story("audit-weak-ciphers", "Kerberos tickets with RC4 and AES; POP3 over SSL 3.0, TLS 1.0 and TLS 1.2")
def weak_ciphers(scene: Scene) -> None:
    hub, dc, reader, cas = hosts(scene, "hub1", "dc1", "pop1", "cas1")
    for etype in (23, 18):
        openings.get_ticket(scene, hub, dc, "HUB1$", "SMTPSVC/hub2.example.test", etype=etype).is_("kerberos")
    for version in (0x0300, 0x0301, 0x0303):
        _tls(scene, reader, cas, 995, version)


@story("audit-weak-suites", "POP3 over TLS 1.2: RC4, self-signed certificate; AES, bought one; RC4, bought one")
def weak_suites(scene: Scene) -> None:
    reader, cas = hosts(scene, "pop1", "cas1")
    for cipher, issuer in ((0x0005, ""), (0x002F, "Example Issuing CA"), (0x0005, "Example Issuing CA")):
        tcp = scene.tcp(reader, cas, 995)
        proof = certificate(scene.noise, cas.name, (cas.fqdn,), **({"issuer": issuer} if issuer else {}))
        tcp.ask(talk.client_hello(scene.noise(64)))
        tcp.answer(talk.server_hello(scene.noise(64), proof, cipher=cipher))
        tcp.ask(talk.record(20, b"\x01", 0x0303) + talk.record(22, scene.noise(80), 0x0303))
        tcp.close()
        tcp.is_("tls", encryption=("tls-implicit",))


@story("audit-certificates", "POP3 inside TLS with certificates of a CA: expired nine days before, valid since then")
def certificates(scene: Scene) -> None:
    reader, cas = hosts(scene, "pop1", "cas1")
    for valid in ((b"051101000000Z", b"101101000000Z"), (b"101101000000Z", b"151101000000Z")):
        tcp = scene.tcp(reader, cas, 995)
        proof = certificate(scene.noise, cas.name, (cas.fqdn,), issuer="Example Issuing CA", valid=valid)
        talk.tls(tcp, certificate=proof)
        tcp.close()
        tcp.is_("tls", data_paths=("cas-pop3",), also=("note-pop-imap-no-ntlm",), certainty=("weak", "strong"),
                encryption=("tls-implicit",))  # fmt: skip


@story("audit-passwords", "POP3 to Client Access: name and password in clear; the same after STLS")
def passwords(scene: Scene) -> None:
    reader, cas = hosts(scene, "pop1", "cas1")
    login = ("C:USER alice", "S:+OK", "C:PASS not a secret", "S:+OK User successfully logged on.", "C:QUIT", "S:+OK")
    for inside in (False, True):
        tcp = scene.tcp(reader, cas, 110)
        dialogue(tcp, mail.POP3_2010)
        if inside:
            dialogue(tcp, "C:STLS", "S:+OK Begin TLS negotiation.")
            talk.tls(tcp, certificate=certificate(scene.noise, cas.name, (cas.fqdn,)))
        else:
            dialogue(tcp, *login)
        tcp.close()
        tcp.is_("pop3", data_paths=("cas-pop3",), also=("note-pop-imap-no-ntlm",), certainty=("strong", "certain"),
                encryption=("tls-upgrade",) if inside else ("none",))  # fmt: skip


@story("audit-directory-logins", "Hub to a domain controller: NTLM, sealed; Kerberos, sealed; Kerberos, not sealed")
def directory_logins(scene: Scene) -> None:
    hub, dc = hosts(scene, "hub1", "dc1")
    paths, also = mail.DIRECTORY_ROWS["hub1"]
    for kind, sealed in ((NTLM, True), (KERBEROS, True), (KERBEROS, False)):
        openings.directory(scene, hub, dc, kind=kind, sealed=sealed).is_(
            "ldap", data_paths=paths, also=also, authentication=("kerberos" if kind == KERBEROS else "ntlm",),
            encryption=("sasl-seal" if sealed else "none",), certainty=("strong", "certain"),
        )  # fmt: skip


@story("audit-rpc-logins", "Client Access to Mailbox at privacy level: NTLM, then Kerberos")
def rpc_logins(scene: Scene) -> None:
    client, server = hosts(scene, "cas1", "mbx1")
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, 6_117)
    for kind in (NTLM, KERBEROS):
        talk.session(
            scene, client, server, 6_117, rpc.EMSMDB, Credentials(kind, PRIVACY, "CAS1$"), talk.EMSMDB_CALLS,
            resolved=mapping.announced, **rpc_corners.CERTAIN,
        )  # fmt: skip


# ---- blocked ----------------------------------------------------------------------------------------------


@story("audit-announced-port", "The mapper hands out 6117: three SYNs without answer; a refusal; a session")
def announced_port(scene: Scene) -> None:
    client, server = hosts(scene, "cas1", "mbx1")
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, 6_117)
    unread = {"data_paths": ("cas-to-mailbox",), "also": ALSO_TO_MAILBOX, "certainty": ("strong", "strong")}
    silent = Tcp(scene, client, server, 6_117, handshake=False)
    for pause in (0, 3000, 6000):
        scene.wait(pause)
        silent.segment(client, flags="S", at=0)
    silent.is_(resolved=mapping.announced, **unread)
    refused = Tcp(scene, client, server, 6_117, handshake=False)
    refused.segment(client, flags="S")
    refused.segment(server, flags="RA")
    refused.is_(resolved=mapping.announced, **unread)
    talk.session(
        scene, client, server, 6_117, rpc.EMSMDB, Credentials(KERBEROS, PRIVACY), talk.EMSMDB_CALLS,
        resolved=mapping.announced,
    )  # fmt: skip


@story(
    "audit-reset", "Hub to Edge's directory: a reset by the server before anything is said; by the client; a session"
)
def reset(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "edge1")
    for side in (server, client):
        tcp = scene.tcp(client, server, 50636)
        tcp.segment(side, flags="RA")
        tcp.is_(**EDGESYNC)
    _tls(scene, client, server, 50636, 0x0303)


@story("audit-tls-fails", "Hub to Edge's directory: TLS ends with an alert; with a reset after the hello; not at all")
def failing(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "edge1")
    for answer in (talk.record(21, b"\x02\x28", 0x0303), b""):
        tcp = scene.tcp(client, server, 50636)
        tcp.ask(talk.client_hello(scene.noise(64)))
        if answer:
            tcp.answer(answer)
            tcp.close()
        else:
            tcp.segment(server, flags="RA")
        tcp.is_("tls")
    _tls(scene, client, server, 50636, 0x0303)


@story("audit-starttls-refused", "Internet to Edge: 454 TLS not available; then STARTTLS as it should be")
def starttls_refused(scene: Scene) -> None:
    client, server = hosts(scene, "internet1", "edge1")
    tcp = scene.tcp(client, server, 25)
    dialogue(tcp, *ehlo(client, server, COMMON_WORDS), "C:STARTTLS")
    dialogue(tcp, "S:454 4.7.0 TLS not available due to temporary reason", "C:QUIT", "S:221 2.0.0 Bye")
    tcp.close()
    tcp.is_("smtp")
    openings.upgraded_mail(scene, client, server, COMMON_WORDS, "STARTTLS").is_("smtp")


CANNOT_AUTHENTICATE, ACCESS_DENIED, RANGE_ERROR = 8, 0x00000005, 0x1C010002
"""A reason of bind_nak ([MS-RPCE] 2.2.2.9); what faults say ([C706] appendix E, [MS-RPCE] 3.1.1.5.5)."""


@story("audit-rpc-refusals", "EMSMDB with Kerberos: the bind refused; the call denied; the call not known")
def rpc_refusals(scene: Scene) -> None:
    client, server = hosts(scene, "cas1", "mbx1")
    how, offers = Credentials(KERBEROS, PRIVACY), [(rpc.EMSMDB, [rpc.NDR32])]
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, 6_117)
    refused = scene.tcp(client, server, 6_117)
    request = tokens.ap_req(scene.noise, f"exchangeMDB/{server.fqdn}")
    refused.ask(rpc.bind(offers, verifier=how.verifier(request)))
    refused.answer(rpc.bind_nak(CANNOT_AUTHENTICATE))
    refused.close()
    refused.is_("dcerpc", interfaces=((rpc.EMSMDB.uuid, False),), resolved=mapping.announced)
    for status in (ACCESS_DENIED, RANGE_ERROR):
        tcp = scene.tcp(client, server, 6_117)
        talk.bind_with(tcp, offers, how)
        tcp.ask(rpc.request(10, scene.noise(160), call=3, verifier=how.verifier(talk.signature(scene, how))))
        tcp.answer(rpc.fault(status, call=3))
        tcp.close()
        tcp.is_("dcerpc", interfaces=((rpc.EMSMDB.uuid, True),), authentication=("kerberos",),
                encryption=("rpc-privacy",), resolved=mapping.announced, **rpc_corners.CERTAIN)  # fmt: skip


@story("audit-proxy-probes", "Edge asks a host that mailed whether it is an open proxy: refused; it is one")
def proxy_probes(scene: Scene) -> None:
    mta, edge = hosts(scene, "internet1", "edge1")
    openings.upgraded_mail(scene, mta, edge, COMMON_WORDS, "STARTTLS").is_("smtp")
    for open_proxy in (False, True):
        probe = Tcp(scene, edge, mta, 1080, handshake=open_proxy)
        if open_proxy:
            probe.ask(b"\x04\x01\x00\x19" + edge.packed + b"\0")
            probe.answer(b"\x00\x5a\x00\x19" + edge.packed)
            probe.close()
        else:
            probe.segment(edge, flags="S")
            probe.segment(mta, flags="RA")
        probe.is_(absence=("no-payload", "not-exchange", "unmatched"), note="weak is right too, beside the mail")


# ---- unexpected -------------------------------------------------------------------------------------------


@story("audit-inventory", "Mail between Hubs; to one that the list calls a voice server; to one that it doesn't have")
def inventory(scene: Scene) -> None:
    hub, other = hosts(scene, "hub1", "hub2")
    wrong = scene.host("HUB3", "10.10.1.13", "unified-messaging", version="2010")
    missing = scene.host("HUB4", "10.10.1.14")
    for server in (other, wrong, missing):
        openings.upgraded_mail(scene, hub, server, (*COMMON_WORDS, *INTERNAL_WORDS), "X-ANONYMOUSTLS").is_("smtp")


@story("audit-wrong-ends", "Outlook on back ends, Edge at a domain controller and in a mailbox; each beside who may")
def wrong_ends(scene: Scene) -> None:
    outlook, front, back, edge, hub, dc = hosts(scene, "outlook1", "ex2", "ex1", "edge1", "hub1", "dc1")
    for client in (outlook, front):
        _tls(scene, client, back, 444, 0x0303)
    for client in (edge, hub):
        openings.directory(scene, client, dc).is_("ldap")
    cas, mailbox = hosts(scene, "cas1", "mbx1")
    for client in (edge, cas):
        talk.map_port(scene, client, mailbox, rpc.EMSMDB, 6_117)
        talk.session(
            scene, client, mailbox, 6_117, rpc.EMSMDB, Credentials(KERBEROS, PRIVACY), talk.EMSMDB_CALLS,
            authentication=("kerberos",),
        )  # fmt: skip
    plain = (*COMMON_WORDS, *openings.CLIENT_WORDS)
    for client in (cas, hosts(scene, "mailer1")[0]):
        openings.upgraded_mail(scene, client, hub, plain, "STARTTLS").is_("smtp")
    for client in (mailbox, hosts(scene, "browser1")[0]):
        openings.web(scene, client, cas, "mail.example.test").is_("tls")
    talk.session(
        scene, outlook, mailbox, 6_117, rpc.EMSMDB, Credentials(KERBEROS, PRIVACY), talk.EMSMDB_CALLS,
    )  # fmt: skip


@story("audit-other-protocols", "A Hub serves SSH on 25 and on 22, HTTP on 2500, and mail; a stranger the same")
def other_protocols(scene: Scene) -> None:
    hub, client = hosts(scene, "hub1", "hub2")
    stranger = scene.host("unix1", "10.10.7.7")
    for server, port in ((hub, 25), (hub, 22), (stranger, 22)):
        tcp = scene.tcp(client, server, port)
        tcp.answer(b"SSH-2.0-OpenSSH_5.1p1 Debian-5\r\n")
        tcp.ask(b"SSH-2.0-PuTTY_Release_0.60\r\n")
        tcp.close()
        tcp.is_("ssh")

    def status(server: Host) -> None:
        web = scene.tcp(client, server, 2500)
        web.ask(b"GET /status HTTP/1.1\r\nHost: hub1.example.test\r\n\r\n")
        web.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        web.close()
        web.is_("http")

    status(hub)
    openings.upgraded_mail(scene, client, hub, (*COMMON_WORDS, *INTERNAL_WORDS), "X-ANONYMOUSTLS").is_("smtp")
    status(stranger)


def _tls(scene: Scene, client: Host, server: Host, port: int, version: int) -> None:
    tcp = scene.tcp(client, server, port)
    talk.tls(tcp, certificate=certificate(scene.noise, server.name, (server.fqdn,)), version=version)
    tcp.close()
    tcp.is_("tls", encryption=("tls-implicit",))


@story("audit-unannounced-port", "Sealed calls to two ports of a Mailbox server, bind not captured: one port announced")
def unannounced_port(scene: Scene) -> None:
    client, server = hosts(scene, "cas1", "mbx1")
    mapping = talk.map_port(scene, client, server, rpc.EMSMDB, 6_117)
    rpc_corners.opaque(scene, client, server, 6_118)
    rpc_corners.opaque(scene, client, server, 6_117, resolved=mapping.announced, **rpc_corners.ANNOUNCED)
