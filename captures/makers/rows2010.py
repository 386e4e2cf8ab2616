"""One capture for each RPC row of the Exchange 2010 tables: the endpoint mapper, then the conversation itself.

Interfaces that Microsoft never published (submission, search, assistants, topology ...) have made-up UUIDs here, as
any reader must meet them: unknown. Which rows no packet can tell apart is from reference/ambiguity.md section 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from captures.makers import rpc, smb, talk
from captures.makers.catalogue import Play, Story, enlist, story
from captures.makers.documents import (
    BETWEEN_MAILBOX_SERVERS,
    DIRECTORY,
    MAPPER,
    OUTLOOK,
    OUTLOOK_ALSO,
    TO_MAILBOX,
)
from captures.makers.organisation import host, hosts, role_of
from captures.makers.rpc import Syntax
from captures.makers.scene import Host, Scene
from captures.makers.talk import CONNECT, KERBEROS, NETLOGON, NTLM, PRIVACY, SPNEGO, Credentials

SUBMISSION = Syntax("5e7d1c40-6b1f-4b0e-9a57-1d2f3c4b5a60")
SEARCH = Syntax("8c2a51d7-30f4-4d6c-8e19-77b0a4c2d915")
ASSISTANTS = Syntax("2f9b6e03-11d8-4c75-b0a4-5c3e8d7f6a21")
TOPOLOGY = Syntax("b4d0c8f2-7e35-4a91-93c6-0f1e2d3c4b5a")
UM_CONTROL = Syntax("61f3a7b9-2c4d-4e8f-a510-9d8c7b6a5f4e")


@dataclass(frozen=True)
class Row:
    """A row of the tables: who calls whom with which interface; paths: what the answer must hold; also: may hold."""

    id: str
    client: str
    server: str
    interface: Syntax
    how: Credentials
    opnums: tuple[int, ...]
    port: int
    paths: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    certainty: tuple[str, str] = ("certain", "certain")

    def play(self, scene: Scene) -> None:
        client, server = hosts(scene, self.client, self.server)
        roles = (role_of(self.client), role_of(self.server))
        facts = {"data_paths": self.paths or (self.id,), "roles": roles, "also": (*self.also, *MAPPER)}
        asked = {"roles": roles, "certainty": UNKNOWN} if self.certainty is UNKNOWN else {**facts, "certainty": ASKED}
        mapping = talk.map_port(scene, client, server, self.interface, self.port, **asked)
        scene.wait(30)
        talk.session(
            scene, client, server, self.port, self.interface, self.how, self.opnums, certainty=self.certainty,
            resolved=mapping.announced, **facts,
        )  # fmt: skip


ASKED = ("strong", "certain")
"""The mapper's conversation names the interface; whether asking proves the service, readers may judge."""
GENERAL = ("strong", "strong")
"""Windows' own interfaces: the announcement and the roles make the label, not the interface."""
UNKNOWN = ("weak", "strong")
"""Interfaces nobody published: the port was handed out and the roles are known, the service is not."""

MACHINE = Credentials(KERBEROS, PRIVACY, "CAS1$")
NTLM_MACHINE = Credentials(NTLM, PRIVACY, "HUB1$")
SECURE_CHANNEL = Credentials(NETLOGON, PRIVACY)
USER = Credentials(SPNEGO, PRIVACY, "alice")
NTLM_USER = Credentials(NTLM, PRIVACY)
NTLM_CAS = Credentials(NTLM, PRIVACY, "CAS1$")
HOST_SERVICE = Credentials(KERBEROS, PRIVACY, service="host")
DIRECTORY_SERVICE = Credentials(SPNEGO, PRIVACY, service="ldap")
CLUSTER_SERVICE = Credentials(SPNEGO, PRIVACY, service="MSServerClusterMgmtAPI")
UNPROTECTED = Credentials(NTLM, CONNECT, "MBX2$")
OAB = ("mailbox-oab-generation-active-directory",)
MANY_PORTS = ("note-cas-to-mailbox-many-ports",)
NAMED = ("strong", "certain")
"""Interfaces of old Exchange services that some Windows or third-party program might still copy."""
MAPI = talk.EMSMDB_CALLS

