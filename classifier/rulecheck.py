"""Runs the examples that signatures carry: each must come out as written.

Owns the notation of examples (signatures/README.md, "Examples"). Must not decide anything itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from . import roles
from .expectations import Observed, Remark
from .findings import ADDRESSES, REMARKS, Case, Checklist, FindingRule, networks_of, read_findings, read_policy, within
from .matching import acts_in
from .model import PROTOCOLS, ROLES
from .rulebook import read
from .rules import Act, DataPath, Issue, RoleRule, Rulebook, parse_endpoint
from .verdicts import Facts, decide


def verify(directory: Path | None = None) -> list[Issue]:
    """All issues of a directory of signatures: of its form, and of examples that do not come out as written."""
    rulebook, issues = read(directory)
    if not issues:
        rules, issues = read_findings(rulebook)
        issues = [*issues, *_example_issues(rulebook), *_finding_issues(rulebook, rules, _files(rulebook.directory))]
    return sorted(issues)


def verify_policy(path: Path, directory: Path | None = None) -> list[Issue]:
    """All issues of a user's own findings, for the signatures of a directory: of form, and of their examples."""
    rulebook, issues = read(directory)
    if not issues:
        rules, issues = read_policy(rulebook, path)
        issues = [*issues, *_finding_issues(rulebook, rules, _places([path]))]
    return sorted(issues)


def _finding_issues(
    rulebook: Rulebook, rules: Iterable[FindingRule], places: Mapping[tuple[str, str], tuple[str, int]]
) -> Iterable[Issue]:
    for rule in rules:
        for key, texts, expected in (("example", rule.examples, True), ("counterexample", rule.counterexamples, False)):
            for text in texts:
                problem = _finding_problem(rulebook, rule, text, expected)
                if problem:
                    file, line = places.get((rule.id, key), ("", 1))
                    yield Issue(file, line, f"{rule.id}: {key} {text!r} {problem}")


def _finding_problem(rulebook: Rulebook, rule: FindingRule, text: str, expected: bool) -> str | None:
    try:
        found = bool(Checklist(rulebook, (rule,)).check(Case.of(rulebook, observed_of_example(rulebook, text, rule))))
    except ValueError as error:
        return f"cannot be read: {error}"
    return None if found is expected else "gives no finding" if expected else "gives the finding"


_OBSERVED_WORDS: Final = {
    "authentication": "authentication", "encryption": "encryption", "tls-version": "tls_version",
    "conn-state": "conn_state", "server-said": "server_said", "certificate": "certificate",
    "client-source": "client_source", "server-source": "server_source",
}  # fmt: skip
_EXTRA_WORDS: Final = (*_OBSERVED_WORDS, *ADDRESSES, *REMARKS)


def observed_of_example(rulebook: Rulebook, text: str, rule: FindingRule) -> Observed:
    """What an example of a finding says was seen: the facts of an example, and words for the rest.

    Raises ValueError as `facts_of_example` does, and for an address that is none.
    """
    words = shlex.split(text)
    own = [word.split("=", 1) for word in words[5:] if word.partition("=")[0] in _EXTRA_WORDS]
    rest = [word for word in words if word.partition("=")[0] not in _EXTRA_WORDS]
    facts = facts_of_example(rulebook, shlex.join(rest))
    seen: dict[str, Any] = {_OBSERVED_WORDS[key]: value for key, value in own if key in _OBSERVED_WORDS}
    networks = networks_of([rule])
    for key, value in own:
        if key in ADDRESSES:
            seen[f"{key.partition('-')[0]}_networks"] = within(networks, value)
    remarks = tuple(Remark(key, value) for key, value in own if key in REMARKS)
    return Observed(facts, decide(rulebook, facts), signs=facts.signs, remarks=remarks, **seen)


def _example_issues(rulebook: Rulebook) -> Iterable[Issue]:
    places = _files(rulebook.directory)
    kinds: tuple[tuple[Iterable[Example], Callable[..., str | None]], ...] = (
        (rulebook.paths.values(), _example_problem),
        (rulebook.acts.values(), _act_problem),
        (rulebook.roles, _role_problem),
    )
    for owners, problem_of in kinds:
        for owner in owners:
            examples = [("example", text, True) for text in owner.examples]
            examples += [("counterexample", text, False) for text in owner.counterexamples]
            for key, text, expected in examples:
                problem = problem_of(rulebook, owner, text, expected)
                if problem:
                    file, line = places.get((owner.id, key), ("", 1))
                    yield Issue(file, line, f"{owner.id}: {key} {text!r} {problem}")


Example = DataPath | Act | RoleRule
"""What carries examples."""


def _act_problem(rulebook: Rulebook, act: Act, text: str, expected: bool) -> str | None:
    """The conversation of an example shows the act, as far as it doesn't ask for peers."""
    try:
        facts = facts_of_example(rulebook, text)
    except ValueError as error:
        return f"cannot be read: {error}"
    labelled = decide(rulebook, facts).certainty in ("certain", "strong")
    if (act in acts_in(rulebook, facts, labelled=labelled)) is expected:
        return None
    return "does not show the act" if expected else "shows the act"


