"""DCE/RPC over a connection of its own (ncacn_ip_tcp), and what an association amounts to as evidence.

Owns the step from `Association` to `Evidence`, which pipes and HTTP use too. Datagrams (ncadg_ip_udp) are
handed to `connectionless`. Sides are told by the PDU types (C706 section 12.6.1), so a dialogue that is the
wrong way round is read all the same and `Evidence.reversed` says so.

Holes: see `pdus`. A conversation without a bind but with whole requests or responses is DCE/RPC
without interfaces; those that a verification trailer names are listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from classifier import limits
from classifier.inspectors import connectionless, epm, gssapi, oxid
from classifier.inspectors.association import INTEGRITY, PRIVACY, Association, Context, Wanted
from classifier.inspectors.base import (
    NOT_THIS,
    WAIT,
    Answer,
    Dialogue,
    Evidence,
    FirstOctets,
    Handout,
    Interface,
    Place,
    Query,
    Side,
    Sign,
    Stream,
)
from classifier.inspectors.pdus import ALIEN, FROM_CLIENT, FROM_SERVER, RTS, find_pdu, opening, pdus

WANTED: Final[Wanted] = {**epm.WANTED, **oxid.WANTED}
"""Calls whose stubs hand out ports."""

Locate = Callable[[Side, int], Place]
"""Where a byte of the association's streams stands in the dialogue; `Place` itself if they are the same."""

_AUTHENTICATIONS: Final = {0: "none", 10: "ntlm", 16: "kerberos", 68: "netlogon", 9: "negotiate", 21: "digest"}
"""auth_type of a security trailer (MS-RPCE 2.2.1.1.7) -> how it is called here."""

_SPNEGO: Final = 9


@dataclass(slots=True)
class Findings:
    """What one association, or several in one conversation, told."""

    interfaces: list[Interface] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    handouts: list[Handout] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)
    authentication: str | None = None
    encryption: str | None = None
    limited: bool = False
    protocol: str = "dcerpc"


FIRST_OCTETS: Final = FirstOctets(b"\5\4", resumes=True)
"""The protocol's version over a connection, and in datagrams (C706 sections 12.6.3.1 and 12.5.2.1)."""


def inspect(dialogue: Dialogue) -> Evidence | Answer:
    """Read an RPC conversation; protocol `epm` if the endpoint mapper is bound in it, else `dcerpc`."""
    if dialogue.transport == "udp":
        return connectionless.inspect(dialogue)
    found = read_association(dialogue.to_server, dialogue.to_client)
    return _without_own_port(found, dialogue) if isinstance(found, Evidence) and found.handouts else found


def _without_own_port(found: Evidence, dialogue: Dialogue) -> Evidence:
    """A secondary address that names the very port it came from hands out nothing that the bind doesn't prove."""
    own = dialogue.client_port if found.reversed else dialogue.server_port
    others = tuple(item for item in found.handouts if item.kind != "secondary-address" or item.port != own)
    return found if len(others) == len(found.handouts) else replace(found, handouts=others)


def read_association(to_server: Stream, to_client: Stream, protocol: str | None = None) -> Evidence | Answer:
    """The association in two streams that hold nothing else; the streams may be swapped.

    protocol: what to call it; None for `epm` or `dcerpc`, whichever it proves to be.
    """
    openings = _opening(to_server), _opening(to_client)
    if ALIEN in openings:
        return NOT_THIS
    if openings == (None, None):
        return WAIT if to_server.started and to_client.started else NOT_THIS
    swapped = _swapped(*openings)
    client = Side.TO_CLIENT if swapped else Side.TO_SERVER
    association = Association(WANTED, client)
    streams = (to_client, to_server) if swapped else (to_server, to_client)
    count = association.read_client(streams[0].chunks) + association.read_server(streams[1].chunks)
    if not count and protocol is None:
        return NOT_THIS
    findings = conclude(association)
    return evidence_of(findings, protocol or findings.protocol, swapped, streams)


def evidence_of(findings: Findings, protocol: str, swapped: bool | None, streams: tuple[Stream, Stream]) -> Evidence:
    """Findings as evidence of a protocol, with at most `limits.MAX_SIGNS` signs.

    swapped: as `Evidence.reversed`; streams: what they were read in.
    """
    one, other = streams
    many = len(findings.signs) > limits.MAX_SIGNS
    return Evidence(
        protocol,
        reversed=swapped,
        interfaces=tuple(findings.interfaces),
        queries=tuple(findings.queries),
        handouts=tuple(findings.handouts),
        authentication=findings.authentication,
        encryption=findings.encryption,
        signs=tuple(findings.signs[: limits.MAX_SIGNS]),
        gap=one.has_hole or other.has_hole,
        limited=many or findings.limited or one.limited or other.limited,
    )


