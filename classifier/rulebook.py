"""The signatures: finds `signatures/`, loads it, checks it; what it must look like is told in `signatures/README.md`.

Owns the vocabulary and the grammar of the TOML files, and reports every issue with file and line.
Must not know what the rules are used for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from . import errors, keeping
from .errors import RulebookError, hint
from .model import PROTOCOLS, RESOLUTION_KINDS, ROLES, VERSIONS
from .rules import (
    ANY,
    COLUMNS,
    RANKS,
    Act,
    Condition,
    DataPath,
    Endpoint,
    FirewallRule,
    Form,
    Issue,
    Pattern,
    Rank,
    RoleRule,
    RpcInterface,
    Rulebook,
    Service,
    describe,
    listing,
    parse_endpoint,
)
from .toml_files import parsed

__all__ = [
    "DataPath", "FirewallRule", "Issue", "RpcInterface", "Rulebook",
    "describe", "find_directory", "listing", "load", "read",
]  # fmt: skip

_Made = TypeVar("_Made")

_Contents = tuple[tuple[str, bytes | str], ...]
"""Names of files, and what is in them, or why it can't be read."""


def find_directory() -> Path:
    """The signatures shipped with this package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for directory in (package / "signatures", package.parent / "signatures"):
        if directory.is_dir():
            return directory
    raise RulebookError("no signatures found beside the package; reinstall it or name a directory with --signatures")


def load(directory: Path | None = None) -> Rulebook:
    """All signatures of a directory (default: those shipped).

    Those shipped are read once (`keeping`), as long as neither they nor what reads them change.
    Raises RulebookError, whose text lists every issue with file and line.
    """
    if directory is not None:
        return _whole(*read(directory))
    where = find_directory()
    return _shipped(where, _contents(where))


@lru_cache(maxsize=1)
def _shipped(where: Path, contents: _Contents) -> Rulebook:
    readers = [Path(errors.__file__).with_name(name).read_bytes() for name in ("model.py", "rules.py", "rulebook.py")]
    files = [text.encode() if isinstance(text, str) else text for file in contents for text in file]
    made_from = keeping.mark([str(where).encode(), str(sys.version_info).encode(), *readers, *files])
    return keeping.remembered("signatures", made_from, lambda: _whole(*_read(where, contents)))


def _whole(rulebook: Rulebook, issues: Sequence[Issue]) -> Rulebook:
    if issues:
        raise RulebookError("the signatures have issues:\n" + "\n".join(map(str, issues)))
    return rulebook


def read(directory: Path | None = None) -> tuple[Rulebook, list[Issue]]:
    """What can be read of a directory, and all issues of its form (examples are not run here: `verdicts.verify`)."""
    where = directory or find_directory()
    if not where.is_dir():
        raise RulebookError(f"{where}: not a directory of signatures")
    rulebook, issues = _read(where, _contents(where))
    return rulebook, list(issues)


def _contents(where: Path) -> _Contents:
    return tuple((path.name, _content(path)) for path in sorted(where.glob("*.toml")))


@lru_cache(maxsize=2)
def _read(where: Path, contents: _Contents) -> tuple[Rulebook, tuple[Issue, ...]]:
    """The same from the names and contents of its files. Who classifies again needs no new one if nothing changed."""
    if not contents:
        raise RulebookError(f"{where}: no .toml file in it")
    reader = _Reader()
    files = [_File.read(name, content, reader.issues) for name, content in contents]
    return reader.rulebook(files, where), tuple(sorted(set(reader.issues)))


def _content(path: Path) -> bytes | str:
    """What is in a file, or why it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return str(error)


