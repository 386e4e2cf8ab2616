"""Commands that read captures and show a table of what is in them, or one conversation of it.

What writes is loaded while packets are read, or when all is read: packets are waited for, and it is not.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import click

from classifier.cli import common
from classifier.cli.common import FORMATS, READING, WRITING, options, writing

if TYPE_CHECKING:
    from classifier.result import Table


@click.command()
@options(*READING, *writing(*FORMATS, "ecs"))
def classify(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Label every conversation.

    A conversation without a label says why it has none.
    """
    write = common.writer(out, form, captures)
    result = common.read(captures, settings)
    from classifier.records import CONVERSATIONS

    write(result.table, CONVERSATIONS, {"ecs": _write_ecs})
    return common.report(result)


def _write_ecs(table: Table, out: IO[bytes]) -> None:
    from classifier.ecs import write_ecs

    write_ecs(table, out)


@click.command()
@options(*READING, *WRITING)
def endpoints(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Show which RPC interface was on which port.

    Since when, and who said so: the endpoint mapper, a bind, an HTTP proxy and so on, with the frame.
    """
    write = common.writer(out, form, captures)
    result = common.read(captures, settings)
    from classifier.records import ENDPOINTS

    write(result.endpoint_table, ENDPOINTS)
    return common.report(result)


@click.command()
@options(*READING, *WRITING)
def hosts(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Show the role of every host, and why."""
    write = common.writer(out, form, captures)
    result = common.read(captures, settings)
    from classifier.records import HOSTS

    write(result.host_table, HOSTS)
    return common.report(result)


@click.command()
@options(*READING, click.argument("conversation_id", metavar="ID", type=click.IntRange(1)))
def explain(captures: tuple[str, ...], conversation_id: int, **settings: Any) -> int:
    """Tell why a conversation got its label.

    ID is the one that `classify` shows. Every piece of evidence comes with its frame.
    """
    result = common.read(captures, settings)
    if conversation_id > len(result):
        raise click.UsageError(f"no conversation {conversation_id}: there are {len(result)}")
    common.say(result[conversation_id].explain())
    return common.report(result)
