"""The command `exflow`. The only package that prints, reads argv or exits.

Results go to stdout or to `-o`, everything else to stderr. Exit statuses: 0 all was read; 1 an input was
damaged, cut short or unreadable (or, for `signatures verify`, a signature is); 2 what was asked for cannot be
done; 3 `audit` found something severe; 130 interrupted; 141 the reader of stdout went away (128 + the signal's
number, as shells count).

Nothing heavy is imported before a command needs it: `exflow --help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Final, NoReturn

import click

from classifier.cli.common import ReaderGoneError, complain
from classifier.errors import ExflowError

INTERRUPTED: Final = 130
READER_GONE: Final = 141

COMMANDS: Final = {
    "classify": "conversations",
    "explain": "conversations",
    "endpoints": "conversations",
    "hosts": "conversations",
    "audit": "audit",
    "firewall": "firewall",
    "report": "report",
    "extract": "extract",
    "wireshark": "wireshark",
    "signatures": "signatures",
    "sniff": "sniff",
}
"""Every command, in the order of `--help`, and the module of this package that has it."""


def main() -> NoReturn:
    """Run the command and leave with its status; no traceback reaches the user."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread a core for algebra nobody needs
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own takes more memory, and time to get it
    gc.disable()  # what is built stays until the end; looking through it again and again costs a tenth
    try:
        status = exflow.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        status = complain("interrupted", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        status = 2
    except ReaderGoneError:
        status = READER_GONE
        _give_up_stdout()
    except ExflowError as error:
        status = complain(str(error), 2)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        status = complain(f"{named}{error.strerror or error}", 2)
        _give_up_stdout()
    except Exception as error:
        status = complain(f"a defect of exflow, please report it: {type(error).__name__}: {error}", 1)
    _leave(status or 0)


def _leave(status: int) -> NoReturn:
    """End the process without taking apart what it built, which would be a tenth of a large run."""
    with suppress(OSError, ValueError):  # a reader that is gone was dealt with above
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _give_up_stdout() -> None:
    """Let what could not be written go, or the interpreter tries it once more on its way out, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Commands(click.Group):
    """Commands that are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in COMMANDS:
            raise click.exceptions.NoSuchCommand(name, possibilities=COMMANDS, ctx=ctx)
        command: click.Command = getattr(import_module(f"{__name__}.{COMMANDS[name]}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="exflow", prog_name="exflow", message="%(prog)s %(version)s")
def exflow() -> None:
    """Tell which documented Microsoft Exchange data path captured traffic is, and why.

    CAPTURE is a file (pcap or pcapng, compressed or not), a folder of them, or - for standard input; several
    are one capture set. Exit status: 0 all was read, 1 an input was damaged, 2 wrong usage.
    """
