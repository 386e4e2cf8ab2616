"""What a TOML document holds; a user's file as its tables, or one error that says which can't be read and why.

Must not know what the tables mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from classifier.errors import UsageError


def parsed(text: str) -> dict[str, Any]:
    """What a TOML document holds. Raises ValueError for what is none."""
    import tomli  # signatures are kept as they were read, and most runs read no other file

    return tomli.loads(text)


def read_tables(path: Path, what: str, name: str) -> tuple[list[Any], list[str]]:
    """The values that stand under `[[name]]` in a file, and the names of whatever else is in it.

    what: what the file is, for the error. A single `[name]` counts as one. Raises UsageError when the file can't be
    read or is no TOML in UTF-8.
    """
    try:
        document = parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"can't read {what} {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{what} {path}: {error}") from error
    tables = document.pop(name, [])
    return tables if isinstance(tables, list) else [tables], list(document)