ROWS = (
    Row("transport-mailbox-to-hub-mail-submission", "mbx1", "hub1", SUBMISSION, NTLM_MACHINE, (0, 0), 6031,
        also=("note-local-vs-remote-submission",), certainty=UNKNOWN),
    Row("transport-hub-to-mailbox-mapi", "hub1", "mbx1", rpc.EMSMDB, NTLM_MACHINE, MAPI, 6012,
        also=("note-local-vs-remote-submission",)),
    Row("transport-active-directory", "hub1", "dc1", rpc.NETLOGON, SECURE_CHANNEL, (39, 39), 49158,
        also=("note-rules-from-ad", "note-recipient-filtering-lookup"), certainty=GENERAL),
    Row("mailbox-active-directory", "mbx1", "dc1", rpc.NETLOGON, SECURE_CHANNEL, (39,), 49158,
        paths=DIRECTORY, also=OAB, certainty=GENERAL),
    Row("mailbox-system-attendant-active-directory", "mbx2", "dc1", rpc.LSARPC, HOST_SERVICE, (44, 76), 49155,
        paths=DIRECTORY, also=OAB, certainty=GENERAL),
    Row("mailbox-rus-active-directory", "mbx1", "dc1", rpc.DRSUAPI, DIRECTORY_SERVICE, (0, 12, 1), 49156,
        paths=DIRECTORY, also=OAB, certainty=GENERAL),
    Row("cas-active-directory", "cas1", "dc1", rpc.NETLOGON, SECURE_CHANNEL, (39, 39), 49158,
        also=("doc-cas-ldap-gc",), certainty=GENERAL),
    Row("um-active-directory", "um1", "dc1", rpc.NETLOGON, SECURE_CHANNEL, (39,), 49158, certainty=GENERAL),
    Row("mailbox-availability", "cas1", "mbx1", rpc.EMSMDB, NTLM_CAS, MAPI, 6012, paths=TO_MAILBOX, also=MANY_PORTS),
    Row("mailbox-clustering", "mbx1", "mbx2", rpc.CLUSAPI, CLUSTER_SERVICE, (0, 2, 3), 49171,
        also=BETWEEN_MAILBOX_SERVERS, certainty=GENERAL),
    Row("mailbox-content-indexing", "mbx1", "mbx2", SEARCH, NTLM_MACHINE, (1, 2), 6055,
        also=BETWEEN_MAILBOX_SERVERS, certainty=UNKNOWN),
    Row("mailbox-assistants", "mbx2", "mbx1", ASSISTANTS, UNPROTECTED, (0, 0), 6061,
        also=BETWEEN_MAILBOX_SERVERS, certainty=UNKNOWN),
    Row("mailbox-mapi-access", "outlook1", "mbx1", rpc.EMSMDB, NTLM_USER, MAPI, 6012,
        also=("doc-public-folder-static",)),
    Row("mailbox-adtopology-service", "hub1", "mbx1", TOPOLOGY, HOST_SERVICE, (0,), 6071,
        also=BETWEEN_MAILBOX_SERVERS, certainty=UNKNOWN),
    Row("mailbox-system-attendant-listen", "mbx2", "mbx1", rpc.ATTENDANT_PUBLIC, UNPROTECTED, (0, 1), 6081,
        also=BETWEEN_MAILBOX_SERVERS, certainty=NAMED),
    Row("mailbox-system-attendant-mapi-client", "mbx1", "mbx2", rpc.EMSMDB, MACHINE, MAPI, 6012,
        also=BETWEEN_MAILBOX_SERVERS),
    Row("mailbox-oab-generation-active-directory", "mbx1", "dc1", rpc.NSPI,
        Credentials(KERBEROS, PRIVACY, "MBX1$", "exchangeAB"), talk.NSPI_CALLS, 49157, also=DIRECTORY, certainty=NAMED),
    Row("mailbox-rus-rpc", "mbx1", "mbx2", rpc.ATTENDANT_PRIVATE, HOST_SERVICE, (0, 2), 6082,
        also=BETWEEN_MAILBOX_SERVERS, certainty=NAMED),
    Row("cas-to-mailbox", "cas1", "mbx1", rpc.EMSMDB, MACHINE, MAPI, 6012, paths=TO_MAILBOX, also=MANY_PORTS),
    Row("um-to-cas-play-on-phone", "um1", "cas1", UM_CONTROL, Credentials(NTLM, PRIVACY, "UM1$"), (0, 1), 6091,
        certainty=UNKNOWN),
    Row("um-to-mailbox", "um1", "mbx1", rpc.EMSMDB, Credentials(NTLM, PRIVACY, "UM1$"), MAPI, 6012),
)  # fmt: skip