def _role_problem(rulebook: Rulebook, rule: RoleRule, text: str, expected: bool) -> str | None:
    """The acts of an example make the role, or don't; a word version=2010+2013 says what the host may be of."""
    words = text.split()
    acts = frozenset(word for word in words if "=" not in word)
    versions = frozenset(version for word in words if "=" in word for version in word.partition("=")[2].split("+"))
    unknown = [act for act in acts if act not in rulebook.acts]
    if unknown or any("=" in word and not word.startswith("version=") for word in words):
        return f"cannot be read: unknown act {unknown[0]!r}" if unknown else "cannot be read: write version=2010"
    if roles.holds(rule, acts, versions) is expected:
        return None
    return f"does not make a host {rule.role}" if expected else f"makes a host {rule.role}"


def _example_problem(rulebook: Rulebook, path: DataPath, text: str, expected: bool) -> str | None:
    try:
        decision = decide(rulebook, facts_of_example(rulebook, text))
    except ValueError as error:
        return f"cannot be read: {error}"
    if (path.id in decision.data_paths) is expected:
        return None
    got = ", ".join(decision.data_paths) or decision.absence
    return f"gives {got}" if expected else f"matches ({decision.certainty})"


def _files(directory: Path) -> dict[tuple[str, str], tuple[str, int]]:
    return _places(sorted(directory.glob("*.toml")))


def _places(files: Iterable[Path]) -> dict[tuple[str, str], tuple[str, int]]:
    """(table, key) → file and line where that key stands."""
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for file in files:
        table = ""
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("["):
                table = line.strip("[] \"'")
            elif "=" in line and line[0].isalpha():
                places.setdefault((table, line.partition("=")[0].strip()), (file.name, number))
    return places


_INTERFACE_WORDS: Final = {"accepts": "interfaces", "offers": "offered", "asks": "asked", "handed-out": "resolved"}
_PLAIN_WORDS: Final = {"condition": "condition", "resolved-kind": "resolved_kind"}
_VERSION_WORDS: Final = {"version": "server_versions", "client-version": "client_versions"}


def facts_of_example(rulebook: Rulebook, text: str) -> Facts:
    """The facts written `CLIENT > SERVER PORT PROTOCOL [word=value …]` (README.md, "Examples").

    Raises ValueError, in words for the writer, when the text does not follow the notation.
    """
    words = shlex.split(text)
    if len(words) < 5 or words[1] != ">":
        raise ValueError("write 'client > server port/transport protocol [word=value ...]'")
    client, _, server, port, protocol, *rest = words
    endpoint = parse_endpoint(port)
    if endpoint is None or endpoint.kind != "port" or endpoint.low != endpoint.high:
        raise ValueError(f"{port!r} is no port such as 25/tcp")
    if protocol != "-" and protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}")
    facts = Facts(
        transport=endpoint.transport, server_port=endpoint.low, protocol=None if protocol == "-" else protocol,
        client_roles=_example_roles(client), server_roles=_example_roles(server),
    )  # fmt: skip
    for word in rest:
        key, _, value = word.partition("=")
        facts = _with_word(rulebook, facts, key, value)
    return facts


def _example_roles(word: str) -> frozenset[str]:
    roles = frozenset() if word == "?" else frozenset(word.split("+"))
    if not roles <= frozenset(ROLES):
        raise ValueError(f"unknown role {word!r}")
    return roles


def _with_word(rulebook: Rulebook, facts: Facts, key: str, value: str) -> Facts:
    if key in _INTERFACE_WORDS:
        name = _INTERFACE_WORDS[key]
        kind = "ept_map" if key == "handed-out" else facts.resolved_kind
        change: dict[str, Any] = {name: getattr(facts, name) | {_pair(rulebook, value)}, "resolved_kind": kind}
        return facts._replace(**change)
    if key in _VERSION_WORDS:
        change = {_VERSION_WORDS[key]: frozenset(value.split("+"))}
        return facts._replace(**change)
    if key in _PLAIN_WORDS:
        change = {_PLAIN_WORDS[key]: value}
        return facts._replace(**change)
    if key not in rulebook.sign_fields:
        raise ValueError(f"unknown word {key!r}")
    return facts._replace(signs=facts.signs | {(key, value)})


def _pair(rulebook: Rulebook, name: str) -> tuple[str, str]:
    """(uuid, version) of an interface named in rpc_interfaces.toml, or of a UUID that no list knows."""
    for interface in rulebook.interfaces:
        if interface.name == name:
            return interface.uuid, interface.version
    uuid, _, version = name.partition("/")
    if len(uuid) != 36:
        raise ValueError(f"unknown interface {name!r}")
    return uuid, version or "1.0"