def _opening(stream: Stream) -> int | None:
    """PDU type that a stream begins with; `ALIEN` if it is no RPC, None if it has too little to tell.

    Only a stream whose beginning is missing may begin anywhere in a PDU.
    """
    if not stream.chunks:
        return None
    chunk = stream.chunks[0]
    first = opening(chunk.data)
    if first == RTS:  # goes both ways: what follows it tells more
        return next((pdu.ptype for pdu in pdus(stream.chunks) if pdu.ptype != RTS), RTS)
    if first != ALIEN or (stream.started and chunk.offset == 0):
        return first
    found = ((chunk.data, find_pdu(chunk.data)) for chunk in stream.chunks)
    return next((data[position + 2] for data, position in found if position >= 0), None)


def _swapped(to_server: int | None, to_client: int | None) -> bool | None:
    """True if the streams' first PDUs say that they are the wrong way round, None if they don't say."""
    if to_server in FROM_CLIENT or to_client in FROM_SERVER:
        return False
    if to_server in FROM_SERVER or to_client in FROM_CLIENT:
        return True
    return None


# ---- from an association to findings ---------------------------------------------------------


def conclude(association: Association, via: str = "", locate: Locate = Place) -> Findings:
    """What an association tells, once both its directions have been read."""
    findings = Findings(limited=association.limited or association.signs.full)
    findings.interfaces = interfaces(association.bound, via, locate)
    findings.signs = [_relocated(sign, locate) for sign in association.signs.kept]
    _tell_security(association, findings, locate)
    _tell_secondary(association, findings, locate)
    if epm.UUID in [interface.uuid for interface in findings.interfaces]:
        findings.protocol = "epm"
    if association.calls:
        _tell_calls(association, findings, locate)
    return findings


Found = TypeVar("Found", Sign, Query, Handout)


def _relocated(found: Found, locate: Locate) -> Found:
    return found if locate is Place else found._replace(place=_moved(found.place, locate))


def _moved(place: Place, locate: Locate) -> Place:
    return locate(place.side, place.offset)


def interfaces(bound: list[Context], via: str, locate: Locate) -> list[Interface]:
    """One interface per distinct (uuid, version), in order of binding: accepted if any of its contexts was,
    refused if all were, else unknown."""
    groups: dict[tuple[str, str], list[Context]] = {}
    for context in bound:
        if not context.negotiates_only:
            groups.setdefault((context.uuid, context.version), []).append(context)
    return [_interface(contexts, via, locate) for contexts in groups.values()]


def _interface(contexts: list[Context], via: str, locate: Locate) -> Interface:
    best = contexts[0]
    accepted: bool | None = False
    for context in contexts:
        if context.accepted:
            best, accepted = context, True
            break
        if context.accepted is None:
            accepted = None
    place = locate(contexts[0].side, contexts[0].offset)
    return Interface(best.uuid, best.version, accepted, place, best.syntax, via)


def _tell_security(association: Association, findings: Findings, locate: Locate) -> None:
    """Authentication and encryption by the rules of the contract: observed on calls, not only promised."""
    for (kind, level), place in association.levels.items():
        moved = _moved(place, locate)
        findings.signs += Sign("rpc.auth-type", str(kind), moved), Sign("rpc.auth-level", str(level), moved)
    findings.authentication = _authentication(association)
    findings.encryption = _encryption(association)


def _authentication(association: Association) -> str | None:
    if not association.levels:
        return "none" if association.bind_seen else None
    # Several security contexts: the one that protects calls counts, else the last one made.
    kind = max(association.protected, key=lambda pair: pair[1], default=list(association.levels)[-1])[0]
    if kind != _SPNEGO:
        return _AUTHENTICATIONS.get(kind)
    return gssapi.settle(association.tokens) or gssapi.mechanism_of_signature(association.signature) or "negotiate"


def _encryption(association: Association) -> str | None:
    level = max((level for _, level in association.protected), default=0)
    if level == PRIVACY:
        return "rpc-privacy"
    if level == INTEGRITY:
        return "rpc-integrity"
    promised = max((level for _, level in association.levels), default=0)
    if association.unprotected or level or (association.bind_seen and promised < INTEGRITY):
        return "none"
    return None


def _tell_secondary(association: Association, findings: Findings, locate: Locate) -> None:
    """bind_ack's secondary address: the server's own endpoint (C706 section 12.6.4.4)."""
    if association.secondary is None:
        return
    address, offset, contexts = association.secondary
    place = locate(association.server, offset)
    if not (address.isascii() and address.isdigit() and 0 < int(address[:6]) < 65536):
        if address:
            findings.signs.append(Sign("rpc.secondary-address", address[: limits.MAX_TEXT], place))
        return
    names = dict.fromkeys((context.uuid, context.version) for context in contexts if context.accepted)
    for uuid, version in names if contexts else [("", "")]:
        findings.handouts.append(Handout("secondary-address", "tcp", int(address), place, uuid, version))


def _tell_calls(association: Association, findings: Findings, locate: Locate) -> None:
    """Ports handed out by the calls that were kept."""
    queries, handouts = epm.read(association.calls)
    if queries or handouts:
        findings.protocol = "epm"
    handouts += oxid.read(association.calls)
    findings.queries += [_relocated(query, locate) for query in queries]
    findings.handouts += [_relocated(handout, locate) for handout in handouts]
    for handout in findings.handouts:
        if handout.annotation:
            findings.signs.append(Sign("rpc.annotation", handout.annotation, handout.place))