class _File:
    """One TOML file: its tables, and its text to find line numbers in."""

    def __init__(self, name: str, text: str, tables: dict[str, Any]) -> None:
        self.name, self.text, self.tables = name, text, tables

    @classmethod
    def read(cls, name: str, content: bytes | str, issues: list[Issue]) -> _File:
        """The file; when it is no TOML, an empty one and an issue. content: as of `_content`."""
        if isinstance(content, str):
            issues.append(Issue(name, 1, f"cannot be read: {content}"))
            return cls(name, "", {})
        try:
            text = content.decode("utf-8").replace("\r\n", "\n")
            return cls(name, text, parsed(text))
        except UnicodeDecodeError as error:
            issues.append(Issue(name, 1, f"cannot be read: {error}"))
        except ValueError as error:
            line = re.search(r"line (\d+)", str(error))
            issues.append(Issue(name, int(line[1]) if line else text.count("\n") + 1, f"not TOML: {error}"))
        return cls(name, "", {})

    def line(self, table: str, key: str = "", part: int = 0) -> int:
        """Line of a table's header or, where it stands, of a key in it; part: its n-th `differs` comes first."""
        places = [found.span() for found in self._headers(table)]
        for start, end in (*places[part : part + 1], *places[:1]) if key else ():
            found = re.compile(rf"^\"?{re.escape(key)}\"?\s*=", re.MULTILINE).search(self.text, start, end)
            if found:
                return self.text.count("\n", 0, found.start()) + 1
        return self.text.count("\n", 0, places[0][0]) + 1 if places else 1

    def _headers(self, table: str) -> Iterator[re.Match[str]]:
        """The table and then its `differs`, each from its header to the next."""
        name = rf"(?:{re.escape(table)}|\"{re.escape(table)}\")"
        return re.finditer(rf"^\[(?:{name}\]|\[{name}\.)(?s:.*?)(?=^\[|\Z)", self.text, re.MULTILINE)


_FILES: Final = {
    "acts.toml": "acts", "findings.toml": "findings", "roles.toml": "roles", "rpc_interfaces.toml": "interfaces",
    "services.toml": "services", "vocabulary.toml": "vocabulary",
}  # fmt: skip
"""Files with a job of their own; every other file holds data paths, or firewall rules if its name says so."""


