"""One capture for each RPC service of Exchange 2003: System Attendant, Information Store, MTA, SRS, management."""

from __future__ import annotations

from captures.makers import rpc, talk
from captures.makers.catalogue import Play, Story, enlist, story
from captures.makers.organisation import hosts
from captures.makers.rows2010 import Row, greeted, resolve_oxid
from captures.makers.scene import Scene
from captures.makers.talk import CONNECT, NTLM, PRIVACY, SPNEGO, Credentials

USER = Credentials(NTLM, PRIVACY, "bob")
SERVICE = Credentials(NTLM, CONNECT, "exservice")


def both(service: str) -> tuple[str, str]:
    """The two rows of a service: the mapper, and the port behind it."""
    return (f"e2003-{service}-dynamic", f"e2003-{service}-epm")


ROWS = (
    Row("e2003-sa-dynamic", "outlook1", "be1", rpc.RFRI, USER, talk.RFRI_CALLS, 1171, also=both("sa")),
    Row("e2003-is-dynamic", "outlook1", "be1", rpc.EMSMDB, USER, (0, 2, 2, 1), 1181, also=both("is")),
    Row("e2003-mta-dynamic", "be1", "old1", rpc.MTA, SERVICE, (0, 1), 1191, also=both("mta")),
    Row("e2003-srs-dynamic", "be1", "old1", rpc.DRS55, SERVICE, (0, 4), 1201, also=both("srs")),
)  # fmt: skip


def play(row: Row, scene: Scene) -> None:
    """As `Row.play`, but the mapper's conversation belongs to a row of its own."""
    client, server = hosts(scene, row.client, row.server)
    roles = (client.role[0], server.role[0])
    epm = row.id.replace("-dynamic", "-epm")
    also = (*row.also, "note-rpc-epm-135")
    facts = {"roles": roles, "also": also}
    mapping = talk.map_port(
        scene, client, server, row.interface, row.port, data_paths=(epm,), certainty=("weak", "certain"), **facts
    )
    scene.wait(30)
    talk.session(
        scene,
        client,
        server,
        row.port,
        row.interface,
        row.how,
        row.opnums,
        data_paths=(row.id,),
        certainty=("strong", "certain"),
        resolved=mapping.announced,
        **facts,
    )


def play_of(row: Row) -> Play:
    """The play of one row."""
    return lambda scene: play(row, scene)


def old_store(scene: Scene) -> None:
    """Outlook opens a mailbox of 2003."""
    play(ROWS[1], scene)


for _row in ROWS:
    about = f"Exchange 2003, {_row.id} and its mapper row: {_row.interface.name} on a port from 1024 up"
    enlist(Story(f"row-{_row.id.removesuffix('-dynamic')}", about, lambda scene, row=_row: play(row, scene)))


@story("row-e2003-sa-nspi", "Exchange 2003 System Attendant: NSPI (DSProxy) beside RFRI on one port")
def address_book(scene: Scene) -> None:
    client, server = hosts(scene, "outlook1", "be1")
    tcp = scene.tcp(client, server, 135)
    talk.open_mapper(tcp)
    mapping = talk.ask_port(tcp, rpc.NSPI, [(1172, server.address)])
    tcp.close()
    facts = {"roles": ("outlook", "back-end"), "also": ("note-rpc-epm-135", *both("sa"), *both("is"))}
    tcp.is_("epm", data_paths=("e2003-sa-epm",), certainty=("weak", "certain"), **facts)
    talk.session(
        scene, client, server, 1172, rpc.NSPI, USER, talk.NSPI_CALLS, data_paths=("e2003-sa-dynamic",),
        certainty=("strong", "certain"), resolved=mapping.announced, **facts,
    )  # fmt: skip


@story(
    "row-e2003-mgmt", "Exchange 2003 management by WMI: OXID resolution on 135, IWbemServices on the port handed out"
)
def management(scene: Scene) -> None:
    client, server = hosts(scene, "admin1", "be1")
    facts = {"roles": ("admin-workstation", "back-end"), "also": both("mgmt"), "certainty": ("weak", "strong")}
    announced = resolve_oxid(scene, client, server, 1211, data_paths=("e2003-mgmt-epm",), **facts)
    how = Credentials(SPNEGO, PRIVACY, service="host")
    talk.session(
        scene,
        client,
        server,
        1211,
        rpc.WBEM_SERVICES,
        how,
        (20, 6),
        resolved=announced,
        data_paths=("e2003-mgmt-dynamic",),
        **facts,
    )


@story(
    "row-e2003-rpchttp",
    "Exchange 2003 RPC over HTTP, front-end to back-end: store 6001, referral 6002, address book 6004",
)
def back_end(scene: Scene) -> None:
    client, server = hosts(scene, "fe1", "be1")
    rows = (
        ("e2003-is-rpchttp", 6001, rpc.EMSMDB, (0, 2, 2, 1)),
        ("e2003-sa-rpchttp", 6002, rpc.RFRI, talk.RFRI_CALLS),
        ("e2003-sa-rpchttp", 6004, rpc.NSPI, talk.NSPI_CALLS),
    )
    for path, port, interface, opnums in rows:
        greeted(scene, client, server, port, interface, opnums).is_(
            "ncacn-http", data_paths=(path,), roles=("front-end", "back-end"), certainty=("strong", "certain"),
            interfaces=((interface.uuid, True),), authentication=("ntlm",), encryption=("rpc-privacy",),
        )  # fmt: skip
