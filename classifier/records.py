"""Records for people and programs: JSON lines, CSV, the terminal, a notebook, an explanation.

The one place where strangers' strings are made safe. Banners, names, annotations and file names may hold
anything; what leaves here holds no control characters, no characters that reorder or hide text, no
lone surrogates, no formula in CSV and no markup in HTML. Must not know where it is written to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from json.encoder import encode_basestring
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from rich.cells import cell_len, chop_cells

from classifier.fields import SIGNATURE_FIELDS, Coded, Column, Framed, Hole, Numbers, Texts, Times
from classifier.limits import NOTEBOOK_ROWS, RENDER_ROWS
from classifier.result import Table, fill, rfc3339

if TYPE_CHECKING:
    from classifier.lines import Dialect
    from classifier.rules import ListedSignature

_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
                   "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
"""What a spreadsheet may take for the beginning of a formula; full-width forms in some languages."""


def safe(text: str) -> str:
    r"""Text for a person's eyes, on one line: whatever would not print is shown as its escape, such as \x1b.

    That is what drives a terminal (C0, C1), reorders, joins or hides text (Unicode categories Cf, Zl, Zp), and
    what no UTF-8 can hold (Cs). A byte of a file name that is no UTF-8 (PEP 383) is shown as that byte.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _visible(ord(char)) for char in text)


def _visible(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unicode(value: Any) -> Any:
    """A value that any UTF-8 can hold: itself, with U+FFFD for each lone surrogate in its texts."""
    match value:
        case str():
            return value if value.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
        case list():
            return [unicode(item) for item in value]
        case dict():
            return {name: unicode(item) for name, item in value.items()}
    return value


# ---- JSON lines --------------------------------------------------------------------------


_HOLE: Final = f"hole {os.urandom(16).hex()} "
"""Stands in for a hole while JSON is made; no stranger's text can guess it."""

_HOLES: Final = re.compile(f'"{_HOLE}([0-9]+)"')

_NEXT: Final = f"{_HOLE}next"
"""Stands before each of several values."""


def _stand_in(value: Any) -> str:
    if isinstance(value, Hole):
        return f"{_HOLE}{value.index}"
    raise TypeError(f"no JSON for {type(value).__name__}")


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=_stand_in
).encode


def json_text(value: Any) -> str:
    """A value as JSON on one line, safe to show: what would not print is escaped, a lone surrogate is U+FFFD."""
    text = _encode(value)
    return text if text.isprintable() else _UNUSUAL.sub(_escaped, text)


_UNUSUAL: Final = re.compile("[^ -~]")


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    return r"\ufffd" if "\ud800" <= character <= "\udfff" else json.dumps(character)[1:-1]


def _json_texts(values: Sequence[Any]) -> list[str]:
    """`json_text` of each, as `lines` takes it. Values that are one object are encoded once, as are items that lists
    share, and all in one go."""
    from classifier.lines import mark

    if set(map(type, values)) == {str}:
        quoted = list(map(encode_basestring, values))
        if "".join(quoted).isprintable():
            return quoted
    own = dict(zip(map(id, values), values, strict=True))
    lists = [value if isinstance(value, list) else [value] for value in own.values()]
    flat = list(chain.from_iterable(lists))
    items = dict(zip(map(id, flat), flat, strict=True))
    together = json_text([each for item in items.values() for each in (_NEXT, item)])
    marked = _HOLES.sub(lambda hole: mark(int(hole[1])), together)
    texts = dict(zip(items, (text[:-1] for text in marked.split(f'"{_NEXT}",')[1:]), strict=True))
    joined = (",".join(map(texts.__getitem__, map(id, each))) for each in lists)
    written = {
        number: f"[{text}]" if isinstance(value, list) else text
        for (number, value), text in zip(own.items(), joined, strict=True)
    }
    return list(map(written.__getitem__, map(id, values)))


def json_dialect() -> Dialect:
    """How `lines` writes JSON."""
    from classifier.lines import Dialect

    return Dialect(
        before=lambda name, number: f"{',' if number else '{'}{json_text(name)}:",
        end="}\n",
        values=_json_texts,
        quote='"',
    )


