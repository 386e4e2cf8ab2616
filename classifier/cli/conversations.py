"""Commands that read captures and show a table of what is in them, or one conversation of it."""

from __future__ import annotations

from typing import Any

import click

from classifier.cli import common
from classifier.cli.common import FORMATS, READING, WRITING, options, show, writing


@click.command()
@options(*READING, *writing(*FORMATS, "ecs"))
def classify(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Label every conversation.

    A conversation without a label says why it has none.
    """
    from classifier.ecs import write_ecs
    from classifier.records import CONVERSATIONS

    return show("table", CONVERSATIONS, captures, out, form, settings, {"ecs": write_ecs})


@click.command()
@options(*READING, *WRITING)
def endpoints(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Show which RPC interface was on which port.

    Since when, and who said so: the endpoint mapper, a bind, an HTTP proxy and so on, with the frame.
    """
    from classifier.records import ENDPOINTS

    return show("endpoint_table", ENDPOINTS, captures, out, form, settings)


@click.command()
@options(*READING, *WRITING)
def hosts(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Show the role of every host, and why."""
    from classifier.records import HOSTS

    return show("host_table", HOSTS, captures, out, form, settings)


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
