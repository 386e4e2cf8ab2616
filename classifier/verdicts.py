"""Matches → exactly one decision per conversation: a label with a certainty, or the reason why there is none.

Owns the definitions of certainty (the contract's), how roles and versions prune the set of paths, and the
conflict table. It reads nothing but facts and the rulebook; the order of evaluation changes nothing.

    evidence of the best kind      roles                                        decision
    proof                          agree, or unknown                            certain
    proof or handout               contradict every path of the service         weak
    handout                        agree, or unknown                            strong
    sign or protocol               both known, one of them an Exchange role     strong
    sign or protocol               one known Exchange role                      weak (the server's, for TLS, HTTP, SMB)
    hint, or a dedicated port      unknown                                      weak
    port                           the server's is a known Exchange role        weak
    anything else                                                               absence
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from .matching import Candidate, Facts, Level, Match, matches, windows_interfaces
from .model import EXCHANGE_ROLES, PERSONS, VERSIONS
from .rules import ANY, FirewallRule, Rulebook

__all__ = ["Decision", "Facts", "Judgement", "agrees", "decide", "judge", "misplaced", "objection", "standing_for"]


class Decision(NamedTuple):
    """The label of one conversation, or why it has none: exactly one of certainty and absence is None.

    data_paths: what the evidence allows, best first; data_path: the first, when evidence puts it ahead.
    basis: what the label stands on: "interface", "resolved", "sign", "protocol", "port", "roles".
    """

    data_paths: tuple[str, ...] = ()
    data_path: str | None = None
    client_role: str | None = None
    server_role: str | None = None
    exchange_versions: tuple[str, ...] = ()
    certainty: str | None = None
    absence: str | None = None
    firewall_rules: tuple[str, ...] = ()
    basis: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """What a decision is put into words from: the ways that evidence and hosts leave, in the order of the documents,
    and their certainty; or the absence. Of `PERSONS` among the roles of a host it matters only whether there are any,
    and so for `misplaced`.
    """

    fitting: tuple[Match, ...] = ()
    certainty: str | None = None
    absence: str | None = None

    def asked(self) -> tuple[frozenset[str], frozenset[str]]:
        """Roles of persons (and `ANY`) that its words depend on, of the client and of the server."""
        ways = [match.candidate for match in self.fitting]
        return _asked(frozenset(each.clients for each in ways)), _asked(frozenset(each.servers for each in ways))


_OLD_SERVERS: Final = frozenset({"front-end", "back-end", "exchange-server"})
_SERVERS: Final = frozenset(
    {"hub-transport", "edge-transport", "mailbox", "client-access", "unified-messaging", "exchange-server"}
)
_NEW_SERVERS: Final = frozenset({"mailbox", "edge-transport", "exchange-server"})
_ROLES_OF_VERSION: Final = {
    **dict.fromkeys(("5.5", "2000", "2003"), _OLD_SERVERS),
    **dict.fromkeys(("2007", "2010"), _SERVERS),
    "2013": _NEW_SERVERS | {"client-access"},
    **dict.fromkeys(("2016", "2019", "SE"), _NEW_SERVERS),
}
"""Server roles that Setup of each version offers (front-end and back-end since 2000)."""

_ABROAD: Final = frozenset({"internet-mta", "exchange-online"})
"""Hosts of others, which may run Exchange too."""

_INCLUDES: Final = {
    "active-directory": frozenset({"dns-server"}),
    "outlook": frozenset({"mapi-client", "web-service-client"}),
}
"""Roles that come with another: domain controllers serve DNS; Outlook is a MAPI client and asks web services."""


def decide(rulebook: Rulebook, facts: Facts, judged: Judgement | None = None) -> Decision:
    """The one decision for these facts. Pure; never raises for any facts. judged: as far as they are judged already."""
    fitting, certainty, absence = judged or judge(rulebook, facts)
    return _label(rulebook, facts, fitting, certainty) if certainty else Decision(absence=absence)


def judge(rulebook: Rulebook, facts: Facts) -> Judgement:
    """The best evidence whose ways the hosts allow."""
    found, versions = matches(rulebook, facts), _versions_of_both(facts)
    for level in sorted({match.speech.level for match in found}, reverse=True):
        at_level = [match for match in found if match.speech.level is level]
        fitting = _prefer_port([match for match in at_level if _plausible(match, facts, versions)])
        certainty = _certainty(rulebook, fitting, level, facts) if fitting else None
        if certainty:
            return Judgement(_in_order(fitting), certainty)
        if level >= Level.HANDOUT:
            return Judgement(_in_order(_least_contradicted(_prefer_port(at_level), facts)), "weak")
    return Judgement(absence=_absence(rulebook, facts))


def _in_order(found: list[Match]) -> tuple[Match, ...]:
    """As the documents have them."""
    return tuple(sorted(found, key=lambda match: match.candidate.order))


def _prefer_port(found: list[Match]) -> list[Match]:
    return [match for match in found if match.on_port] or found


# ---- roles and versions ------------------------------------------------------------------


def _plausible(match: Match, facts: Facts, versions: frozenset[str]) -> bool:
    """versions: of both hosts."""
    candidate = match.candidate
    return (
        _allows(candidate.clients, facts.client_roles, candidate)
        and _allows(candidate.servers, facts.server_roles, candidate)
        and _right_version(candidate, versions)
        and not (match.disowned and match.speech.level < Level.SIGN and EXCHANGE_ROLES.issuperset(candidate.servers))
        and (match.speech.level >= Level.HANDOUT or match.speech.hint or _server_need_not_prove(candidate, facts))
    )


def objection(match: Match, facts: Facts, level: Level | None) -> str:
    """What speaks against a path that the bytes or the port allow, in words. level: of the evidence that won."""
    candidate, theirs = match.candidate, _versions_of_both(facts)
    for side, words, known in (
        ("client", candidate.clients, facts.client_roles), ("server", candidate.servers, facts.server_roles),
    ):  # fmt: skip
        wrong = not _allows(words, known, candidate)
        if wrong and (words != ("exchange-server",) or _right_version(candidate, theirs)):
            return f"its {side} is {_either(words)}, this one is {_either(sorted(known))}"
    if not _right_version(candidate, theirs):
        return f"it belongs to Exchange {_span(candidate.form.versions)}, these hosts to {_span(theirs)}"
    if level is None and match.speech.level <= Level.SIGN and not facts.server_roles & EXCHANGE_ROLES:
        shared = "says the same" if match.speech.level == Level.SIGN else "uses the same port and protocol"
        return f"other software {shared}, and the server is not known as an Exchange server"
    if not _plausible(match, facts, theirs):
        return "the server names itself as another program" if match.disowned else "its server would have to be known"
    if level is not None and match.speech.level < level:
        return f"only {_MEASURES[match.speech.level]} speaks for it"
    if not match.on_port:
        ports = (*candidate.form.endpoints, *candidate.form.implied_endpoints)
        return f"its port is {_either(list(map(str, ports)))}" if ports else "another path names this very port"
    return "less is known for it than for the others"


_MEASURES: Final = {
    Level.PORT: "the port",
    Level.PROTOCOL: "the general protocol",
    Level.SIGN: "a sign that others show too",
    Level.HANDOUT: "an announcement",
    Level.PROOF: "proof",
}


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)


def _span(versions: Collection[str]) -> str:
    """Versions in order; more than two that follow each other by the first and the last."""
    listed = [version for version in VERSIONS if version in versions]
    first = VERSIONS.index(listed[0]) if listed else 0
    if len(listed) > 2 and listed == list(VERSIONS[first : first + len(listed)]):
        return f"{listed[0]} to {listed[-1]}"
    return _either(listed)


def _allows(words: tuple[str, ...], known: frozenset[str], candidate: Candidate) -> bool:
    """Whether a host with these known roles may stand where the path wants one of these words."""
    if not known or ANY in words or _exact(words, known):
        return True
    if "exchange-server" in words and any(known & _ROLES_OF_VERSION[version] for version in candidate.form.versions):
        return True
    if "exchange-server" in known and not EXCHANGE_ROLES.isdisjoint(words):
        return True
    return not PERSONS.isdisjoint(words) and not PERSONS.isdisjoint(known)


def misplaced(rulebook: Rulebook, facts: Facts) -> list[tuple[Candidate, tuple[bool, bool]]]:
    """What the bytes and the port say it is, where the known roles allow none of that: documented ways of which one
    side is as it should be and the other isn't, with whether client and server are. One is an Exchange server."""
    if EXCHANGE_ROLES.isdisjoint(facts.client_roles | facts.server_roles):
        return []
    found = [match for match in matches(rulebook, facts) if match.speech.level > Level.PORT and match.on_port]
    best = max((match.speech.level for match in found), default=Level.PORT)
    right = [match.candidate for match in found if match.speech.level is best]
    versions, ways = _versions_of_both(facts), []
    for each in right:
        if _right_version(each, versions):
            fits = _roles_allow(each, facts)
            if all(fits):
                return []
            if any(fits):
                ways.append((each, fits))
    return ways


