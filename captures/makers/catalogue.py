"""The list of stories, and how one becomes a capture file, an inventory and an entry of INDEX.toml.

A story is a function that fills a scene. Every conversation in it must say what is true of it: an unlabelled
conversation is an error here, so that the answer key can't have holes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from captures.makers import files
from captures.makers.documents import restated
from captures.makers.scene import Conversation, Host, Scene, Truth

OUTLOOKS_OWN = {"mailbox-outlook-oab", "client-oab", "client-mapi-http"}
"""Documented paths of which only Outlook is the client, besides RPC over HTTP."""

Play = Callable[[Scene], None]
Encode = Callable[[Scene], bytes]


@dataclass(frozen=True)
class Story:
    """A capture to be made.

    inventory: write the hosts' roles beside it. infer: there is no inventory, and not every role shows in the traffic.
    shown: there is no inventory, and every role that is true shows in the traffic. status: the exit status of a reader.
    """

    name: str
    about: str
    play: Play
    encode: Encode | None = None
    suffix: str = ".pcap"
    inventory: bool = True
    infer: bool = False
    shown: bool = False
    status: int = 0

    @property
    def file(self) -> str:
        return self.name + self.suffix


STORIES: dict[str, Story] = {}


def story(name: str, about: str, **how: Any) -> Callable[[Play], Play]:
    """Enter a function into the list."""

    def enter(play: Play) -> Play:
        enlist(Story(name, about, play, **how))
        return play

    return enter


def enlist(item: Story) -> None:
    """Enter a story into the list; names are unique."""
    if item.name in STORIES:
        raise ValueError(f"two stories are called {item.name}")
    STORIES[item.name] = item


@dataclass
class Made:
    """A story's files, and its entry in the index."""

    files: dict[str, bytes]
    entry: str
    conversations: list[Conversation] = field(default_factory=list)


def make(item: Story) -> Made:
    """Play a story and write everything down."""
    scene = Scene(item.name)
    item.play(scene)
    encode = item.encode or (lambda scene: files.classic(scene.in_time()[0]))
    if item.suffix == ".pcapng" and not item.encode:
        encode = lambda scene: files.pcapng(scene.in_time()[0])  # noqa: E731
    made = {item.file: encode(scene)}
    known = [host for host in scene.hosts if host.role]
    if item.inventory and known and not item.shown:
        made[f"{item.name}.inventory.toml"] = inventory(known).encode()
    return Made(made, index_entry(item, scene, made), scene.conversations)


def inventory(hosts: Iterable[Host]) -> str:
    """What an administrator would write down about these hosts."""
    blocks = []
    for host in hosts:
        lines = ["[[host]]", f"address = {quoted(host.address)}", f"role = {quoted(list(host.role))}"]
        if host.version:
            lines.append(f"version = {quoted(host.version)}")
        blocks.append("\n".join([*lines, f"name = {quoted(host.fqdn)}", ""]))
    return "\n".join(blocks)


def quoted(value: Any) -> str:
    """A TOML value; strings and lists of strings are written alike in TOML and JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {quoted(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(quoted(part) for part in value) + "]"
    return json.dumps(value)


def index_entry(item: Story, scene: Scene, made: dict[str, bytes]) -> str:
    """One [[capture]] with its conversations."""
    facts: dict[str, Any] = {
        "file": item.file,
        "sha256": hashlib.sha256(made[item.file]).hexdigest(),
        "made_by": f"python -m captures.makers {item.name}",
        "about": item.about,
        "frames": len(scene.frames),
    }
    if f"{item.name}.inventory.toml" in made:
        facts["inventory"] = f"{item.name}.inventory.toml"
    if item.infer or item.shown:
        facts["roles"] = "shown" if item.shown else "inferred"
    if item.status:
        facts["status"] = item.status
    blocks = [table("[[capture]]", facts)]
    numbers = scene.in_time()[1]
    facts_of = [truth_of(talk, numbers) for talk in scene.conversations]
    if item.infer or item.shown:
        facts_of = as_shown(facts_of)
    blocks += [
        table("[[capture.conversation]]", facts) for facts in sorted(facts_of, key=lambda facts: facts["first_frame"])
    ]
    return "\n".join(blocks)


def as_shown(conversations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Roles as far as traffic shows them: RPC shows a MAPI program; that it is Outlook, other paths have to show."""
    outlooks = {
        facts["client"][0] for facts in conversations
        if facts.get("protocol") == "rpc-over-http" or OUTLOOKS_OWN & set(facts.get("data_paths", ()))
    }  # fmt: skip
    ends = (("client", "client_role"), ("server", "server_role"))
    return [
        facts | {
            role: "mapi-client" for end, role in ends
            if facts.get(role) == "outlook" and facts[end][0] not in outlooks
        } for facts in conversations
    ]  # fmt: skip


def table(title: str, facts: dict[str, Any]) -> str:
    return "\n".join([title, *(f"{key} = {quoted(value)}" for key, value in facts.items()), ""])


def truth_of(talk: Conversation, numbers: list[int]) -> dict[str, Any]:
    """What is true of one conversation, only what is claimed. numbers: of frames, in order of time."""
    truth = talk.truth
    if not (truth.protocol or truth.data_paths or truth.absence or truth.note):
        raise ValueError(
            f"{talk.scene.name}: nothing is said about the conversation that begins in frame {talk.first_frame}"
        )
    resolved = truth.resolved and {**truth.resolved, "frames": [numbers[frame] for frame in truth.resolved["frames"]]}
    ends = [talk.client.address, talk.client_port], [talk.server.address, talk.port]
    return stated(replace(truth, resolved=resolved), numbers[talk.first_frame], talk.transport, *ends)


def stated(truth: Truth, first_frame: int, transport: str, client: list[Any], server: list[Any]) -> dict[str, Any]:
    """A [[capture.conversation]]: which it is, and what is claimed about it. client, server: address and port."""
    facts: dict[str, Any] = {
        "first_frame": first_frame,
        "transport": transport,
        "client": client,
        "server": server,
        "protocol": truth.protocol,
        "rpc_interfaces": [{"uuid": uuid} | _accepted(accepted) for uuid, accepted in truth.interfaces],
        "resolved_by": truth.resolved,
        "data_paths": list(truth.data_paths),
        "also": list(dict.fromkeys((*truth.also, *restated(truth.data_paths)))),
        "client_role": truth.roles[0],
        "server_role": truth.roles[1],
        "certainty": list(truth.certainty or ()),
        "absence": list(truth.absence),
        "authentication": list(truth.authentication),
        "encryption": list(truth.encryption),
        "hidden": truth.hidden,
        "note": truth.note,
    }
    return {key: value for key, value in facts.items() if value not in ("", [], {})}


def _accepted(accepted: bool | None) -> dict[str, Any]:
    return {} if accepted is None else {"accepted": accepted}
