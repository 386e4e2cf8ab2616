"""The command `exflow`. The only module that prints, reads argv or exits.

Results go to stdout or to `-o`, everything else to stderr. Exit statuses: 0 all was read; 1 an input was
damaged, cut short or unreadable (or, for `signatures verify`, a signature is); 2 what was asked for cannot be
done; 130 interrupted; 141 the reader of stdout went away (128 + the signal's number, as shells count).

Nothing heavy is imported before a command needs it: `exflow --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

import click

from classifier.errors import ExflowError

if TYPE_CHECKING:
    from classifier.records import View
    from classifier.result import Result, Table

INTERRUPTED: Final = 130
READER_GONE: Final = 141

FORMATS: Final = ("table", "jsonl", "csv", "parquet")
SUFFIXES: Final = {
    ".txt": "table",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


class _ReaderGoneError(Exception):
    """Nobody reads stdout any more. Not left a BrokenPipeError, which click makes status 1."""


def main() -> NoReturn:
    """Run the command and leave with its status; no traceback reaches the user."""
    try:
        status = exflow.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        status = _complain("interrupted", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        status = 2
    except _ReaderGoneError:
        status = READER_GONE
        _give_up_stdout()
    except ExflowError as error:
        status = _complain(str(error), 2)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        status = _complain(f"{named}{error.strerror or error}", 2)
        _give_up_stdout()
    except Exception as error:
        status = _complain(f"a defect of exflow, please report it: {type(error).__name__}: {error}", 1)
    sys.exit(status or 0)


def _give_up_stdout() -> None:
    """Let what could not be written go, or the interpreter tries it once more on its way out, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(text: str, status: int) -> int:
    from classifier.records import safe

    for line in text.splitlines():
        click.echo(f"exflow: {safe(line)}", err=True)
    return status


# ---- options that commands share -----------------------------------------------------------


class _Capture(click.ParamType[str]):
    """A capture, a folder of captures, or "-" for standard input."""

    name = "capture"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "-" and not os.path.exists(value):
            self.fail(f"{value}: no such file or folder{_did_you_mean(Path(value))}", param, ctx)
        return str(value)


def _did_you_mean(missing: Path) -> str:
    import difflib

    beside = [each.name for each in missing.parent.iterdir()] if missing.parent.is_dir() else []
    near = difflib.get_close_matches(missing.name, beside, 1)
    return f"; did you mean {missing.parent / near[0]}?" if near else ""


_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

_READING: Final = (
    click.argument("captures", metavar="CAPTURE...", nargs=-1, required=True, type=_Capture()),
    click.option("--inventory", type=_FILE, help="TOML file of the hosts that you know."),
    click.option(
        "--signatures",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of signatures to use instead of the shipped ones.",
    ),
    click.option(
        "--endpoint-map",
        type=click.Path(dir_okay=False, path_type=Path),
        help="JSON lines of the ports that earlier runs learnt; read, and added to.",
    ),
    click.option("--jobs", type=click.IntRange(1), default=2, help="Threads that read at a time.", show_default=True),
)

_WRITING: Final = (
    click.option("-o", "--output", "out", metavar="OUT", default="-", help="File to write instead of standard output."),
    click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the suffix of OUT, else table."),
)


