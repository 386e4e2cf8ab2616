"""Why this decision and no other: what each path that was thinkable failed on, and what would settle what is open.

Asks the same questions as `verdicts`, with the same functions, and again with one thing more known. Makes no decision
of its own, and words nothing but the objections.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from classifier.matching import Facts, Match, matches
from classifier.model import VERSIONS
from classifier.rules import ANY, Rulebook
from classifier.verdicts import Decision, decide, objection


class Settling(NamedTuple):
    """If one thing were known: what ("client", "server", "version"), which value, and the answer."""

    what: str
    value: str
    paths: tuple[str, ...]
    certainty: str


class Reasoning(NamedTuple):
    """titles: of the paths that the label names. refused: paths that the bytes or the port allowed, with what spoke
    against each, best first. settling: what would leave fewer paths, or give a label where there is none. roles: what
    is known of both hosts, by name of the side."""

    titles: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...]
    settling: tuple[Settling, ...]
    roles: tuple[tuple[str, frozenset[str]], ...]


@lru_cache(maxsize=1024)
def reason(rulebook: Rulebook, facts: Facts, decision: Decision) -> Reasoning:
    """Go through the decision once more, this time keeping what was put aside."""
    found = matches(rulebook, facts)
    titles = tuple((path, rulebook.paths[path].title) for path in decision.data_paths)
    refused, settling = _refused(found, facts, decision), _settling(rulebook, facts, decision, found)
    roles = ("client", facts.client_roles), ("server", facts.server_roles)
    return Reasoning(titles, tuple(refused), tuple(settling), roles)


def _refused(found: tuple[Match, ...], facts: Facts, decision: Decision) -> Iterator[tuple[str, str]]:
    level = max((match.speech.level for match in found if match.candidate.path.id in decision.data_paths), default=None)
    told = set(decision.data_paths)
    for match in sorted(found, key=lambda match: (-match.speech.level, match.candidate.order)):
        path = match.candidate.path.id
        if path not in told:
            told.add(path)
            yield path, objection(match, facts, level)


# ---- what would settle it -----------------------------------------------------------------------

_MOST_ANSWERS: Final = 4


def _settling(rulebook: Rulebook, facts: Facts, decision: Decision, found: tuple[Match, ...]) -> Iterator[Settling]:
    """Roles and versions that, were they known, would leave fewer paths; nothing where the label is one path."""
    if decision.data_path is not None:
        return
    answers = list(_by_roles(rulebook, facts, decision, found)) or list(_by_versions(rulebook, facts, decision))
    yield from answers[: 2 * _MOST_ANSWERS]


def _by_roles(rulebook: Rulebook, facts: Facts, decision: Decision, found: tuple[Match, ...]) -> Iterator[Settling]:
    sides = (("server", facts.server_roles, 1), ("client", facts.client_roles, 0))
    for side, known, number in sides:
        if known - {"exchange-server"}:
            continue
        words: dict[str, None] = {}
        for match in found:
            candidate = match.candidate
            if not decision.data_paths or candidate.path.id in decision.data_paths:
                words |= dict.fromkeys((candidate.clients, candidate.servers)[number])
        told = 0
        for word in words:
            if word not in (ANY, "exchange-server") and told < _MOST_ANSWERS:
                roles = frozenset({word})
                if side == "client":
                    answer = decide(rulebook, facts._replace(client_roles=roles))
                else:
                    answer = decide(rulebook, facts._replace(server_roles=roles))
                if _narrower(answer, decision):
                    told += 1
                    yield _settling_by(side, word, answer)


def _by_versions(rulebook: Rulebook, facts: Facts, decision: Decision) -> Iterator[Settling]:
    for version in VERSIONS:
        if version in decision.exchange_versions and len(decision.exchange_versions) > 1:
            answer = decide(rulebook, facts._replace(server_versions=frozenset({version})))
            if _narrower(answer, decision):
                yield _settling_by("version", version, answer)


def _narrower(answer: Decision, decision: Decision) -> bool:
    if not answer.data_paths:
        return False
    fewer = len(answer.data_paths) < len(decision.data_paths) or answer.data_path is not None
    return not decision.data_paths or (fewer and set(answer.data_paths) <= set(decision.data_paths))


def _settling_by(what: str, value: str, answer: Decision) -> Settling:
    paths = (answer.data_path,) if answer.data_path else answer.data_paths
    return Settling(what, value, paths, answer.certainty or "")
