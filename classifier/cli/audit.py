"""The command that shows what is blocked, or protected less than the documents say."""

from __future__ import annotations

from typing import Any, Final

import click

from classifier.cli import common
from classifier.cli.common import READING, WRITING, options
from classifier.model import SEVERITIES

FOUND: Final = 3
"""Exit status when there are findings of the severity that the user named, or above."""


@click.command()
@options(
    *READING,
    *WRITING,
    click.option("--fail-on", type=click.Choice(SEVERITIES), default="high", show_default=True,
                 help="Exit status 3 if there is a finding of this severity or above."),
)  # fmt: skip
def audit(captures: tuple[str, ...], out: str, form: str | None, fail_on: str, **settings: Any) -> int:
    """Show what was blocked, or is protected less than the documents say.

    How many conversations conform, deviate or can't be decided is told on standard error.
    """
    from classifier.records import FINDINGS

    write = common.writer(out, form, captures)
    result = common.read(captures, settings)
    table = result.finding_table
    write(table, FINDINGS)
    for what, count in sorted(result.verdicts.items()):
        click.echo(f"exflow: {what}: {count}", err=True)
    status = common.report(result)
    severe = SEVERITIES[SEVERITIES.index(fail_on) :]
    return FOUND if any(table.row(index)["severity"] in severe for index in range(len(table))) else status
