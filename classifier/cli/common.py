"""What commands share: options, reading captures with a progress bar, writing a table where the user wants it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final

import click

from classifier.errors import nearest

if TYPE_CHECKING:
    from classifier.records import View
    from classifier.result import Result, Table

    OwnFormats = Mapping[str, Callable[[Table, IO[bytes]], None]]
    """What writes a table in formats that only one command has, by their names."""

FORMATS: Final = ("table", "jsonl", "csv", "parquet")
BINARY: Final = ("parquet", "pcapng")
SUFFIXES: Final = {
    ".txt": "table",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


class ReaderGoneError(Exception):
    """Nobody reads stdout any more. Not left a BrokenPipeError, which click makes status 1."""


def complain(text: str, status: int) -> int:
    """Say something on stderr, a line each, safe for a terminal. Returns the status."""
    from classifier.records import safe

    for line in text.splitlines():
        click.echo(f"exflow: {safe(line)}", err=True)
    return status


# ---- options -------------------------------------------------------------------------------


class _Capture(click.ParamType[str]):
    """A capture, a folder of captures, or "-" for standard input."""

    name = "capture"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "-" and not os.path.exists(value):
            self.fail(f"{value}: no such file or folder{_did_you_mean(Path(value))}", param, ctx)
        return str(value)


def _did_you_mean(missing: Path) -> str:
    beside = [each.name for each in missing.parent.iterdir()] if missing.parent.is_dir() else []
    near = nearest(missing.name, beside)
    return f"; did you mean {missing.parent / near}?" if near else ""


FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

READING: Final = (
    click.argument("captures", metavar="CAPTURE...", nargs=-1, required=True, type=_Capture()),
    click.option("--inventory", type=FILE, help="TOML file of the hosts that you know."),
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
    click.option(
        "--keylog", type=FILE, help="Session keys of TLS, as SSLKEYLOGFILE has them; tshark decrypts with them."
    ),
    click.option("--jobs", type=click.IntRange(1), help="Threads and processes that work at a time. Default: cores."),
)


def writing(*formats: str) -> tuple[Callable[[Any], Any], ...]:
    """The options of a command that can write its table in these formats."""
    chosen = click.Choice(formats)
    return (
        click.option("-o", "--output", "out", metavar="OUT", default="-", help="File to write, not standard output."),
        click.option("--format", "form", type=chosen, help="Default: by the suffix of OUT, else table."),
    )


WRITING: Final = writing(*FORMATS)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several of click's decorators as one."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


# ---- reading -------------------------------------------------------------------------------


def read(captures: tuple[str, ...], settings: dict[str, Any]) -> Result:
    """Classify a capture set, with a progress bar where somebody watches. What writes is loaded meanwhile."""
    from classifier.compiled import compiles_now
    from classifier.pipeline import Settings, run

    if compiles_now():
        click.echo("exflow: compiling for this machine, once; it takes about half a minute", err=True)
    with _progress() as progress:
        return run(captures, Settings(**settings), progress, _load_writers)


def _load_writers() -> None:
    for name in ("records", "lines"):
        import_module(f"classifier.{name}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar of bytes read, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    shown = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*shown, console=Console(stderr=True), transient=True)
    task = bar.add_task("reading")

    def show(done: int, total: int) -> None:
        bar.start()  # as late as that, and not for long: it has a thread, with which no process could be forked
        bar.update(task, completed=done, total=total)
        if 0 < total <= done:
            bar.stop()

    try:
        yield show
    finally:
        bar.stop()


def report(result: Result) -> int:
    """Tell on stderr what was damaged, not used, or not done. Returns the exit status."""
    for damage in result.damages:
        complain(str(damage), 1)
    for what, count in result.shortfalls.items():
        complain(f"{count} {what}", 0)
    for failure in result.failures:
        complain(failure, 2)
    return 2 if result.failures else int(bool(result.damages))


# ---- writing -------------------------------------------------------------------------------


_COMMON_ONLY: Final[OwnFormats] = MappingProxyType({})


def writer(out: str, form: str | None, captures: tuple[str, ...]) -> Callable[..., None]:
    """What writes a table, with its view, where the user wants it; wrong wishes are told before anything is read.

    A third argument are the command's own formats.
    """
    chosen = form or _form_by_suffix(out)
    check_out(out, captures, chosen)
    if out != "-":
        return partial(_write_file, Path(out), chosen)
    return partial(_write, sys.stdout.buffer, chosen, _terminal_width())


def _form_by_suffix(out: str) -> str:
    suffix = Path(out).suffix.lower()
    if out == "-":
        return "table"
    if suffix not in SUFFIXES:
        raise click.UsageError(f"{out}: what format is that? Name it with --format, or use {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def check_out(name: str, captures: tuple[str, ...], form: str) -> None:
    """Refuse an output that can't be written, that is one of the captures, or that no terminal can show."""
    if name == "-":
        if form in BINARY and sys.stdout.isatty():
            raise click.UsageError(f"{form} is not for a terminal; name a file with -o")
        return
    out = Path(name)
    if out.is_dir() or not out.parent.is_dir():
        raise click.UsageError(f"{out}: {'is a folder' if out.is_dir() else 'its folder does not exist'}")
    if out.exists() and any(os.path.exists(capture) and out.samefile(capture) for capture in captures):
        raise click.UsageError(f"{out}: is one of the captures, and would be overwritten")


def _terminal_width() -> int | None:
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _write_file(out: Path, form: str, table: Table, view: View, own: OwnFormats = _COMMON_ONLY) -> None:
    try:
        with out.open("wb") as file:
            _write(file, form, None, table, view, own)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error


def say(text: str) -> None:
    """Write a line to stdout."""
    with reader():
        click.echo(text)


@contextmanager
def reader() -> Iterator[None]:
    """Around writes to stdout: tells when nobody reads it any more."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGoneError from error


def _write(
    out: IO[bytes], form: str, width: int | None, table: Table, view: View, own: OwnFormats = _COMMON_ONLY
) -> None:
    from classifier import records

    with reader():
        if form in own:
            own[form](table, out)
        elif form == "parquet":
            from classifier.arrow import write_parquet

            write_parquet(table, out)
        elif form == "table":
            records.write_table(table, view, out, width)
        elif form == "csv":
            records.write_csv(table, out)
        else:
            records.write_jsonl(table, out)
        out.flush()
