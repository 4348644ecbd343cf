"""The families of networks, one folder each: who reads a file, what is known of it, and its network.

To add one: a folder with a subclass of Family, and a line in FAMILIES.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rofo.export.catalogue import find_entry
from rofo.export.errors import CheckpointError
from rofo.export.facts import TABLE, Facts, complete, contradict, impossible, merge, missing
from rofo.export.families.bandit import Bandit
from rofo.export.families.bsrnn import Bsrnn
from rofo.export.families.demucs import Demucs
from rofo.export.families.demucs.wave import WaveDemucs
from rofo.export.families.family import Family
from rofo.export.families.mdx_net import MdxNet
from rofo.export.families.roformer import Roformer
from rofo.export.families.scnet import Scnet
from rofo.export.families.tfc_tdf import TfcTdf
from rofo.export.families.unsupported import described_by, unsupported_network
from rofo.export.source import Source
from rofo.export.source.yaml_config import load_yaml

FAMILIES: list[Family] = [Roformer(), MdxNet(), TfcTdf(), Demucs(), WaveDemucs(), Bsrnn(), Scnet(), Bandit()]

_SHOWN = 12


def find_family(source: Source) -> Family:
    """The family whose network a file holds. Raises CheckpointError, by name where the network is known."""
    for family in FAMILIES:
        if family.reads(source):
            return family
    name = unsupported_network(source.state)
    known = ", ".join(family.name for family in FAMILIES)
    if name is not None:
        raise CheckpointError(f"{source.path}: recognised as {name}: not supported yet; known are {known}")
    begins = f"it begins with {next(iter(source.state))!r}; " if source.state else ""
    raise CheckpointError(f"{source.path}: none of the networks known ({known}); {begins}give one of these")


@dataclass(frozen=True)
class Description:
    """All that is known of the model in a file, and `problems`: what is wrong with it, one clause each.

    `config` is JSON data for the manifest: the yaml or what stood in for it, and what was given.
    """

    path: Path
    yaml: Path | None
    facts: Facts
    problems: tuple[str, ...]
    config: dict[str, Any]

    def require(self) -> Facts:
        """The facts. Raises one CheckpointError that lists every contradiction, or everything missing."""
        lacking = missing(self.facts)
        found = [*self.problems, *([f"lacks the {', the '.join(lacking)}"] if lacking else [])]
        if not found:
            return self.facts
        if self.yaml is None:
            what = "" if self.problems else "not in the catalogue; "
            cure = "give these options, or the yaml published with it (--config)"
        else:
            what = f"does not fit {self.path.name}: " if self.problems else ""
            cure = f"give the yaml published with {self.path.name}, or these options"
        listed = " ".join("; ".join(found).split())  # names from a yaml may hold line breaks
        raise CheckpointError(f"{self.yaml or self.path}: {what}{listed}; {cure}")


def describe(
    family: Family, source: Source, yaml: Path | None = None, given: Mapping[str, Any] | None = None
) -> Description:
    """Ask everybody: the weights, the command line (`given`), the yaml or else the catalogue, the family.

    Names of `given` are those of rofo.export.facts, and `chunk_seconds`. The state of the source must still
    be whole; it is only looked at. Raises CheckpointError for an option that means nothing for the family,
    for the yaml of another network, and for weights that are not whole.
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    _refuse_options(source.path, family, given)
    weights = Facts.said("weights", family.weights(source))
    config = load_yaml(yaml) if yaml else family.hyper_parameters(source)
    problems: list[str] = []
    said = Facts()
    if config is not None:
        _check_kind(yaml or source.path, source.path, family, config)
        said = Facts.said("yaml", family.yaml(config, weights, problems))
    entry = None if yaml else find_entry(source, weights)
    told, catalogue = Facts.said("command line", given), Facts.said("catalogue", entry.facts if entry else {})
    facts = complete(family.complete(merge(weights, told, said, catalogue), problems))
    problems += contradict(weights, told, said) + impossible(facts)
    if not problems and not missing(facts):
        problems += family.check(facts)
    found: Mapping[str, Any] = config or ({"catalogue": entry.plain()} if entry else {})
    plain = _plain({**found, **({"command_line": given} if given else {})})
    return Description(source.path, yaml, facts, tuple(dict.fromkeys(problems)), plain)


def load_network(family: Family, source: Source, facts: Facts) -> nn.Module:
    """The plain network with the weights of a source, whose state is emptied, in float32.

    Raises CheckpointError listing every key that is missing, misshapen or not used.
    """
    with torch.device("meta"):
        network = family.network(facts).eval().requires_grad_(False)
    state = family.state(source, facts)
    problems = _misfits(network, state)
    if problems:
        raise CheckpointError(
            f"{source.path}: the weights do not fit the network ({problems}); check that the yaml belongs to "
            "this checkpoint and that the variant is supported"
        )
    # Assigned, not copied: beside the file's own tensors there is no second set of weights.
    for key in state:
        state[key] = state[key].float() if state[key].is_floating_point() else state[key]
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False)


def _misfits(network: nn.Module, state: Mapping[str, torch.Tensor]) -> str:
    wanted = network.state_dict()
    problems = {
        "missing": [key for key in wanted if key not in state],
        "wrong shape": [
            f"{key} is {_text(state[key])}, should be {_text(wanted[key])}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
        "unexpected": sorted(key for key in state if key not in wanted),
    }
    return "; ".join(f"{kind}: {_listed(keys)}" for kind, keys in problems.items() if keys)


def _text(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _listed(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _refuse_options(path: Path, family: Family, given: Mapping[str, Any]) -> None:
    """Raise CheckpointError for given options that mean nothing for this family."""
    strange = sorted(given.keys() - family.options)
    if strange:
        options = ", ".join(_option(name) for name in strange)
        raise CheckpointError(f"{path}: {options} means nothing for {family.name}; leave it out")


def _option(name: str) -> str:
    row = TABLE.get("chunk" if name == "chunk_seconds" else name)
    return row.option if row and row.option else f"--{name.replace('_', '-')}"


def _check_kind(told: Path, path: Path, family: Family, config: Mapping[str, Any]) -> None:
    """Refuse the yaml of another network."""
    other = described_by(config, family, FAMILIES)
    if other is not None:
        raise CheckpointError(
            f"{told}: describes {other}, but {path.name} holds a network of the family {family.name}; "
            "use the yaml published with this checkpoint"
        )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain
