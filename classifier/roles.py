"""Acts of a host → the roles it plays and the versions it can be of.

The rules are data (`signatures/acts.toml`, `signatures/roles.toml`); here is how they are put together. Pure
functions of one host's acts; must not know addresses, conversations or how acts were seen (`acquaintance` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from classifier.model import EXCHANGE_ROLES
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


@lru_cache(maxsize=4096)
def versions_of(rulebook: Rulebook, acts: frozenset[str]) -> frozenset[str]:
    """Versions that all of these acts allow; empty when none of them tells, or when they contradict each other."""
    told = [versions for act in acts if (versions := rulebook.acts[act].versions)]
    return frozenset(told[0]).intersection(*told[1:]) if told else frozenset()


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
    found = dict(_found(rulebook, acts, versions, min(step, 1)))
    if len(EXCHANGE_ROLES & found.keys()) > 1:
        found.pop("exchange-server", None)
    if step == 2 and not EXCHANGE_ROLES & (known or found.keys()):
        _apply(_by_step(rulebook)[2], acts, versions, found)
    return found


@lru_cache(maxsize=4096)
def _found(
    rulebook: Rulebook, acts: frozenset[str], versions: frozenset[str], step: int
) -> Mapping[str, tuple[str, ...]]:
    """As `cast`, but for outsiders, and with all that is found of a role."""
    found = dict(_found(rulebook, acts, versions, step - 1)) if step else {}
    _apply(_by_step(rulebook)[step], acts, versions, found)
    return found


def _apply(rules: _Rules, acts: frozenset[str], versions: frozenset[str], found: dict[str, tuple[str, ...]]) -> None:
    for needed, rule in rules:
        if not needed.isdisjoint(acts) and holds(rule, acts, versions):
            found[rule.role] = tuple(dict.fromkeys((*found.get(rule.role, ()), *reasons(rule, acts))))
