"""What `exflow audit` finds, each beside its nearest neighbour that it must not find: first the one, then the other."""

from __future__ import annotations

from captures.makers import openings, talk
from captures.makers.catalogue import story
from captures.makers.certificates import certificate
from captures.makers.openings import COMMON_WORDS, INTERNAL_WORDS, dialogue, ehlo
from captures.makers.organisation import hosts
from captures.makers.scene import Host, Scene, Tcp


@story("audit-refused-exchange-authentication", "Hub to Hub: X-EXPS refused with 454 5.7.3; then mail that is accepted")
def refused_authentication(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "hub2")
    tcp = scene.tcp(client, server, 25)
    dialogue(tcp, *ehlo(client, server, INTERNAL_WORDS), "C:X-EXPS GSSAPI")
    dialogue(tcp, "S:454 4.7.0 Cannot achieve Exchange Server authentication", "C:QUIT", "S:221 2.0.0 Bye")
    tcp.close()
    tcp.is_("smtp")
    openings.upgraded_mail(scene, client, server, (*COMMON_WORDS, *INTERNAL_WORDS), "X-ANONYMOUSTLS").is_("smtp")


@story("audit-overwritten-keywords", "Hub to Hub: a device overwrites STARTTLS with XXXXXXXA; then without the device")
def overwritten(scene: Scene) -> None:
    client, server = hosts(scene, "hub1", "hub2")
    words = [word if word != "STARTTLS" else "XXXXXXXA" for word in (*COMMON_WORDS, *INTERNAL_WORDS[1:])]
    for offered in (words, [word for word in words if not word.startswith("XXXX")]):
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
    unread = {"data_paths": ("transport-edgesync-hub-to-edge",), "also": ("note-edgesync-50636",)}
    silent.is_(**unread, certainty=("weak", "strong"))
    refused = Tcp(scene, client, server, 50636, handshake=False)
    refused.segment(client, flags="S")
    refused.segment(server, flags="RA")
    refused.is_(**unread, certainty=("weak", "strong"))
    _tls(scene, client, server, 50636, 0x0303)


@story("audit-weak-ciphers", "Kerberos tickets with RC4 and AES; POP3 over SSL 3.0, TLS 1.0 and TLS 1.2")
def weak_ciphers(scene: Scene) -> None:
    hub, dc, reader, cas = hosts(scene, "hub1", "dc1", "pop1", "cas1")
    for etype in (23, 18):
        openings.get_ticket(scene, hub, dc, "HUB1$", "SMTPSVC/hub2.example.test", etype=etype).is_("kerberos")
    for version in (0x0300, 0x0301, 0x0303):
        _tls(scene, reader, cas, 995, version)


def _tls(scene: Scene, client: Host, server: Host, port: int, version: int) -> None:
    tcp = scene.tcp(client, server, port)
    talk.tls(tcp, certificate=certificate(scene.noise, server.name, (server.fqdn,)), version=version)
    tcp.close()
    tcp.is_("tls", encryption=("tls-implicit",))
