"""Frozen dataclasses as JSON and back, refusing by name what is missing, unknown or of another type."""

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from rofo.errors import ManifestError

T = TypeVar("T")


# A field that came later: written only where it is not at its default, so that earlier releases, which refuse
# fields they do not know, read every file that needs none of them, and refuse the others by the field's name.
LATER = {"later": True}


def encode(value: Any) -> Any:
    """A dataclass, and what is in it, as JSON's objects and lists."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: encode(found)
            for field in dataclasses.fields(value)
            if (found := getattr(value, field.name)) != field.default or field.metadata != LATER
        }
    return [encode(item) for item in value] if isinstance(value, tuple) else value


def require(condition: bool, problem: str) -> None:
    """Raise ManifestError unless a condition holds."""
    if not condition:
        raise ManifestError(problem)


def decode(kind: type[T], raw: Any, where: str) -> T:
    """Build a dataclass from parsed JSON that `where` names. Raises ManifestError."""
    require(isinstance(raw, dict), f"{where} is not an object")
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    unknown = sorted(set(raw) - {f.name for f in fields})
    missing = [f.name for f in fields if f.name not in raw and f.default is dataclasses.MISSING]
    require(not unknown, f"{where} has unknown fields: {', '.join(unknown)}")
    require(not missing, f"{where} lacks {', '.join(missing)}")
    values = {name: _value(hints[name], value, f"{where}.{name}") for name, value in raw.items()}
    return kind(**values)


def _value(hint: Any, raw: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type[Any], hint), raw, where)
    if origin is Literal:
        require(raw in arguments and type(raw) in map(type, arguments), f"{where} is {raw!r}")
        return raw
    if origin in (tuple, Sequence):
        require(isinstance(raw, list), f"{where} is not a list")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
    if origin is types.UnionType:
        return None if raw is None else _value(arguments[0], raw, where)
    check = _SCALARS.get(origin or hint)
    require(check is not None and check(raw), f"{where} is {raw!r}")
    return float(raw) if hint is float else raw


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    int: lambda raw: isinstance(raw, int) and not isinstance(raw, bool),
    float: lambda raw: isinstance(raw, float) or (type(raw) is int and abs(raw) < 2**53),
    bool: lambda raw: isinstance(raw, bool),
    str: lambda raw: isinstance(raw, str),
    dict: lambda raw: isinstance(raw, dict),
}
