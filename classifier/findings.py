"""Findings: what each is told by, as data, and the check of one set of facts.

Owns the grammar of `findings.toml` and of a user's policy, which is the same. A check is a pure function of the facts.
Must not know packets, frames or tables.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from .errors import RulebookError, hint
from .expectations import (
    EXPECTED,
    Observed,
    Remark,
    authentication_verdict,
    default_authentication,
    encryption_verdict,
    expected,
    forms_of,
)
from .model import PERSONS, SEVERITIES
from .placement import displacement, port_speaks
from .rules import Issue, Pattern, Rulebook
from .toml_files import parsed

FILE: Final = "findings.toml"
PAGES: Final = "findings"
"""Folder beside that file with a page for each finding."""
NOTHING: Final = "-"
"""The word of a fact that has no value."""

ADDRESSES: Final = ("client-address", "server-address")
"""Facts whose patterns are networks or addresses."""

KNOWN_ROLES: Final = ("known-client", "known-server")

REMARKS: Final = ("contradiction", "unlisted")

FACTS: Final = (
    "transport", "port", "protocol", "data-path", "client-role", "server-role", "known-client", "known-server",
    "client-source", "server-source", "client-version", "server-version", "exchange-version", *ADDRESSES,
    "authentication", "encryption", "tls-version", "conn-state", "server-said", "certificate", "certainty", "absence",
    "unread", "resolved-by", "interface", "authentication-verdict", "encryption-verdict", "default-authentication",
    "misplaced", "misplaced-path", "port-speaks", *REMARKS,
)  # fmt: skip
"""Facts that a finding may test, besides the signs of `vocabulary.toml`."""

Test = Mapping[str, tuple[Pattern, ...]]
"""Fact to patterns: every fact must have a word that fits one of its patterns."""


class FindingRule(NamedTuple):
    """One check. reason: why it has that severity. text: what was seen; documented: what should have been, "" where no
    document says. when: one of these tests must hold, and none of `unless`. page: what to make of it, in Markdown.
    """

    id: str
    severity: str
    reason: str
    text: str
    documented: str
    when: tuple[Test, ...]
    unless: tuple[Test, ...]
    examples: tuple[str, ...]
    counterexamples: tuple[str, ...]
    page: str = ""

    @property
    def manual(self) -> str:
        """The finding in Markdown: severity and why, and its page."""
        return f"# {self.id}\n\nSeverity {self.severity}: {self.reason}\n\n{self.page}".rstrip()


class Found(NamedTuple):
    """One finding of one set of facts. shown_by: signs of the test that held, as (field, value); frame: where a remark
    that it stands on has one."""

    id: str
    severity: str
    text: str
    documented: str
    shown_by: tuple[tuple[str, str], ...]
    frame: int | None = None


# ---- the check ------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Facts and, of each, its words, which tests ask for; `-` where there is none."""

    seen: Observed
    words: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, rulebook: Rulebook, seen: Observed) -> Case:
        """Word the facts."""
        return cls(seen, _words_of(rulebook, seen))


class Checklist:
    """Rules to check many facts against: a rule is looked at only where the first fact of one of its tests fits."""

    def __init__(self, rulebook: Rulebook, rules: Iterable[FindingRule]) -> None:
        self._rulebook, self._rules = rulebook, tuple(rules)
        self._begins: dict[str, list[tuple[tuple[Pattern, ...], int]]] = {}
        for number, rule in enumerate(self._rules):
            for test in rule.when:
                name, patterns = next(iter(test.items()))
                self._begins.setdefault(name, []).append((patterns, number))
        self._near = cache(self._near_words)
        self._of_persons = [(_asks_persons(rule), _whoever(rule)) for rule in self._rules if any(_asks_persons(rule))]

    def persons_asked(self, case: Case) -> tuple[bool, bool]:
        """Whether what is found depends on which roles of a person's machine the client has, and the server."""
        asking = [sides for sides, tests in self._of_persons if any(_holds(test, case.words) for test in tests)]
        return any(client for client, _ in asking), any(server for _, server in asking)

    def check(self, case: Case) -> tuple[Found, ...]:
        """All findings of a case, in the order of the rules."""
        words = case.words
        near = {number for name in self._begins if name in words for number in self._near(name, words[name])}
        found = []
        for rule in (self._rules[number] for number in sorted(near)):
            test = next((test for test in rule.when if _holds(test, words)), None)
            if test is not None and not any(_holds(each, words) for each in rule.unless):
                found.append(_found(self._rulebook, rule, test, case))
        return tuple(found)

    def _near_words(self, name: str, words: frozenset[str]) -> tuple[int, ...]:
        """Numbers of the rules with a test that begins with this fact, and whose patterns these words fit."""
        return tuple(number for patterns, number in self._begins[name] if _fits(patterns, words))


