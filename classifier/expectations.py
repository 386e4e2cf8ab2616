"""What the documents say of protection against what was seen, and the findings that follow from it.

Owns the three answers (conforms, deviates, can't be decided), the grammar of `findings.toml`, and the check of one
set of facts. A check is a pure function of those facts. Must not know packets, frames or tables.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from .errors import RulebookError
from .matching import Facts
from .model import SEVERITIES
from .rules import Form, Issue, Pattern, Rulebook
from .verdicts import Decision

CONFORMS, DEVIATES, UNDECIDED, UNDOCUMENTED = "conforms", "deviates", "undecided", "undocumented"
"""Answers. Undecided: the documents say something, the packets don't; it never counts as conforming."""

FILE: Final = "findings.toml"
NOTHING: Final = "-"
"""The word of a fact that has no value."""

FACTS: Final = (
    "transport", "port", "protocol", "data-path", "client-role", "server-role", "known-client", "known-server",
    "authentication", "encryption", "tls-version", "conn-state", "certainty", "absence", "resolved-by",
    "authentication-verdict", "encryption-verdict",
)  # fmt: skip
"""Facts that a finding may test, besides the signs of `vocabulary.toml`."""

EXPECTED: Final = ("documented-authentication", "documented-encryption", "documented-ports", "firewall-rules")
"""What a finding's text may name besides its facts."""

_DOCUMENTED: Final = (
    ("kerberos", {"kerberos", "exchange-server"}),
    ("exchangeserver", {"exchange-server", "kerberos"}),
    ("ntlm", {"ntlm"}),
    ("negotiate", {"kerberos", "ntlm"}),
    ("integrated", {"kerberos", "ntlm"}),
    ("basic", {"basic"}),
    ("plain text", {"basic"}),
    ("digest", {"digest"}),
    ("forms", {"forms"}),
    ("mtls", {"certificate", "direct-trust"}),
    ("mutual tls", {"certificate", "direct-trust"}),
    ("certificate", {"certificate"}),
    ("direct trust", {"direct-trust", "certificate"}),
    ("anonymous", {"anonymous", "none"}),
    ("by ip address", {"none", "anonymous"}),
    ("oauth", {"bearer"}),
)
"""Words of the documents' columns and what they look like on the wire. X-ANONYMOUSTLS carries Kerberos inside."""

_HIDES_AUTHENTICATION: Final = frozenset({"tls-implicit", "tls-upgrade"})
_CERTIFICATES: Final = frozenset({"certificate", "direct-trust"})
_ENCRYPTS: Final = frozenset(
    {"tls-implicit", "tls-upgrade", "rpc-privacy", "sasl-seal", "nego-stream", "smb3", "srtp", "ipsec"}
)
_UNPROTECTED_BY_NATURE: Final = frozenset({"epm", "dns", "kerberos", "ncacn-http"})
"""The mapper is asked without a name (MS-RPCE 2.2.1.2), DNS and the KDC exchange protect themselves otherwise
(RFC 4120), and RPC behind a proxy has the proxy's protection: the columns don't speak of them."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that findings are made from, for conversations that have it in common. signs: those that findings test."""

    facts: Facts
    decision: Decision
    authentication: str | None = None
    encryption: str | None = None
    tls_version: str | None = None
    conn_state: str | None = None
    signs: frozenset[tuple[str, str]] = frozenset()


Test = Mapping[str, tuple[Pattern, ...]]
"""Fact to patterns: every fact must have a word that fits one of its patterns."""


