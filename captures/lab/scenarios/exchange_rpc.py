"""Exchange's own RPC interfaces, served on ports that an endpoint mapper hands out."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import product
from typing import Any

import impacket.version
import scapy

from captures.lab.laboratory import Laboratory, Recording, scenario
from captures.lab.network import wait_for
from captures.lab.scenarios.directory import facts
from captures.lab.servers import SECRET, Samba
from captures.lab.truth import Announced
from captures.makers import rpc
from captures.makers.documents import MAPPER, OUTLOOK, OUTLOOK_ALSO, TO_MAILBOX
from captures.makers.scene import Host, Truth

PYTHON = (f"scapy=={scapy.VERSION}", f"impacket=={impacket.version.version.split()[-1]}")
LEVELS = {1: "none", 2: "none", 5: "rpc-integrity", 6: "rpc-privacy"}
ASKED = ("strong", "certain")
EXCHANGE_ONLY = (rpc.EMSMDB.uuid, rpc.ASYNC_EMSMDB.uuid, rpc.RFRI.uuid)
PATHS = {
    ("outlook", "client-access"): (OUTLOOK, OUTLOOK_ALSO),
    ("client-access", "mailbox"): (TO_MAILBOX, ("note-cas-to-mailbox-many-ports", *MAPPER)),
    ("hub-transport", "mailbox"): (("transport-hub-to-mailbox-mapi",), ("note-local-vs-remote-submission", *MAPPER)),
    ("outlook", "mailbox"): (("mailbox-mapi-access",), ("doc-public-folder-static", *MAPPER)),
}


class RpcHost:
    """An RPC server program on a host, and its log. seen_as: what clients take it for, behind an address translator."""

    def __init__(
        self, lab: Laboratory, host: Host, services: list[dict[str, Any]], *, seen_as: Host | None = None, **config: Any
    ) -> None:  # fmt: skip
        self.lab, self.host, self.seen_as = lab, host, seen_as or host
        self.log = lab.folder / f"{host.name}-rpc.log"
        settings = {
            "address": host.address, "netbios": host.name, "domain": "example.test",
            "accounts": {"alice": "not-a-secret"}, "services": services, **config,
        }  # fmt: skip
        path = lab.write(f"{host.name}-rpc.json", json.dumps(settings))
        words = (sys.executable, "-m", "captures.lab.programs.rpc_server", str(path))
        self.process = lab.start(host, *words, log=self.log.name, pipe=True)
        lab.listening(host, 135)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the server says has happened."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        events = [{**json.loads(line), "order": order} for order, line in enumerate(lines)]
        return [event for event in events if event["event"] == kind]

    def port(self, interface: str) -> int:
        """Where an interface listens now."""
        return next(
            int(event["port"]) for event in reversed(self.events("listening")) if interface in event["interfaces"]
        )

    def restart(self, service: int) -> None:
        """Move a service to another port."""
        before = len(self.events("listening"))
        self.process.stdin.write(f"restart {service}\n")
        self.process.stdin.flush()
        wait_for(lambda: len(self.events("listening")) > before, "the service to come back")

    # ---- truth -----------------------------------------------------------------------------------

    def tell(self, recording: Recording) -> None:
        """Everything that the log knows of conversations with this host."""
        bound: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
        for event in self.events("bound"):
            bound[(*event["client"], event["port"])].append(event)
        for (address, client_port, port), events in bound.items():
            client = next(host for host in self.lab.known if host.address == address)
            truth = self._mapper(client, client_port) if port == 135 else self._service(client, events)
            self.lab.expect(
                recording, self.seen_as, port, truth, client=client, client_port=client_port,
                announced=None if port == 135 else self._announced(client, port, events[0]),
            )  # fmt: skip

    def _facts(self, client: Host) -> dict[str, Any]:
        if not client.role or not self.host.role:
            return {}
        roles = client.role[0], self.host.role[0]
        paths, also = PATHS[roles]
        return {"data_paths": paths, "also": also, "roles": roles}

    def _service(self, client: Host, events: list[dict[str, Any]]) -> Truth:
        last = events[0]
        interfaces = tuple((item, True) for item in last["accepted"]) + tuple((item, False) for item in last["refused"])
        general = Truth(
            "dcerpc",
            interfaces=interfaces,
            authentication=(last["package"],),
            encryption=(LEVELS[last["level"]],),
        )
        if not last["accepted"]:
            return replace(general, certainty=None)
        sure = any(item in EXCHANGE_ONLY for item in last["accepted"])
        return replace(general, certainty=("certain", "certain") if sure else ASKED, **self._facts(client))

    def _mapper(self, client: Host, client_port: int) -> Truth:
        answered = [event for event in self.events("mapped") if event["client"] == [client.address, client_port]]
        found = any(event["found"] for event in answered)
        seen = {"interfaces": ((rpc.EPM.uuid, True),), "authentication": ("none",), "encryption": ("none",)}
        if not found:
            return Truth("epm", note="asked for an interface that is not registered", **seen)
        return Truth("epm", certainty=ASKED, **seen, **self._facts(client))

    def _announced(self, client: Host, port: int, bound: dict[str, Any]) -> Announced | None:
        """The mapper's last answer to this client, before it bound, that named the port for the interface."""
        answers = [
            event for event in self.events("mapped")
            if event["found"] == port and event["client"][0] == client.address and event["uuid"] in bound["accepted"]
            and event["order"] < bound["order"]
        ]  # fmt: skip
        if not answers:
            return None
        last = answers[-1]
        return Announced("ept_map", (self.seen_as.address, 135), tuple(last["client"]), last["first"], last["last"])


