"""The command that shows what doesn't belong, is protected less than the documents say, or was blocked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from classifier.cli import common
from classifier.cli.common import FILE, FORMATS, READING, options, writing
from classifier.model import SEVERITIES

if TYPE_CHECKING:
    from classifier.result import Result

FOUND: Final = 3
"""Exit status when there are findings of the severity that the user named, or above."""


@click.command()
@options(
    *READING,
    *writing(*FORMATS, "sarif", "ecs"),
    click.option("--fail-on", type=click.Choice(SEVERITIES), default="high", show_default=True,
                 help="Exit status 3 if there is a finding of this severity or above that is not accepted."),
    click.option("--accept", type=FILE, help="TOML of findings that you live with: which, why, until when."),
    click.option("--policy", type=FILE, help="TOML of findings of your own, in the words of signatures/README.md."),
)  # fmt: skip
def audit(captures: tuple[str, ...], out: str, form: str | None, fail_on: str, **settings: Any) -> int:
    """Show what doesn't belong, is protected less than the documents say, or was blocked.

    How many conversations conform, deviate or can't be decided is told on standard error. `exflow signatures show
    FINDING` tells what to make of a finding.
    """
    write = common.writer(out, form or ("sarif" if out.endswith(".sarif") else None), captures)
    result = common.read(captures, settings)
    from classifier.ecs import write_ecs_findings
    from classifier.records import FINDINGS
    from classifier.sarif import write_sarif

    table = result.finding_table
    write(table, FINDINGS, {"sarif": partial(write_sarif, result.rules), "ecs": write_ecs_findings})
    for what, count in sorted(result.verdicts.items()):
        click.echo(f"exflow: {what}: {count}", err=True)
    for line in _expired(result):
        common.complain(line, 0)
    status = common.report(result)
    severe = SEVERITIES[SEVERITIES.index(fail_on) :]
    rows = map(table.row, range(len(table)))
    return FOUND if any(row["severity"] in severe and not row["accepted"] for row in rows) else status


def _expired(result: Result) -> Iterator[str]:
    """Acceptances that no longer hold."""
    today = datetime.now(UTC).date()
    yield from (f"accepted until {each.expires} only: {each}" for each in result.acceptances if not each.holds(today))
