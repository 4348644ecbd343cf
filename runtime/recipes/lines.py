"""Mistakes in a TOML file, each with its line, which the standard library's parser does not tell."""

import tomllib
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]  # ("steps", 2, "on"): keys, and the number of a table among several


def line_numbers(text: str) -> dict[Place, int]:
    """The line, from 1, of every table and key of a TOML document. `text` must be one.

    A header or a `key = value` ends with the first line up to which it is a document of its own: no other
    way of finding the end of a value can be wrong about strings and brackets.
    """
    lines, found = text.splitlines(), dict[Place, int]()
    tables: dict[Place, int] = {}  # of arrays of tables: how many there are so far
    header: Place = ()
    start = 0
    while start < len(lines):
        statement, end = _statement(lines, start)
        if lines[start].lstrip().startswith("["):
            header = _header(statement, tables)
            found.setdefault(header, start + 1)
        else:
            for place in _places(statement):
                found.setdefault((*header, *place), start + 1)
        start = end
    return found


def _statement(lines: list[str], start: int) -> tuple[dict[str, Any], int]:
    """What begins at a line, parsed, and the line behind it."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return tomllib.loads("\n".join(lines[start:end])), end
        except tomllib.TOMLDecodeError:
            continue
    raise ValueError(f"line {start + 1} begins nothing")  # the text is no TOML document


def _header(statement: dict[str, Any], tables: dict[Place, int]) -> Place:
    """The place of the table that a header alone opens: {"steps": [{}]} is the next of several."""
    place: Place = ()
    value: Any = statement
    while value:
        if isinstance(value, list):
            tables[place] = tables.get(place, -1) + 1
            place, value = (*place, tables[place]), value[0]
        else:
            ((key, value),) = value.items()
            place = (*place, key)
            if place in tables and not isinstance(value, list):  # [steps.x] belongs to the last of them
                place = (*place, tables[place])
    return place


def _places(value: Any) -> Iterator[Place]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (key,)
        for place in _places(inner):
            yield (key, *place)


class Mistakes:
    """What is wrong with a recipe, collected."""

    def __init__(self, text: str) -> None:
        self._lines = line_numbers(text)
        self._found: dict[tuple[int, str], None] = {}

    def add(self, place: Place, words: str) -> None:
        """A mistake at a place, or at the nearest table around it that has a line."""
        self._found[self.line(place), words] = None

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest table around it; 1 at worst."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    @property
    def found(self) -> tuple[tuple[int, str], ...]:
        """All mistakes, (line, words), by their lines."""
        return tuple(sorted(self._found, key=lambda mistake: mistake[0]))