@dataclass(frozen=True, slots=True)
class FindingRule:
    """One check. reason: why it has that severity. when: one of these tests must hold, and none of `unless`."""

    id: str
    severity: str
    reason: str
    text: str
    when: tuple[Test, ...]
    unless: tuple[Test, ...]
    examples: tuple[str, ...]
    counterexamples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One finding of one set of facts. shown_by: signs of the test that held, as (field, value)."""

    id: str
    severity: str
    text: str
    shown_by: tuple[tuple[str, str], ...]


# ---- three answers ------------------------------------------------------------------------------------


def authentication_verdict(rulebook: Rulebook, seen: Observed) -> str:
    """Whether the authentication that was seen is one that the documents list as supported."""
    return _joint([_authentication_of(form, seen) for form in _forms(rulebook, seen)])


def encryption_verdict(rulebook: Rulebook, seen: Observed) -> str:
    """Whether what the documents call encrypted by default was seen encrypted."""
    return _joint([_encryption_of(form, seen) for form in _forms(rulebook, seen)])


def _forms(rulebook: Rulebook, seen: Observed) -> list[Form]:
    """What the documents say of the label; of all its paths where none is ahead."""
    decision = seen.decision
    if seen.facts.protocol in _UNPROTECTED_BY_NATURE or seen.facts.protocol is None:
        return []
    ids = [decision.data_path] if decision.data_path else decision.data_paths
    forms = [form for each in ids if each in rulebook.paths for form in rulebook.paths[each].forms]
    fitting = [form for form in forms if set(form.versions) & set(decision.exchange_versions)]
    return fitting or forms


def _joint(answers: Iterable[str]) -> str:
    """One answer for a set of paths: only what holds for each of them is decided."""
    said = set(answers) - {UNDOCUMENTED}
    return UNDOCUMENTED if not said else said.pop() if len(said) == 1 else UNDECIDED


def documented(text: str) -> frozenset[str]:
    """Words of `model.AuthenticationName` that a documented cell allows."""
    lower = text.lower()
    return frozenset(word for name, words in _DOCUMENTED if name in lower for word in words)


def _authentication_of(form: Form, seen: Observed) -> str:
    allowed = documented(f"{form.default_authentication}, {form.supported_authentication}")
    if not allowed:
        return UNDOCUMENTED
    if "netlogon" in form.application_protocol.lower():
        allowed |= {"netlogon"}  # its secure channel has a package of its own (MS-NRPC 3.3)
    said = seen.authentication
    if said in (None, "unknown-encrypted", "negotiate"):
        return CONFORMS if said == "negotiate" and allowed >= {"kerberos", "ntlm"} else UNDECIDED
    if said in allowed:
        return CONFORMS
    inside = seen.encryption in _HIDES_AUTHENTICATION and said in _CERTIFICATES
    return UNDECIDED if inside or (said in ("none", "anonymous") and seen.encryption != "none") else DEVIATES


def _encryption_of(form: Form, seen: Observed) -> str:
    default = form.encrypted_by_default
    if not default:
        return UNDOCUMENTED
    if seen.encryption in _ENCRYPTS or default.startswith("no"):
        return CONFORMS if seen.encryption else UNDECIDED
    if seen.encryption is None or not _says_all(seen):
        return UNDECIDED
    return DEVIATES if default == "yes" or default.startswith("yes (self-signed") else UNDECIDED


def _says_all(seen: Observed) -> bool:
    """Whether there was something to protect: mail or a logon in SMTP; in LDAP more than the rootDSE or a bind."""
    if seen.facts.protocol == "smtp":
        return seen.authentication is not None
    bases = [value for name, value in seen.signs if name == "ldap.base-dn"]
    return seen.facts.protocol != "ldap" or any(base != "rootDSE" for base in bases) or seen.authentication == "basic"


# ---- the check ------------------------------------------------------------------------------------------


def check(rulebook: Rulebook, rules: Iterable[FindingRule], seen: Observed) -> tuple[Found, ...]:
    """All findings of these facts, in the order of the rules."""
    words = words_of(rulebook, seen)
    found = []
    for rule in rules:
        test = next((test for test in rule.when if _holds(test, words)), None)
        if test is not None and not any(_holds(each, words) for each in rule.unless):
            shown = _shown(test, words)
            text = _worded(rulebook, rule.text, words | shown, seen)
            signs = tuple((name, value) for name, values in shown.items() for value in sorted(values))
            found.append(Found(rule.id, rule.severity, text, signs))
    return tuple(found)


def _shown(test: Test, words: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The signs by which a test held, without the others of their field."""
    return {
        name: frozenset(value for value in words[name] if any(pattern.matches(value) for pattern in patterns))
        for name, patterns in test.items()
        if name not in FACTS
    }


def words_of(rulebook: Rulebook, seen: Observed) -> dict[str, frozenset[str]]:
    """Every fact with its words; `-` where there is none."""
    facts, decision = seen.facts, seen.decision
    single = {
        "transport": facts.transport, "port": str(facts.server_port), "protocol": facts.protocol,
        "client-role": decision.client_role, "server-role": decision.server_role,
        "authentication": seen.authentication, "encryption": seen.encryption, "tls-version": seen.tls_version,
        "conn-state": seen.conn_state, "certainty": decision.certainty, "absence": decision.absence,
        "resolved-by": facts.resolved_kind,
        "authentication-verdict": authentication_verdict(rulebook, seen),
        "encryption-verdict": encryption_verdict(rulebook, seen),
    }  # fmt: skip
    several = {
        "data-path": frozenset(decision.data_paths), "known-client": facts.client_roles,
        "known-server": facts.server_roles,
    }  # fmt: skip
    words = {name: frozenset({value or NOTHING}) for name, value in single.items()}
    words |= {name: values or frozenset({NOTHING}) for name, values in several.items()}
    for name in {name for name, _ in seen.signs}:
        words[name] = frozenset(value for field, value in seen.signs if field == name)
    return words


