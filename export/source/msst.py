"""The yaml layout of MSST and its relatives: sections audio, model, training, inference."""

from collections.abc import Mapping
from typing import Any

from rofo.text import short


class Section:
    """Typed look-ups in one section of a yaml; what is wrong is collected, so that all is told at once."""

    def __init__(self, config: Mapping[str, Any], name: str, problems: list[str]) -> None:
        self.name, self.problems = name, problems
        raw = config.get(name)
        self.values: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
        if raw is not None and not isinstance(raw, Mapping):
            problems.append(f"{name} is {raw!r}, not a section")

    def integer(self, key: str) -> int | None:
        """A whole number above zero."""
        value = self.values.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return None if self._checked(key, good, "a positive whole number") is None else value

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value: bool | None = self._checked(key, isinstance(self.values.get(key), bool), "true or false")
        return value

    def text(self, key: str) -> str | None:
        """Text."""
        value: str | None = self._checked(key, isinstance(self.values.get(key), str), "text")
        return value

    def names(self, key: str) -> tuple[str, ...] | None:
        """A list of texts."""
        value = self.values.get(key)
        good = isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
        checked = self._checked(key, good, "a list of names")
        return None if checked is None else tuple(checked)

    def _checked(self, key: str, good: bool, what: str) -> Any:
        value = self.values.get(key)
        if value is None:
            return None
        if not good:
            self.problems.append(f"{self.name}.{key} is {short(value)}, not {what}")
            return None
        return value


def model_types(config: Mapping[str, Any]) -> list[str]:
    """The names of networks that a yaml gives as model_type: by itself, or in MSST's way under training."""
    training = config.get("training")
    found = [config.get("model_type"), training.get("model_type") if isinstance(training, Mapping) else None]
    return [name for name in found if isinstance(name, str)]


def use_facts(config: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """How a network is used, which every family's yaml says alike, under the names of rofo.export.facts.

    `chunk` is in samples, `num_overlap` MSST's. None where the yaml is silent.
    """
    audio, training, inference = (
        Section(config, name, problems) for name in ("audio", "training", "inference")
    )
    target, instruments = training.text("target_instrument"), training.names("instruments")
    return {
        "sample_rate": audio.integer("sample_rate"),
        "channels": audio.integer("num_channels"),
        "chunk": inference.integer("chunk_size") or audio.integer("chunk_size"),
        "num_overlap": inference.integer("num_overlap"),
        "stems": (target,) if target else instruments,
        "instruments": instruments,
        "normalize": inference.flag("normalize"),
    }
