"""What the documents say of protection against what was seen: conforms, deviates, or can't be decided.

Owns the three answers and the words for what the documents expect. Pure functions of one set of facts. Must not know
packets, frames or tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from .matching import Facts
from .placement import displacement, documented_protocols
from .rules import Form, Rulebook
from .verdicts import Decision

CONFORMS, DEVIATES, UNDECIDED, UNDOCUMENTED = "conforms", "deviates", "undecided", "undocumented"
"""Answers. Undecided: the documents say something, the packets don't; it never counts as conforming."""

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


_SAY_ALL_BY_AUTHENTICATION: Final = frozenset({"smtp", "http", "rpc-over-http", "pop3", "imap4", "nntp"})
"""Their inspectors leave the authentication open until somebody proved himself or was served without it."""


class Remark(NamedTuple):
    """What one conversation shows of one of its hosts, or of a host that it names, against the inventory.

    kind: "contradiction" or "unlisted". word: the role or version that shows. host: its address; listed: what the
    inventory says of it; act: what it was seen to do. frame: the frame that shows it, numbered as Wireshark does.
    """

    kind: str
    word: str
    host: str = "?"
    listed: str = ""
    act: str = ""
    frame: int | None = None


class Observed(NamedTuple):
    """All that findings are made from, for conversations that have it in common. signs: those that findings test.

    server_said: "nothing" where the server sent no payload, as far as the capture is whole; else "something".
    certificate: the server's when the conversation began: "valid", "expired" or "not-yet-valid"; None: none was seen.
    client_source, server_source: who says what the roles are, "inventory" or "traffic"; client_networks,
    server_networks: the networks that findings name and the address is in.
    """

    facts: Facts
    decision: Decision
    authentication: str | None = None
    encryption: str | None = None
    tls_version: str | None = None
    conn_state: str | None = None
    server_said: str | None = None
    certificate: str | None = None
    signs: frozenset[tuple[str, str]] = frozenset()
    client_source: str | None = None
    server_source: str | None = None
    client_networks: frozenset[str] = frozenset()
    server_networks: frozenset[str] = frozenset()
    remarks: tuple[Remark, ...] = ()


# ---- three answers ------------------------------------------------------------------------------------


def authentication_verdict(forms: Sequence[Form], seen: Observed) -> str:
    """Whether the authentication that was seen is one that the documents list as supported. forms: as of `forms_of`."""
    return _joint([_authentication_of(form, seen) for form in forms])


def encryption_verdict(forms: Sequence[Form], seen: Observed) -> str:
    """Whether what the documents call encrypted by default was seen encrypted."""
    return _joint([_encryption_of(form, seen) for form in forms])


def forms_of(rulebook: Rulebook, seen: Observed) -> Sequence[Form]:
    """What the documents say of the label; of all its paths where none is ahead."""
    decision = seen.decision
    if seen.facts.protocol in _UNPROTECTED_BY_NATURE or seen.facts.protocol is None:
        return []
    ids = [decision.data_path] if decision.data_path else decision.data_paths
    forms = [form for each in ids if each in rulebook.paths for form in rulebook.paths[each].forms]
    versions = frozenset(decision.exchange_versions)
    fitting = [form for form in forms if not versions.isdisjoint(form.versions)]
    return fitting or forms


def _joint(answers: Iterable[str]) -> str:
    """One answer for a set of paths: only what holds for each of them is decided."""
    said = set(answers) - {UNDOCUMENTED}
    return UNDOCUMENTED if not said else said.pop() if len(said) == 1 else UNDECIDED


@lru_cache(maxsize=1024)
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
    """Whether there was something to protect: mail, a logon or an answer; in LDAP more than the rootDSE or a bind.

    A request in clear that is sent on to HTTPS, or refused for want of a proof, is as the documents have it.
    """
    if seen.facts.protocol in _SAY_ALL_BY_AUTHENTICATION:
        return seen.authentication is not None
    bases = [value for name, value in seen.signs if name == "ldap.base-dn"]
    return seen.facts.protocol != "ldap" or any(base != "rootDSE" for base in bases) or seen.authentication == "basic"


# ---- what is expected -------------------------------------------------------------------------------------


def default_authentication(forms: Sequence[Form]) -> frozenset[str]:
    """Words of `model.AuthenticationName` that some document calls the default of what the label leaves open."""
    return frozenset().union(*(documented(form.default_authentication) for form in forms))


EXPECTED: Final = (
    "documented-authentication", "documented-encryption", "documented-ports", "documented-clients",
    "documented-servers", "documented-protocols", "firewall-rules",
)  # fmt: skip
"""What the texts of a finding may name besides facts."""


def expected(rulebook: Rulebook, seen: Observed, name: str) -> list[str]:
    """One of EXPECTED in words: of the label, and where roles are out of place, of what was expected there."""
    if name == "firewall-rules":
        return list(seen.decision.firewall_rules)
    if name == "documented-protocols":
        return sorted(documented_protocols(rulebook, seen.facts))
    if name in ("documented-clients", "documented-servers"):
        found = displacement(rulebook, seen.facts)
        return list(found.clients if name == "documented-clients" else found.servers)
    ids = [seen.decision.data_path] if seen.decision.data_path else seen.decision.data_paths
    forms = [form for each in ids if each in rulebook.paths for form in rulebook.paths[each].forms]
    texts = {
        "documented-authentication": [form.default_authentication for form in forms],
        "documented-encryption": [form.encryption_mechanism for form in forms],
        "documented-ports": [str(port) for form in forms for port in (*form.endpoints, *form.implied_endpoints)],
    }[name]
    return list(dict.fromkeys(filter(None, texts)))
