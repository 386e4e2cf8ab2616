"""One conversation explained to a person, in the order in which a colleague would argue.

Which port, which handshake in which frame, why each host has its role, which other paths were possible and what spoke
against them, what would settle it. Each step names a frame, so that it can be checked in Wireshark. Words what others
found; decides nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from classifier.records import finding_text, interface_text, place, safe, side

if TYPE_CHECKING:
    from classifier.reasoning import Reasoning, Settling

WIDTH: Final = 118
"""Columns of the text."""

MOST_REFUSED: Final = 8
"""Paths that were put aside of which the objection is told; the others are counted."""

_CERTAINTIES: Final = {
    "certain": "bytes of this conversation prove the service, and the roles don't contradict",
    "strong": "the port was announced, or a general protocol was read and both hosts are known",
    "weak": "one of the two hosts is unknown or contradicts, or the port alone speaks for it",
}
_ABSENCES: Final = {
    "no-payload": "no byte was said: only a capture in which the two talk can tell",
    "mid-stream": "the capture begins after the conversation did: one that holds its beginning can tell",
    "encrypted": "what could tell is encrypted: keys, or the hosts' other conversations, can tell",
    "truncated": "the capture cut packets short (snap length): capture whole packets",
    "gap": "packets are missing where it would be told: a capture without loss can tell",
    "limit-hit": "a bound on memory was met before it was told",
    "not-exchange": "nothing in it, and nothing known of its hosts, speaks for Exchange",
    "unmatched": "an Exchange host says something that no documented path is known to say",
}
_ORIENTATIONS: Final = {
    "syn": "it sent the SYN",
    "syn-ack": "it got the SYN-ACK",
    "endpoint-map": "the other side's port was handed out",
    "payload": "what was said shows who asked",
    "known-port": "the other side's port is a known one",
    "first-seen": "it was seen first",
}
_KINDS: Final = {
    "ept_map": "the endpoint mapper handed it out (ept_map)",
    "ept_lookup": "the endpoint mapper listed it (ept_lookup)",
    "oxid": "the OXID resolver handed it out",
    "sdp": "a session description named it (SDP)",
    "sip-redirect": "a SIP redirect named it",
    "rpc-proxy": "an RPC proxy was asked for it",
    "bind": "another conversation bound an interface there",
    "secondary-address": "a bind's answer named it",
    "endpoint-map-file": "the endpoint map file knows it",
    "static": "it is a fixed port",
}

_CODES: Final = {
    ("rpc.auth-type", "9"): "SPNEGO",
    ("rpc.auth-type", "10"): "NTLM",
    ("rpc.auth-type", "16"): "Kerberos",
    ("rpc.auth-type", "68"): "Netlogon",
    ("rpc.auth-level", "1"): "none",
    ("rpc.auth-level", "2"): "connect",
    ("rpc.auth-level", "3"): "call",
    ("rpc.auth-level", "4"): "packet",
    ("rpc.auth-level", "5"): "packet integrity",
    ("rpc.auth-level", "6"): "packet privacy",
}
"""Numbers of the protocol in words (MS-RPCE 2.2.1.1.7 and 2.2.1.1.8)."""

_WORDS: Final = {
    "rpc.asked": "asks the mapper for",
    "rpc.auth-type": "auth type",
    "rpc.auth-level": "auth level",
    "kerberos.client": "Kerberos name of the client",
    "kerberos.service": "Kerberos ticket for",
    "kerberos.etype": "the ticket is encrypted with",
    "ntlm.user": "NTLM login of",
    "smtp.banner": "greeting",
    "smtp.ehlo": "EHLO keyword",
    "smtp.command": "the client's command",
    "smtp.mail-from-domain": "mail from",
    "smtp.queued": "the message was queued by",
    "smtp.refused": "the server refused",
    "pop3.greeting": "greeting",
    "imap4.greeting": "greeting",
    "nntp.greeting": "greeting",
    "nntp.command": "the client's command",
    "link-state.greeting": "greeting",
    "tls.sni": "server name in the ClientHello (SNI)",
    "tls.certificate-self-signed": "shows a self-signed certificate",
    "tls.certificate-subject": "the server's certificate names",
    "tls.client-certificate": "the client's certificate names",
    "tls.decrypted": "read inside TLS, with the session's keys",
    "http.method": "request",
    "http.path": "asked for",
    "http.host": "Host header",
    "http.user-agent": "User-Agent header",
    "http.server": "Server header",
    "http.status": "status of the answer",
    "http.header": "header",
    "http.soap-operation": "SOAP operation",
    "http.x-owa-version": "X-OWA-Version header",
    "http.x-requesttype": "MAPI request type",
    "ldap.base-dn": "search below",
    "ldap.attribute": "LDAP attribute",
    "ldap.bind-dn": "simple bind as",
    "ldap.isglobalcatalogready": "the server says isGlobalCatalogReady",
    "dns.query": "question",
    "dns.answer": "answer",
    "smb.share": "share",
    "smb.pipe": "pipe",
    "sip.method": "SIP request",
    "sip.server": "Server header",
    "sip.user-agent": "User-Agent header",
    "net.tcp.via": "Via URI",
}
"""What evidence is called; what is not here goes by the name of its field."""


def explain(record: Mapping[str, Any], reasoning: Reasoning | None = None) -> str:
    """Lines of text about a record (`Conversation.to_dict`), safe to print. reasoning: of its decision, if known."""
    record = {**record, "findings": _here(record, "findings"), "evidence": _here(record, "evidence")}
    steps: list[list[str]] = [
        [*_port(record)],
        [*_handshake(record)],
        [*_role(record, "client", reasoning)],
        [*_role(record, "server", reasoning)],
        [*_others(record, reasoning)],
        [*_settle(record, reasoning)],
        [finding_text(item) + place(item) for item in record["findings"]],
    ]
    lines = [*_head(record, reasoning), ""]
    for number, step in enumerate((step for step in steps if step), 1):
        lines += [f"{number}. {step[0]}", *(f"   {line}" for line in step[1:])]
    return "\n".join(_folded(safe(line)) for line in lines)


def _here(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The facts of one column, without the file where that is the conversation's own."""
    return [{**fact, "file": None if fact.get("file") == record["file"] else fact.get("file")} for fact in record[name]]


@lru_cache(maxsize=4096)
def _folded(line: str) -> str:
    if len(line) <= WIDTH:
        return line.rstrip(" ")
    indent = " " * (len(line) - len(line.lstrip()) + (3 if line[:1].isdigit() else 2))
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _head(record: Mapping[str, Any], reasoning: Reasoning | None) -> Iterator[str]:
    spoken = "/".join(filter(None, (record["transport"], record["protocol"])))
    yield f"conversation {record['id']}: {side(record, 'client')} -> {side(record, 'server')}, {spoken}"
    yield f"frames {record['first_frame']} to {record['last_frame']} of {record['file']}, from {record['start']}"
    if record["absence"]:
        yield f"no label ({record['absence']}): {_ABSENCES[record['absence']]}"
        return
    titles = dict(reasoning.titles) if reasoning else {}
    paths = record["data_paths"]
    named = record["data_path"]
    if named:
        yield f"data path: {named} ({record['certainty']}){': ' * (named in titles)}{titles.get(named, '')}"
    else:
        yield f"data path: one of {len(paths)} ({record['certainty']})"
    yield from (f"  {path}: {titles.get(path, '')}".rstrip(": ") for path in paths if path != named and not named)
    beside = [path for path in paths if path != named]
    if named and beside:
        yield f"fits too: {', '.join(beside)}"
    which = "" if named else "; which of these stays open"
    yield f"{record['certainty']} means: {_CERTAINTIES[record['certainty']]}{which}"
    if record["exchange_versions"]:
        yield f"Exchange versions that fit: {', '.join(record['exchange_versions'])}"


# ---- port, handshake --------------------------------------------------------------------------------


def _port(record: Mapping[str, Any]) -> Iterator[str]:
    port, source = f"{record['server_port']}/{record['transport']}", record["resolved_by"]
    if source:
        interface = " ".join(filter(None, (source["name"], source["uuid"])))
        source = {**source, "file": None} if source["file"] == record["file"] else source
        yield f"Port {port}: {_KINDS[source['kind']]}{f' for {interface}' * bool(interface)}{place(source)}."
    else:
        yield f"Port {port}: {_known(record)}nothing in the capture handed it out."
    why = _ORIENTATIONS[record["orientation"]]
    yield f"{record['client_ip']} is the client: {why} (frame {record['first_frame']})."


