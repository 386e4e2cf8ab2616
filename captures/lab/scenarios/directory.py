"""A domain controller: Samba's Kerberos, LDAP and endpoint mapper; Exchange servers and a workstation ask it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from captures.lab.laboratory import Laboratory, Recording, scenario
from captures.lab.servers import SECRET, Samba
from captures.lab.truth import Announced
from captures.makers import rpc
from captures.makers.documents import MAPPER
from captures.makers.mail import DIRECTORY_ROWS
from captures.makers.organisation import PLACES
from captures.makers.scene import Host, Truth

ADMINISTRATOR = f"EXAMPLE/Administrator%{SECRET}"
SECURE_CHANNEL = "captures.lab.programs.secure_channel"
FOREIGN: dict[str, Any] = {"absence": ("not-exchange", "unmatched", "encrypted")}
MAPPED = Truth("epm", interfaces=((rpc.EPM.uuid, True),), authentication=("none",), encryption=("none",))
CALLED = {
    "samr": Truth(
        "dcerpc", interfaces=((rpc.SAMR.uuid, True),), authentication=("kerberos",), encryption=("rpc-integrity",)
    ),
    "drsuapi": Truth(
        "dcerpc", interfaces=((rpc.DRSUAPI.uuid, True),), authentication=("ntlm",), encryption=("rpc-privacy",)
    ),
}
THROUGH_CHANNEL = {
    "netlogon": Truth(
        "dcerpc", interfaces=((rpc.NETLOGON.uuid, True),), authentication=("none", "netlogon"),
        encryption=("none", "rpc-privacy"),
    ),
    "lsarpc": Truth(
        "dcerpc", interfaces=((rpc.LSARPC.uuid, True),), authentication=("netlogon",), encryption=("rpc-privacy",)
    ),
}
"""Both by a member; the channel is agreed on in a conversation of its own, which nothing protects."""
BESIDE_CHANNEL = {
    "lsarpc": Truth(
        "dcerpc", interfaces=((rpc.LSARPC.uuid, True),), authentication=("ntlm",), encryption=("rpc-integrity",)
    ),
}


def facts(key: str) -> dict[str, Any]:
    """What is true of anything that a host asks of the directory."""
    if key not in DIRECTORY_ROWS:
        return FOREIGN
    paths, also = DIRECTORY_ROWS[key]
    roles = PLACES[key][2], "active-directory"
    return {"data_paths": paths, "also": (*also, *MAPPER), "roles": roles, "certainty": ("weak", "strong")}


@scenario(
    "directory", "Hub, Mailbox and a workstation ask a Samba domain controller: Kerberos, LDAP, SAMR, DRSUAPI",
    "samba", "krb5-user", "ldap-utils", "smbclient",
)  # fmt: skip
def directory(lab: Laboratory) -> None:
    dc, hub, mailbox = (lab.host(key) for key in ("dc1", "hub1", "mbx1"))
    desk = lab.plug(Host("desk7", "10.30.0.7"))
    samba = Samba(lab, dc)
    samba.begin()
    ports = samba.ports(rpc.SAMR, rpc.DRSUAPI)
    with lab.record(
        "directory", "Kerberos, LDAP with GSSAPI, SAMR and DRSUAPI by Samba's own endpoint mapper"
    ) as recording:
        for client in (hub, desk):
            log_on(samba, client)
        bind(samba, mailbox)
        samba.call(desk, sys.executable, str(Path(sys.executable).parent / "rpcdump.py"), dc.address)
    for key, client in (("hub1", hub), ("mbx1", mailbox), ("", desk)):
        known = facts(key)
        lab.expect(recording, dc, 88, Truth("kerberos", **known), client=client)
        sealed = Truth("ldap", authentication=("kerberos",), encryption=("sasl-seal",), **known)
        lab.expect(recording, dc, 389, sealed, client=client)
        called(lab, recording, dc, client, ports, CALLED, known)


def called(
    lab: Laboratory, recording: Recording, dc: Host, client: Host, ports: dict[str, int], seen: dict[str, Truth],
    known: dict[str, Any],
) -> None:  # fmt: skip
    """What is true of calls to Samba's mapper, and to the ports that it handed out."""
    lab.expect(recording, dc, 135, replace(MAPPED, **known), client=client)
    announced = Announced("ept_map", (dc.address, 135), (client.address, 0))
    for name, truth in seen.items():
        lab.expect(recording, dc, ports[name], replace(truth, **known), client=client, announced=announced)


def log_on(samba: Samba, client: Host) -> None:
    """kinit; ldapsearch with GSSAPI, sealed; SAMR with Kerberos at integrity level."""
    samba.call(client, "sh", "-c", f"echo {SECRET} | kinit Administrator")
    search = ("-b", "DC=example,DC=test", "(sAMAccountName=administrator)", "dn")
    samba.call(client, "ldapsearch", "-Q", "-LLL", "-Y", "GSSAPI", "-H", f"ldap://{samba.host.fqdn}", *search)
    tickets = f"--use-krb5-ccache={samba.lab.folder}/{client.name}.tickets"
    where = f"ncacn_ip_tcp:{samba.host.fqdn}[sign]"
    samba.call(client, "rpcclient", *samba.alone, "--use-kerberos=required", tickets, where, "-c", "enumdomusers")


