"""What the command line tools share: one line per error on stderr, and the exit codes."""

import os
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Any, NoReturn, Self

import click
from click.core import ParameterSource

from rofo.errors import RofoError
from rofo.text import one_line, printable

INTERRUPTED = 130
_INTERNAL = 5
_SOON, _LATER, _FORCED = 0.05, 2.0, 1.0  # seconds


def note(text: str) -> None:
    """A line on stderr: stages, warnings, choices made. Names of files may hold anything, line ends too."""
    click.echo(printable(text), err=True)


def tell(error: Exception, *, debug: bool) -> int:
    """One line on stderr for an error, its traceback before it if asked for; the exit code it stands for."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, RofoError):
        note(f"error: {one_line(error)}")
        return error.exit_code
    what = f"{type(error).__name__}: {one_line(error)}"
    note(f"internal error: {what}; run again with --debug and report the traceback")
    return _INTERNAL


def debugging() -> bool:
    """Whether the command that is running was given --debug."""
    return click.get_current_context().get_parameter_source("debug") is ParameterSource.COMMANDLINE


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
            code = self._run(sys.argv[1:] if arguments is None else arguments)
        if code == INTERRUPTED or interrupts.since is not None:
            note("interrupted; nothing unfinished was left behind")
            # An engine may be minutes deep in native code; waiting for its thread would ignore the user.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        sys.exit(code)

    def _run(self, arguments: list[str]) -> int:
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
            return tell(error, debug="--debug" in arguments)


class _Interrupts:
    """Within, Ctrl-C and a service manager's stop raise KeyboardInterrupt until one gets through.

    Modules that are being imported swallow it ("except: torch = None"), and so does Python in a destructor.
    So it waits for imports to end, comes again where the last one had no effect, and not again while that
    one cleans up. A second Ctrl-C, a while after the first, ends the process at once.
    """

    def __init__(self) -> None:
        self.since: float | None = None  # when the first one came

    def __enter__(self) -> Self:
        self._before: list[tuple[int, Any]] = []
        for name in ("SIGINT", "SIGTERM", "SIGALRM"):  # Windows has no alarm
            number = getattr(signal, name, None)
            # A shell starts what it runs in the background with SIGINT ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before.append((number, signal.signal(number, self._handle)))
        return self

    def __exit__(self, *_: object) -> None:
        self._again(0)
        for number, handler in self._before:
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.since is None:
            self.since = now
        elif number != getattr(signal, "SIGALRM", None) and now - self.since > _FORCED:
            os._exit(INTERRUPTED)
        if _importing(frame) or _cleaning_up():
            self._again(_SOON)
            return
        self._again(_LATER)
        raise KeyboardInterrupt

    def _again(self, seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _cleaning_up() -> bool:
    error = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
