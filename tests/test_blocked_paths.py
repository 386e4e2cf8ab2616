"""Blocked paths for real: servers and clients in network namespaces, nftables between them, recorded, and audited.

Needs Linux, root, ip, nft, ethtool, tcpdump and openssl; says so where one is missing. The programs are those of the
laboratory (`captures/lab`); nothing of the machine's own network is touched.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import classifier
from captures.lab import servers
from captures.lab.laboratory import Laboratory, Scenario
from captures.lab.network import LabError, Network, obstacle
from captures.lab.scenarios.exchange_rpc import STORE, RpcHost, client
from captures.lab.scenarios.mail import exchange
from captures.makers import rpc
from captures.makers.catalogue import inventory
from captures.makers.openings import COMMON_WORDS, INTERNAL_WORDS
from captures.makers.scene import Host

TOOLS = ("ip", "nft", "ethtool", "tcpdump", "openssl", "ss", "sysctl")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]


pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed, so no path is blocked for real: {', '.join(MISSING)}"),
    pytest.mark.skipif(bool(obstacle()), reason=f"no path is blocked for real: {obstacle()}"),
]

SMTP = (sys.executable, "-m", "captures.lab.programs.exchange_smtp", "send")


@dataclass
class Stage:
    """A laboratory with a firewall on each host."""

    lab: Laboratory

    def block(self, host: Host, rule: str) -> None:
        """Add a rule to the firewall of a host, in nft's words."""
        self.lab.network.inside(host.name, "nft", "add", "table", "inet", "wall")
        chain = ("nft", "add", "chain", "inet", "wall", "input", "{ type filter hook input priority 0; }")
        self.lab.network.inside(host.name, *chain)
        self.lab.network.inside(host.name, "nft", "add", "rule", "inet", "wall", "input", *rule.split())

    def try_mail(self, source: Host, server: Host, verb: str = "X-ANONYMOUSTLS", seconds: float = 4) -> None:
        """Send a message; what becomes of it is the capture's matter."""
        words = (*SMTP, source.fqdn, server.address, verb, "b@example.test")
        try:
            self.lab.network.call(source.name, words, "mail.log", seconds=seconds, fails=True)
        except LabError:
            self.lab.network.processes[-1].kill()

    def call_store(self, source: Host, server: Host, seconds: float = 8) -> None:
        """Ask the mapper for EMSMDB and call it."""
        words = (sys.executable, "-m", "captures.lab.programs.rpc_client", "scapy", server.address, rpc.EMSMDB.name)
        try:
            self.lab.network.call(source.name, words, "rpc.log", seconds=seconds, fails=True)
        except LabError:
            self.lab.network.processes[-1].kill()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Network(tmp_path) as network:
        yield Stage(Laboratory(Scenario("blocked", "", lambda lab: None), network, tmp_path))


def audited(stage: Stage, play: Callable[[], None]) -> list[dict[str, object]]:
    """Record while something is played; the findings, with the paths that they break."""
    with stage.lab.record("blocked", "") as recording:
        play()
    listed = stage.lab.write("hosts.toml", inventory(stage.lab.known))
    table = classifier.classify(stage.lab.out / recording.file, inventory=listed).finding_table
    found = [table.row(index) for index in range(len(table))]
    for row in found:
        print(f"  {row['id']}: {row['text']} {row['documented'] or ''} (frame {row['frame']})")
    return found


def only(found: list[dict[str, object]], *names: str) -> dict[str, object]:
    """The one finding of these, which must be there; and nothing else that says that a path is blocked."""
    blocked = {"no-answer", "refused", "reset-at-once", "announced-port-silent", "announced-port-refused", "tls-failed",
               "tls-unanswered", "starttls-refused", "keywords-overwritten"}  # fmt: skip
    assert {row["id"] for row in found} & blocked == set(names)
    return next((row for row in found if row["id"] in names), {})


MAIL = [
    ("", ()),
    ("tcp dport 25 drop", ("no-answer",)),
    ("tcp dport 25 reject with tcp reset", ("refused",)),
    ("tcp dport 25 ct state established reject with tcp reset", ("reset-at-once",)),
]


@pytest.mark.parametrize(("rule", "expected"), MAIL, ids=["open", "dropped", "rejected", "cut"])
def test_mail_between_hubs(stage: Stage, rule: str, expected: tuple[str, ...]) -> None:
    hub, other = stage.lab.host("hub1"), stage.lab.host("hub2")
    exchange(stage.lab, other, (*COMMON_WORDS, *INTERNAL_WORDS))
    if rule:
        stage.block(other, rule)
    row = only(audited(stage, lambda: stage.try_mail(hub, other)), *expected)
    if expected:
        assert "transport-hub-to-hub" in str(row["data_paths"])
        assert "25/tcp" in str(row["documented"])
        assert "MSExchange" in str(row["documented"])


STORES = [("", ()), ("drop", ("announced-port-silent",)), ("reject with tcp reset", ("announced-port-refused",))]


@pytest.mark.parametrize(("verdict", "expected"), STORES, ids=["open", "dropped", "rejected"])
def test_a_store_behind_its_mapper(stage: Stage, verdict: str, expected: tuple[str, ...]) -> None:
    cas, mailbox = stage.lab.host("cas1"), stage.lab.host("mbx1")
    store = RpcHost(stage.lab, mailbox, [STORE])
    port = store.port("EMSMDB")
    if verdict:
        stage.block(mailbox, f"tcp dport {port} {verdict}")
    row = only(audited(stage, lambda: stage.call_store(cas, mailbox)), *expected)
    if expected:
        assert row["server_port"] == port
        assert "cas-to-mailbox" in str(row["data_paths"])
        assert "MSExchangeRPC" in str(row["documented"])


@pytest.mark.parametrize("trusting", [True, False])
def test_a_certificate_that_is_not_trusted(stage: Stage, trusting: bool) -> None:
    hub, edge = stage.lab.host("hub1"), stage.lab.host("edge1")
    chain, key = servers.certificate(stage.lab, edge)
    serve = ("openssl", "s_server", "-accept", "50636", "-cert", str(chain), "-key", str(key), "-tls1_2", "-quiet")
    stage.lab.start(edge, *serve)
    stage.lab.listening(edge, 50636)
    ask = ["openssl", "s_client", "-connect", f"{edge.address}:50636", "-tls1_2"]
    ask += [] if trusting else ["-verify_return_error"]
    found = audited(stage, lambda: stage.lab.network.call(hub.name, ask, "tls.log", seconds=5, fails=True))
    row = only(found, *(() if trusting else ("tls-failed",)))
    if not trusting:
        assert "unknown ca" in str(row["text"])


def test_what_nobody_serves(stage: Stage) -> None:
    hub, other = stage.lab.host("hub1"), stage.lab.host("hub2")
    only(audited(stage, lambda: stage.try_mail(hub, other)), "refused")


def test_a_store_that_is_open_answers_a_client_of_another_library(stage: Stage) -> None:
    outlook, cas = stage.lab.host("outlook1"), stage.lab.host("cas1")
    RpcHost(stage.lab, cas, [STORE])
    only(audited(stage, lambda: client(stage.lab, outlook, "impacket", cas, rpc.EMSMDB, "--level", "privacy")))