def _roles_allow(candidate: Candidate, facts: Facts) -> tuple[bool, bool]:
    """Whether client and server may stand there."""
    return (
        _allows(candidate.clients, facts.client_roles, candidate),
        _allows(candidate.servers, facts.server_roles, candidate),
    )


@lru_cache(maxsize=16_384)
def _exact(words: tuple[str, ...], known: frozenset[str]) -> bool:
    return not known.isdisjoint(words) or any(not _INCLUDES.get(role, frozenset()).isdisjoint(words) for role in known)


def agrees(role: str, known: frozenset[str]) -> bool:
    """Whether a host that is known to have some roles may also show this one without contradicting them."""
    if role in known or any(role in _INCLUDES.get(word, ()) for word in known):
        return True
    if role in EXCHANGE_ROLES and not known.isdisjoint(_ABROAD):
        return True
    if "exchange-server" in (role, *known):
        return role in EXCHANGE_ROLES and not EXCHANGE_ROLES.isdisjoint(known)
    return role in PERSONS and not PERSONS.isdisjoint(known)


def _right_version(candidate: Candidate, known: frozenset[str]) -> bool:
    """In a mixed organisation a path belongs to the version of either end. known: versions of both."""
    return not known or not known.isdisjoint(candidate.form.versions)


def _versions_of_both(facts: Facts) -> frozenset[str]:
    """Known versions of the organisation's ends; those of somebody else's host count where no other is known."""
    sides = ((facts.client_roles, facts.client_versions), (facts.server_roles, facts.server_versions))
    ours = [versions for roles, versions in sides if not roles or not roles <= _ABROAD]
    return frozenset().union(*ours) or facts.client_versions | facts.server_versions


