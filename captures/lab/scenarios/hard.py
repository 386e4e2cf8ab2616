"""The same traffic under hard conditions: on the way, on the mirror, and in how it was recorded.

The kernel itself drops (nftables), cuts (MTU, snap length), translates addresses and wraps into VXLAN; frames that
change places, come twice, or are wrapped into 802.1Q, GRE and ERSPAN go through programs/wire.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from captures.lab import servers
from captures.lab.laboratory import Laboratory, Recording, scenario
from captures.lab.network import wait_for
from captures.lab.scenarios import mail
from captures.lab.scenarios.exchange_rpc import BOOK, PYTHON, STORE, RpcHost, asking, client
from captures.lab.scenarios.web import CLIENT_ACCESS, PUBLIC, USER, curl, requests, truth
from captures.makers import rpc
from captures.makers.openings import EDGE_WORDS, INTERNAL_WORDS
from captures.makers.scene import Host

PACKAGES = ("nginx-light", "curl", "openssl", "nftables", *PYTHON)
LOST = """table inet lossy {
  chain input { type filter hook input priority 0; meta l4proto tcp numgen inc mod 9 == 4 drop; }
}
"""
TRANSLATE = """table ip translate {
  chain before { type nat hook prerouting priority -100; iifname "eth0" ip daddr %s dnat to %s; }
}
"""


class Organisation:
    """Outlook, Client Access, Mailbox, two Hubs; one round is a bit of everything."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self.cas, self.mailbox, self.outlook, self.one, self.other = (
            lab.host(key) for key in ("cas1", "mbx1", "outlook1", "hub1", "hub2")
        )
        self.rpc = [RpcHost(lab, self.cas, [STORE, BOOK]), RpcHost(lab, self.mailbox, [STORE])]
        self.place = servers.nginx(lab, self.cas, CLIENT_ACCESS, PUBLIC)
        for hub in (self.one, self.other):
            mail.exchange(lab, hub, INTERNAL_WORDS)

    def round(self) -> None:
        """Mapper and store of both servers, the address book, a message, a web request."""
        lab, signed = self.lab, ("--ndr64", "--level", "integrity")
        client(lab, self.outlook, "impacket", self.cas, rpc.EMSMDB, "--calls", "10", "11", "12", "1")
        client(lab, self.cas, "scapy", self.mailbox, rpc.EMSMDB, *signed, "--calls", "10", "1")
        client(lab, self.outlook, "scapy", self.cas, rpc.NSPI, "--calls", "0", "1")
        mail.send(lab, self.one, self.other, "X-ANONYMOUSTLS", "b@example.test")
        options = ("-u", USER, "-A", "Microsoft Office/14.0")
        curl(lab, self.outlook, self.cas, "http", PUBLIC, *options, target="/OAB/oab.xml")

    def tell(self, recording: Recording) -> None:
        """What the logs know of it."""
        for server in self.rpc:
            server.tell(recording)
        mail.tell(self.lab, recording, self.other, self.one)
        for _, client_port, port, verb, target, _ in requests(self.place):
            known = truth(self.outlook, "mailbox-outlook-oab", port, f"{verb} {target}")
            self.lab.expect(recording, self.cas, port, known, client=self.outlook, client_port=client_port)


MIRRORS = {
    "vlan": ("an 802.1Q tag on each frame", "", 0, ""),
    "vxlan": ("a mirror wrapped into VXLAN by the kernel", "", 0, ""),
    "gre": ("a mirror wrapped into GRE with whole Ethernet frames", "", 0, ""),
    "erspan": ("a mirror wrapped into ERSPAN type II", "", 0, ""),
    "twice": ("a mirror that copies each frame twice", "tcp", 0, ""),
    "lossy": ("a mirror of which nftables drops every 23rd frame", "tcp", 0, "the mirror has lost frames"),
}
ONE_WAY, CUT = "frames of the other direction are not in the capture", "frames are cut after 110 bytes"


@scenario(
    "hard-mirrors", "One round of traffic on mirrors with VLAN, VXLAN, GRE, ERSPAN, copies, losses; cut; one way",
    *PACKAGES,
)  # fmt: skip
def mirrors(lab: Laboratory) -> None:
    lab.network.mirrors([kind for kind in MIRRORS if kind not in ("vxlan", "lossy")])
    organisation = Organisation(lab)
    with ExitStack() as stack:
        recordings = [
            stack.enter_context(lab.record(f"hard-{kind}", about, port=kind, only=only, snap=snap, damage=damage))
            for kind, (about, only, snap, damage) in MIRRORS.items()
        ]
        only = f"tcp and ether dst {organisation.cas.mac}"
        recordings += [
            stack.enter_context(lab.record("hard-one-way", "what Client Access received", only=only, damage=ONE_WAY)),
            stack.enter_context(lab.record("hard-cut", "a snap length of 110 bytes", snap=110, damage=CUT)),
        ]
        organisation.round()
    for recording in recordings:
        organisation.tell(recording)


