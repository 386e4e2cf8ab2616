"""The command that listens to an interface."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from classifier.cli.common import READING, ReaderGoneError, complain, options
from classifier.cli.service import UNIT, on_signals, rights_of
from classifier.limits import LIVE_RING, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from classifier.cli.screen import Screen
    from classifier.sniffing import Session, Sink

FORMATS: Final = ("screen", "jsonl", "ecs", "parquet")


def _print_unit(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(UNIT.format(command=Path(sys.argv[0]).resolve()), nl=False)
        ctx.exit()


LISTENING: Final = (
    click.argument("interface", metavar="INTERFACE"),
    *READING[1:4],
    click.option("--filter", "bpf", default="", metavar="BPF", help="Only packets that match, as of tcpdump."),
    click.option("--duration", type=click.FloatRange(0, min_open=True), help="Seconds after which to end."),
    click.option("--count", type=click.IntRange(1), help="Packets after which to end."),
    click.option("--snaplen", type=click.IntRange(64, 262_144), default=262_144, help="Bytes kept of a packet."),
    click.option(
        "--ring", type=click.IntRange(2, 4096), default=LIVE_RING // MIB, show_default=True, help="MiB of kernel ring."
    ),
    click.option(
        "--fanout", type=click.IntRange(1, 65_535), help="Share the packets with all that give the same number."
    ),
    click.option("--tcp-timeout", type=click.IntRange(1), default=7440, show_default=True, help="Seconds of silence."),
    click.option("--udp-timeout", type=click.IntRange(1), default=120, show_default=True, help="Seconds of silence."),
    click.option("--active-timeout", type=click.IntRange(1), default=300, show_default=True,
                 help="Seconds after which one that goes on is reported again."),
    click.option("--format", "form", type=click.Choice(FORMATS),
                 help="Default: screen on a terminal, else jsonl; parquet where OUT is a folder. ecs: one document of "
                 "the Elastic Common Schema a line."),
    click.option("-o", "--output", "out", metavar="OUT", default="-",
                 help="File for lines, or folder for Parquet, instead of standard output."),
    click.option("--rotate", type=click.IntRange(1), help="Seconds after which a new file of lines begins."),
    click.option("--packets", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
                 help="Keep the packets of conversations without a label, or with findings, as pcapng."),
    click.option("--packets-mib", type=click.IntRange(16), default=1024, show_default=True,
                 help="Room for all these files; the oldest go first."),
    click.option("--metrics", type=click.IntRange(1, 65_535), metavar="PORT",
                 help="Counters for Prometheus on this port of 127.0.0.1."),
    click.option("--user", help="User to become once the socket is open."),
    click.option("--print-systemd-unit", is_flag=True, is_eager=True, expose_value=False, callback=_print_unit,
                 help="Print a hardened unit for systemd and leave."),
)  # fmt: skip


@click.command()
@options(*LISTENING)
def sniff(interface: str, out: str, form: str | None, user: str | None, **settings: Any) -> int:
    """Label conversations live, from a mirror port.

    A conversation is reported when its label is decided (new), when that is revised (update) and when it is over
    (end); a later record of the same id replaces an earlier one. Ctrl-C ends it, and what was seen is written.
    """
    seen = sys.stdout.isatty() and sys.stdin.isatty()
    chosen = form or (_by_name(out) if out != "-" else "screen" if seen else "jsonl")
    if chosen == "screen" and (out != "-" or not seen):
        raise click.UsageError("the screen is for a terminal; for a file or a pipe use --format jsonl")
    screen = _screen(interface) if chosen == "screen" else None
    say = screen.say if screen else _say
    reins = _Reins(hangup_ends=screen is not None)
    on_signals(reins.stop, reins.hangup)
    with rights_of(user):
        from classifier.following import memory_bound
        from classifier.sources.live import Tap, listen

        tap = Tap(interface, settings["bpf"], settings["snaplen"], settings["ring"] << 20, settings["fanout"] or 0)
        source = listen(tap, say)
    sinks: list[Sink] = [screen] if screen else _sinks(chosen, out, settings["rotate"])
    session = _session(source, sinks, settings, say)
    if settings["metrics"]:
        from classifier.sinks import Metrics

        Metrics(settings["metrics"], lambda: session.counters)
    bound = memory_bound(tap.ring, settings["packets"] is not None)
    say(f"listening to {interface}; memory stays below {bound / 2**20:,.0f} MiB")
    gc.set_threshold(50_000, 20, 100)
    gc.enable()  # unlike other commands, it may run for months
    session.start()
    reins.take(session)
    if screen:
        screen.watch(session)
    else:
        _wait(session, alone=out == "-")
    return _report(session)


class _Reins:
    """What signals ask for, from before the first packet: a session that is not there yet hears of it later."""

    def __init__(self, hangup_ends: bool) -> None:
        self._session: Session | None = None
        self._ended, self._hangup_ends = False, hangup_ends

    def take(self, session: Session) -> None:
        """From now on to this session."""
        self._session = session
        if self._ended:
            session.stop()

    def stop(self) -> None:
        """End, with everything seen written."""
        self._ended = True
        if self._session:
            self._session.stop()

    def hangup(self) -> None:
        """Read signatures and inventory again, or end with the terminal."""
        if self._hangup_ends:
            self.stop()
        elif self._session:
            self._session.reload()


def _screen(interface: str) -> Screen:
    from classifier.cli.screen import Screen

    return Screen(interface)


def _by_name(out: str) -> str:
    return "parquet" if out.endswith(("/", ".parquet")) or Path(out).is_dir() else "jsonl"


def _sinks(form: str, out: str, rotate: int | None) -> list[Sink]:
    from classifier import sinks

    if form == "parquet":
        if out == "-":
            raise click.UsageError("parquet needs a folder: -o FOLDER")
        return [sinks.ParquetHours(Path(out))]
    from classifier.ecs import write_ecs
    from classifier.records import write_jsonl

    dialect = write_ecs if form == "ecs" else write_jsonl
    if out != "-":
        return [sinks.LineFiles(Path(out), rotate or 0, dialect)]
    return [sinks.Lines(sys.stdout.buffer, dialect)]


def _session(source: Any, sinks: list[Sink], settings: dict[str, Any], say: Callable[[str], None]) -> Session:
    from classifier import limits
    from classifier.compiled import compiles_now
    from classifier.following import SECOND, Pace
    from classifier.pipeline import Settings
    from classifier.retirement import Timeouts
    from classifier.sniffing import Session

    if compiles_now():
        say("compiling for this machine, once; packets wait in the ring as long as it has room")
    pace = Pace(
        timeouts=Timeouts(
            settings["tcp_timeout"] * SECOND, settings["udp_timeout"] * SECOND, limits.ATTEMPT_TIMEOUT_NS,
            limits.CLOSED_TIMEOUT_NS, settings["active_timeout"] * SECOND,
        )
    )  # fmt: skip
    known = Settings(settings["inventory"], settings["signatures"], settings["endpoint_map"])
    keeper = None
    if settings["packets"]:
        from classifier.packet_ring import PacketRing

        room, link_type = settings["packets_mib"] << 20, int(source.interfaces.link_type[0])
        keeper = PacketRing(settings["packets"], room, link_type, say)
    return Session(
        source, known, sinks, duration=settings["duration"], count=settings["count"], pace=pace, say=say, keeper=keeper
    )


def _wait(session: Session, alone: bool) -> None:
    while not session.ended(0.2):
        if alone and session.outlets[0].trouble == "Broken pipe":
            session.stop()


def _report(session: Session) -> int:
    """Say what was received and what was lost. Returns the exit status, or raises what ended the capture."""
    counters = session.counters
    always = ("packets_received", "packets_dropped_by_kernel", "packets_dropped_by_interface", "conversations")
    for name, number in counters.items():
        if number or name in always:
            _say(f"{number} {name.replace('_', ' ')}")
    if session.failure is not None:
        raise session.failure
    if any(outlet.trouble == "Broken pipe" for outlet in session.outlets):
        raise ReaderGoneError
    return 1 if counters["records_not_written"] else 0


def _say(line: str) -> None:
    with suppress(OSError):
        complain(line, 0)
