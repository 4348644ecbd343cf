"""What the command line tools share: one line per error on stderr, and the exit codes."""

import os
import signal
import sys
import traceback
from typing import NoReturn

import click
from click.core import ParameterSource

from rofo.errors import RofoError
from rofo.text import one_line, printable

INTERRUPTED = 130
_INTERNAL = 5


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
        given = sys.argv[1:] if arguments is None else arguments
        # A service manager's stop cleans up as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            code = self.command.main(args=given, standalone_mode=False)
            sys.exit(code if isinstance(code, int) else 0)
        except click.exceptions.Exit as stop:
            sys.exit(stop.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.exceptions.Abort):
            note("interrupted; nothing unfinished was left behind")
            # An engine may be minutes deep in native code; waiting for its thread would ignore the user.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - a tool shows no traceback unasked
            sys.exit(tell(error, debug="--debug" in given))