def _holds(test: Test, words: Mapping[str, frozenset[str]]) -> bool:
    return all(
        any(pattern.matches(word) for pattern in patterns for word in words.get(name, ()))
        for name, patterns in test.items()
    )


_PLACE: Final = re.compile(r"\{([a-z0-9.-]+)\}")


def _worded(rulebook: Rulebook, text: str, words: Mapping[str, frozenset[str]], seen: Observed) -> str:
    """The rule's text with its places filled."""

    def fill(place: re.Match[str]) -> str:
        name = place[1]
        values = _expected(rulebook, seen, name) if name in EXPECTED else sorted(words.get(name, ()))
        return ", ".join(values) or "nothing"

    return _PLACE.sub(fill, text)


def _expected(rulebook: Rulebook, seen: Observed, name: str) -> list[str]:
    if name == "firewall-rules":
        return list(seen.decision.firewall_rules)
    ids = [seen.decision.data_path] if seen.decision.data_path else seen.decision.data_paths
    forms = [form for each in ids if each in rulebook.paths for form in rulebook.paths[each].forms]
    texts = {
        "documented-authentication": [form.default_authentication for form in forms],
        "documented-encryption": [form.encryption_mechanism for form in forms],
        "documented-ports": [str(port) for form in forms for port in (*form.endpoints, *form.implied_endpoints)],
    }[name]
    return list(dict.fromkeys(filter(None, texts)))


# ---- findings.toml --------------------------------------------------------------------------------------

_KEYS: Final = ("severity", "reason", "text", "when", "unless", "example", "counterexample")


@lru_cache(maxsize=8)
def load_findings(rulebook: Rulebook) -> tuple[FindingRule, ...]:
    """The findings beside the signatures; none if they have no such file. Raises RulebookError with every issue."""
    rules, issues = read_findings(rulebook)
    if issues:
        raise RulebookError("the findings have issues:\n" + "\n".join(map(str, issues)))
    return rules


def read_findings(rulebook: Rulebook) -> tuple[tuple[FindingRule, ...], list[Issue]]:
    """What can be read, and all issues of its form."""
    path = rulebook.directory / FILE
    if not path.is_file():
        return (), []
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return (), [Issue(FILE, 1, f"cannot be read: {error}")]
    issues: list[Issue] = []
    rules = []
    for name, table in tables.items():
        line = 1 + text[: max(text.find(f"[{name}]"), 0)].count("\n")
        problems = list(_problems(rulebook, table))
        issues += [Issue(FILE, line, f"{name}: {problem}") for problem in problems]
        if not problems:
            rules.append(_rule(name, table))
    return tuple(rules), issues


def _rule(name: str, table: Mapping[str, Any]) -> FindingRule:
    return FindingRule(
        name, table["severity"], table["reason"], table["text"],
        tuple(map(_test, _listed(table["when"]))), tuple(map(_test, _listed(table.get("unless", [])))),
        tuple(_listed(table["example"])), tuple(_listed(table["counterexample"])),
    )  # fmt: skip


def _test(raw: Mapping[str, Any]) -> Test:
    return {name: tuple(Pattern(text) for text in _listed(values)) for name, values in raw.items()}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _problems(rulebook: Rulebook, table: Any) -> Iterator[str]:
    if not isinstance(table, dict):
        yield "must be a table"
        return
    yield from (f"unknown key {key!r}{_hint(key, _KEYS)}" for key in table if key not in _KEYS)
    needed = [key for key in _KEYS if key != "unless"]
    yield from (f"{key} is missing" for key in needed if not table.get(key))
    severity = table.get("severity")
    if severity and severity not in SEVERITIES:
        yield f"unknown severity {severity!r}{_hint(severity, SEVERITIES)}"
    for key in ("reason", "text", "example", "counterexample"):
        if not all(isinstance(each, str) for each in _listed(table.get(key, ""))):
            yield f"{key} must be text"
    vocabulary = (*FACTS, *sorted(rulebook.sign_fields))
    for test in (*_listed(table.get("when", [])), *_listed(table.get("unless", []))):
        yield from _test_problems(test, vocabulary)
    for name in _PLACE.findall(str(table.get("text", ""))):
        if name not in (*vocabulary, *EXPECTED):
            yield f"unknown fact {name!r} in text{_hint(name, (*vocabulary, *EXPECTED))}"


def _test_problems(test: Any, vocabulary: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(test, dict) or not test:
        yield "a test must be a table of facts"
        return
    for name, values in test.items():
        if name not in vocabulary:
            yield f"unknown fact {name!r}{_hint(name, vocabulary)}"
        if not all(isinstance(each, str) for each in _listed(values)):
            yield f"{name} must be text"


def _hint(word: Any, vocabulary: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(vocabulary), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
