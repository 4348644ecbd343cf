"""A family is a folder and a line: one that only this test knows is exported and separates a song."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rofo import Separator
from rofo.export import CheckpointError, ExportOptions, ParityError, export_checkpoint, families
from rofo.export.export import facts_report
from rofo.export.facts import Facts
from rofo.export.families.family import Family
from rofo.export.graph.types import Form
from rofo.export.source import Source


class Equaliser(nn.Module):
    """A gain per bin: `gains` (bins,)."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.zeros(bins))

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        return (mix * self.gains[:, None]).unsqueeze(1)


class Toy(Family):
    name = "toy"
    options = frozenset({"sample_rate", "chunk_seconds", "stems"})
    slip = 1.0  # what the engine's form gets wrong

    def reads(self, source: Source) -> bool:
        return "gains" in source.state

    def weights(self, source: Source) -> dict[str, Any]:
        return {"architecture": "toy", "n_fft": 2 * (len(source.state["gains"]) - 1), "num_stems": 1}

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        return {"stems": tuple(config["stems"]), "n_fft": config.get("n_fft")}

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        usual = Facts.said("default", {"channels": 2, "hop_length": facts["n_fft"] // 4, "scheme": "fade"})
        return families.merge(facts, usual)

    def network(self, facts: Facts) -> nn.Module:
        return Equaliser(facts["n_fft"] // 2 + 1)

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        arranged = Equaliser(facts["n_fft"] // 2 + 1)
        arranged.gains.data = network.get_parameter("gains").data * self.slip
        return arranged


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    family = Toy()
    monkeypatch.setattr(families, "FAMILIES", [*families.FAMILIES, family])
    return family


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "toy.pt"
    torch.save({"gains": torch.full((65,), 0.5, dtype=torch.float16)}, path)
    return path


def options(**given: Any) -> ExportOptions:
    return ExportOptions(given={"sample_rate": 44100, "chunk_seconds": 0.1, "stems": ("voice",), **given})


def test_a_new_family_is_exported_and_separates(toy, checkpoint, song):
    report = export_checkpoint(checkpoint, options())
    assert report.parity[0].snr_db > 100
    mix = song(20000)
    with Separator(report.files[0]) as separator:
        stems = separator.separate(mix, 44100)
    np.testing.assert_allclose(stems["voice"], mix / 2, atol=1e-5)


def test_an_engine_whose_form_is_wrong_does_not_pass(toy, checkpoint):
    toy.slip = 1.001
    with pytest.raises(ParityError, match="60.0 dB from the network on loud music"):
        export_checkpoint(checkpoint, options())
    assert not checkpoint.with_suffix(".onnx").exists()


def test_facts_say_who_said_them_and_what_is_missing(toy, checkpoint):
    text = facts_report(checkpoint, ExportOptions(given={"sample_rate": 48000}))
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in text.splitlines()}
    assert lines["sample_rate"] == ["48000", "command line"]
    assert lines["n_fft"] == ["128", "weights"]
    assert lines["hop_length"] == ["32", "default"]
    assert "missing: chunk length in seconds (--chunk)" in text
    assert "missing: names of its stem(s) in order (--stems)" in text


def test_a_yaml_that_contradicts_the_weights_is_refused(toy, checkpoint, tmp_path):
    yaml = tmp_path / "toy.yaml"
    yaml.write_text("stems: [voice]\nn_fft: 256\n")
    given = {"sample_rate": 44100, "chunk_seconds": 0.1}
    with pytest.raises(CheckpointError, match="n_fft is 256 but 128 in the weights"):
        export_checkpoint(checkpoint, ExportOptions(config=yaml, given=given))


def test_weights_that_do_not_fit_are_named(toy, tmp_path):
    path = tmp_path / "toy.pt"
    torch.save({"gains": torch.ones(65), "more": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="unexpected: more"):
        export_checkpoint(path, options())


def test_an_option_that_means_nothing_is_refused(toy, checkpoint):
    with pytest.raises(CheckpointError, match="--compensate means nothing for toy"):
        export_checkpoint(checkpoint, options(compensate=1.02))


def test_an_unknown_network_is_refused_by_what_it_begins_with(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"strange.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="begins with 'strange.weight'"):
        export_checkpoint(path)
