"""The command `pconv`: its subcommands, and the only place where an exception becomes an exit code.

Does not know what the commands do. Imports nothing heavy: `pconv --help` must answer at once.
"""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import sys
from contextlib import suppress
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main

from pconv_cli import __version__
from pconv_cli.cli import check, compare, doctor, evaluate, mask, restore, tile, train, weights
from pconv_cli.cli.text import one_line
from pconv_cli.errors import ExitCode, PconvError, RunError, UsageError, bug
from pconv_cli.process import is_open, settle

# What the parser raises: typer shows its children only.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

# What a disk says to whoever writes to it; files have been seen to where they are written.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

app = typer.Typer(
    name="pconv",
    help="Restore damaged pictures, in batches or one gigantic one, with partial convolutions.",
    epilog="Exit codes: 0 all restored, 1 some pictures failed, 2 usage, 3 nothing to do, 4 weights, "
    "5 output place, 6 device, 70 a bug, 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing boxes round the help takes longer than all the rest of it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("restore", short_help="Restore damaged pictures, a folder or one.")(restore.command)
app.command("tile", short_help="Restore one picture of any size.")(tile.command)
app.command("mask", short_help="Make masks: find damage, or read it off.")(mask.command)
app.command("check", short_help="Look at pictures and masks before a run.")(check.command)
app.command("evaluate", short_help="Compare methods on pictures that are known.")(evaluate.command)
app.command("compare", short_help="Find out what restores your own pictures best.")(compare.command)
app.command("train", short_help="Train a network on your own photographs.")(train.command)
app.command("doctor", short_help="Show what this machine can do.")(doctor.command)
app.add_typer(weights.app, name="weights", short_help="Show the networks there are.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pconv {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Restore damaged pictures, in batches or one gigantic one, with partial convolutions."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with one of the documented exit codes."""
    settle()
    _end_tidily()
    _keep_numbers()
    _write_utf8()
    _hush_libraries()
    if "_PCONV_COMPLETE" in os.environ:  # the shell asks, and would take a description that is folded for two answers
        os.environ["COLUMNS"] = "10000"
    code = run(arguments)
    gc.freeze()  # the collector need not look through everything once more at the end
    if code == ExitCode.INTERRUPTED:  # Python would wait for threads that compute what nobody wants any more
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _end_tidily() -> None:
    """Let `kill` and a terminal that goes away be what Ctrl-C is, as long as nobody hears of them otherwise."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):  # not in the main thread, which alone hears of them
                signal.signal(number, signal.default_int_handler)


def _keep_numbers() -> None:
    """Let no file get the number of a standard stream that is closed: what libraries write to that would go into it."""
    for number in range(3):
        if not is_open(number):  # then it is the lowest that is free
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _write_utf8() -> None:
    """Let files and pipes get UTF-8, whatever the system's own is; a terminal gets what it can show, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


def _hush_libraries() -> None:
    """Keep standard error for what this program says.

    Some C libraries write to its descriptor by themselves whatever they find in a damaged file. `PCONV_DEBUG=1` leaves
    it to them.
    """
    if os.environ.get("PCONV_DEBUG") or sys.stderr is None:
        return
    with suppress(OSError, ValueError):  # there is no such descriptor: nothing can be written to it either
        own = os.dup(sys.stderr.fileno())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        sys.stderr = os.fdopen(own, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code. Errors are one line on stderr; `PCONV_DEBUG=1` shows where."""
    try:
        _refuse_nowhere()
        _refuse_empty(sys.argv[1:] if arguments is None else arguments)
        return _command()(args=arguments, prog_name="pconv", standalone_mode=False) or ExitCode.OK
    except SystemExit as end:  # completion leaves so
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except _UsageError as error:
        return _explain(error)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except RunError as error:
        return _complain(str(error), error.exit_code)
    except PconvError as error:
        return _complain(str(error), ExitCode.SOME_FAILED)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _complain(f"{error.filename}: a name too long for this disk: choose a shorter one", ExitCode.USAGE)
        if error.filename is not None or error.errno not in _FULL:
            return _report_bug(error)
        from pconv_cli.cli import ui

        sys.stdout = ui.nowhere(sys.stdout)  # or it would be tried again at the end
        return _complain(f"standard output: cannot be written ({error.strerror})", ExitCode.OUTPUT)
    except Exception as error:
        return _report_bug(error)


@cache
def _command() -> Any:
    """All commands with their options, which take some time to be read off the functions."""
    return typer.main.get_command(app)


def _report_bug(error: Exception) -> ExitCode:
    return _complain(bug(error), ExitCode.BUG)


def _refuse_empty(arguments: list[str]) -> None:
    """Make sure that no argument is empty: as the name of a place it would mean the current folder.

    Raises:
        UsageError: One is.
    """
    for number, argument in enumerate(arguments):
        if not argument or re.fullmatch(r"--[a-z-]+=", argument):
            where = argument or (f"behind {arguments[number - 1]}" if number else "the first")
            raise UsageError(f"an argument is empty ({where}): is a variable of the script not set?")


def _refuse_nowhere() -> None:
    """Make sure that there is a current folder: libraries end the process without one, and without a word.

    Raises:
        UsageError: It was removed.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError("the current folder is not there any more: cd into another") from error


def _explain(error: Any) -> ExitCode:
    """Say what is wrong with a command line, in one line; one without anything in it asks for help."""
    said = error.format_message()
    if "\n" in said:
        typer.echo(said, err=True)
        return ExitCode.USAGE
    command = "pconv" if error.ctx is None else error.ctx.command_path
    return _complain(f"{said.rstrip('.')}; see {command} --help", ExitCode.USAGE)


def _complain(text: str, code: ExitCode) -> ExitCode:
    if os.environ.get("PCONV_DEBUG"):
        raise
    try:
        typer.echo(f"pconv: {one_line(text)}", err=True)
    except OSError:
        from pconv_cli.cli import ui

        sys.stderr = ui.nowhere(sys.stderr)  # or Python would try again at the end; the code still tells
    return code