def row_named(name: str) -> Play:
    """The play of one row."""
    return next(row.play for row in ROWS if row.id == name)


for _row in ROWS:
    enlist(
        Story(
            f"row-{_row.id}",
            f"Table row {_row.id}: endpoint mapper, bind, sealed calls; roles in the inventory",
            _row.play,
        )
    )


def proof_of(interface: Syntax) -> tuple[str, str]:
    """NSPI is spoken by global catalogs too, so it proves less than Exchange's own interfaces."""
    return ("strong", "certain") if interface is rpc.NSPI else ("certain", "certain")


@story("row-note-mapi-clients-use-cas", "Outlook to Client Access: EMSMDB, NSPI and RFRI, two of them on one port")
def mapi_clients(scene: Scene) -> None:
    client, server = hosts(scene, "outlook1", "cas1")
    facts = {"data_paths": OUTLOOK, "also": OUTLOOK_ALSO, "roles": ("outlook", "client-access")}
    mapper = scene.tcp(client, server, 135)
    talk.open_mapper(mapper, wide=True)
    store = talk.ask_port(mapper, rpc.EMSMDB, [(6005, server.address)], wide=True)
    book = talk.ask_port(mapper, rpc.NSPI, [(6006, server.address)], call=3, wide=True)
    referral = talk.ask_port(mapper, rpc.RFRI, [(6006, server.address)], call=4, wide=True)
    mapper.close()
    mapper.is_("epm", interfaces=((rpc.EPM.uuid, True),), certainty=ASKED, authentication=("none",), **facts)
    calls = ((rpc.RFRI, 6006, talk.RFRI_CALLS, referral), (rpc.NSPI, 6006, talk.NSPI_CALLS, book),
             (rpc.EMSMDB, 6005, talk.EMSMDB_CALLS, store))  # fmt: skip
    for interface, port, opnums, mapping in calls:
        scene.wait(20)
        talk.session(
            scene,
            client,
            server,
            port,
            interface,
            USER,
            opnums,
            certainty=proof_of(interface),
            resolved=mapping.announced,
            **facts,
        )


@story("row-static-ports", "Outlook on static ports 59531 to 59533: no endpoint mapper in the capture")
def static_ports(scene: Scene) -> None:
    client, cas, mailbox = hosts(scene, "outlook1", "cas1", "mbx1")
    rows = (
        ("doc-rpc-client-access-static", cas, 59531, rpc.EMSMDB, talk.EMSMDB_CALLS, "note-mapi-clients-use-cas"),
        ("doc-address-book-static", cas, 59532, rpc.NSPI, talk.NSPI_CALLS, "note-mapi-clients-use-cas"),
        ("doc-public-folder-static", mailbox, 59533, rpc.EMSMDB, talk.EMSMDB_CALLS, "mailbox-mapi-access"),
    )
    for path, server, port, interface, opnums, general in rows:
        talk.session(
            scene, client, server, port, interface, USER, opnums, data_paths=(path,), also=(general, *MAPPER),
            roles=("outlook", server.role[0]), certainty=proof_of(interface),
        )  # fmt: skip


@story("row-mailbox-admin-remote-registry", "Remote registry from a workstation: winreg in a named pipe over SMB2")
def remote_registry(scene: Scene, *, kerberos: bool = False) -> None:
    client, server = hosts(scene, "admin1", "mbx1")
    tcp = scene.tcp(client, server, 445)
    handle, found = bytes(4) + scene.noise(16), bytes(4)
    exchanges = [
        (rpc.request(2, bytes(4) + b"\0\0\0\2", call=2), rpc.response(handle + found, call=2)),
        (rpc.request(5, handle, call=3), rpc.response(bytes(20) + found, call=3)),
    ]
    offers = [(rpc.WINREG, [rpc.NDR32])]
    accepted = rpc.bind_ack([rpc.ACCEPTED], "\\PIPE\\winreg")
    smb.pipe(tcp, "winreg", rpc.bind(offers), accepted, exchanges, kerberos=kerberos)
    tcp.close()
    tcp.is_(
        "smb",
        data_paths=("mailbox-admin-remote-registry",),
        also=("mailbox-admin-smb",),
        certainty=("strong", "strong"),
        roles=("admin-workstation", "mailbox"),
        interfaces=((rpc.WINREG.uuid, True),),
        authentication=("kerberos" if kerberos else "ntlm",),
    )


