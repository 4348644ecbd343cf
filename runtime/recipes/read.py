"""Reading a recipe: a TOML file -> Recipe, every mistake in one report."""

import math
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from rofo.errors import EngineLoadError, RecipeError
from rofo.manifest import Manifest, MixerManifest, check_stems, is_there, load_manifest
from rofo.recipes import STEPS, step_kind
from rofo.recipes.lines import Mistakes, Place
from rofo.recipes.recipe import EngineEntry, Recipe
from rofo.recipes.step import MIX, Facts, Step
from rofo.recipes.sum import Sum
from rofo.text import one_line, short

T = TypeVar("T")
Weights = Mapping[str, float]


@dataclass(frozen=True)
class _Head:
    """The keys before all tables. Without a rate or channels, they are those of the engines."""

    name: str | None = None
    source: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    residual: str | None = None


@dataclass(frozen=True)
class Listed:
    """An engine of a recipe, for those who only look: `there` tells whether its file is."""

    name: str
    path: Path
    there: bool
    command: str


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and the manifests of its engines. Raises RecipeError with every mistake, and its line."""
    return _Reader(path, ()).recipe()


def list_engines(path: Path) -> tuple[Listed, ...]:
    """The engines that a recipe names. Raises RecipeError for a file that is no recipe."""
    reader = _Reader(path, ())
    files = {name: path.parent / entry.file for name, entry in reader.entries.items()}
    return tuple(
        Listed(name, files[name], is_there(files[name]), entry.command)
        for name, entry in reader.entries.items()
    )


class _Reader:
    """One file on its way. `users` are the recipes that use it, which it must not use itself."""

    def __init__(self, path: Path, users: tuple[Path, ...]) -> None:
        self._path, self._users = path, (*users, path.resolve())
        text = _text(path)
        try:
            self._raw: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(path, [(0, f"no TOML: {one_line(error)}")]) from None
        except RecursionError:
            raise RecipeError(path, [(0, "no recipe: brackets within brackets without end")]) from None
        self._mistakes = Mistakes(text)
        tables = {key: self._raw.pop(key, None) for key in ("engines", "steps", "outputs")}
        self._head = self._decoded(_Head, self._raw, ()) or _Head()
        self.entries = dict(self._entries(self._table(tables["engines"], "engines")))
        self._count = 0
        self._unread: set[str] = set()  # signals of steps that make no sense: their absence is no mistake
        self._steps = dict(self._read_steps(tables["steps"]))
        self._outputs = dict(self._read_outputs(self._table(tables["outputs"], "outputs")))
        self._said = {"steps": tables["steps"], "outputs": tables["outputs"]}

    def recipe(self) -> Recipe:
        """What it says, with the facts of its engines."""
        known = {name: self._engine(name, entry) for name, entry in self.entries.items()}
        engines = [engine for engine in known.values() if engine is not None]
        rate = self._rate(engines)
        channels = self._head.channels or max((engine.channels for engine in engines), default=2)
        if channels not in (1, 2):
            self._mistakes.add(("channels",), f"channels is {channels}, not 1 or 2")
        complete = None not in known.values()
        for number, step in self._steps.items():
            # Without all engines the number of channels is a guess, and a matrix must not be measured by it.
            for key, words in step.problems(known, channels):
                if complete or key != "matrix":
                    self._mistakes.add(("steps", number, key), words)
        self._check_signals()
        residual = self._head.residual
        try:
            if self._outputs:
                check_stems(list(self._outputs), residual)
        except EngineLoadError as error:
            self._mistakes.add(("outputs",), one_line(error))
        if self._mistakes.found:
            raise RecipeError(self._path, self._mistakes.found)
        sums = [step for step in self._outputs.values() if isinstance(step, Sum)]
        return Recipe(
            name=self._head.name or self._path.stem,
            sample_rate=rate,
            channels=channels,
            stems=tuple(self._outputs),
            residual=residual,
            engines={name: self._path.parent / entry.file for name, entry in self.entries.items()},
            steps=(*self._steps.values(), *sums),
            outputs=tuple(s.make[0] if isinstance(s, Sum) else s for s in self._outputs.values()),
            said=self._said,
        )

    # The tables

    def _table(self, raw: Any, key: str) -> dict[str, Any]:
        if not isinstance(raw, dict) or (not raw and key == "outputs"):
            if raw is not None or key == "outputs":
                self._mistakes.add((key,), f"needs a table [{key}]")
            return {}
        return raw

    def _entries(self, raw: dict[str, Any]) -> Iterator[tuple[str, EngineEntry]]:
        for name, value in raw.items():
            table = {"file": value} if isinstance(value, str) else value
            if not isinstance(table, dict):
                self._mistakes.add(
                    ("engines", name), f"engine {name} is {short(value)}, not a file or a table"
                )
                continue
            entry = self._decoded(EngineEntry, table, ("engines", name))
            if entry is None:
                continue
            file = PurePosixPath(entry.file)
            leaves = file.is_absolute() or ".." in file.parts or "\\" in entry.file or ":" in entry.file
            if leaves or not entry.file.isprintable():
                self._mistakes.add(
                    ("engines", name, "file"),
                    f"engine {name}: {short(entry.file)} leaves the recipe's folder",
                )
            elif file.suffix not in (".json", ".toml"):
                self._mistakes.add(
                    ("engines", name, "file"), f"engine {name}: {short(entry.file)} is no .json, nor a recipe"
                )
            elif entry.sha256 is not None and file.suffix == ".toml":
                self._mistakes.add(
                    ("engines", name, "sha256"), f"engine {name}: a recipe is of no checkpoint; drop sha256"
                )
            elif entry.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", entry.sha256):
                self._mistakes.add(
                    ("engines", name, "sha256"),
                    f"engine {name}: {short(entry.sha256)} is no sha256, 64 small hexadecimal digits",
                )
            else:
                yield name, entry

    def _read_steps(self, raw: Any) -> Iterator[tuple[int, Step]]:
        if raw is None or not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
            if raw is not None:
                self._mistakes.add(("steps",), "steps are tables [[steps]]")
            return
        self._count = len(raw)
        for number, table in enumerate(raw):
            place: Place = ("steps", number)
            kinds = [key for key in table if key in STEPS]
            if len(kinds) != 1:
                found = f"is {' and '.join(kinds)} at once" if kinds else f"is none of {', '.join(STEPS)}"
                self._mistakes.add(place, f"the step {found}")
                self._unread |= set(_names_in(table.get("make")))
                continue
            step = self._decoded(step_kind(kinds[0]), table, place)
            if step is None:
                self._unread |= set(_names_in(table.get("make")))
            else:
                yield number, step

    def _read_outputs(self, raw: dict[str, Any]) -> Iterator[tuple[str, "str | Sum"]]:
        for stem, value in raw.items():
            if isinstance(value, str):
                yield stem, value
            else:
                found = self._decoded(
                    Sum, {"make": f"output {stem}", "sum": value}, ("outputs", stem), into="sum"
                )
                if found is not None and not found.sum:
                    self._mistakes.add(("outputs", stem), "names no signal")
                elif found is not None:
                    yield stem, found

    def _decoded(self, kind: type[T], raw: dict[str, Any], place: Place, into: str | None = None) -> T | None:
        """A dataclass of a table; None where it cannot be one. `into` is the field that `place` itself is."""
        hints, known = typing.get_type_hints(kind), {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        sound = True
        for key, value in raw.items():
            where = place if key == into else (*place, key)
            if key not in known:
                self._mistakes.add(where, f"unknown key {key!r}; there are {', '.join(known)}")
                sound = False
                continue
            wanted, convert = _VALUES[hints[key]]
            try:
                values[key] = convert(value)
            except (TypeError, ValueError, OverflowError):
                self._mistakes.add(where, f"{key} is {short(value)}, not {wanted}")
                sound = False
        for key, field in known.items():
            if key not in raw and field.default is MISSING:
                self._mistakes.add(place, f"lacks {key}")
                sound = False
        return kind(**values) if sound else None

    # What must fit together

    def _engine(self, name: str, entry: EngineEntry) -> Facts | None:
        path = self._path.parent / entry.file
        place: Place = ("engines", name, "file")
        try:
            if not is_there(path):
                raise EngineLoadError(f"{entry.file} is missing; make it: {entry.command}")
            if path.suffix == ".toml":
                if path.resolve() in self._users:
                    raise EngineLoadError(f"{entry.file} is a recipe that this one is a part of")
                found: Any = _Reader(path, self._users).recipe()
            else:
                found = load_manifest(path)
        except EngineLoadError as error:
            self._mistakes.add(place, f"engine {name}: {one_line(error)}")
            return None
        if isinstance(found, Manifest | MixerManifest) and entry.sha256 not in (
            None, found.source.checkpoint_sha256,
        ):  # fmt: skip
            self._mistakes.add(
                place, f"engine {name}: {entry.file} is of another checkpoint; {entry.command}"
            )
        manifest = found if isinstance(found, Manifest) else None
        return Facts(found.name, found.sample_rate, found.channels, found.stems, found.residual, manifest)

    def _rate(self, engines: list[Facts]) -> int:
        rates = sorted({engine.sample_rate for engine in engines})
        if self._head.sample_rate is not None:
            if not 1000 <= self._head.sample_rate <= 1_000_000:
                self._mistakes.add(("sample_rate",), f"sample_rate is {self._head.sample_rate}")
            return self._head.sample_rate
        if len(rates) > 1:
            found = ", ".join(f"{rate} Hz" for rate in rates)
            self._mistakes.add(
                (), f"its engines have {found}; say the recipe's own rate, sample_rate = {rates[0]}"
            )
        return rates[0] if rates else 44100

    def _check_signals(self) -> None:
        made = self._made()
        used = set[str]()
        uses: list[tuple[Place, str]] = []
        for number, step in self._steps.items():
            uses += [(("steps", number), name) for name in step.inputs]
        for stem, output in self._outputs.items():
            names = output.inputs if isinstance(output, Sum) else (output,)
            uses += [(("outputs", stem), name) for name in names]
        for place, name in uses:
            used.add(name)
            before = self._count if isinstance(place[1], str) else place[1]
            if name != MIX and name not in self._unread and made.get(name, before) >= before:
                self._mistakes.add(place, self._absent(name, made, before))
        for number, step in self._steps.items():
            if not used.intersection(step.make):
                self._mistakes.add(("steps", number, "make"), f"nobody uses {', '.join(step.make)}")

    def _made(self) -> dict[str, int]:
        """The signals, each with the number of the step that makes it first."""
        made: dict[str, int] = {}
        for number, step in self._steps.items():
            place = "steps", number, "make"
            for name in step.make:
                if name == MIX or not re.fullmatch(r"[\w.-]+", name):
                    self._mistakes.add(place, f"{name!r} cannot name a signal that is made")
                elif name in made:
                    first = self._mistakes.line(("steps", made[name], "make"))
                    self._mistakes.add(place, f"{name} is made twice, first on line {first}")
                made.setdefault(name, number)
        return made

    def _absent(self, name: str, made: Mapping[str, int], before: int) -> str:
        if name not in made:
            return f"there is no signal {name!r}"
        if made[name] == before:
            return f"makes {name} out of itself"
        return f"uses {name} before it is made, on line {self._mistakes.line(('steps', made[name], 'make'))}"


def _names_in(raw: Any) -> list[str]:
    return [name for name in (raw if isinstance(raw, list) else [raw]) if isinstance(name, str)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise RecipeError(path, [(0, f"cannot be read: {why}")]) from None


# What fields of dataclasses take, by their types: in words, and as a function that raises what it refuses.


def _text_value(raw: Any) -> str:
    if not isinstance(raw, str):
        raise TypeError
    return raw


def _whole(raw: Any) -> int:
    if type(raw) is not int:
        raise TypeError
    return raw


def _number(raw: Any) -> float:
    if type(raw) not in (int, float) or not math.isfinite(raw):
        raise TypeError
    return float(raw)


def _names(raw: Any) -> tuple[str, ...]:
    return tuple(_text_value(name) for name in (raw if isinstance(raw, list) else [raw]))


def _list(raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise TypeError
    return raw


def _weights(raw: Any) -> dict[str, float]:
    if not isinstance(raw, dict):
        raise TypeError
    return {name: _number(weight) for name, weight in raw.items()}


def _rows(raw: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(_number(weight) for weight in _list(row)) for row in _list(raw))


_VALUES: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    str: ("text", _text_value),
    int: ("a whole number", _whole),
    float: ("a number", _number),
    tuple[str, ...]: ("a name or a list of names", _names),
    tuple[float, ...]: ("a list of numbers", lambda raw: tuple(map(_number, _list(raw)))),
    tuple[tuple[float, ...], ...]: ("a list of lists of numbers", _rows),
    Weights: ("a table of numbers", _weights),
}
_VALUES |= {kind | None: _VALUES[kind] for kind in (str, int, float)}
