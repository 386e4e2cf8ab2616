"""Mail: Hubs and an Edge with Exchange's SMTP, Postfix as a host of the Internet, and servers that are not Exchange."""

from __future__ import annotations

import json
import sys
from itertools import count, product
from pathlib import Path
from typing import Any

from captures.lab import servers
from captures.lab.laboratory import Laboratory, Recording, scenario
from captures.lab.network import LabError
from captures.makers.openings import COMMON_WORDS, EDGE_WORDS, INTERNAL_WORDS
from captures.makers.scene import Host, Truth

PROGRAM = (sys.executable, "-m", "captures.lab.programs.exchange_smtp")
FOREIGN: dict[str, Any] = {"absence": ("not-exchange", "unmatched", "encrypted")}
UPGRADED = {**FOREIGN, "encryption": ("tls-upgrade",)}
IMPLICIT = {**FOREIGN, "encryption": ("tls-implicit",)}
MAIL: dict[tuple[str, ...], dict[str, Any]] = {
    (): {**FOREIGN, "encryption": ("none",), "authentication": ("anonymous",)},
    ("--tls",): UPGRADED,
}
READING: dict[tuple[str, ...], dict[str, Any]] = {
    (): {**FOREIGN, "encryption": ("none",), "authentication": ("basic",)},
    ("--ssl-reqd",): UPGRADED,
}
"""What is true, by the client's options."""

BOXES = (("pop3", "pop3", 110), ("imap", "imap4", 143))
ENCRYPTION = {"none": ("none",), "STARTTLS": ("tls-upgrade",), "X-ANONYMOUSTLS": ("tls-upgrade",)}
PATHS: dict[tuple[str, str], dict[str, Any]] = {
    ("hub-transport", "hub-transport"): {"data_paths": ("transport-hub-to-hub",), "also": ("note-hub-hub-tls-off",)},
    ("internet-mta", "edge-transport"): {
        "data_paths": ("note-remote-smtp-opportunistic-tls",),
        "also": ("note-domain-security",),
    },
    ("edge-transport", "internet-mta"): {
        "data_paths": ("note-remote-smtp-opportunistic-tls",),
        "also": ("note-domain-security", "doc-hub-internet-smtp"),
    },
    ("edge-transport", "hub-transport"): {
        "data_paths": ("transport-edge-to-hub",), "also": ("note-domain-security",)
    },
}


def exchange(lab: Laboratory, host: Host, words: tuple[str, ...], *, tls: bool = True) -> None:
    """Exchange's SMTP on 25 of a host; tls: does it offer any?"""
    chain, key = servers.certificate(lab, host)
    listed = [word for word in (*COMMON_WORDS, *words) if tls or word not in ENCRYPTION]
    lab.start(host, *PROGRAM, "serve", host.fqdn, host.address, str(chain), str(key), *listed, log=f"{host.name}.log")
    lab.listening(host, 25)


def send(lab: Laboratory, host: Host, server: Host, verb: str, recipient: str) -> None:
    """Let a Hub or Edge send a message."""
    lab.call(host, *PROGRAM, "send", host.fqdn, server.address, verb, recipient, log=f"{host.name}-client.log")


def truth(client: Host, server: Host, verb: str) -> Truth:
    """What is true of a session in which the client gave this verb."""
    roles = client.role[0], server.role[0]
    internal = verb == "X-ANONYMOUSTLS"
    return Truth(
        "smtp", **PATHS[roles], roles=roles, certainty=("strong", "certain") if internal else ("weak", "certain"),
        authentication=("exchange-server",) if internal else (), encryption=ENCRYPTION[verb],
    )  # fmt: skip


def tell(lab: Laboratory, recording: Recording, server: Host, *clients: Host) -> None:
    """What an Exchange server's log says of its sessions."""
    lines = (lab.folder / f"{server.name}.log").read_text().splitlines()
    for event in map(json.loads, lines):
        address, port = event["client"]
        client = next(host for host in clients if host.address == address)
        lab.expect(recording, server, 25, truth(client, server, event["tls"]), client=client, client_port=port)


@scenario(
    "mail-transport", "Hub to Hub, Internet to Edge and back: X-ANONYMOUSTLS, STARTTLS, clear", "postfix", "openssl"
)
def transport(lab: Laboratory) -> None:
    hub, other, edge, internet = (lab.host(key) for key in ("hub1", "hub2", "edge1", "internet1"))
    about = "Hub to Hub with X-ANONYMOUSTLS (TLS of OpenSSL); Postfix to Edge and Edge to Postfix with STARTTLS"
    exchange(lab, hub, INTERNAL_WORDS)
    exchange(lab, other, INTERNAL_WORDS)
    exchange(lab, edge, EDGE_WORDS)
    place = servers.postfix(lab, internet, "example.org")
    with lab.record("mail-transport", about) as recording:
        send(lab, hub, other, "X-ANONYMOUSTLS", "b@example.test")
        send(lab, other, hub, "X-ANONYMOUSTLS", "c@example.test")
        send(lab, edge, internet, "STARTTLS", "b@example.org")
        servers.post(lab, internet, place, edge)
    tell(lab, recording, other, hub)
    tell(lab, recording, hub, other)
    tell(lab, recording, edge, internet)
    lab.expect(recording, internet, 25, truth(edge, internet, "STARTTLS"))
    used_tls(place, received=1, sent=1)


