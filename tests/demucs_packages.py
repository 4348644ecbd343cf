"""The seeded networks of the golden files as facebook's packages, and as MSST's state dicts with a yaml."""

import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import yaml
from golden.checkpoints import state_dict
from golden.files import Case

NAMES = {"Demucs": "demucs", "HDemucs": "hdemucs", "HTDemucs": "htdemucs"}


class _Ratio:
    """Pickled as a Fraction of some Python, or of none."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return Fraction, self.parts


class _Called:
    """Pickled as a call of the network's class."""

    def __init__(self, klass: type) -> None:
        self.klass = klass

    def __reduce__(self) -> tuple[Any, ...]:
        return self.klass, ("anything",)


def save_package(
    case: Case, folder: Path, *, klass: str = "", segment: Any = None, called: bool = False, **changes: Any
) -> Path:
    """As demucs.states.serialize_model does: the class by its name, weights in fp16."""
    name = klass or f"demucs.{NAMES[case.facts['kind']]}.{case.facts['kind']}"
    module, _, own = name.rpartition(".")
    made = type(own, (), {"__module__": module, "__init__": lambda *_: None})
    seconds = segment if isinstance(segment, tuple) else (segment,)
    kwargs = {
        "sources": case.facts["sources"],
        **case.facts["options"],
        "samplerate": case.facts["rate"],
        "segment": _Ratio(*seconds) if segment else Fraction(case.facts["segment"], case.facts["rate"]),
    }
    state = {key: tensor.half() for key, tensor in state_dict(case).items()}
    package = {"klass": made, "args": (), "kwargs": kwargs, "state": state, "training_args": {"lr": 3e-4}}
    if called:
        package["called"] = _Called(made)
    path = folder / "package.th"
    parents = {"demucs": ModuleType("demucs"), module: ModuleType(module)}
    setattr(parents[module], own, made)
    with patch.dict(sys.modules, parents):
        torch.save({**package, **changes}, path)
    return path


def save_old_package(case: Case, folder: Path, *, zipped: bool = True, **kwargs: Any) -> Path:
    """As `save_model` of v2; or, where `sources` is a number, as v1's: a tuple.

    Of 2019 are files in the old format, in which a network's class comes with its source.
    """
    made = type("Demucs", (torch.nn.Module,), {"__module__": "demucs.model"})
    first = isinstance(kwargs.get("sources"), int)
    told = {**case.facts["options"], "samplerate": case.facts["rate"], **kwargs}
    if not first:
        told = {"sources": case.facts["sources"], "segment_length": case.facts["segment"], **told}
    package = {"klass": made, "args": (), "kwargs": told, "state": state_dict(case)}
    path = folder / "package.th"
    parents = {"demucs": ModuleType("demucs"), "demucs.model": ModuleType("demucs.model")}
    parents["demucs.model"].Demucs = made  # type: ignore[attr-defined]
    written = tuple(package.values()) if first else {**package, "training_args": {"lr": 3e-4}}
    with patch.dict(sys.modules, parents):
        torch.save(written, path, _use_new_zipfile_serialization=zipped)
    return path


def write_msst(
    case: Case, folder: Path, inference: dict[str, Any] | None = None, **model: Any
) -> tuple[Path, Path]:
    """A state dict and its yaml; `model` are further options of the network."""
    checkpoint, config, name = folder / "model.ckpt", folder / "model.yaml", NAMES[case.facts["kind"]]
    torch.save(state_dict(case), checkpoint)
    training = {
        "instruments": case.facts["sources"],
        "samplerate": case.facts["rate"],
        "channels": 2,
        "segment": f"{case.facts['segment']}/{case.facts['rate']}",
    }
    told = {"model": name, name: {**case.facts["options"], **model}, "training": training}
    config.write_text(yaml.safe_dump({**told, **({"inference": inference} if inference else {})}))
    return checkpoint, config
