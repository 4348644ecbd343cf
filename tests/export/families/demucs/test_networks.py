"""Plain networks, their engines and whole songs against facebook's demucs (tests/golden)."""

import numpy as np
import pytest
import torch
from demucs_packages import write_msst
from golden.files import Case, read
from golden.seeded import song
from oracle import snr_db

from rofo import Options, Separator
from rofo.dsp.spectrogram import Spectrogram
from rofo.export import ExportOptions, export_checkpoint
from rofo.export.families import describe, find_family, load_network
from rofo.export.graph.trace import run_network
from rofo.export.graph.types import Form
from rofo.export.model import Model
from rofo.export.source import read_source

CASES = read("demucs").cases | read("demucs_old").cases | read("demucs_multi").cases
BANDS = tuple(read("demucs_multi").cases)


def through(case: Case, folder, form: Form | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What the original gave, and what our network gives: the plain one, or that of a form."""
    length = case.facts["length"]
    # A v4 fills a short chunk with zeros, a v3 takes it as it is.
    samples = length if case.facts["kind"] == "HDemucs" else case.facts["segment"]
    path, config = write_msst(case, folder)
    source = read_source(path)
    family = find_family(source)
    given = {"chunk_seconds": samples / case.facts["rate"]}
    model = Model.of(family, source, describe(family, source, config, given), "golden")
    network = load_network(family, source, model.facts)
    if form:
        network = family.engine(network, model.facts, form)
    chunk = np.zeros((2, samples), np.float32)
    chunk[:, :length] = song(length)
    transform = Spectrogram(model.stft, samples)
    found = run_network(network, {"mix": transform.forward(chunk)[None], "waveform": chunk[None]})
    stems = transform.inverse(found["stems"][0]) + found["waveforms"][0]
    return case.outputs["stems"], stems[..., : length : case.facts["stride"]]


@pytest.mark.parametrize("name", CASES)
def test_the_plain_network_is_the_originals(name, tmp_path):
    assert snr_db(*through(CASES[name], tmp_path)) > 110


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs of short frames", "magnitudes", *BANDS])
@pytest.mark.parametrize(("form", "least"), [(Form(), 105), (Form("tensorrt", "fp16"), 40)], ids=str)
def test_so_is_its_engine(name, form, least, tmp_path):
    assert snr_db(*through(CASES[name], tmp_path, form)) > least


def test_engines_of_bands_run_on_either_runtime(tmp_path):
    case = CASES["two bands"]
    path, config = write_msst(case, tmp_path)
    options = ExportOptions(config=config, given={"normalize": False}, plan=None, verify=False)
    engine = export_checkpoint(path, options).files[0]
    for backend in ("openvino", "onnxruntime"):
        with Separator(engine, backend=backend, precision="fp32") as separator:
            stems = separator.separate(song(case.facts["length"]), case.facts["rate"], Options(overlap=0))
        got = np.stack(list(stems.values()))[..., :: case.facts["stride"]]
        assert snr_db(case.outputs["stems"], got) > 105, backend


def test_items_of_a_batch_are_levelled_by_themselves(tmp_path):
    case = CASES["htdemucs"]
    path, config = write_msst(case, tmp_path)
    source = read_source(path)
    family = find_family(source)
    facts = describe(family, source, config).require()
    engine = family.engine(load_network(family, source, facts), facts, Form())
    mix, wave = torch.randn(1, 2, 16, 2048, 2), torch.randn(1, 2, 16384)
    gain = torch.tensor([1.0, 100.0]).view(2, 1, 1)
    both = engine(mix * gain[..., None, None], wave * gain)
    for output in both:
        torch.testing.assert_close(output[1:] / 100, output[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["htdemucs", "hdemucs"])
def test_songs_are_those_of_apply_model(kind, tmp_path):
    """Shifts are drawn as the original draws them after random.seed(0).

    The original gives a v3 a short last chunk in its own length: only what lies before it is the same.
    """
    cases = {n: c for n, c in read("demucs_apply_model").cases.items() if n.startswith(f"{kind},")}
    path, config = write_msst(next(iter(cases.values())), tmp_path)
    options = ExportOptions(config=config, plan=None, verify=False)
    with Separator(export_checkpoint(path, options).files[0]) as separator:
        for name, case in cases.items():
            facts = case.facts
            chosen = Options(overlap=facts["overlap"], shifts=len(facts["offsets"]))
            stems = separator.separate(song(facts["length"]), facts["rate"], chosen)
            got = np.stack(list(stems.values()))[..., :: facts["stride"]]
            same = slice(None)
            if kind == "hdemucs":
                lead = 22050 - facts["offsets"][0] if facts["offsets"] else 0
                step = int((1 - facts["overlap"]) * facts["segment"])
                starts = np.arange(-lead, facts["length"], step)
                short = starts[starts + facts["segment"] > facts["length"]][0]
                same = slice(short // facts["stride"])
            assert got.shape == case.outputs["stems"].shape
            assert snr_db(case.outputs["stems"][..., same], got[..., same]) > 100, name
