"""Acts of a host → the roles it plays and the versions it can be of.

The rules are data (`signatures/acts.toml`, `signatures/roles.toml`); here is how they are put together. Pure
functions of one host's acts; must not know addresses, conversations or how acts were seen (`acquaintance` does).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from classifier.model import EXCHANGE_ROLES, VERSIONS
from classifier.rules import RoleRule, Rulebook

STEPS: Final = ("by acts alone", "by roles of peers", "outsiders")
"""The order in which rules are applied, each once; what a later step finds changes no earlier one."""


@lru_cache(maxsize=8)
def _by_step(rulebook: Rulebook) -> tuple[_Rules, _Rules, _Rules]:
    """The rules of each of STEPS."""
    steps: tuple[list[tuple[frozenset[str], RoleRule]], ...] = ([], [], [])
    for rule in rulebook.roles:
        asks_peers = any(rulebook.acts[act].peers for act in (*rule.every, *rule.some, *rule.none))
        steps[2 if rule.outsider else int(asks_peers)].append((frozenset(rule.some or rule.every[:1]), rule))
    return tuple(steps[0]), tuple(steps[1]), tuple(steps[2])


_Rules = tuple[tuple[frozenset[str], RoleRule], ...]
"""Rules, each with acts of which it needs one."""


def versions_of(rulebook: Rulebook, acts: Iterable[str]) -> frozenset[str]:
    """Versions that all of these acts allow; empty when none of them tells, or when they contradict each other."""
    fit, told = set(VERSIONS), False
    for act in acts:
        if rulebook.acts[act].versions:
            fit &= set(rulebook.acts[act].versions)
            told = True
    return frozenset(fit) if told else frozenset()


def holds(rule: RoleRule, acts: frozenset[str], versions: frozenset[str]) -> bool:
    """Whether a rule applies to a host with these acts that is known to be of one of these versions."""
    if rule.some and acts.isdisjoint(rule.some):
        return False
    if not acts.issuperset(rule.every) or not acts.isdisjoint(rule.none):
        return False
    return not rule.versions or (bool(versions) and versions.issubset(rule.versions))


def reasons(rule: RoleRule, acts: frozenset[str]) -> tuple[str, ...]:
    """The acts that a rule which applies stands on, in its own order."""
    return tuple(act for act in (*rule.every, *rule.some) if act in acts)


def cast(
    rulebook: Rulebook, acts: frozenset[str], versions: frozenset[str], known: frozenset[str], step: int
) -> dict[str, tuple[str, ...]]:
    """role → acts that it stands on, by the rules up to a step.

    known: roles from elsewhere (the inventory), which decide who is an outsider.
    """
    alone, by_peers, outside = _by_step(rulebook)
    found: dict[str, tuple[str, ...]] = {}
    _apply((*alone, *by_peers) if step else alone, acts, versions, found)
    if len(EXCHANGE_ROLES & found.keys()) > 1:
        found.pop("exchange-server", None)
    if step == 2 and not EXCHANGE_ROLES & (known or found.keys()):
        _apply(outside, acts, versions, found)
    return found


def _apply(rules: _Rules, acts: frozenset[str], versions: frozenset[str], found: dict[str, tuple[str, ...]]) -> None:
    for needed, rule in rules:
        if not needed.isdisjoint(acts) and holds(rule, acts, versions):
            found[rule.role] = tuple(dict.fromkeys((*found.get(rule.role, ()), *reasons(rule, acts))))
