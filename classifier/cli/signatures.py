"""Commands that look at the signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from classifier.cli.common import FILE, READING, WRITING, options, say, writer


@click.group()
def signatures() -> None:
    """Look at the signatures."""


SIGNATURES: Final = READING[2]


@signatures.command("list")
@options(SIGNATURES, *WRITING)
def list_signatures(signatures: Path | None, out: str, form: str | None) -> None:
    """List every data path with its roles, ports and versions."""
    from classifier.records import SIGNATURES, signature_table
    from classifier.rulebook import load
    from classifier.rules import listing

    writer(out, form, ())(signature_table(listing(load(signatures))), SIGNATURES)


@signatures.command("show")
@options(click.argument("path_id", metavar="ID"), SIGNATURES)
def show_signature(path_id: str, signatures: Path | None) -> None:
    """Show one data path, or one finding of `audit`.

    Of a path, what the documents say of it, and what it is recognised by; of a finding, what to make of it.
    """
    from classifier.findings import load_findings
    from classifier.records import outline
    from classifier.rulebook import load
    from classifier.rules import describe

    rulebook = load(signatures)
    rule = next((rule for rule in load_findings(rulebook) if rule.id == path_id), None)
    say(outline(describe(rulebook, path_id)) if rule is None else rule.manual)


@signatures.command("verify")
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--policy", type=FILE, help="Check this policy for `audit` too.")
def verify_signatures(directory: Path | None, policy: Path | None) -> int:
    """Check the form of all signatures and run their examples; DIRECTORY defaults to the shipped ones."""
    from classifier.records import safe
    from classifier.rulecheck import verify, verify_policy

    issues = [*verify(directory), *(verify_policy(policy, directory) if policy else [])]
    for issue in issues:
        say(safe(str(issue)))
    click.echo(f"{len(issues) or 'no'} issues", err=True)
    return int(bool(issues))
