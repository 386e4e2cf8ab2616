"""Many captures joined into one for tshark, which needs a quarter of a second to start and reads one file at a time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def counted(paths: Sequence[Path]) -> dict[Path, int]:
    """How many frames capinfos counts in each capture; those that are damaged, or none, are left out."""
    command = ["capinfos", "-Tmrc", *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = (line.rsplit(",", 1) for line in run.stdout.splitlines())
    return {Path(name): int(count) for name, count in rows if name not in run.stderr}


def joined(paths: Sequence[Path], folder: str) -> list[tuple[Path, list[Path]]]:
    """The captures in as few files as mergecap can make of them, one behind the other; times and lengths are kept."""
    if not paths:
        return []
    join = Path(tempfile.mkdtemp(dir=folder)) / "join.pcapng"
    command = ["mergecap", "-a", "-F", "pcapng", "-w", str(join), *map(str, paths)]
    if subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return [(join, list(paths))]
    half = len(paths) // 2
    return joined(paths[:half], folder) + joined(paths[half:], folder) if half else []
