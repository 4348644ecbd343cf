"""What the command line tools share: one line per error on stderr, and the exit codes."""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Self

import click
from click.core import ParameterSource

from rofo.errors import RecipeError, RofoError
from rofo.text import one_line, printable

INTERRUPTED = 130
_INTERNAL = 5
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h
_STOPS = (signal.SIGINT, signal.SIGTERM)
_AGAIN, _FORCED = 0.5, 1.0  # seconds until an interrupt comes again, and until a second one kills


def note(text: str) -> None:
    """A line on stderr: stages, warnings, choices made. Names of files may hold anything, line ends too."""
    click.echo(printable(text), err=True)


def tell(error: Exception, *, debug: bool) -> int:
    """One line on stderr for an error, or for each of several mistakes, its traceback before it if asked for;
    the exit code it stands for."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, RofoError):
        for line in error.report if isinstance(error, RecipeError) else [one_line(error)]:
            note(f"error: {line}")
        return error.exit_code
    what = f"{type(error).__name__}: {one_line(error)}"
    note(f"internal error: {what}; run again with --debug and report the traceback")
    return _INTERNAL


def debugging() -> bool:
    """Whether the command that is running was given --debug."""
    return click.get_current_context().get_parameter_source("debug") is ParameterSource.COMMANDLINE


def verbose() -> bool:
    """Whether the command that is running was given --verbose; see `verbose_option`."""
    return click.get_current_context().get_parameter_source("verbose") is ParameterSource.COMMANDLINE


def talkative() -> bool:
    """Whether to tell of every song: on a terminal, and to those who ask."""
    return sys.stderr.isatty() or verbose()


verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, help="Tell every step on standard error."
)


class SectionedCommand(click.Command):
    """A command whose --help lists its options in sections: {title: names of parameters}, the rest last."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's own, section by section."""
        options = (param for param in self.get_params(ctx) if isinstance(param, click.Option))
        left = {one.name or "": record for one in options if (record := one.get_help_record(ctx))}
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([left.pop(name) for name in names])
        with formatter.section("Other"):
            formatter.write_dl(list(left.values()))


def one_heap(*, large_apart: bool = False) -> None:
    """Let all threads share one heap, where the C library is glibc; before there are any.

    It gives every thread its own, which grows by what another thread frees: three engines with chunks of 8 s
    took 838 MB for 3 minutes of song and 1,225 MB for 30; with one heap they held 491 MB after 3 minutes and
    516 MB after 30. With `large_apart` an array of 4 MB or more goes back to the system once it is freed, and
    leaves no hole: a recipe of three engines peaks at 295 MB in 30 minutes of song where it did at 344, for
    5 s of processor time more.
    """
    with suppress(OSError, AttributeError, TypeError):  # macOS, Windows
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        if large_apart:
            libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)


def command_line(command: click.Command) -> "ToolCommand":
    """Turn a click command into a console script that reports errors in one line.

    Adds --debug, to subcommands as well, which shows the traceback of an error.
    """
    subcommands = command.commands.values() if isinstance(command, click.Group) else ()
    explained = "Show the traceback of an error."
    for part in (command, *subcommands):
        part.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help=explained))
    return ToolCommand(command)


class ToolCommand:
    """A console script; `command` is the click command, for tests."""

    def __init__(self, command: click.Command) -> None:
        self.command = command

    def __call__(self, arguments: list[str] | None = None) -> NoReturn:
        """Run and exit: 0 ok, 2 usage, an error's own code, 130 interrupted."""
        with _Interrupts() as interrupts:
            code = self._run(sys.argv[1:] if arguments is None else arguments, interrupts)
        if code == INTERRUPTED or interrupts.since is not None:
            note("interrupted; nothing unfinished was left behind")
            # An engine may be minutes deep in native code; waiting for its thread would ignore the user.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        sys.exit(code)

    def _run(self, arguments: list[str], interrupts: "_Interrupts") -> int:
        try:
            code = self.command.main(args=arguments, standalone_mode=False)
            return code if isinstance(code, int) else 0
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (KeyboardInterrupt, click.exceptions.Abort):
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001 - a tool shows no traceback unasked
            if interrupts.since is not None:  # what was interrupted on the way fails in ways of its own
                return INTERRUPTED
            return tell(error, debug="--debug" in arguments)
        finally:
            interrupts.over = True


class _Interrupts:
    """Within, Ctrl-C and a service manager's stop raise KeyboardInterrupt until one gets through.

    Modules swallow it while they are imported ("except: torch = None"), and so does Python in a destructor:
    where it had no effect it comes again, but not while it is being cleaned up after. A second Ctrl-C, a
    while after the first, ends the process at once.
    """

    def __init__(self) -> None:
        self.since: float | None = None  # when the first one came
        self.over = False  # nothing is left to be interrupted

    def __enter__(self) -> Self:
        self._before: list[tuple[int, Any]] = []
        for number in _STOPS:
            # A shell starts what it runs in the background with SIGINT ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before.append((number, signal.signal(number, self._handle)))
        return self

    def __exit__(self, *_: object) -> None:
        if self.since is not None:
            self._again(0)
        for number, handler in self._before:
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        if number in _STOPS and now - self.since > _FORCED:
            os._exit(INTERRUPTED)
        self._again(_AGAIN)
        if not self.over and not _cleaning_up():
            raise KeyboardInterrupt

    def _again(self, seconds: float) -> None:
        if hasattr(signal, "setitimer"):  # Windows has none
            signal.signal(signal.SIGALRM, self._handle)
            signal.setitimer(signal.ITIMER_REAL, seconds)


def _cleaning_up() -> bool:
    error = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
