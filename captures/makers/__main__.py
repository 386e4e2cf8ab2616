"""`python -m captures.makers [NAME...]`: make the captures (all, or some) and INDEX.toml; --check compares instead."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from captures.makers import catalogue

HOME = Path(__file__).resolve().parents[1]
CHAPTERS = (
    "ticket",
    "rows2010",
    "rows2003",
    "rpc_corners",
    "mail",
    "voice_and_web",
    "foreign",
    "formats",
    "who_is_who",
    "audited",
    "hostile",
    "rows_shown",
    "rows_later",
    "conforming",
)
HEADER = """# The captures of this folder: how each was made, what is in it, and what is true of each conversation.
# Written by `python -m captures.makers`; README.md says what the fields mean. Labels come from the makers.

"""


def main(argv: list[str]) -> int:
    """Write or check the files; 1 if a check found a difference."""
    parser = argparse.ArgumentParser(prog="python -m captures.makers", description=__doc__)
    parser.add_argument("names", nargs="*", help="captures to make (all)")
    parser.add_argument("--check", action="store_true", help="compare with what is there, write nothing")
    options = parser.parse_args(argv)
    for chapter in CHAPTERS:
        importlib.import_module(f"captures.makers.{chapter}")
    chosen = options.names or sorted(catalogue.STORIES)
    made = {name: catalogue.make(catalogue.STORIES[name]) for name in chosen}
    out = {file: data for item in made.values() for file, data in item.files.items()}
    if not options.names:
        out["INDEX.toml"] = (HEADER + "\n".join(made[name].entry for name in chosen)).encode()
    if options.check:
        return check(out)
    for file, data in out.items():
        (HOME / file).write_bytes(data)
    print(f"{len(made)} captures, {sum(map(len, out.values())) / 1e6:.2f} MB")
    return 0


def check(out: dict[str, bytes]) -> int:
    """Name the files that are not what the makers make."""
    differing = [file for file, data in out.items() if not (HOME / file).exists() or (HOME / file).read_bytes() != data]
    for file in differing:
        print(f"{file}: not what its maker makes", file=sys.stderr)
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
