"""Rounds of measurements: everyone takes turns, and who fails is out for good, with the reason."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from rofo.benchmarks.results import LeftOut
from rofo.errors import EngineRunError, RofoError
from rofo.text import one_line

T = TypeVar("T")
Say = Callable[[str], None]


class Log:
    """Tells `say` how it goes, and keeps what was left out and why."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.left_out: list[LeftOut] = []

    def leave_out(self, what: str, why: str) -> None:
        """Note that something is not measured."""
        self.left_out.append(LeftOut(what, why))
        self.say(f"{what}: left out: {why}")

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """What the work comes to; None where it raised a RofoError: then it is left out."""
        try:
            return work()
        except RofoError as error:
            self.leave_out(what, one_line(error, 300))
            return None

    def nothing_ran(self) -> EngineRunError:
        """The error where everything was left out."""
        last = self.left_out[-1]
        return EngineRunError(f"nothing could run; {last.what}: {last.why}")


def take_turns(
    field: Mapping[str, Callable[[], T]], rounds: int, log: Log, after: Callable[[], None] = lambda: None
) -> dict[str, list[T]]:
    """What everyone measured, in every round; `after` is called after each.

    Raises EngineRunError where nobody was left.
    """
    runs: dict[str, list[T]] = {name: [] for name in field}
    for number in range(1, rounds + 1):
        for name in list(runs):
            found = log.attempt(name, field[name])
            if found is None:
                del runs[name]
                continue
            runs[name].append(found)
            log.say(f"{name}: round {number} of {rounds}: {found}")
        after()
    if not runs:
        raise log.nothing_ran()
    return runs