def _server_need_not_prove(candidate: Candidate, facts: Facts) -> bool:
    """An unknown host that speaks a general protocol is not assumed to be an Exchange server:
    who knows only the client accepts only paths that lead out of Exchange."""
    if facts.server_roles or facts.client_roles.isdisjoint(EXCHANGE_ROLES):
        return True
    return any(word not in EXCHANGE_ROLES for word in candidate.servers)


def _least_contradicted(found: list[Match], facts: Facts) -> list[Match]:
    """What the bytes prove though the known roles forbid it: the client's role is given up first,
    then the server's, then the versions."""
    for given_up in (
        facts._replace(client_roles=frozenset()),
        facts._replace(client_roles=frozenset(), server_roles=frozenset()),
    ):
        versions = _versions_of_both(given_up)
        fitting = [match for match in found if _plausible(match, given_up, versions)]
        if fitting:
            return fitting
    return found


# ---- hosts that make no difference -------------------------------------------------------


@lru_cache(maxsize=1024)
def _asked(sides: frozenset[tuple[str, ...]]) -> frozenset[str]:
    """Which of the roles `PERSONS`, and of `ANY`, the words of paths name for one side."""
    return frozenset(role for role in (*PERSONS, ANY) if any(_exact(words, frozenset({role})) for words in sides))


