"""What one run keeps for the next ones, in the user's cache folder: machine code, and signatures that were read.

Owns where that is, and that nobody sees half of it. Files are pickled, since machine code is run anyway: nobody else
may write to that folder.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


def folder() -> Path:
    """The folder; it may not exist yet. (XDG Base Directory Specification; LOCALAPPDATA on Windows.)"""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "exflow"


def save(path: Path, value: Any) -> None:
    """Keep a value; other processes see all of it or nothing. Raises OSError."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    draft.replace(path)


def kept(path: Path) -> Any:
    """What `save` kept. Raises FileNotFoundError, and whatever pickle does of a file that is none of these."""
    return pickle.loads(path.read_bytes())


def mark(parts: Iterable[bytes]) -> str:
    """What stands for everything that a value was made from."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def remembered(name: str, made_from: str, make: Callable[[], _T]) -> _T:
    """What is made, or was kept by that name if an earlier run made it from the same.

    made_from: a `mark`. Raises what make does.
    """
    path = folder() / f"{name}.kept"
    with suppress(Exception):  # missing, cut short, not ours: it is made anew
        before, value = kept(path)
        if before == made_from:
            found: _T = value
            return found
    value = make()
    with suppress(OSError):  # a full disk or a folder that can't be written: the next run makes it once more
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, (made_from, value))
    return value