def used_tls(place: Path, received: int, sent: int) -> None:
    """Postfix's log has so many sessions with TLS."""
    lines = servers.logged(place)
    seen = [sum(f"TLS connection established {way}" in line for line in lines) for way in ("from", "to")]
    if seen != [received, sent]:
        raise LabError(f"Postfix used TLS {seen} times, not {received} and {sent}, see {place / 'log'}")


@scenario("mail-edge", "Postfix in the place of an Edge: Internet and Hub, with and without STARTTLS", "postfix")
def in_place_of_an_edge(lab: Laboratory) -> None:
    """Two hosts on either side, of which one has no STARTTLS. What Postfix takes in is no path of an Edge server."""
    edge, internet, hub, other = (lab.host(key) for key in ("edge1", "internet1", "hub1", "hub2"))
    clear = lab.plug(Host("mx2", "203.0.113.25", ("internet-mta",)))
    exchange(lab, hub, INTERNAL_WORDS)
    exchange(lab, other, INTERNAL_WORDS, tls=False)
    place = servers.postfix(lab, edge, "example.test")
    places = {internet: servers.postfix(lab, internet, "example.org"),
              clear: servers.postfix(lab, clear, "example.org", tls=False)}  # fmt: skip
    verbs = {internet: "STARTTLS", hub: "STARTTLS", clear: "none", other: "none"}
    about = "Postfix in an Edge's place, Postfix of the Internet and Hubs: STARTTLS, and clear, both ways"
    with lab.record("mail-edge", about) as recording:
        for host in places:
            servers.post(lab, host, places[host], edge)
        for host in (hub, other):
            send(lab, host, edge, verbs[host], "b@example.test")
        for host in verbs:
            servers.post(lab, edge, place, host)
    for host, verb in verbs.items():
        lab.expect(recording, edge, 25, Truth("smtp", encryption=ENCRYPTION[verb], **FOREIGN), client=host)
        lab.expect(recording, host, 25, truth(edge, host, verb), client=edge)
    used_tls(place, received=2, sent=2)


@scenario(
    "mail-foreign", "Postfix and Dovecot that have nothing to do with Exchange: clear, STARTTLS, STLS, implicit TLS",
    "postfix", "dovecot-core", "curl", "swaks", "openssl",
)  # fmt: skip
def foreign(lab: Laboratory) -> None:
    client, server = lab.plug(Host("desk7", "10.30.0.7")), lab.plug(Host("post9", "10.30.0.9"))
    servers.postfix(lab, server, "example.test")
    place = servers.dovecot(lab, server)
    with lab.record(
        "mail-foreign", "Postfix on 25 and 587, Dovecot on 110, 143, 993 and 995; swaks, curl"
    ) as recording:
        ports = count(40001)
        for number, (words, kinds) in product((25, 587), MAIL.items()):
            swaks(lab, client, server, number, port := next(ports), *words)
            lab.expect(recording, server, number, Truth("smtp", **kinds), client=client, client_port=port)
        for (scheme, protocol, number), (words, kinds) in product(BOXES, READING.items()):
            curl(lab, client, f"{scheme}://{server.address}", port := next(ports), *words)
            lab.expect(recording, server, number, Truth(protocol, **kinds), client=client, client_port=port)
        for scheme, number in (("pop3s", 995), ("imaps", 993)):
            curl(lab, client, f"{scheme}://{server.address}", port := next(ports))
            lab.expect(recording, server, number, Truth("tls", **IMPLICIT), client=client, client_port=port)
    log = (place / "log").read_text()
    if (log.count("Login: user=<alice>"), log.count(", TLS")) != (6, 4):
        raise LabError(f"Dovecot's log tells of other sessions, see {place / 'log'}")


def swaks(lab: Laboratory, client: Host, server: Host, number: int, port: int, *words: str) -> None:
    """Send a message with swaks, from this port."""
    ends = ("--server", server.address, "--port", str(number), "--local-port", str(port), "--helo", client.fqdn)
    lab.call(client, "swaks", *ends, "--from", "a@example.test", "--to", "b@example.test", *words)


def curl(lab: Laboratory, client: Host, url: str, port: int, *words: str) -> None:
    """Read a mailbox with curl, from this port."""
    user = f"alice:{servers.PASSWORD}"
    lab.call(client, "curl", "-sS", "-k", "-u", user, "--local-port", str(port), *words, url)