def standing_for(known: frozenset[str], asked: frozenset[str] = frozenset()) -> frozenset[str]:
    """What stands for known roles where of persons' only some are asked for (`Judgement.asked`).

    A workstation has many roles, of which a path asks for one or two. Hosts for which the same stands get the same
    decision. Where any host may stand, the only role of one is told.
    """
    idle = (known & PERSONS) - asked
    return (known - idle) | {ANY} if idle and (len(known) > 1 or ANY not in asked) else known


# ---- certainty -----------------------------------------------------------------------------


def _certainty(rulebook: Rulebook, fitting: list[Match], level: Level, facts: Facts) -> str | None:
    if level is Level.PROOF:
        return "certain"
    if level is Level.HANDOUT:
        return "strong"
    server_known = not facts.server_roles.isdisjoint(EXCHANGE_ROLES)
    client_known = not facts.client_roles.isdisjoint(EXCHANGE_ROLES)
    both_known = bool(facts.client_roles and facts.server_roles)
    if both_known and level > Level.PORT and (server_known or client_known or _named(fitting, level)):
        return "strong"
    said_enough = level > Level.PROTOCOL or (level is Level.PROTOCOL and facts.protocol not in _ANYBODYS)
    one_known = server_known or (client_known and (both_known or said_enough))
    dedicated = (facts.transport, facts.server_port) in rulebook.dedicated_ports and any(m.on_port for m in fitting)
    return "weak" if one_known or dedicated or any(match.speech.hint for match in fitting) else None


_ANYBODYS: Final = frozenset({"tls", "http", "smb"})
"""Protocols in which every server calls all sorts of others: with an unknown one they say nothing of Exchange."""


def _named(fitting: list[Match], level: Level) -> bool:
    """Whether a sign and the path's own words agree on two hosts of which neither is an Exchange server
    (Outlook asking a global catalog for the address book)."""
    return level is Level.SIGN and any(ANY not in (*m.candidate.clients, *m.candidate.servers) for m in fitting)


def _absence(rulebook: Rulebook, facts: Facts) -> str:
    """unmatched: what an Exchange host says in a protocol that Exchange speaks, or in none that is known."""
    if facts.condition:
        return facts.condition
    foreign = windows_interfaces(rulebook, facts) or facts.protocol not in (None, "dcerpc", *rulebook.protocols)
    return "not-exchange" if foreign or facts.server_roles.isdisjoint(EXCHANGE_ROLES) else "unmatched"


# ---- the label -----------------------------------------------------------------------------


def _label(rulebook: Rulebook, facts: Facts, fitting: tuple[Match, ...], certainty: str) -> Decision:
    known = _versions_of_both(facts)
    versions = _versions(rulebook, facts, fitting, known)
    ahead = [match for match in fitting if _is_exact(match.candidate, facts)] or fitting
    first = _single(ahead, known)
    paths = dict.fromkeys(([first] if first else []) + [match.candidate.path.id for match in (*ahead, *fitting)])
    return Decision(
        data_paths=tuple(paths),
        data_path=first,
        client_role=_role({match.candidate.clients for match in ahead}, facts.client_roles),
        server_role=_role({match.candidate.servers for match in ahead}, facts.server_roles),
        exchange_versions=versions,
        certainty=certainty,
        firewall_rules=_firewall_rules(rulebook, facts, ahead) if "2010" in versions else (),
        basis=_basis(fitting, facts),
    )


def _is_exact(candidate: Candidate, facts: Facts) -> bool:
    """Whether the path names a role that is known, on each side where one is known."""
    return _names(candidate.clients, facts.client_roles) and _names(candidate.servers, facts.server_roles)


@lru_cache(maxsize=16_384)
def _names(words: tuple[str, ...], known: frozenset[str]) -> bool:
    return not known or ANY in words or _exact(words, known) or known <= EXCHANGE_ROLES


def _single(ahead: Sequence[Match], known: frozenset[str]) -> str | None:
    """The one path of which all others are parts, if there is one."""
    reach: dict[str, set[str]] = {}
    parts: dict[str, str] = {}
    for match in ahead:
        path = match.candidate.path
        reach.setdefault(path.id, set()).update(_narrowed(match.candidate.form.versions, known))
        parts[path.id] = path.part_of
    whole = [each for each in reach if not _within(each, reach, parts)]
    return whole[0] if len(whole) == 1 else None


