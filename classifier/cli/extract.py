"""The command that writes chosen conversations as pcapng, with their labels as comments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Any, Final

import click

from classifier.cli import common
from classifier.cli.common import READING, options
from classifier.model import ABSENCES, CERTAINTIES, PROTOCOLS, ROLES

CHOOSING: Final = (
    click.option("--conversation", "id", metavar="ID", type=click.IntRange(1), multiple=True, help="By number."),
    click.option("--data-path", "path", metavar="ID", multiple=True, help="Those that this data path fits."),
    click.option("--role", type=click.Choice(ROLES), multiple=True, metavar="ROLE", help="Either side has this role."),
    click.option("--host", multiple=True, metavar="HOST", help="An address, a network, or a known host's name."),
    click.option("--port", multiple=True, type=click.IntRange(0, 65_535), metavar="PORT", help="Port of the server."),
    click.option("--protocol", type=click.Choice(PROTOCOLS), multiple=True, metavar="PROTOCOL", help="As seen."),
    click.option("--interface", multiple=True, metavar="NAME", help="UUID or short name of an RPC interface."),
    click.option("--certainty", type=click.Choice(CERTAINTIES), multiple=True, help="How sure the label is."),
    click.option("--absence", type=click.Choice(ABSENCES), multiple=True, metavar="WHY", help="Why there is no label."),
    click.option("--unlabelled", is_flag=True, help="Those without a label."),
    click.option("--findings", is_flag=True, help="Those with findings."),
    click.option("--since", metavar="TIME", help="Going on at this time (2026-01-31T14:05, UTC), or later."),
    click.option("--until", metavar="TIME", help="Begun by this time."),
)
"""Options that choose conversations; those of one name add to each other, others narrow the choice."""


@click.command()
@options(
    *READING,
    click.option("-o", "--output", "out", metavar="OUT", required=True, help="pcapng file to write; - for stdout."),
    *CHOOSING,
)
def extract(captures: tuple[str, ...], out: str, **asked: Any) -> int:
    """Write chosen conversations as pcapng.

    Labels, evidence and findings stand as comments on the frames that show them, hosts have names and roles. The
    endpoint-mapper conversation that handed out a port comes along. Without a choice: all conversations.
    """
    from classifier.errors import UsageError
    from classifier.sources import STDIN

    conditions = _conditions(asked)
    if STDIN in captures:
        raise click.UsageError("packets of standard input can't be read a second time; name a file")
    common.check_out(out, captures, "pcapng")
    result = common.read(captures, asked)
    chosen = result.select(**conditions)
    if not len(chosen):
        raise UsageError(f"none of {len(result)} conversations is meant; {out} was not written")
    ids = [each.id for each in chosen]
    frames = _write(result, ids, out)
    click.echo(f"exflow: {frames} frames; {len(ids)} of {len(result)} conversations and who announced them", err=True)
    return common.report(result)


def _conditions(asked: dict[str, Any]) -> dict[str, Any]:
    """What of the options chooses conversations, taken out of them; what was not given asks for nothing."""
    given = {option.name: asked.pop(option.name) for option in _parameters()}
    labelled = {"labelled": False} if given.pop("unlabelled") else {}
    return labelled | {name: value or None for name, value in given.items()}


def _parameters() -> list[Any]:
    bare = options(*CHOOSING)(lambda: None)
    return list(bare.__click_params__)


def _write(result: Any, ids: list[int], out: str) -> int:
    from classifier.extraction import write

    if out == "-":
        with common.reader():
            return _counted(write(result, ids, sys.stdout.buffer), sys.stdout.buffer)
    part = Path(f"{out}.part")
    try:
        with part.open("wb") as file:
            frames = write(result, ids, file)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return frames


def _counted(frames: int, stream: IO[bytes]) -> int:
    stream.flush()
    return frames
