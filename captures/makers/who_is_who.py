"""A whole organisation in one capture, without an inventory: roles show only in what hosts serve and whom they call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from captures.makers import mail, rows2003, rows2010, voice_and_web
from captures.makers.catalogue import Play, Story, enlist
from captures.makers.scene import Scene

SHOWING_ROLES: tuple[Play, ...] = (
    mail.hub_to_hub,
    mail.hub_and_edge,
    mail.edge_sync,
    rows2010.mapi_clients,
    voice_and_web.phone_call,
    voice_and_web.replication,
)
"""Stories in which each role does what only it does."""


row = rows2010.row_named


def old_row(name: str) -> Play:
    item = next(item for item in rows2003.ROWS if item.id == name)
    return lambda scene: rows2003.play(item, scene)


def every_server_asks_the_directory(scene: Scene) -> None:
    """DNS, Kerberos and LDAP from each server to the domain controller."""
    for key in ("hub1", "mbx1", "cas1", "um1"):
        mail.directory_of(scene, key)


CHAPTERS: dict[str, tuple[str, Sequence[Play]]] = {
    "mapi": (
        "MAPI between every pair of roles that speaks it",
        [
            row(name)
            for name in ("cas-to-mailbox", "transport-hub-to-mailbox-mapi", "um-to-mailbox", "mailbox-mapi-access")
        ],
    ),
    "directory": (
        "directory access of Hub, Mailbox, Client Access and UM",
        [row("cas-to-mailbox"), row("um-to-mailbox"), every_server_asks_the_directory],
    ),
    "mail": (
        "SMTP in all directions: clients, Internet, other organisations, voice mail",
        [mail.submission, mail.internet, mail.voice_mail, mail.mailboxes, row("cas-to-mailbox")],
    ),
}


def unsure(scene: Scene) -> None:
    """Without an inventory a role may rest on one conversation alone: any certainty will do, the path must be right."""
    for conversation in scene.conversations:
        if conversation.truth.certainty:
            conversation.truth = replace(conversation.truth, certainty=("weak", "certain"))


def chapter(plays: Sequence[Play]) -> Play:
    def play(scene: Scene) -> None:
        for part in (*SHOWING_ROLES, *plays):
            part(scene)
            scene.wait(500)
        unsure(scene)

    return play


for _name, (_about, _plays) in CHAPTERS.items():
    enlist(
        Story(
            f"who-is-who-{_name}",
            f"No inventory: {_about}",
            chapter(_plays),
            suffix=".pcapng",
            inventory=False,
            infer=True,
        )
    )


def old_organisation(scene: Scene) -> None:
    """Exchange 2003: front-end, back-ends, a 5.5 server, Outlook; each shows its role by what it serves."""
    parts: tuple[Play, ...] = (
        old_row("e2003-is-dynamic"), old_row("e2003-sa-dynamic"), old_row("e2003-mta-dynamic"), rows2003.back_end,
        mail.link_state, mail.link_state_mail, mail.old_mailboxes, mail.news, voice_and_web.old_web,
    )  # fmt: skip
    for part in parts:
        part(scene)
        scene.wait(500)
    unsure(scene)


enlist(
    Story(
        "who-is-who-2003",
        "No inventory: an Exchange 2003 organisation",
        old_organisation,
        suffix=".pcapng",
        inventory=False,
        infer=True,
    )
)
