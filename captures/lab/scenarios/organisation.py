"""Between servers of the organisation: EdgeSync, log shipping, mailbox moves, cluster heartbeats; and news of 2003."""

from __future__ import annotations

import json
import sys
from typing import Any

import scapy

from captures.lab import servers
from captures.lab.laboratory import Laboratory, scenario
from captures.makers.mail import roles
from captures.makers.scene import Host, Truth

FOREIGN: dict[str, Any] = {"absence": ("not-exchange", "unmatched", "encrypted")}
STREAM = (sys.executable, "-m", "captures.lab.programs.nego_stream")
NEWS = (sys.executable, "-m", "captures.lab.programs.news")
BEAT = (sys.executable, "-m", "captures.lab.programs.heartbeat")
GREETING_2003 = "200 NNTP Service 6.0.3790.3959 Version: 6.0.3790.3959 Posting Allowed"
BEATS = "12"


@scenario(
    "edge-sync", "EdgeSync from Hub to Edge: OpenLDAP as AD LDS on 50636 and 50389; a stranger's", "slapd", "ldap-utils"
)
def edge_sync(lab: Laboratory) -> None:
    hub, edge, admin = (lab.host(key) for key in ("hub1", "edge1", "admin1"))
    desk, other = lab.plug(Host("desk7", "10.30.0.7")), lab.plug(Host("ldap9", "10.30.0.9"))
    for host in (edge, other):
        servers.slapd(lab, host, 50389, 50636)
    about = "ldapadd and ldapsearch inside TLS on 50636, a search in clear on 50389; the same of a stranger's server"
    with lab.record("edge-sync", about) as recording:
        for client, server in ((hub, edge), (desk, other)):
            servers.ldap(lab, client, f"ldaps://{server.address}:50636", "ldapadd", "-f", str(person(lab)))
            servers.ldap(lab, client, f"ldaps://{server.address}:50636", "ldapsearch", "-b", servers.LDS, "(cn=*)")
        for client, server in ((admin, edge), (desk, other)):
            servers.ldap(lab, client, f"ldap://{server.address}:50389", "ldapsearch", "-b", servers.LDS, "(cn=*)")
    lab.expect(recording, edge, 50636, Truth(
        "tls", data_paths=("transport-edgesync-hub-to-edge",), also=("note-edgesync-50636",), roles=roles(hub, edge),
        certainty=("weak", "strong"), encryption=("tls-implicit",),
    ))  # fmt: skip
    lab.expect(recording, edge, 50389, Truth(
        "ldap", data_paths=("note-adlds-ldap-50389",), also=("note-recipient-filtering-lookup",),
        roles=roles(admin, edge), certainty=("weak", "strong"), authentication=("basic",), encryption=("none",),
    ))  # fmt: skip
    lab.expect(recording, other, 50636, Truth("tls", encryption=("tls-implicit",), **FOREIGN))
    lab.expect(recording, other, 50389, Truth("ldap", authentication=("basic",), encryption=("none",), **FOREIGN))


def person(lab: Laboratory) -> Any:
    """An entry to add."""
    return lab.write("person.ldif", f"dn: cn=alice,{servers.LDS}\nobjectClass: person\ncn: alice\nsn: Liddell\n")