def _within(path: str, reach: dict[str, set[str]], parts: dict[str, str]) -> bool:
    """A part gives way to its whole where the whole exists in all versions that the part may be of."""
    whole = parts[path]
    return whole in reach and reach[path] <= reach[whole]


@lru_cache(maxsize=4096)
def _narrowed(versions: Collection[str], known: frozenset[str]) -> frozenset[str]:
    """Those versions that are known, or all if none is."""
    return known.intersection(versions) or frozenset(versions)


def _versions(rulebook: Rulebook, facts: Facts, found: Iterable[Match], known: frozenset[str]) -> tuple[str, ...]:
    fit = _narrowed(frozenset().union(*(match.candidate.form.versions for match in found)), known)
    for uuid, version in facts.interfaces:
        interface = rulebook.interface(uuid, version)
        if interface and interface.exchange_only and interface.versions:
            fit = fit.intersection(interface.versions) or fit
    return tuple(version for version in VERSIONS if version in fit)


def _role(sides: set[tuple[str, ...]], known: frozenset[str]) -> str | None:
    """The one word that all paths agree on; exchange-server where all that is sure is that it is one."""
    words = frozenset[str]().union(*(_played(side, known) for side in sides))
    if len(words) == 1:
        return next((word for word in words if word != ANY), None)
    return "exchange-server" if words and words <= EXCHANGE_ROLES else None


@lru_cache(maxsize=16_384)
def _played(side: tuple[str, ...], known: frozenset[str]) -> frozenset[str]:
    """Roles that a host which is known to have some may play where a path wants one of these words."""
    narrowed = {role for role in known if role in side or not _INCLUDES.get(role, frozenset()).isdisjoint(side)}
    if narrowed:
        return frozenset(narrowed)
    if not EXCHANGE_ROLES.isdisjoint(side) and known and known <= EXCHANGE_ROLES:
        return frozenset(side) if known == {"exchange-server"} else known
    return known if ANY in side and len(known) == 1 else frozenset(side)


def _basis(found: Sequence[Match], facts: Facts) -> tuple[str, ...]:
    kinds = {match.speech.basis for match in found}
    if kinds & {"protocol", "sign"} and any(match.on_port for match in found):
        kinds.add("port")
    if facts.client_roles or facts.server_roles:
        kinds.add("roles")
    return tuple(kind for kind in ("interface", "resolved", "sign", "protocol", "port", "roles") if kind in kinds)


# ---- firewall rules ------------------------------------------------------------------------


def _firewall_rules(rulebook: Rulebook, facts: Facts, found: Sequence[Match]) -> tuple[str, ...]:
    """Rules of Exchange 2010 Setup that admit the conversation at its server; all of them are for TCP."""
    if facts.transport != "tcp":
        return ()
    roles = (facts.server_roles & EXCHANGE_ROLES) - {"exchange-server"} or {
        role for match in found if "2010" in match.candidate.form.versions for role in match.candidate.servers
    }
    dynamic_rpc = facts.protocol == "dcerpc" or any(match.speech.basis == "resolved" for match in found)
    return _admitting(rulebook, facts.server_port, frozenset(roles), dynamic_rpc)


@lru_cache(maxsize=4096)
def _admitting(rulebook: Rulebook, port: int, roles: frozenset[str], dynamic_rpc: bool) -> tuple[str, ...]:
    return tuple(rule.name for rule in rulebook.firewall_rules if _admits(rule, port, roles, dynamic_rpc))


def _admits(rule: FirewallRule, port: int, roles: frozenset[str], dynamic_rpc: bool) -> bool:
    if not roles & EXCHANGE_ROLES or not ({ANY, "exchange-server"} & {*roles, *rule.roles} or roles & set(rule.roles)):
        return False
    if rule.opens == "ports":
        return any(endpoint.covers("tcp", port) for endpoint in rule.endpoints)
    mapper = port == 135
    return {"any": True, "rpc-epmap": mapper, "dynamic-rpc": dynamic_rpc and not mapper}[rule.opens]
