"""The command line: ``traceark VERB ARCHIVE …``.

This module runs a verb and turns what goes wrong into one line on standard error and an exit
code: 0 fine, 1 found wrong, 2 used wrong. The verbs are in `asking`, `reading`, `keeping`, `repairing`,
`retention`, `redacting`, `importing`, `exporting`, `moving`, `packing` and `spooling`, which are loaded, like
everything heavy, when they are needed.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, cast

import click

from traceark import __version__
from traceark.cli.settings import FINE, FOUND_WRONG, USED_WRONG
from traceark.errors import (
    ArchiveNotFoundError,
    DamagedTraceWarning,
    ExportFailedError,
    ImportFailedError,
    InvalidValueError,
    NaiveTimeWarning,
    QueryError,
    SpoolError,
    StorageError,
    TracearkError,
    UnsafeStorageError,
)
from traceark.showing import one_line, visible

# Who asked for something that cannot be had gets 2, who asked about something that is not well gets 1.
_USAGE = (
    ArchiveNotFoundError,
    ExportFailedError,
    ImportFailedError,
    InvalidValueError,
    QueryError,
    SpoolError,
    UnsafeStorageError,
)
_INTERRUPTED, _BROKEN_PIPE = 130, 141
# What a system says of a disk that takes no more, or of a device that fails.
_TAKES_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_VERBS = {
    "import": "importing",
    "ls": "asking",
    "show": "reading",
    "tree": "asking",
    "search": "asking",
    "stats": "asking",
    "tail": "reading",
    "sql": "reading",
    "export": "exporting",
    "sync": "moving",
    "merge": "moving",
    "pack": "packing",
    "unpack": "packing",
    "spool": "spooling",
    "compact": "keeping",
    "seal": "keeping",
    "verify": "keeping",
    "repair": "repairing",
    "rm": "keeping",
    "pin": "retention",
    "expire": "retention",
    "redact": "redacting",
    "refresh": "keeping",
    "optimize": "keeping",
}


class _ReaderGone(Exception):
    pass


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which they are first needed."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, loading its module."""
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"traceark.cli.{_VERBS[cmd_name]}")
        return cast("click.Command", getattr(module, f"{cmd_name}_verb"))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; that nobody reads its output any more is known by one error."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # click would take this for success.
            raise _ReaderGone from None
        except OSError as error:
            # All else that is written to has a name, and errors that tell it.
            if isinstance(error, TracearkError) or error.filename or error.errno not in _TAKES_NO_MORE:
                raise
            _say_no_more()
            raise StorageError(error.errno, f"standard output cannot be written: {error.strerror}") from error
        return code

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run a verb and exit with its code."""
        given = list(sys.argv[1:] if args is None else args)
        extra |= {"standalone_mode": False, "prog_name": "traceark"}
        for stream in (sys.stdout, sys.stderr):
            # A terminal whose encoding lacks a character shows its escape.
            with contextlib.suppress(AttributeError, ValueError):
                cast("Any", stream).reconfigure(errors="backslashreplace")
        try:
            with _warned() as damaged:
                code = super().main(given, **extra) or FINE
        except _ReaderGone:
            # Whoever read has enough.
            _say_no_more()
            sys.exit(_BROKEN_PIPE)
        except (Exception, KeyboardInterrupt) as error:  # the program's outermost frame: every error becomes a line
            if "--debug" in given:
                click.echo(visible(traceback.format_exc()), err=True, nl=False)
            sys.exit(_report(error))
        sys.exit(FOUND_WRONG if damaged and code == FINE else code)


@click.command(cls=_Program, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="traceark %(version)s")
@click.pass_context
def program(context: click.Context) -> None:
    """The archive for the runs of LLM agents.

    ARCHIVE is a path or a URL such as s3://bucket/prefix. TRACE_ID is an id, a beginning that no
    other id has, or the beginning…ending that ls prints.

    Exit codes: 0 fine, 1 something is wrong with what was looked at, 2 used wrong.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line."""
    _hold_streams()
    # numpy, which pyarrow loads, starts threads for what no verb does: a tenth of what a short one takes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What the libraries make as they are loaded stays: to look through it for garbage takes a twentieth.
    gc.set_threshold(10_000, 10, 100)
    program.main()


def _hold_streams() -> None:
    """Refuse to print nowhere; a file that is opened never takes the number, and so the output, of what is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if sys.stdout is None:
        _say("standard output is closed; to see nothing of it, send it to /dev/null")
        sys.exit(FOUND_WRONG)


def _say_no_more() -> None:
    """See to it that nothing is flushed at exit into what takes no more, which would be another error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _warned() -> Iterator[list[str]]:
    """Show each warning of the archive once, as a line; yield those of damaged traces."""
    damaged: list[str] = []
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        text = str(message)
        if issubclass(category, DamagedTraceWarning):
            damaged.append(text)
        if text not in shown:
            shown.add(text)
            _say(f"warning: {text}")

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        for category in (DamagedTraceWarning, NaiveTimeWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield damaged


def _report(error: BaseException) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        _say("interrupted")
        return _INTERRUPTED
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        _say(f"{error.format_message()}{hint}")
        return USED_WRONG
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            _report(each)
        return FOUND_WRONG
    if isinstance(error, QueryError):
        # The lines that repeat the query with a caret are no use in one line.
        _say(str(error).partition("\nLINE ")[0])
    elif isinstance(error, TracearkError):
        _say(str(error))
    elif isinstance(error, OSError) and error.filename and error.strerror:
        _say(f"{os.fsdecode(error.filename)}: {error.strerror}")
    else:
        _say(f"{type(error).__name__}: {error} (--debug shows where)")
    return USED_WRONG if isinstance(error, _USAGE) else FOUND_WRONG


def _say(text: str) -> None:
    click.echo(f"traceark: {one_line(text, 4000)}", err=True)
