"""The command that writes a result as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from classifier.cli import common
from classifier.cli.common import READING, options


@click.command()
@options(
    *READING,
    click.option("-o", "--output", "out", metavar="OUT", required=True, help="HTML file to write."),
)
def report(captures: tuple[str, ...], out: str, **settings: Any) -> int:
    """Write a report for somebody else: one HTML file.

    Summary, findings, conversations with their evidence, hosts and endpoint map; it needs no network.
    """
    from classifier.report import write

    common.check_out(out, captures, "html")
    result = common.read(captures, settings)
    with Path(out).open("wb") as file:
        write(result, file)
    return common.report(result)