@scenario(
    "replication", "DAG members: log shipping and heartbeats; mailbox moves between Client Access servers",
    f"scapy=={scapy.VERSION}",
)  # fmt: skip
def replication(lab: Laboratory) -> None:
    active, passive, cas, other = (lab.host(key) for key in ("mbx1", "mbx2", "cas1", "cas2"))
    desk, stranger = lab.plug(Host("desk7", "10.30.0.7")), lab.plug(Host("app9", "10.30.0.9"))
    mover, elsewhere = (
        f"808:net.tcp://{cas.fqdn}/Microsoft.Exchange.MailboxReplicationService",
        "808:net.tcp://app9/Stock",
    )
    talks = ((passive, active, "64327"), (other, cas, mover), (desk, stranger, elsewhere))
    for _, server, service in talks:
        lab.start(server, *STREAM, "serve", server.address, service, log=f"{server.name}-stream.log")
        lab.listening(server, int(service.partition(":")[0]))
    about = "NegotiateStream on 64327, net.tcp with a Via on 808, heartbeats between ports 3343; a stranger's net.tcp"
    with lab.record("replication", about, only="tcp or udp") as recording:
        beats = lab.start(passive, *BEAT, passive.address, active.address, BEATS)
        for client, server, service in talks:
            lab.call(client, *STREAM, "ask", server.address, service, log=f"{client.name}-ask.log")
        lab.call(active, *BEAT, active.address, passive.address, BEATS)
        beats.wait(30)
    sealed = {"authentication": ("ntlm",), "encryption": ("nego-stream",)}
    kinds = (
        Truth("nego-stream", data_paths=("mailbox-log-shipping", "mailbox-seeding"), also=("note-log-shipping-port",),
              roles=roles(passive, active), certainty=("strong", "certain"), **sealed),
        Truth("net.tcp", data_paths=("doc-mrs",), roles=roles(other, cas), certainty=("weak", "certain"), **sealed),
        Truth("net.tcp", **sealed, **FOREIGN),
    )  # fmt: skip
    for (_, server, _), truth in zip(talks, kinds, strict=True):
        lines = (lab.folder / f"{server.name}-stream.log").read_text().splitlines()
        for event in map(json.loads, lines):
            lab.expect(recording, server, event["port"], truth, client_port=event["client"][1])
    lab.expect(recording, active, 3343, Truth(
        "cluster-heartbeat", data_paths=("note-cluster-heartbeat",), also=("mailbox-clustering",),
        roles=("mailbox", "mailbox"), certainty=("weak", "strong"),
    ), client=passive, transport="udp")  # fmt: skip


@scenario("news", "NNTP of an Exchange 2003 server: a reader, a feed, TLS; and of a server that is not Exchange")
def news(lab: Laboratory) -> None:
    reader, back, peer = (lab.host(key) for key in ("reader1", "be1", "news1"))
    desk, other = lab.plug(Host("desk7", "10.30.0.7")), lab.plug(Host("news9", "10.30.0.9"))
    for host, greeting in (
        (back, GREETING_2003), (peer, f"200 {peer.fqdn} InterNetNews server INN 2.7.1 ready"),
        (other, f"200 {other.fqdn} InterNetNews NNRP server INN 2.7.1 ready (posting ok)"),
    ):  # fmt: skip
        chain, key = servers.certificate(lab, host)
        words = ("serve", host.address, greeting, str(chain), str(key))
        lab.start(host, *NEWS, *words, log=f"{host.name}-news.log")
        lab.listening(host, 119, 563)
    calls = (
        (reader, back, 119, "read", "e2003-nntp", "certain"), (back, peer, 119, "feed", "e2003-nntp-feed", "strong"),
        (reader, back, 563, "read", "e2003-nntps", "strong"), (desk, other, 119, "read", "", ""),
        (desk, other, 563, "read", "", ""),
    )  # fmt: skip
    with lab.record(
        "news", "a reader and a feed on 119, a reader on 563; a stranger reads from a stranger"
    ) as recording:
        for client, server, port, what, *_ in calls:
            lab.call(client, *NEWS, what, server.address, str(port), log=f"{client.name}-news.log")
    for client, server, port, _, path, most in calls:
        facts = (
            {"data_paths": (path,), "roles": roles(client, server), "certainty": ("weak", most)} if path else FOREIGN
        )
        protocol, encryption = ("tls", "tls-implicit") if port == 563 else ("nntp", "none")
        lab.expect(recording, server, port, Truth(protocol, encryption=(encryption,), **facts), client=client)