class _Reader:
    """Turns parsed TOML into a Rulebook, collecting every issue instead of stopping at the first."""

    def __init__(self) -> None:
        self.issues: list[Issue] = []
        self.sign_fields: frozenset[str] = frozenset()
        self.interface_names: frozenset[str] = frozenset()
        self.service_names: frozenset[str] = frozenset()
        self.act_names: frozenset[str] = frozenset()

    def rulebook(self, files: Sequence[_File], directory: Path) -> Rulebook:
        jobs: dict[str, list[_File]] = {}
        for file in files:
            job = "firewall" if file.name.startswith("firewall") else _FILES.get(file.name, "paths")
            jobs.setdefault(job, []).append(file)
        dedicated, disowning = self._vocabulary(jobs.get("vocabulary", []))
        interfaces = tuple(interface for file in jobs.get("interfaces", []) for interface in self._interfaces(file))
        self._check_interfaces(jobs.get("interfaces", []), interfaces)
        self.interface_names = frozenset(interface.name for interface in interfaces)
        services = self._named(jobs.get("services", []), self._service)
        self.service_names = frozenset(services)
        paths = self._named(jobs.get("paths", []), self._path)
        self._check_parts(jobs.get("paths", []), paths)
        rules = self._named(jobs.get("firewall", []), self._firewall_rule)
        acts = self._named(jobs.get("acts", []), self._act)
        self.act_names = frozenset(acts)
        roles = self._named(jobs.get("roles", []), self._role)
        return Rulebook(
            paths, services, interfaces, tuple(rules.values()),
            dedicated, disowning, self.sign_fields, directory, acts, tuple(roles.values()),
        )  # fmt: skip

    def _named(self, files: Sequence[_File], make: Callable[[_Table], _Made]) -> dict[str, _Made]:
        """name → object for the tables of these files; a name used twice is an issue."""
        found: dict[str, _Made] = {}
        for file in files:
            for name, table in file.tables.items():
                made = make(_Table(self.issues, file, name, table))
                if name in found:
                    self.issues.append(Issue(file.name, file.line(name), f"{name}: defined twice"))
                else:
                    found[name] = made
        return found

    # -- the kinds of tables --

    def _vocabulary(self, files: Sequence[_File]) -> tuple[frozenset[tuple[str, int]], tuple[Condition, ...]]:
        dedicated: set[tuple[str, int]] = set()
        disowning: tuple[Condition, ...] = ()
        for file in files:
            signs = _Table(self.issues, file, "signs", file.tables.get("signs", {}))
            self.sign_fields |= frozenset(signs.table)
            ports = _Table(self.issues, file, "dedicated_ports", file.tables.get("dedicated_ports", {}))
            dedicated |= {(e.transport, e.low) for key in ports.table for e in ports.endpoints([key])}
            others = _Table(self.issues, file, "somebody_else", file.tables.get("somebody_else", {}))
            disowning += tuple(self._condition(others, {name: others.table[name]}) for name in others.table)
        return frozenset(dedicated), disowning

    def _interfaces(self, file: _File) -> Iterator[RpcInterface]:
        for name, raw in file.tables.items():
            table = _Table(self.issues, file, name, raw)
            if "interfaces" in table.table:
                yield from self._interface_list(table)
            else:
                yield self._interface(table)

    def _interface(self, table: _Table) -> RpcInterface:
        table.allow("uuid", "version", "title", "category", "exchange_only", "neutral", "roles", "versions", "source")
        return RpcInterface(
            uuid=table.uuid(table.text("uuid")), version=table.text("version"), name=table.name,
            title=table.text("title"), category=table.text("category"),
            exchange_only=table.flag("exchange_only"), neutral=table.flag("neutral"),
            roles=table.words("roles", ROLES), versions=table.words("versions", VERSIONS), source=table.text("source"),
        )  # fmt: skip

    def _interface_list(self, table: _Table) -> Iterator[RpcInterface]:
        """A list of interfaces that are not Exchange's: one "uuid version name" a line, "-" for no version."""
        table.allow("interfaces", "source", "title")
        source = table.text("source")
        for line in table.text("interfaces").strip().splitlines():
            uuid, version, name = (*line.split(maxsplit=2), "", "")[:3]
            if not name:
                table.issue(f"{line!r} is not 'uuid version name'", "interfaces")
                continue
            version = "" if version == "-" else version
            yield RpcInterface(table.uuid(uuid), version, name, name, table.name, False, False, (), (), source)

    def _check_interfaces(self, files: Sequence[_File], interfaces: Sequence[RpcInterface]) -> None:
        """A UUID may stand for two interfaces only if their major versions tell them apart."""
        seen: set[tuple[str, str]] = set()
        for interface in interfaces:
            key = (interface.uuid, interface.major)
            if key in seen:
                file = files[0]
                line = file.text.count("\n", 0, file.text.rfind(interface.uuid)) + 1
                self.issues.append(
                    Issue(file.name, line, f"{interface.uuid}: listed twice with the same major version")
                )
            seen.add(key)

    def _service(self, table: _Table) -> Service:
        table.allow(*(name for name in Service._fields if name != "id"))
        return Service(
            id=table.name, title=table.text("title"), plain=tuple(table.plain()),
            proof=self._conditions(table, "proof"), hint=self._conditions(table, "hint"),
            mark=self._conditions(table, "mark"), unless=self._conditions(table, "unless"),
            interfaces=table.words("interfaces", self.interface_names),
            over=table.words("over", PROTOCOLS) or ("dcerpc",),
            unknown_interface=table.word("unknown_interface", ("", "mark", "plain")),
            handed_out_by=table.words("handed_out_by", RESOLUTION_KINDS), opaque=table.flag("opaque"),
        )  # fmt: skip

    def _conditions(self, table: _Table, key: str) -> tuple[Condition, ...]:
        return tuple(self._condition(table, each, key) for each in table.tables_of(key))

    def _condition(self, table: _Table, raw: Mapping[str, Any], key: str = "") -> Condition:
        condition = {}
        for name, values in raw.items():
            table.known(name, self.sign_fields, "sign", key)
            texts = values if isinstance(values, list) else [values]
            condition[name] = tuple(Pattern(text) for text in texts if table.is_text(text, key or name))
        return condition

    def _path(self, table: _Table) -> DataPath:
        table.allow(*_PATH_KEYS, *_FORM_KEYS)
        forms = self._forms(table)
        for key in ("title", "client", "server", "ports", "speaks", "source", "example", "counterexample"):
            table.require(key)
        return DataPath(
            id=table.name, rank=cast(Rank, table.word("rank", RANKS)), forms=tuple(forms),
            part_of=table.text("part_of"), source=table.text("source"),
            original_spelling=table.text("original_spelling"),
            examples=table.texts("example"), counterexamples=table.texts("counterexample"),
        )  # fmt: skip

    def _forms(self, table: _Table) -> list[Form]:
        """One form for each `differs`, and before them one for the versions that none of these claims."""
        overrides = table.tables_of("differs")
        parts = [_Table(self.issues, table.file, table.name, each, part) for part, each in enumerate(overrides, 1)]
        all_versions = table.words("versions", VERSIONS)
        claimed: set[str] = set()
        for part in parts:
            part.allow("in", *_FORM_KEYS)
            part.require("in")
            claimed.update(part.words("in", all_versions))
        forms = [self._form(table, tuple(version for version in all_versions if version not in claimed))]
        for part in parts:
            whole = _Table(self.issues, table.file, table.name, {**table.table, **part.table}, part.part)
            forms.append(self._form(whole, part.words("in", all_versions)))
        kept = [form for form in forms if form.versions]
        if not kept:
            table.issue("it has no version", "versions")
        return kept or forms

    def _form(self, form: _Table, versions: tuple[str, ...]) -> Form:
        columns = {column: form.text(column) for column in COLUMNS}
        return Form(
            versions=versions, title=form.text("title"),
            client_roles=form.words("client", (*ROLES, ANY)), server_roles=form.words("server", (*ROLES, ANY)),
            endpoints=tuple(form.endpoints(form.texts("ports"), "ports")),
            implied_endpoints=tuple(form.endpoints(form.texts("implied_ports"), "implied_ports")),
            speaks=form.words("speaks", self.service_names), both_ways=form.flag("both_ways"),
            notes=form.text("notes"), **columns,
        )  # fmt: skip

    def _act(self, table: _Table) -> Act:
        table.allow(*_ACT_KEYS)
        for key in ("title", "side", "source", "example", "counterexample"):
            table.require(key)
        if not any(table.table.get(key) for key in ("services", "plain", "interfaces")):
            table.issue("services, plain or interfaces is missing: no act is told by a port alone")
        return Act(
            id=table.name, title=table.text("title"),
            side=cast(Any, table.word("side", ("server", "client", "named"))),
            services=table.words("services", self.service_names), plain=tuple(table.plain()),
            interfaces=table.words("interfaces", self.interface_names),
            ports=tuple(table.endpoints(table.texts("ports"), "ports")),
            signs=self._conditions(table, "signs"), unless=self._conditions(table, "unless"),
            peers=table.words("peers", ROLES), versions=table.words("versions", VERSIONS), source=table.text("source"),
            examples=table.texts("example"), counterexamples=table.texts("counterexample"),
        )  # fmt: skip

    def _role(self, table: _Table) -> RoleRule:
        table.allow("role", "all", "any", "none", "versions", "outsider", "source", "example", "counterexample")
        for key in ("role", "source", "example", "counterexample"):
            table.require(key)
        if not table.table.get("all") and not table.table.get("any"):
            table.issue("all or any is missing")
        return RoleRule(
            id=table.name, role=table.word("role", ROLES), every=table.words("all", self.act_names),
            some=table.words("any", self.act_names), none=table.words("none", self.act_names),
            versions=table.words("versions", VERSIONS), outsider=table.flag("outsider"), source=table.text("source"),
            examples=table.texts("example"), counterexamples=table.texts("counterexample"),
        )  # fmt: skip

    def _check_parts(self, files: Sequence[_File], paths: Mapping[str, DataPath]) -> None:
        for file in files:
            for name, table in file.tables.items():
                if isinstance(table, dict) and "part_of" in table:
                    _Table(self.issues, file, name, table).known(table["part_of"], paths, "data path", "part_of")

    def _firewall_rule(self, table: _Table) -> FirewallRule:
        table.allow("name", "roles", "opens", "program", "original_spelling")
        opens = table.texts("opens")
        kind = opens[0] if opens and opens[0] in ("dynamic-rpc", "rpc-epmap", "any") else "ports"
        return FirewallRule(
            id=table.name, name=table.text("name"), roles=table.words("roles", (*ROLES, ANY)), opens=kind,  # type: ignore[arg-type]
            endpoints=tuple(table.endpoints(opens, "opens")) if kind == "ports" else (),
            program=table.text("program"), original_spelling=table.text("original_spelling"),
        )  # fmt: skip


