"""What a family of networks is to the rest of the exporter."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from rofo.engines.contract import Tensors
from rofo.export.facts import Facts
from rofo.export.graph.trace import run_network
from rofo.export.graph.types import Form
from rofo.export.source import Source


class Family:
    """One family: how its files are told and read, its network as the paper has it, and its engine's form.

    A subclass lives in a folder of its own and is registered in rofo.export.families. `name` is the folder's.
    `options` are the facts that the command line may supply (names of rofo.export.facts). `yaml_types` are
    the names that a yaml's model_type may give it, `yaml_hints` sets of options in a yaml's model section
    that only this family has. `stages` is a regular expression for the names of the engine's modules whose
    outputs a diagnosis compares.
    """

    name: ClassVar[str]
    options: ClassVar[frozenset[str]]
    yaml_types: ClassVar[frozenset[str]] = frozenset()
    yaml_hints: ClassVar[tuple[frozenset[str], ...]] = ()
    stages: ClassVar[str] = r"[^.]+"

    def reads(self, source: Source) -> bool:
        """Whether a file holds a network of this family, told by its keys or its graph."""
        raise NotImplementedError

    def weights(self, source: Source) -> dict[str, Any]:
        """The facts that keys and shapes decide, under the names of the public yaml; always `architecture`.

        Raises CheckpointError where a key that the network cannot be without is missing or misshapen. The
        state is left as it is.
        """
        raise NotImplementedError

    def hyper_parameters(self, source: Source) -> Mapping[str, Any] | None:
        """What a Lightning file says in place of a yaml, in a yaml's layout; None where it says nothing."""
        return None

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """The facts of a yaml, None for those on which it is silent.

        Under the names of `weights`, so that contradictions show. What is mistyped, unknown or not supported
        is appended to `problems`, one clause each.
        """
        raise NotImplementedError

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """Add what follows in this family, and its defaults (origin "default"), before the common completion.

        What cannot be is appended to `problems`.
        """
        raise NotImplementedError

    def check(self, facts: Facts) -> list[str]:
        """What is impossible in this family though every fact is there, one clause each."""
        return []

    def summary(self, facts: Facts) -> str:
        """The network in a few words."""
        return str(facts["architecture"])

    def msst_type(self, facts: Facts) -> str | None:
        """What Music-Source-Separation-Training calls this network (`model_type`), None where it has none."""
        return None

    def network(self, facts: Facts) -> nn.Module:
        """The network as its paper has it, without weights; its state dict has the public names.

        mix (batch, channels, frames, bins, 2) -> stems (batch, stems, channels, frames, bins, 2); with the
        fact `waveform` also waveform (batch, channels, samples) -> waveforms (batch, stems, channels,
        samples), a second argument and result, or the only one where the fact `spectrogram` is False. It is
        built on the meta device, so that it must have no buffers but those of its state dict.
        """
        raise NotImplementedError

    def state(self, source: Source, facts: Facts) -> dict[str, Tensor]:
        """The state dict for `network`: every entry fits and is used. Empties the source's."""
        state = dict(source.state)
        source.state.clear()
        return state

    def original(self, source: Source, facts: Facts, network: nn.Module) -> Callable[[Tensors], Tensors]:
        """What an engine is compared with, inputs to outputs by name: the network, or the file if it runs."""
        return partial(run_network, network)

    def keeps_silence(self, facts: Facts) -> bool:
        """Whether silence must come out as silence."""
        return True

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """The arrangement that an engine of this form runs best, derived from the loaded plain network.

        Same input and output. Number types are those of `form`. Raises CheckpointError where the chunk does
        not suit the network, UsageError for types that it does not have.
        """
        raise NotImplementedError
