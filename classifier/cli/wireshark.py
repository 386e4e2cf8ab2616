"""The command that writes a Wireshark profile for captures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from classifier.cli import common
from classifier.cli.common import READING, options


@click.command()
@options(
    *READING,
    click.option("-o", "--output", "out", metavar="DIR", required=True, help="Folder of the profile; made if missing.",
                 type=click.Path(file_okay=False, path_type=Path)),
)  # fmt: skip
def wireshark(captures: tuple[str, ...], out: Path, **settings: Any) -> int:
    """Write a Wireshark profile for these captures.

    Colours by data path and role, decode-as for ports that were handed out, columns, filter buttons and names of
    hosts. DIR is a folder below `profiles` of Wireshark's personal configuration, or is copied there.
    """
    from classifier.profile import files

    stands = next(each for each in (out, *out.absolute().parents) if each.exists())
    if not stands.is_dir():
        raise click.UsageError(f"{out}: {stands} is no folder")
    result = common.read(captures, settings)
    out.mkdir(parents=True, exist_ok=True)  # a Wireshark that never ran has no folder of profiles
    for name, text in files(result).items():
        (out / name).write_text(text, encoding="utf-8")
    click.echo(f"exflow: profile {out.name} is in {out}", err=True)
    return common.report(result)