@scenario("hard-wire", "Packets that are lost, overtaken, doubled or small on the way", *PACKAGES)
def wire(lab: Laboratory) -> None:
    organisation = Organisation(lab)
    hosts = (organisation.cas, organisation.mailbox, organisation.other)
    with lab.record("hard-loss", "nftables drops every 9th packet that a host receives") as recording, lost(lab):
        organisation.round()
    organisation.tell(recording)
    for host in hosts:
        lab.network.ip(host.name, "link", "set", "eth0", "mtu", "576")
    with lab.record("hard-mtu", "servers with an MTU of 576") as recording:
        organisation.round()
    organisation.tell(recording)
    for host in hosts:
        lab.network.restless(host)
    with lab.record("hard-order", "packets that overtake each other or come twice, to and from servers") as recording:
        organisation.round()
    organisation.tell(recording)


@contextmanager
def lost(lab: Laboratory) -> Iterator[None]:
    """Let every host lose packets that have already crossed the bridge."""
    for name in lab.network.hosts:
        lab.network.filter(name, LOST)
    yield
    for name in lab.network.hosts:
        lab.network.inside(name, "nft", "delete", "table", "inet", "lossy")


@scenario("hard-middle", "A capture that begins when everybody talks already", *PACKAGES)
def middle(lab: Laboratory) -> None:
    organisation = Organisation(lab)
    outlook, cas, mailbox, one, other = (
        organisation.outlook, organisation.cas, organisation.mailbox, organisation.one, organisation.other
    )  # fmt: skip
    edge, internet = lab.host("edge1"), lab.host("internet1")
    mail.exchange(lab, edge, EDGE_WORDS)
    talks = [
        paused(lab, outlook, *asking("impacket", cas, rpc.EMSMDB, "--pause", "--level", "integrity")),
        paused(lab, cas, *asking("scapy", mailbox, rpc.EMSMDB, "--pause")),
        paused(lab, one, *mail.PROGRAM, "send", one.fqdn, other.address, "X-ANONYMOUSTLS", "b@example.test", "pause"),
        paused(lab, internet, *mail.PROGRAM, "send", internet.fqdn, edge.address, "none", "a@example.test", "pause"),
    ]
    about, damage = "binds, EHLO and handshakes were before it", "the conversation is older than the capture"
    with lab.record("hard-middle", about, damage=damage) as recording:
        for process in talks:
            process.stdin.write("\n")
            process.stdin.flush()
            process.wait(30)
    organisation.tell(recording)
    mail.tell(lab, recording, edge, internet)


def paused(lab: Laboratory, host: Host, *words: str) -> subprocess.Popen[str]:
    """A client that has begun, and waits."""
    log = f"{host.name}-paused.log"
    process: subprocess.Popen[str] = lab.start(host, *words, log=log, pipe=True)
    wait_for(lambda: "paused" in (lab.folder / log).read_text(), f"{host.name} to begin")
    return process


@scenario("hard-ipv6", "The mapper, the store and a message over IPv6", *PYTHON, "openssl")
def ipv6(lab: Laboratory) -> None:
    outlook, cas, one, other = (
        lab.plug(Host(name, f"2001:db8:10:1::{number}", (role,), version))
        for name, number, role, version in (
            ("OUTLOOK6", 101, "outlook", ""), ("CAS6", 31, "client-access", "2010"),
            ("HUB6", 11, "hub-transport", "2010"), ("HUB7", 12, "hub-transport", "2010"),
        )
    )  # fmt: skip
    server = RpcHost(lab, cas, [STORE, BOOK])
    for hub in (one, other):
        mail.exchange(lab, hub, INTERNAL_WORDS)
    with lab.record("hard-ipv6", "Outlook to Client Access with NTLM, Hub to Hub with X-ANONYMOUSTLS") as recording:
        for interface, level in ((rpc.EMSMDB, "privacy"), (rpc.RFRI, "integrity")):
            client(lab, outlook, "impacket", cas, interface, "--level", level, "--calls", "0", "1")
        mail.send(lab, one, other, "X-ANONYMOUSTLS", "b@example.test")
    server.tell(recording)
    mail.tell(lab, recording, other, one)


@scenario("hard-nat", "A Mailbox server behind an address translator; the mapper names its inner address", *PYTHON)
def nat(lab: Laboratory) -> None:
    cas = lab.host("cas1")
    outer = Host("MBX1", "10.10.1.21", ("mailbox",), "2010")
    inner = Host("INNER", "192.168.7.21")
    lab.network.behind(inner, outer, TRANSLATE % (outer.address, inner.address))
    lab.known.append(outer)
    server = RpcHost(lab, inner, [STORE], seen_as=outer)
    with lab.record("hard-nat", "Client Access asks the outer address, the mapper's tower has the inner") as recording:
        client(lab, cas, "impacket", outer, rpc.EMSMDB)
        client(lab, cas, "scapy", outer, rpc.ASYNC_EMSMDB, "--ndr64", "--calls", "0")
    server.tell(recording)
