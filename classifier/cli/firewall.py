"""The command that helps with the firewall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from classifier.cli import common
from classifier.cli.common import FORMATS, READING, options, writing


@click.command()
@options(*READING, *writing(*FORMATS, "nftables", "powershell"))
def firewall(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Show what a firewall has to let in, by server and port.

    Clients, RPC interfaces, data paths and the rules of Exchange Setup that admit them, of conversations that have a
    label; as a table, as lists, or as rules for nftables or Windows.
    """
    from classifier.firewall import SCRIPTS, firewall_table
    from classifier.records import FIREWALL
    from classifier.rulebook import load

    if form not in SCRIPTS:
        write = common.writer(out, form, captures)
        result = common.read(captures, settings)
        write(firewall_table(result, load(settings["signatures"])), FIREWALL)
        return common.report(result)
    common.check_out(out, captures, form)
    result = common.read(captures, settings)
    text = "\n".join(SCRIPTS[form](firewall_table(result, load(settings["signatures"]))))
    if out == "-":
        common.say(text)
    else:
        Path(out).write_text(text + "\n", encoding="utf-8")
    return common.report(result)