def _known(record: Mapping[str, Any]) -> str:
    counts = any(fact["kind"] == "port" for fact in record["evidence"])
    return "a documented one, which is part of the evidence; " if counts else ""


def _handshake(record: Mapping[str, Any]) -> Iterator[str]:
    seen = [fact for fact in record["evidence"] if fact["kind"] in ("payload", "query", "sign")]
    first = next((fact for fact in seen if fact["kind"] == "payload"), None)
    if record["protocol"] is not None:
        yield f"Payload: {record['protocol']}{place(first) if first else ''}."
    else:
        yield "Payload: none." if record["absence"] == "no-payload" else "Payload: none that could be read."
    told = [(bound["frame"], interface_text(bound)) for bound in record["rpc_interfaces"]]
    told += [(fact["frame"], _fact(fact)) for fact in seen if fact["kind"] != "payload"]
    yield from (text for _, text in sorted(told, key=lambda each: each[0]))
    shown = [f"{name} {record[name]}" for name in ("authentication", "encryption") if record[name]]
    if shown:
        yield f"protection: {', '.join(shown)}"


def _fact(fact: Mapping[str, Any]) -> str:
    """A sign of the payload, called as Wireshark calls it where that is plain."""
    field, value = fact["field"], fact["value"]
    meaning = _CODES.get((field, value))
    return f"{_WORDS.get(field, field)}: {f'{meaning} ({value})' if meaning else value}{place(fact)}"


# ---- roles ----------------------------------------------------------------------------------------


def _role(record: Mapping[str, Any], which: str, reasoning: Reasoning | None) -> Iterator[str]:
    """What the label went by for one side: the inventory, or acts with their frames; without a label, what is known."""
    address, role = record[f"{which}_ip"], record[f"{which}_role"]
    facts = [fact for fact in record["evidence"] if fact["field"] == f"{which}_role"]
    whose = f"The {which} {address}"
    known = dict(reasoning.roles)[which] if reasoning else frozenset()
    if not facts and known and not role:
        yield f"{whose} is known as {' and '.join(sorted(known))}; no label stands on it."
        return
    if not facts:
        said = f"the label makes it {role}" if role else "its role stays open"
        yield f"{whose}: neither inventory nor other conversations say what it is; {said}."
        return
    if facts[0]["kind"] == "inventory":
        yield f"{whose} is {', '.join(fact['value'] for fact in facts)}: the inventory says so."
        return
    yield f"{whose}, by what it was seen to do:"
    yield from (f"{fact['value']}{place(fact)}" for fact in facts)


# ---- what else ------------------------------------------------------------------------------------


def _others(record: Mapping[str, Any], reasoning: Reasoning | None) -> Iterator[str]:
    if reasoning is None or not reasoning.refused:
        return
    which = "Other paths" if record["data_paths"] else "Paths"
    yield f"{which} that the bytes or the port allow, and what speaks against them:"
    by_reason: dict[str, list[str]] = {}
    for path, why in reasoning.refused:
        by_reason.setdefault(why, []).append(path)
    for why, paths in list(by_reason.items())[:MOST_REFUSED]:
        yield f"{_several(paths)}: {why}"
    left = sum(len(paths) for paths in list(by_reason.values())[MOST_REFUSED:])
    if left:
        yield f"and {left} more"


_MOST_NAMED: Final = 4


def _several(paths: Iterable[str]) -> str:
    listed = list(paths)
    rest = len(listed) - _MOST_NAMED
    return ", ".join(listed[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _settle(record: Mapping[str, Any], reasoning: Reasoning | None) -> Iterator[str]:
    if reasoning is None or record["data_path"]:
        return
    if not reasoning.settling:
        if record["data_paths"]:
            yield "What would settle it: nothing in packets; these paths send the same bytes between the same roles."
        return
    yield "What would settle it:"
    yield from (_supposed(record, each) for each in reasoning.settling)


def _supposed(record: Mapping[str, Any], settling: Settling) -> str:
    whose = "the version of Exchange" if settling.what == "version" else record[f"{settling.what}_ip"]
    return f"if {whose} were known to be {settling.value}: {_several(settling.paths)} ({settling.certainty})"