def client(
    lab: Laboratory, host: Host, library: str, server: Host, interface: rpc.Syntax, *options: str, fails: bool = False
) -> None:
    """Let a client on a host talk to a server."""
    lab.call(host, *asking(library, server, interface, *options), log=f"{host.name}-client.log", fails=fails)


def asking(library: str, server: Host, interface: rpc.Syntax, *options: str) -> tuple[str, ...]:
    """The command of a client."""
    program = (sys.executable, "-m", "captures.lab.programs.rpc_client")
    return *program, library, server.address, interface.name, *options


OF_STORE, OF_BOOK = (rpc.EMSMDB, rpc.ASYNC_EMSMDB), (rpc.NSPI, rpc.RFRI)
STORE, BOOK = ({"interfaces": [item.name for item in items], "port": 0} for items in (OF_STORE, OF_BOOK))
LEVEL_NAMES = ("connect", "integrity", "privacy")


@scenario("rpc-ntlm", "Client Access and Mailbox servers' RPC with NTLM at every level, NDR32 and NDR64", *PYTHON)
def ntlm(lab: Laboratory) -> None:
    cas, mailbox, outlook = lab.host("cas1"), lab.host("mbx1"), lab.host("outlook1")
    about = (
        "each interface by NTLM at connect, integrity and privacy: NDR32 of impacket from Outlook, NDR64 of scapy from "
        "Outlook or Client Access"
    )
    servers = [RpcHost(lab, cas, [STORE, BOOK]), RpcHost(lab, mailbox, [STORE])]
    with lab.record("rpc-ntlm", about) as recording:
        for interface, level in product((*OF_STORE, *OF_BOOK), LEVEL_NAMES):
            options = ("--level", level, "--calls", "0", "5")
            client(lab, outlook, "impacket", cas, interface, *options)
            who, whom = (cas, mailbox) if interface in OF_STORE else (outlook, cas)
            client(lab, who, "scapy", whom, interface, "--ndr64", *options)
    for server in servers:
        server.tell(recording)


@scenario("rpc-restart", "A server restart that moves the port, an interface not registered, a refused bind", *PYTHON)
def restart(lab: Laboratory) -> None:
    cas, mailbox = lab.host("cas1"), lab.host("mbx1")
    about = (
        "Client Access to Mailbox before and after a restart that moves the store's port; RFR is not registered; "
        "a bind of NSPI on the store's port is refused"
    )
    server = RpcHost(lab, mailbox, [STORE])
    with lab.record("rpc-restart", about) as recording:
        client(lab, cas, "scapy", mailbox, rpc.EMSMDB)
        client(lab, cas, "scapy", mailbox, rpc.RFRI, fails=True)
        store = str(server.port("EMSMDB"))
        client(lab, cas, "scapy", mailbox, rpc.NSPI, "--port", store, "--level", "none", "--calls")
        server.restart(0)
        client(lab, cas, "impacket", mailbox, rpc.EMSMDB)
        client(lab, cas, "scapy", mailbox, rpc.ASYNC_EMSMDB, "--ndr64", "--calls", "0")
    server.tell(recording)


@scenario(
    "rpc-kerberos", "Client Access and Mailbox servers' RPC with a Samba domain controller's tickets, at every level",
    *PYTHON, "samba",
)  # fmt: skip
def kerberos(lab: Laboratory) -> None:
    dc, cas, mailbox, outlook = (lab.host(key) for key in ("dc1", "cas1", "mbx1", "outlook1"))
    samba = Samba(lab, dc, cas, mailbox)
    samba.user("alice")
    servers = [
        RpcHost(lab, host, [STORE, BOOK], kerberos=samba.service(f"svc-{host.name.lower()}", spns(host)))
        for host in (cas, mailbox)
    ]
    samba.begin()
    login = ("--kdc", dc.address, "--user", "alice", "--password", SECRET, "--domain", "EXAMPLE.TEST")
    about = "by Kerberos alone and in SPNEGO, at connect, integrity and privacy, NDR32 and NDR64; the tickets"
    for name, what, items in (
        ("rpc-kerberos", "store: Outlook to Client Access, Client Access to Mailbox", OF_STORE),
        ("rpc-kerberos-book", "address book: Outlook to Client Access", OF_BOOK),
    ):
        with lab.record(name, f"{what}, {about}") as recording:
            for number, (wide, interface, level) in enumerate(product((False, True), items, LEVEL_NAMES)):
                who, whom = (cas, mailbox) if wide and items == OF_STORE else (outlook, cas)
                package = ("--package", ("kerberos", "negotiate")[number % 2], "--spn", spns(whom)[interface.name])
                syntax = ("--ndr64",) if wide else ()
                client(
                    lab, who, "scapy", whom, interface, "--level", level, *login, *package, *syntax, "--calls", "0", "3"
                )
        for server in servers:
            server.tell(recording)
        for who, key in ((outlook, ""), (cas, "cas1")):
            lab.expect(recording, dc, 88, Truth("kerberos", **facts(key)), client=who)


def spns(host: Host) -> dict[str, str]:
    """The names of a server's services, as tickets have them."""
    services = {"EMSMDB": "exchangeMDB", "AsyncEMSMDB": "exchangeMDB", "NSPI": "exchangeAB", "RFRI": "exchangeRFR"}
    return {interface: f"{service}/{host.fqdn}" for interface, service in services.items()}