def oxid_answer(bindings: list[str], *, version2: bool = True) -> bytes:
    """Stub of the answer to ResolveOxid2 ([MS-DCOM] 3.1.2.5.1.2): string bindings of protocol tower 7."""
    strings = b"".join(struct.pack("<H", 7) + f"{text}\0".encode("utf-16-le") for text in bindings) + b"\0\0"
    security = struct.pack("<HHH", 0x0A, 0xFFFF, 0) + b"\0\0"
    entries = (len(strings) + len(security)) // 2
    array = struct.pack("<IIHH", 0x20000, entries, entries, len(strings) // 2) + strings + security
    array += bytes(-len(array) % 4) + bytes(range(16)) + struct.pack("<I", 5)
    return array + (struct.pack("<HHI", 5, 7, 0) if version2 else bytes(4))


def resolve_oxid(scene: Scene, client: Host, server: Host, port: int, **facts: object) -> dict[str, object]:
    """The OXID resolver on 135 hands out a DCOM server's port; returns `resolved_by` of conversations there."""
    tcp = scene.tcp(client, server, 135)
    how = Credentials(SPNEGO, CONNECT, service="RPCSS")
    talk.bind_with(tcp, [(rpc.OXID, [rpc.NDR32])], how)
    question = scene.noise(8) + struct.pack("<HHIH", 1, 0, 1, 7)
    tcp.ask(rpc.request(4, question, call=3))
    answered = tcp.answer(rpc.response(oxid_answer([f"{server.name}[{port}]", f"{server.address}[{port}]"]), call=3))
    tcp.close()
    tcp.is_("dcerpc", interfaces=((rpc.OXID.uuid, True),), authentication=("kerberos",), encryption=("none",), **facts)
    return {"kind": "oxid", "frames": [answered.first, answered.last]}


@story("row-doc-dag-fsw-wmi", "DAG sets up its witness: OXID resolution, then WMI on the port that was handed out")
def witness_wmi(scene: Scene) -> None:
    client, server = hosts(scene, "mbx1", "fsw1")
    facts = {
        "data_paths": ("doc-dag-fsw-wmi",),
        "also": ("doc-dag-fsw-smb", *MAPPER),
        "roles": ("mailbox", "witness-server"),
        "certainty": ("weak", "strong"),
    }
    announced = resolve_oxid(scene, client, server, 49154, **facts)
    how = Credentials(SPNEGO, PRIVACY, service="host")
    talk.session(scene, client, server, 49154, rpc.WBEM_LOGIN, how, (6, 3), resolved=announced, **facts)
    talk.session(scene, client, server, 49154, rpc.WBEM_SERVICES, how, (20, 6), resolved=announced, **facts)


@story("row-doc-dag-fsw-smb", "A DAG member opens its file share witness with Kerberos")
def witness_smb(scene: Scene) -> None:
    client, server = hosts(scene, "mbx1", "fsw1")
    tcp = scene.tcp(client, server, 445)
    share = smb.Session(tcp, kerberos=True)
    share.connect("DAG1.example.test")
    share.create("fsw\\Witness.log")
    share.close()
    tcp.close()
    tcp.is_(
        "smb", data_paths=("doc-dag-fsw-smb",), roles=("mailbox", "witness-server"), certainty=("weak", "certain"),
        authentication=("kerberos",),
    )  # fmt: skip


@story("row-mailbox-admin-smb", "An administrator copies a file from a Mailbox server's C$")
def admin_smb(scene: Scene, *, kerberos: bool = False) -> None:
    client, server = hosts(scene, "admin1", "mbx1")
    tcp = scene.tcp(client, server, 445)
    share = smb.Session(tcp, kerberos=kerberos)
    share.connect("C$")
    share.create("Program Files\\Microsoft\\Exchange Server\\V14\\Logging\\x.log")
    share.read(scene.noise(900))
    share.close()
    tcp.close()
    tcp.is_(
        "smb", data_paths=("mailbox-admin-smb",), also=("mailbox-vss-backup", "mailbox-admin-remote-registry"),
        roles=("admin-workstation", "mailbox"), certainty=("weak", "strong"),
        authentication=("kerberos" if kerberos else "ntlm",),
    )  # fmt: skip


@story("row-mailbox-vss-backup", "A snapshot of one Mailbox server is written to a share of another, over SMB2")
def backup(scene: Scene) -> None:
    """The row has no port (D-24): on one server there are no packets, to another one it is 445."""
    client, server = hosts(scene, "mbx1", "mbx2")
    tcp = scene.tcp(client, server, 445)
    share = smb.Session(tcp, kerberos=True)
    share.connect("Backup$")
    share.create("MBX1\\2010-11-10.vhd")
    share.write(scene.noise(1200))
    share.close()
    tcp.close()
    tcp.is_(
        "smb", data_paths=("mailbox-vss-backup",), also=("mailbox-admin-smb",), roles=("mailbox", "mailbox"),
        certainty=("weak", "strong"), authentication=("kerberos",), encryption=("none",),
    )  # fmt: skip


BANNER = b"ncacn_http/1.0"
BACK_ENDS = (
    ("doc-rpchttp-backend-emsmdb", 6001, rpc.EMSMDB, talk.EMSMDB_CALLS),
    ("doc-rpchttp-backend-rfr", 6002, rpc.RFRI, talk.RFRI_CALLS),
    ("doc-rpchttp-backend-nspi", 6004, rpc.NSPI, talk.NSPI_CALLS),
)


def greeted(
    scene: Scene, client: Host, server: Host, port: int, interface: Syntax, opnums: tuple[int, ...]
) -> talk.Tcp:
    """An ncacn_http endpoint: the server's greeting, then bind and calls."""
    tcp = scene.tcp(client, server, port)
    tcp.answer(BANNER)
    talk.bind_with(tcp, [(interface, [rpc.NDR32])], Credentials(NTLM, PRIVACY))
    talk.calls(tcp, Credentials(NTLM, PRIVACY), opnums)
    tcp.close()
    return tcp


@story("row-rpchttp-back-ends", "RPC proxy to 6001, 6002 and 6004: greeting of ncacn_http, then the interface")
def back_ends(scene: Scene) -> None:
    client, server = hosts(scene, "cas2", "cas1")
    for path, port, interface, opnums in BACK_ENDS:
        greeted(scene, client, server, port, interface, opnums).is_(
            "ncacn-http",
            data_paths=(path,),
            roles=("client-access", "client-access"),
            certainty=proof_of(interface),
            interfaces=((interface.uuid, True),),
            authentication=("ntlm",),
            encryption=("rpc-privacy",),
        )


@story("row-rpchttp-epm-593", "The endpoint mapper of RPC over HTTP, asked for EMSMDB, answers port 6001")
def http_mapper(scene: Scene) -> None:
    client, server = hosts(scene, "cas2", "cas1")
    tcp = scene.tcp(client, server, 593)
    tcp.answer(BANNER)
    tcp.ask(rpc.bind([(rpc.EPM, [rpc.NDR32])]))
    tcp.answer(rpc.bind_ack([rpc.ACCEPTED], "593"))
    tcp.ask(rpc.request(rpc.EPT_MAP, rpc.map_request(rpc.tower(rpc.EMSMDB, 593, transport="http")), call=2))
    octets = rpc.tower(rpc.EMSMDB, 6001, server.address, transport="http")
    answered = tcp.answer(rpc.response(rpc.map_response([octets]), call=2))
    tcp.close()
    tcp.is_(
        "epm", data_paths=("doc-rpchttp-epm-593",), also=("doc-rpchttp-backend-emsmdb", "note-rpc-epm-135"),
        roles=("client-access", "client-access"), interfaces=((rpc.EPM.uuid, True),), certainty=("weak", "certain"),
    )  # fmt: skip
    greeted(scene, client, server, 6001, rpc.EMSMDB, talk.EMSMDB_CALLS).is_(
        "ncacn-http", data_paths=("doc-rpchttp-backend-emsmdb",), roles=("client-access", "client-access"),
        certainty=("certain", "certain"), interfaces=((rpc.EMSMDB.uuid, True),),
        resolved={"kind": "ept_map", "frames": [answered.first, answered.last]},
    )  # fmt: skip


COOKIE = 3


@story("row-rpc-over-http-v2", "RPC over HTTP version 2 in clear: the IN and the OUT channel of one virtual connection")
def over_http(scene: Scene) -> None:
    outlook_anywhere(scene, *hosts(scene, "outlook1", "cas1"), "cas-outlook-anywhere")


def outlook_anywhere(scene: Scene, client: Host, server: Host, path: str) -> None:
    """Both channels of one virtual connection."""
    out, into = (scene.tcp(client, server, 80) for _ in range(2))
    virtual, channels = scene.noise(16), (scene.noise(16), scene.noise(16))
    version, cookie = rpc.rts_command(6, 1), rpc.rts_command(COOKIE, virtual)
    out.ask(http_request("RPC_OUT_DATA", "mbx1.example.test:6001", 76))
    opened = rpc.rts(0, version, cookie, rpc.rts_command(COOKIE, channels[0]), rpc.rts_command(0, 65536))
    out.ask(opened)
    into.ask(http_request("RPC_IN_DATA", "mbx1.example.test:6001", 1 << 30))
    rest = (rpc.rts_command(4, 1 << 30), rpc.rts_command(5, 300_000), rpc.rts_command(12, scene.noise(16)))
    into.ask(rpc.rts(0, version, cookie, rpc.rts_command(COOKIE, channels[1]), *rest))
    out.answer(b"HTTP/1.1 200 Success\r\nContent-Type: application/rpc\r\nContent-Length: 1073741824\r\n\r\n")
    out.answer(rpc.rts(0, rpc.rts_command(2, 120_000)))
    out.answer(rpc.rts(0, version, rpc.rts_command(0, 65536), rpc.rts_command(2, 120_000)))
    into.ask(rpc.bind([(rpc.EMSMDB, [rpc.NDR32])]))
    out.answer(rpc.bind_ack([rpc.ACCEPTED], "6001"))
    into.ask(rpc.request(10, scene.noise(200), call=2))
    out.answer(rpc.response(scene.noise(180), call=2))
    for channel, interfaces in ((out, ()), (into, ((rpc.EMSMDB.uuid, True),))):
        channel.close()
        channel.is_(
            "rpc-over-http", data_paths=(path,), roles=("outlook", server.role[0]),
            certainty=("strong", "certain"), interfaces=interfaces, authentication=("basic",),
        )  # fmt: skip


def http_request(verb: str, target: str, length: int) -> bytes:
    """The request line and header of a channel ([MS-RPCH] 2.1.2.1)."""
    return (
        f"{verb} /rpc/rpcproxy.dll?{target} HTTP/1.1\r\nAccept: application/rpc\r\nUser-Agent: MSRPC\r\n"
        f"Host: mail.example.test\r\nAuthorization: Basic ZXhhbXBsZVxhbGljZTpub3QgYSBzZWNyZXQ=\r\n"
        f"Content-Length: {length}\r\nConnection: Keep-Alive\r\n\r\n"
    ).encode()


@story("row-rpc-over-http-v1", "RPC over HTTP version 1: RPC_CONNECT, then plain PDUs both ways")
def over_http_v1(scene: Scene) -> None:
    client, server = host(scene, "outlook1"), host(scene, "be1")
    tcp = scene.tcp(client, server, 80)
    tcp.ask(b"RPC_CONNECT be1.example.test:6001 HTTP/1.1\r\nUser-Agent: RPC\r\nHost: be1.example.test\r\n\r\n")
    tcp.answer(b"HTTP/1.1 200 OK\r\n\r\n")
    talk.bind_with(tcp, [(rpc.EMSMDB, [rpc.NDR32])], Credentials(NTLM, PRIVACY), address="6001")
    talk.calls(tcp, Credentials(NTLM, PRIVACY), talk.EMSMDB_CALLS)
    tcp.close()
    tcp.is_(
        "rpc-over-http", roles=("outlook", "back-end"), interfaces=((rpc.EMSMDB.uuid, True),), authentication=("ntlm",),
        encryption=("rpc-privacy",),
    )  # fmt: skip
