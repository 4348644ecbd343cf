"""A family is a folder and a line: one that only tests know is exported and separates a song."""

from typing import Any

import numpy as np
import pytest
import torch
from toy import GIVEN

from rofo import Separator
from rofo.export import CheckpointError, ExportOptions, ParityError, export_checkpoint
from rofo.export.export import facts_report


def options(**given: Any) -> ExportOptions:
    return ExportOptions(given={**GIVEN, **given})


def test_a_new_family_is_exported_and_separates(toy, toy_checkpoint, song):
    report = export_checkpoint(toy_checkpoint, options())
    assert report.parity[0].snr_db > 100
    mix = song(20000)
    with Separator(report.files[0]) as separator:
        stems = separator.separate(mix, 44100)
    np.testing.assert_allclose(stems["voice"], mix / 2, atol=1e-5)


def test_an_engine_whose_form_is_wrong_does_not_pass(toy, toy_checkpoint):
    toy.slip = 1.001
    with pytest.raises(ParityError, match=r"60\.0 dB from the network on loud music"):
        export_checkpoint(toy_checkpoint, options())
    assert not toy_checkpoint.with_suffix(".onnx").exists()


def test_facts_say_who_said_them_and_what_is_missing(toy, toy_checkpoint):
    text = facts_report(toy_checkpoint, ExportOptions(given={"sample_rate": 48000}))
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in text.splitlines()}
    assert lines["sample_rate"] == ["48000", "command line"]
    assert lines["n_fft"] == ["128", "weights"]
    assert lines["hop_length"] == ["32", "default"]
    assert "missing: chunk length in seconds (--chunk)" in text
    assert "missing: names of its stem(s) in order (--stems)" in text


def test_a_yaml_that_contradicts_the_weights_is_refused(toy, toy_checkpoint, tmp_path):
    yaml = tmp_path / "toy.yaml"
    yaml.write_text("stems: [voice]\nn_fft: 256\n")
    given = {"sample_rate": 44100, "chunk_seconds": 0.1}
    with pytest.raises(CheckpointError, match="n_fft is 256 but 128 in the weights"):
        export_checkpoint(toy_checkpoint, ExportOptions(config=yaml, given=given))


def test_weights_that_do_not_fit_are_named(toy, tmp_path):
    path = tmp_path / "toy.pt"
    torch.save({"gains": torch.ones(65), "more": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="unexpected: more"):
        export_checkpoint(path, options())


def test_an_option_that_means_nothing_is_refused(toy, toy_checkpoint):
    with pytest.raises(CheckpointError, match="--compensate means nothing for toy"):
        export_checkpoint(toy_checkpoint, options(compensate=1.02))


def test_an_unknown_network_is_refused_by_what_it_begins_with(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"strange.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"begins with 'strange\.weight'"):
        export_checkpoint(path)