def write_jsonl(table: Table, out: IO[bytes]) -> None:
    """Write each row as one JSON object in UTF-8. Raises OSError as `out` does."""
    _write(table, json_dialect(), out)


# ---- CSV ---------------------------------------------------------------------------------


_BARE: Final = re.compile(r"[\w.:/ ()\[\]{}'*\\<>-]*", re.ASCII)


def csv_cell(value: Any) -> str:
    """A value as one cell: null is empty, lists and objects are JSON, a text never becomes a formula."""
    return _cell(value, json_text(value))


def _cell(value: Any, encoded: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return _quoted(encoded)
    guard = "'" if value.lstrip(" ").startswith(_FORMULA) else ""
    return _quoted(guard + safe(value))


def _quoted(text: str) -> str:
    return text if _BARE.fullmatch(text) and text == text.strip() else '"' + text.replace('"', '""') + '"'


def csv_dialect() -> Dialect:
    """How `lines` writes CSV."""
    from classifier.lines import Dialect

    return Dialect(
        before=lambda _, number: "," if number else "",
        end="\n",
        values=lambda values: list(map(_cell, values, _json_texts(values))),
        quote="",
    )


def write_csv(table: Table, out: IO[bytes]) -> None:
    """Write a line of names and one line a row, in UTF-8 (RFC 4180 with LF). Raises OSError as `out` does."""
    out.write(",".join(map(csv_cell, table.columns)).encode() + b"\n")
    _write(table, csv_dialect(), out)


def _write(table: Table, dialect: Dialect, out: IO[bytes]) -> None:
    from classifier.lines import render

    for text in render(table.columns, dialect):
        out.write(text)


# ---- the terminal ------------------------------------------------------------------------


class View(NamedTuple):
    """What people see of a table: needs names the columns it reads, cells maps a heading to a row's text."""

    needs: tuple[str, ...]
    cells: Mapping[str, Callable[[Mapping[str, Any]], str]]


def side(row: Mapping[str, Any], which: str) -> str:
    """Address, port and role of one side, "client" or "server"."""
    address, role = row[f"{which}_ip"], row[f"{which}_role"]
    shown = f"[{address}]" if ":" in address else address
    return f"{shown}:{row[f'{which}_port']}" + (f" ({role})" if role else "")


def _protocol(row: Mapping[str, Any]) -> str:
    spoken = "/".join(filter(None, (row["transport"], row["protocol"])))
    source = row["resolved_by"]
    return f"{spoken}, port by {_told(source)}" if source else spoken


def _told(source: Mapping[str, Any]) -> str:
    frame = source["frame"]
    return f"{source['kind']} in frame {frame}" if frame is not None else f"{source['kind']}"


def _label(row: Mapping[str, Any]) -> str:
    if row["absence"]:
        return f"none: {row['absence']}"
    return f"{row['data_path'] or paths_text(row['data_paths'], _spoken(row))} ({row['certainty']})"


def paths_text(paths: Sequence[str], otherwise: str) -> str:
    """Several paths in a few words: two by name, more by what they have in common, or by what is said otherwise."""
    if len(paths) < 3:
        return " or ".join(paths)
    return f"{_shared(paths) or otherwise}: one of {len(paths)}"


def _shared(paths: Sequence[str]) -> str:
    """The longest run of words that all ids have, if it is more than one word: active-directory, hub-to-mailbox."""
    words = min(paths, key=len).split("-")
    runs = ("-".join(words[i:j]) for i in range(len(words)) for j in range(len(words), i + 1, -1))
    common = (run for run in runs if all(f"-{run}-" in f"-{path}-" for path in paths))
    return max(common, key=len, default="")


def _spoken(row: Mapping[str, Any]) -> str:
    """The interface that was bound, or the protocol."""
    bound = [each["name"] for each in row["rpc_interfaces"] if each["accepted"]]
    return str(next((name for name in bound if name), row["protocol"] or row["transport"]))


def _security(row: Mapping[str, Any]) -> str:
    seen = [row[name] for name in ("authentication", "encryption") if row[name]]
    return ", ".join(each for each in seen if each != "none") or "".join(seen[:1]) or "-"


CONVERSATIONS: Final = View(
    needs=(
        "id", "client_ip", "client_port", "client_role", "server_ip", "server_port", "server_role", "transport",
        "protocol", "rpc_interfaces", "resolved_by", "data_paths", "data_path", "certainty", "absence",
        "authentication", "encryption",
    ),
    cells={
        "ID": lambda row: str(row["id"]),
        "CLIENT": lambda row: side(row, "client"),
        "SERVER": lambda row: side(row, "server"),
        "PROTOCOL": _protocol,
        "DATA PATH": _label,
        "SECURITY": _security,
    },
)  # fmt: skip
"""A conversation as an administrator wants it: who with whom, what it is, how sure, how protected."""

ENDPOINTS: Final = View(
    needs=(
        "server_ip", "transport", "port", "uuid", "version", "name", "kind", "first_seen", "frame", "file",
        "address", "annotation", "disagreement",
    ),
    cells={
        "SERVER": lambda row: f"{row['server_ip']} {row['transport']}/{'-' if row['port'] is None else row['port']}",
        "INTERFACE": lambda row: " ".join(filter(None, (row["name"], row["uuid"], row["version"]))) or "-",
        "SINCE": lambda row: row["first_seen"] or "-",
        "TOLD BY": lambda row: _told(row) + (f" of {row['file']}" if row["file"] else ""),
        "REMARKS": lambda row: "; ".join(_remarks(row)) or "-",
    },
)  # fmt: skip
"""The endpoint map: what was handed out where, since when, and who said so."""


def _remarks(row: Mapping[str, Any]) -> Iterator[str]:
    if row["annotation"]:
        yield f'"{row["annotation"]}"'
    if row["address"] and row["address"] != row["server_ip"]:
        yield f"announced as {row['address']}"
    if row["disagreement"]:
        yield f"disagrees: {row['disagreement']}"


HOSTS: Final = View(
    needs=("address", "name", "roles", "versions", "source", "evidence", "contradictions"),
    cells={
        "HOST": lambda row: " ".join(filter(None, (row["address"], row["name"]))),
        "ROLES": lambda row: ", ".join(row["roles"]) or "-",
        "VERSIONS": lambda row: ", ".join(row["versions"]) or "-",
        "SAYS": lambda row: row["source"],
        "BECAUSE IT": lambda row: "; ".join(map(_act, row["evidence"])) or "-",
        "AGAINST THE INVENTORY": lambda row: "; ".join(map(_contradiction, row["contradictions"])) or "-",
    },
)
"""What every host is, and why."""


def _act(reason: Mapping[str, Any]) -> str:
    return f"{reason['value']} ({reason['field']}, conversation {reason['conversation']}, frame {reason['frame']})"


def _contradiction(reason: Mapping[str, Any]) -> str:
    """What the traffic makes a host, and by which act."""
    return f"{reason['field']}: {reason['value']}{place({**reason, 'file': None})}"


FINDINGS: Final = View(
    needs=(
        "conversation", "file", "id", "severity", "text", "documented", "frame", "client_ip", "server_ip",
        "server_port", "transport", "accepted",
    ),
    cells={
        "CONVERSATION": lambda row: str(row["conversation"]),
        "SEVERITY": lambda row: f"accepted ({row['severity']})" if row["accepted"] else row["severity"],
        "FINDING": lambda row: row["id"],
        "CLIENT": lambda row: row["client_ip"],
        "SERVER": lambda row: f"{row['server_ip']} {row['transport']}/{row['server_port']}",
        "OBSERVED": lambda row: row["text"],
        "DOCUMENTED": lambda row: row["documented"] or "-",
        "FRAME": lambda row: f"{row['frame']} of {row['file']}",
    },
)  # fmt: skip
"""What is unexpected or weak: observation, documented expectation, and the frame that shows it."""

FIREWALL: Final = View(
    needs=(
        "server_ip", "roles", "transport", "port", "kind", "interfaces", "clients", "data_paths", "setup_rules",
        "unanswered",
    ),
    cells={
        "SERVER": lambda row: row["server_ip"] + (f" ({', '.join(row['roles'])})" if row["roles"] else ""),
        "PORT": lambda row: f"{row['transport']}/{row['port']}",
        "KIND": lambda row: row["kind"] + (f", {row['unanswered']} unanswered" if row["unanswered"] else ""),
        "CLIENTS": lambda row: ", ".join(row["clients"]),
        "INTERFACES": lambda row: ", ".join(row["interfaces"]) or "-",
        "DATA PATHS": lambda row: ", ".join(row["data_paths"]),
        "RULES OF SETUP": lambda row: ", ".join(row["setup_rules"]) or "-",
    },
)  # fmt: skip
"""What a firewall has to let in."""

SIGNATURES: Final = View(
    needs=("id", "title", "client_roles", "server_roles", "ports", "versions"),
    cells={
        "ID": lambda row: row["id"],
        "DATA PATH": lambda row: row["title"],
        "CLIENT": lambda row: ", ".join(row["client_roles"]),
        "SERVER": lambda row: ", ".join(row["server_roles"]),
        "PORTS": lambda row: ", ".join(row["ports"]),
        "VERSIONS": lambda row: ", ".join(row["versions"]),
    },
)
"""What is recognised."""


def signature_table(listed: Sequence[ListedSignature]) -> Table:
    """The signatures as columns."""
    return Table.of_rows(SIGNATURE_FIELDS, [signature._asdict() for signature in listed])


def outline(value: Any, depth: int = 0) -> str:
    """A JSON-ready object as indented lines for a person; what is empty or null is left out."""
    lines = []
    for name, item in value.items():
        heading = f"{'  ' * depth}{name.replace('_', ' ')}:"
        if isinstance(item, dict) and item:
            lines += [heading, outline(item, depth + 1)]
        elif isinstance(item, list) and any(isinstance(each, dict) for each in item):
            lines += [f"{heading}\n{outline(each, depth + 1)}" for each in item]
        elif item not in ("", None, [], {}):
            shown = item if isinstance(item, list) else [{True: "yes", False: "no"}.get(item, item)]
            lines.append(safe(f"{heading} {'; '.join(map(str, shown))}"))
    return "\n".join(lines)


def write_table(table: Table, view: View, out: IO[bytes], width: int | None = None) -> None:
    """Write aligned text: one line a row, or cells folded to fit where there is a width (in columns).

    Columns are as wide as the first rows need; a longer text further down is never cut off.
    Raises OSError as `out` does.
    """
    batches = cells(table, view)
    first = next(batches, [])
    widths = _widths([list(view.cells), *first], width)
    out.write(_line(list(view.cells), widths, width))
    for rows in (first, *batches):
        out.write(b"".join(_line(row, widths, width) for row in rows))


def cells(table: Table, view: View) -> Iterator[list[list[str]]]:
    """What people see of a table, safe to show: batches of rows of cells."""
    for start in range(0, len(table), RENDER_ROWS):
        end = min(start + RENDER_ROWS, len(table))
        values = [_values(table.columns[name], start, end) for name in view.needs]
        rows = (dict(zip(view.needs, row, strict=True)) for row in zip(*values, strict=True))
        yield [[safe(cell(row)) for cell in view.cells.values()] for row in rows]


def _values(column: Column, start: int, end: int) -> list[Any]:
    """Some rows of a column as Python values, shared where they are equal."""
    match column:
        case Numbers(values):
            return list(values[start:end].tolist())
        case Times(ns, digits):
            return list(map(rfc3339, ns[start:end].tolist(), digits[start:end].tolist()))
        case Texts(texts):
            return [text.decode("ascii", "replace") for text in texts[start:end].tolist()]
        case Coded(codes, distinct):
            return [distinct[code] for code in codes[start:end].tolist()]
        case Framed(codes, distinct, frames):
            rows = zip(codes[start:end].tolist(), frames[start:end].tolist(), strict=True)
            return [fill(distinct[code], row) for code, row in rows]


_GAP: Final = "  "


def _widths(rows: list[list[str]], width: int | None) -> list[int]:
    """Natural widths of the columns; where they exceed the width, the widest give way until all fit."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if width is None:
        return widths
    room = max(width - len(_GAP) * (len(widths) - 1), 4 * len(widths))
    floors = [
        min(max(_longest_word(column), 4), natural)
        for natural, column in zip(widths, zip(*rows, strict=True), strict=True)
    ]
    while sum(widths) > room:
        spare = [natural - floor for natural, floor in zip(widths, floors, strict=True)]
        most = spare if max(spare) > 0 else widths
        widths[most.index(max(most))] -= 1
    return widths


_WORD: Final = re.compile(r"[^ /-]*[ /-]?")


def _longest_word(texts: Iterable[str]) -> int:
    return max(cell_len(word.rstrip()) for text in set(texts) for word in _WORD.findall(text))


def _line(cells: list[str], widths: list[int], width: int | None) -> bytes:
    """One row; with a width, on as many lines as its longest cell needs."""
    folded = [[cell] if width is None else _fold(cell, room) for cell, room in zip(cells, widths, strict=True)]
    lines = []
    for parts in zip_longest(*folded, fillvalue=""):
        padded = (part + " " * (room - cell_len(part)) for part, room in zip(parts, widths, strict=True))
        lines.append(_GAP.join(padded).rstrip() + "\n")
    return "".join(lines).encode()


def _fold(text: str, width: int) -> list[str]:
    """Break a text behind spaces, hyphens and slashes; a word wider than the width anywhere."""
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in _WORD.findall(text):
        if cell_len(lines[-1] + word.rstrip()) <= width:
            lines[-1] += word
        else:
            lines += chop_cells(word, width)
    return [line.rstrip() for line in lines if line.strip()]


# ---- in words, and notebooks -------------------------------------------------------------


def summary(record: Mapping[str, Any]) -> str:
    """A conversation in one line: its label, who with whom, and how. Not yet safe to print, as all `_text`s."""
    return f"{_label(record)}, {side(record, 'client')} -> {side(record, 'server')}, {_protocol(record)}"


def resolution_text(source: Mapping[str, Any]) -> str:
    """Who handed a port out, for which interface, where."""
    interface = " ".join(filter(None, (source["name"], source["uuid"])))
    return f"{source['kind']} for {interface or 'no interface'}{place(source)}"


def interface_text(bound: Mapping[str, Any]) -> str:
    """An RPC interface that was asked for, and the answer."""
    answer = {True: "accepted", False: "refused", None: "answer not seen"}[bound["accepted"]]
    named = " ".join(filter(None, (bound["name"], bound["uuid"], bound["version"])))
    return f"RPC interface {named}{place(bound)}: {answer}"


def fact_text(fact: Mapping[str, Any]) -> str:
    """A piece of evidence and where it is."""
    return f"{fact['kind']}: {fact['field']} = {fact['value']}{place(fact)}"


def finding_text(finding: Mapping[str, Any]) -> str:
    """What is unexpected or weak, and what the documents expect."""
    return f"finding, {finding['severity']}: " + " ".join(filter(None, (finding["text"], finding["documented"])))


def place(item: Mapping[str, Any]) -> str:
    """Where a fact can be looked at, in brackets; nothing where no frame shows it."""
    frame, file, conversation = item["frame"], item.get("file"), item.get("conversation")
    places = (
        (f"frame {frame}" if frame is not None else "") + (f" of {file}" if file else ""),
        f"conversation {conversation}" if conversation is not None else "",
    )
    return f" ({', '.join(filter(None, places)).strip()})" if any(places) else ""


def html(table: Table, view: View = CONVERSATIONS) -> str:
    """The first rows as an HTML table for a notebook, every text escaped."""
    shown = list(islice(chain.from_iterable(cells(table, view)), NOTEBOOK_ROWS))
    return f"{html_table(list(view.cells), shown)}<p>{len(shown)} of {len(table)} rows</p>"


def html_table(headings: list[str], rows: Iterable[list[str]]) -> str:
    """Cells as an HTML table; each is made safe and escaped."""
    from html import escape  # loads a table of all entities, which only notebooks need

    def row(tag: str, cells: list[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(safe(cell))}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{''.join([row('th', headings), *(row('td', cells) for cells in rows)])}</table>"