def _with(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


# ---- commands ------------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="exflow", prog_name="exflow", message="%(prog)s %(version)s")
def exflow() -> None:
    """Tell which documented Microsoft Exchange data path captured traffic is, and why.

    CAPTURE is a file (pcap or pcapng), a folder of them, or - for standard input; several are one capture
    set. Exit status: 0 all was read, 1 an input was damaged, 2 wrong usage.
    """


@exflow.command()
@_with(*_READING, *_WRITING)
def classify(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Label every conversation.

    A conversation without a label says why it has none.
    """
    from classifier.records import CONVERSATIONS

    return _show("table", CONVERSATIONS, captures, out, form, settings)


@exflow.command()
@_with(*_READING, *_WRITING)
def endpoints(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Show which RPC interface was on which port.

    Since when, and who said so: the endpoint mapper, a bind, an HTTP proxy and so on, with the frame.
    """
    from classifier.records import ENDPOINTS

    return _show("endpoint_table", ENDPOINTS, captures, out, form, settings)


@exflow.command()
@_with(*_READING, *_WRITING)
def hosts(captures: tuple[str, ...], out: str, form: str | None, **settings: Any) -> int:
    """Show the role of every host, and why."""
    from classifier.records import HOSTS

    return _show("host_table", HOSTS, captures, out, form, settings)


@exflow.command()
@_with(*_READING, click.argument("conversation_id", metavar="ID", type=click.IntRange(1)))
def explain(captures: tuple[str, ...], conversation_id: int, **settings: Any) -> int:
    """Tell why a conversation got its label.

    ID is the one that `classify` shows. Every piece of evidence comes with its frame.
    """
    result = _read(captures, settings)
    if conversation_id > len(result):
        raise click.UsageError(f"no conversation {conversation_id}: there are {len(result)}")
    _say(result[conversation_id].explain())
    return _report(result)


@exflow.group()
def signatures() -> None:
    """Look at the signatures."""


_SIGNATURES: Final = _READING[2]


@signatures.command("list")
@_with(_SIGNATURES, *_WRITING)
def list_signatures(signatures: Path | None, out: str, form: str | None) -> None:
    """List every data path with its roles, ports and versions."""
    from classifier.records import SIGNATURES, signature_table
    from classifier.rulebook import load
    from classifier.rules import listing

    _writer(out, form, ())(signature_table(listing(load(signatures))), SIGNATURES)


@signatures.command("show")
@_with(click.argument("path_id", metavar="ID"), _SIGNATURES)
def show_signature(path_id: str, signatures: Path | None) -> None:
    """Show one data path: what the documents say of it, and what it is recognised by."""
    from classifier.records import outline
    from classifier.rulebook import load
    from classifier.rules import describe

    _say(outline(describe(load(signatures), path_id)))


@signatures.command("verify")
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify_signatures(directory: Path | None) -> int:
    """Check the form of all signatures and run their examples; DIRECTORY defaults to the shipped ones."""
    from classifier.records import safe
    from classifier.rulecheck import verify

    issues = verify(directory)
    for issue in issues:
        _say(safe(str(issue)))
    click.echo(f"{len(issues) or 'no'} issues", err=True)
    return int(bool(issues))


def _show(
    table: str, view: View, captures: tuple[str, ...], out: str, form: str | None, settings: dict[str, Any]
) -> int:
    """Write one of a result's tables. Returns the exit status."""
    write = _writer(out, form, captures)
    result = _read(captures, settings)
    write(getattr(result, table), view)
    return _report(result)


# ---- reading -------------------------------------------------------------------------------


def _read(captures: tuple[str, ...], settings: dict[str, Any]) -> Result:
    from classifier.compiled import compiles_now
    from classifier.pipeline import Settings, run

    if compiles_now():
        click.echo("exflow: compiling for this machine, once; it takes about half a minute", err=True)
    with _progress() as progress:
        return run(captures, Settings(**settings), progress)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar of bytes read, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    shown = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(result: Result) -> int:
    """Tell on stderr what was damaged and what could not be used. Returns the exit status."""
    for damage in result.damages:
        _complain(str(damage), 1)
    for what, count in result.shortfalls.items():
        _complain(f"{count} {what}", 0)
    return int(bool(result.damages))


# ---- writing -------------------------------------------------------------------------------


def _writer(out: str, form: str | None, captures: tuple[str, ...]) -> Callable[[Table, View], None]:
    """What writes a table where the user wants it; wrong wishes are told before anything is read."""
    chosen = form or _form_by_suffix(out)
    if out != "-":
        _check_out(Path(out), captures)
        return partial(_write_file, Path(out), chosen)
    if chosen == "parquet" and sys.stdout.isatty():
        raise click.UsageError("parquet is not for a terminal; name a file with -o")
    return partial(_write, sys.stdout.buffer, chosen, _terminal_width())


def _form_by_suffix(out: str) -> str:
    suffix = Path(out).suffix.lower()
    if out == "-":
        return "table"
    if suffix not in SUFFIXES:
        raise click.UsageError(f"{out}: what format is that? Name it with --format, or use {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def _check_out(out: Path, captures: tuple[str, ...]) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise click.UsageError(f"{out}: {'is a folder' if out.is_dir() else 'its folder does not exist'}")
    if out.exists() and any(os.path.exists(capture) and out.samefile(capture) for capture in captures):
        raise click.UsageError(f"{out}: is one of the captures, and would be overwritten")


def _terminal_width() -> int | None:
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _write_file(out: Path, form: str, table: Table, view: View) -> None:
    try:
        with out.open("wb") as file:
            _write(file, form, None, table, view)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error


def _say(text: str) -> None:
    with _reader():
        click.echo(text)


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGoneError from error


def _write(out: IO[bytes], form: str, width: int | None, table: Table, view: View) -> None:
    from classifier import records

    with _reader():
        if form == "parquet":
            from classifier.arrow import write_parquet

            write_parquet(table, out)
        elif form == "table":
            records.write_table(table, view, out, width)
        elif form == "csv":
            records.write_csv(table, out)
        else:
            records.write_jsonl(table, out)
        out.flush()