def _found(rulebook: Rulebook, rule: FindingRule, test: Test, case: Case) -> Found:
    shown = _shown(test, case.words)
    remarks = [each for each in case.seen.remarks if each.kind in test]
    narrowed = Case(case.seen, {**case.words, **shown})
    text, documented = (_worded(rulebook, each, narrowed) for each in (rule.text, rule.documented))
    signs = tuple((name, value) for name, values in shown.items() for value in sorted(values))
    return Found(rule.id, rule.severity, text, documented, signs, next((each.frame for each in remarks), None))


def _shown(test: Test, words: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The signs by which a test held, without the others of their field."""
    return {
        name: frozenset(value for value in words[name] if any(pattern.matches(value) for pattern in patterns))
        for name, patterns in test.items()
        if name not in FACTS
    }


def _words_of(rulebook: Rulebook, seen: Observed) -> Mapping[str, frozenset[str]]:
    facts, decision, forms = seen.facts, seen.decision, forms_of(rulebook, seen)
    single = {
        "transport": facts.transport, "port": str(facts.server_port), "protocol": facts.protocol,
        "client-role": decision.client_role, "server-role": decision.server_role,
        "client-source": seen.client_source, "server-source": seen.server_source,
        "authentication": seen.authentication, "encryption": seen.encryption, "tls-version": seen.tls_version,
        "conn-state": seen.conn_state, "server-said": seen.server_said, "certificate": seen.certificate,
        "certainty": decision.certainty, "absence": decision.absence,
        "resolved-by": facts.resolved_kind, "port-speaks": port_speaks(rulebook, facts),
        "unread": facts.condition,
        "authentication-verdict": authentication_verdict(forms, seen),
        "encryption-verdict": encryption_verdict(forms, seen),
    }  # fmt: skip
    place = displacement(rulebook, facts)
    several: dict[str, Iterable[str]] = {
        "data-path": decision.data_paths, "known-client": facts.client_roles, "known-server": facts.server_roles,
        "client-version": facts.client_versions, "server-version": facts.server_versions,
        "exchange-version": decision.exchange_versions, "client-address": seen.client_networks,
        "server-address": seen.server_networks, "interface": _interfaces(rulebook, seen),
        "default-authentication": default_authentication(forms), "misplaced": place.sides,
        "misplaced-path": place.paths,
        **{kind: [each.word for each in seen.remarks if each.kind == kind] for kind in REMARKS},
    }  # fmt: skip
    words = {name: _alone(value or NOTHING) for name, value in single.items()}
    words |= {name: frozenset(values) or _alone(NOTHING) for name, values in several.items()}
    signs: dict[str, list[str]] = {}
    for name, value in seen.signs:
        signs.setdefault(name, []).append(value)
    return words | {name: frozenset(values) for name, values in signs.items()}


@lru_cache(maxsize=1024)
def _alone(word: str) -> frozenset[str]:
    return frozenset({word})


def _interfaces(rulebook: Rulebook, seen: Observed) -> Iterator[str]:
    """Short names of what was bound; the UUID where no list has it."""
    for uuid, version in seen.facts.interfaces | seen.facts.offered:
        interface = rulebook.interface(uuid, version)
        yield interface.name if interface else uuid


def _holds(test: Test, words: Mapping[str, frozenset[str]]) -> bool:
    for name, patterns in test.items():
        found = words.get(name)
        if found is None or not _fits(patterns, found):
            return False
    return True


def _asks_persons(rule: FindingRule) -> tuple[bool, bool]:
    """Whether a rule asks for persons' roles of the client, and of the server, or shows known roles."""
    shown = _PLACE.findall(rule.text + rule.documented)
    tested = {name for test in (*rule.when, *rule.unless) for name in test if _is_of_persons(name, test[name])}
    client, server = (name in tested or name in shown for name in KNOWN_ROLES)
    return client, server


def _whoever(rule: FindingRule) -> list[Test]:
    """The tests of a rule, but for what they ask of persons' roles."""
    return [
        {name: patterns for name, patterns in test.items() if not _is_of_persons(name, patterns)} for test in rule.when
    ]


def _is_of_persons(name: str, patterns: tuple[Pattern, ...]) -> bool:
    return name in KNOWN_ROLES and _fits(patterns, PERSONS)


def _fits(patterns: tuple[Pattern, ...], words: frozenset[str]) -> bool:
    """Whether one of these words fits one of the patterns."""
    for pattern in patterns:
        for word in words:
            if pattern.matches(word):
                return True
    return False


_MOST_WORDS: Final = 5
"""Words of one fact that a text shows; one more is shown too."""

_UNSAID: Final = {
    "documented-authentication": "authentication not said", "documented-encryption": "encryption not said",
    "documented-ports": "ports not said",
}  # fmt: skip
"""What stands where the documents leave a cell empty."""

_PLACE: Final = re.compile(r"\{([a-z0-9.-]+)\}")


def _worded(rulebook: Rulebook, text: str, case: Case) -> str:
    """A rule's text with its places filled."""
    seen, words = case

    def fill(place: re.Match[str]) -> str:
        name = place[1]
        if name in REMARKS:
            return "; ".join(_remark(each) for each in seen.remarks if each.kind == name)
        if name in EXPECTED:
            return ", ".join(expected(rulebook, seen, name)) or _UNSAID.get(name, "none")
        values = sorted(words.get(name, ()))
        more = len(values) - _MOST_WORDS
        return ", ".join(values if more <= 1 else [*values[:_MOST_WORDS], f"{more} more"]) or "nothing"

    return _PLACE.sub(fill, text)


def _remark(each: Remark) -> str:
    listed = f", by the inventory {each.listed}," if each.listed else ""
    return f"{each.host}{listed} acts as {each.word}" + (f": {each.act}" if each.act else "")


# ---- networks ---------------------------------------------------------------------------------------------


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks_of(rules: Iterable[FindingRule]) -> dict[str, Network]:
    """The networks that these rules name, by how they write them."""
    texts = {
        pattern.text
        for rule in rules
        for test in (*rule.when, *rule.unless)
        for name in ADDRESSES
        for pattern in test.get(name, ())
        if pattern.text != NOTHING
    }
    return {text: ipaddress.ip_network(text, strict=False) for text in sorted(texts)}


def within(networks: Mapping[str, Network], address: str) -> frozenset[str]:
    """Which of them an address is in."""
    if not networks:
        return frozenset()
    parsed = ipaddress.ip_address(address)
    return frozenset(text for text, network in networks.items() if parsed in network)


# ---- findings.toml and policies ---------------------------------------------------------------------------

_NEEDED: Final = ("severity", "reason", "text", "when")
_EXAMPLES: Final = ("example", "counterexample")
_KEYS: Final = (*_NEEDED, "documented", "unless", *_EXAMPLES)


@lru_cache(maxsize=8)
def load_findings(rulebook: Rulebook) -> tuple[FindingRule, ...]:
    """The findings beside the signatures; none if they have no such file. Raises RulebookError with every issue."""
    return _whole(*read_findings(rulebook), "the findings have issues")


def load_policy(rulebook: Rulebook, path: Path) -> tuple[FindingRule, ...]:
    """A user's own findings. Raises RulebookError with every issue of form."""
    own = {rule.id for rule in load_findings(rulebook)}
    rules, issues = read_policy(rulebook, path)
    issues += [Issue(path.name, 1, f"{rule.id}: this finding exists already") for rule in rules if rule.id in own]
    return _whole(rules, issues, f"policy {path} has issues")


def _whole(rules: tuple[FindingRule, ...], issues: list[Issue], complaint: str) -> tuple[FindingRule, ...]:
    if issues:
        raise RulebookError(f"{complaint}:\n" + "\n".join(map(str, sorted(issues))))
    return rules


def read_findings(rulebook: Rulebook) -> tuple[tuple[FindingRule, ...], list[Issue]]:
    """What can be read, and all issues of its form."""
    path = rulebook.directory / FILE
    if not path.is_file():
        return (), []
    rules, issues = _read(rulebook, path, needed=(*_NEEDED, *_EXAMPLES))
    return rules, [*issues, *_page_issues(rulebook.directory / PAGES, rules)]


def read_policy(rulebook: Rulebook, path: Path) -> tuple[tuple[FindingRule, ...], list[Issue]]:
    """A user's own findings, which need no examples, as far as they can be read, and all issues of form."""
    return _read(rulebook, path, needed=_NEEDED)


def _read(rulebook: Rulebook, path: Path, needed: tuple[str, ...]) -> tuple[tuple[FindingRule, ...], list[Issue]]:
    try:
        text = path.read_text(encoding="utf-8")
        tables = parsed(text)
    except (OSError, ValueError) as error:
        return (), [Issue(path.name, 1, f"cannot be read: {error}")]
    issues: list[Issue] = []
    rules = []
    for name, table in tables.items():
        line = 1 + text[: max(text.find(f"[{name}]"), 0)].count("\n")
        problems = list(_problems(rulebook, table, needed))
        issues += [Issue(path.name, line, f"{name}: {problem}") for problem in problems]
        if not problems:
            rules.append(_rule(name, table, path.parent / PAGES / f"{name}.md"))
    return tuple(rules), issues


def _page_issues(folder: Path, rules: Iterable[FindingRule]) -> Iterator[Issue]:
    """Where there are pages, each finding has one, and each page a finding."""
    if not folder.is_dir():
        return
    pages, ids = {path.stem for path in folder.glob("*.md")}, {rule.id for rule in rules}
    yield from (Issue(FILE, 1, f"{name}: {PAGES}/{name}.md is missing") for name in sorted(ids - pages))
    yield from (Issue(FILE, 1, f"{PAGES}/{name}.md belongs to no finding") for name in sorted(pages - ids))


def _rule(name: str, table: Mapping[str, Any], page: Path) -> FindingRule:
    return FindingRule(
        name, table["severity"], table["reason"], table["text"], table.get("documented", ""),
        tuple(map(_test, _listed(table["when"]))), tuple(map(_test, _listed(table.get("unless", [])))),
        tuple(_listed(table.get("example", []))), tuple(_listed(table.get("counterexample", []))),
        page.read_text(encoding="utf-8") if page.is_file() else "",
    )  # fmt: skip


def _test(raw: Mapping[str, Any]) -> Test:
    return {name: tuple(Pattern(text) for text in _listed(values)) for name, values in raw.items()}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _problems(rulebook: Rulebook, table: Any, needed: Iterable[str]) -> Iterator[str]:
    if not isinstance(table, dict):
        yield "must be a table"
        return
    yield from (f"unknown key {key!r}{hint(key, _KEYS)}" for key in table if key not in _KEYS)
    yield from (f"{key} is missing" for key in needed if not table.get(key))
    severity = table.get("severity")
    if severity and severity not in SEVERITIES:
        yield f"unknown severity {severity!r}{hint(severity, SEVERITIES)}"
    for key in ("reason", "text", "documented", *_EXAMPLES):
        if not all(isinstance(each, str) for each in _listed(table.get(key, ""))):
            yield f"{key} must be text"
    vocabulary = (*FACTS, *sorted(rulebook.sign_fields))
    for test in (*_listed(table.get("when", [])), *_listed(table.get("unless", []))):
        yield from _test_problems(test, vocabulary)
    for name in _PLACE.findall(f"{table.get('text')} {table.get('documented')}"):
        if name not in (*vocabulary, *EXPECTED):
            yield f"unknown fact {name!r} in text{hint(name, (*vocabulary, *EXPECTED))}"


def _test_problems(test: Any, vocabulary: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(test, dict) or not test:
        yield "a test must be a table of facts"
        return
    for name, values in test.items():
        if name not in vocabulary:
            yield f"unknown fact {name!r}{hint(name, vocabulary)}"
        elif not all(isinstance(each, str) for each in _listed(values)):
            yield f"{name} must be text"
        elif name in ADDRESSES:
            yield from _network_problems(name, _listed(values))


def _network_problems(name: str, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            if text != NOTHING:
                yield f"{name}: {error}"