def bind(samba: Samba, client: Host) -> None:
    """A bind to DRSUAPI with NTLM at privacy level."""
    samba.call(client, "samba-tool", "drs", "bind", samba.host.fqdn, "-U", ADMINISTRATOR, *samba.alone)


MGMT = "afa8bd80-7d8a-11c9-bef4-08002b102989"
"""The remote management interface, which each RPC port has ([C706] appendix Q)."""


@scenario(
    "domain-join", "A Hub server joins the domain; strangers read shares, call through pipes, ask the global catalog",
    "samba", "smbclient", "krb5-user", "ldap-utils",
)  # fmt: skip
def domain_join(lab: Laboratory) -> None:
    dc, hub = lab.host("dc1"), lab.host("hub1")
    signer, sealer, piper, reader = (lab.plug(Host(f"desk{number}", f"10.30.0.{number}")) for number in (7, 8, 9, 10))
    samba = Samba(lab, dc)
    samba.begin()
    about = "net ads join, smbclient, rpcclient through pipes, ldapsearch on 3268 with STARTTLS, impacket's rpcmap"
    with lab.record("domain-join", about, only="tcp or udp") as recording:
        samba.join(hub)
        share = (
            "smbclient",
            *samba.alone,
            f"//{dc.fqdn}/sysvol",
            "-U",
            ADMINISTRATOR,
            "-c",
            "cd example.test; ls",
        )
        samba.call(signer, *share)
        samba.call(sealer, *share, "--client-protection=encrypt")
        pipe = f"ncacn_np:{dc.fqdn}[seal]"
        samba.call(piper, "rpcclient", *samba.alone, pipe, "-U", ADMINISTRATOR, "-c", "getusername")
        who = ("-D", "administrator@example.test", "-w", SECRET, "-b", "DC=example,DC=test", "(cn=administrator)", "dn")
        catalog = ("ldapsearch", "-x", "-ZZ", "-LLL", "-H", f"ldap://{dc.fqdn}:3268", *who)
        samba.call(reader, "env", "LDAPTLS_REQCERT=never", *catalog)
        program = str(Path(sys.executable).parent / "rpcmap.py")
        samba.call(
            reader,
            sys.executable,
            program,
            "-auth-rpc",
            f"EXAMPLE/Administrator:{SECRET}",
            f"ncacn_ip_tcp:{dc.address}[135]",
        )
    known = facts("hub1")
    named = {**known, "also": (*known["also"], "doc-edge-dns")}  # a name may be that of a next hop
    for transport, port, protocol, of_hub in (
        ("tcp", 88, "kerberos", known), ("udp", 88, "kerberos", known), ("udp", 389, "ldap", known),
        ("udp", 53, "dns", named),
    ):  # fmt: skip
        lab.expect(recording, dc, port, Truth(protocol, **of_hub), client=hub, transport=transport)
        for stranger in (signer, sealer, piper, reader):
            lab.expect(recording, dc, port, Truth(protocol, **FOREIGN), client=stranger, transport=transport)
    sealed = Truth("ldap", authentication=("kerberos",), encryption=("sasl-seal",), **known)
    lab.expect(recording, dc, 389, sealed, client=hub)
    for client, package, protection in (
        (hub, ("ntlm", "kerberos"), ("smb-sign", "rpc-privacy")), (signer, ("ntlm",), ("smb-sign",)),
        (sealer, ("ntlm",), ("smb3",)), (piper, ("ntlm",), ("rpc-privacy",)),
    ):  # fmt: skip
        known = Truth("smb", authentication=package, encryption=protection, **FOREIGN)
        lab.expect(recording, dc, 445, known, client=client)
    lab.expect(recording, dc, 3268, Truth("ldap", encryption=("tls-upgrade",), **FOREIGN), client=reader)
    managed = Truth(
        "dcerpc", interfaces=((MGMT, True),), authentication=("ntlm",), encryption=("rpc-privacy",), **FOREIGN
    )
    lab.expect(recording, dc, 135, managed, client=reader)
    secure_channel(lab, samba, hub, piper)


def secure_channel(lab: Laboratory, samba: Samba, hub: Host, desk: Host) -> None:
    """Netlogon and LSA on ports of their own, through the member's secure channel; a stranger's LSA with NTLM."""
    dc = samba.host
    ports = samba.ports(rpc.NETLOGON, rpc.LSARPC)
    about = "Netlogon and LSA over TCP: through a member's secure channel; with NTLM by a stranger"
    with lab.record("secure-channel", about) as recording:
        samba.call(hub, "/usr/bin/python3", "-m", SECURE_CHANNEL, str(lab.folder / f"{hub.name}.conf"), dc.fqdn)
        where = f"ncacn_ip_tcp:{dc.fqdn}[sign]"
        refused = ("rpcclient", *samba.alone, where, "-U", ADMINISTRATOR, "-c", "lsaquery")
        samba.call(desk, *refused, fails=True)  # without a secure channel LSA takes the bind and denies the call
    for client, seen, known in ((hub, THROUGH_CHANNEL, facts("hub1")), (desk, BESIDE_CHANNEL, FOREIGN)):
        called(lab, recording, dc, client, ports, seen, known)