_PATH_KEYS: Final = (
    "rank", "part_of", "original_spelling", "source", "example", "counterexample", "differs", "versions",
)  # fmt: skip
_ACT_KEYS: Final = (
    "title", "side", "services", "plain", "interfaces", "ports", "signs", "unless", "peers", "versions", "source",
    "example", "counterexample",
)  # fmt: skip
_FORM_KEYS: Final = ("title", "client", "server", "ports", "implied_ports", "speaks", "both_ways", "notes", *COLUMNS)

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class _Table:
    """One TOML table with typed, checked access; whatever is wrong becomes an issue at its line."""

    def __init__(self, issues: list[Issue], file: _File, name: str, table: Any, part: int = 0) -> None:
        self.issues, self.file, self.name, self.part = issues, file, name, part
        self.table: dict[str, Any] = table if isinstance(table, dict) else {}
        if not isinstance(table, dict):
            self.issue("must be a table")

    def issue(self, text: str, key: str = "") -> None:
        self.issues.append(Issue(self.file.name, self.file.line(self.name, key, self.part), f"{self.name}: {text}"))

    def known(self, word: Any, vocabulary: Iterable[str], what: str, key: str = "") -> bool:
        """Whether the word is in the vocabulary; if not, an issue with the nearest one."""
        if isinstance(word, str) and word in vocabulary:
            return True
        self.issue(f"unknown {what} {word!r}{hint(word, vocabulary)}", key)
        return False

    def allow(self, *keys: str) -> None:
        for each in self.table:
            self.known(each, keys, "key", each)

    def require(self, key: str) -> None:
        if not self.table.get(key):
            self.issue(f"{key} is missing")

    def is_text(self, value: Any, key: str) -> bool:
        if not isinstance(value, str):
            self.issue(f"{key} must be text, not {value!r}", key)
        return isinstance(value, str)

    def text(self, key: str) -> str:
        value = self.table.get(key, "")
        return cast(str, value) if self.is_text(value, key) else ""

    def flag(self, key: str) -> bool:
        value = self.table.get(key, False)
        if not isinstance(value, bool):
            self.issue(f"{key} must be true or false, not {value!r}", key)
        return value is True

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; one text stands for a list of one."""
        value = self.table.get(key, [])
        values = value if isinstance(value, list) else [value]
        return tuple(each for each in values if isinstance(each, str) or self.is_text(each, key))

    def word(self, key: str, vocabulary: Sequence[str]) -> str:
        value = self.table.get(key, vocabulary[0])
        return value if self.known(value, vocabulary, key, key) else vocabulary[0]

    def words(self, key: str, vocabulary: Iterable[str]) -> tuple[str, ...]:
        return tuple(each for each in self.texts(key) if each in vocabulary or self.known(each, vocabulary, key, key))

    def tables_of(self, key: str) -> list[dict[str, Any]]:
        """A list of tables; one table stands for a list of one."""
        value = self.table.get(key, [])
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in values):
            self.issue(f"{key} must be a list of tables", key)
        return [each for each in values if isinstance(each, dict)]

    def uuid(self, text: str) -> str:
        if not _UUID.fullmatch(text):
            self.issue(f"{text!r} is not a UUID in lower case", "uuid")
        return text

    def endpoints(self, texts: Iterable[str], key: str = "") -> Iterator[Endpoint]:
        for text in texts:
            endpoint = parse_endpoint(text)
            if endpoint is None:
                self.issue(f"{text!r} is no endpoint; write '25/tcp', '16000-17000/tcp', 'dynamic-rpc/tcp'", key)
            else:
                yield endpoint

    def plain(self) -> Iterator[tuple[str, int]]:
        for text in self.texts("plain"):
            protocol, _, port = text.partition(":")
            if self.known(protocol, PROTOCOLS, "protocol", "plain"):
                if port and not (port.isdecimal() and 0 < int(port) <= 65_535):
                    self.issue(f"{text!r}: {port!r} is no port", "plain")
                else:
                    yield protocol, int(port or 0)
