"""MDX-Nets and MDX23C from file to stems, against what the tools that run them gave (tests/golden)."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.checkpoints import engine_of, state_dict, write_checkpoint, write_lightning
from golden.files import FOLDER, Case, read
from golden.seeded import song
from mdx_oracle import ConvOracle, TfcOracle, write_onnx
from oracle import snr_db

from rofo import Options, Separator
from rofo.errors import UsageError
from rofo.export import ExportOptions, PlanOptions, export_checkpoint

RATE = 44100
SUBMISSION = read("mdx_net_submission").cases
TARGETS = ("bass", "drums", "other", "vocals")


def separated(separator: Separator, mix: np.ndarray, **options: object) -> np.ndarray:
    """(stems, channels, samples), in the manifest's order; what is left of the mix is checked on the way."""
    found = separator.separate(mix, RATE, Options(**options))
    stems = np.stack([found[stem] for stem in separator.manifest.stems])
    if separator.manifest.residual:
        np.testing.assert_allclose(found[separator.manifest.residual], mix - stems.sum(axis=0), atol=1e-6)
    return stems


def assert_songs(file: Path, case: Case, *, above_zero: float = 0, **options: object) -> None:
    """Every song of a case, on both backends."""
    for backend in ("openvino", "onnxruntime"):
        with Separator(file, backend=backend, precision="fp32") as separator:
            for length, want in case.outputs.items():
                mix = song(int(length)) + np.float32(above_zero)
                assert snr_db(want, separated(separator, mix, **options)) > 105, (backend, length)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """kuielab's network as UVR's .onnx files are published."""
    return Path(shutil.copy(FOLDER / "mdx_net.onnx", tmp_path / "Some_Vocal.onnx"))


def test_an_onnx_file_as_uvr_runs_it(onnx_file: Path) -> None:
    cases = read("uvr_mdx").cases
    gain = cases["overlap Default"].facts["compensate"]
    file = engine_of(onnx_file, n_fft=2048, stems=("vocals",), compensate=gain)
    for case in cases.values():
        overlap = None if case.facts["overlap"] == "Default" else case.facts["overlap"]
        assert_songs(file, case, above_zero=0.25, overlap=overlap)


def test_an_onnx_file_as_audio_separator_runs_it(onnx_file: Path) -> None:
    file = engine_of(onnx_file, n_fft=2048, stems=("vocals",), compensate=1.0)
    assert_songs(file, read("audio_separator").cases["MDX-Net"], overlap=0.25)


def test_an_onnx_file_as_mvsep_runs_it(onnx_file: Path) -> None:
    case = read("mvsep_mdx23").cases["a slice and more"]
    file = engine_of(onnx_file, n_fft=2048, stems=("vocals",), scheme="outer")
    with Separator(file, precision="fp32") as separator:
        got = separated(separator, song(case.facts["length"]), overlap=case.facts["overlap"])
    assert snr_db(case.outputs["stems"], got[..., :: case.facts["stride"]]) > 105


def test_kuielabs_mixer_and_its_members(tmp_path: Path) -> None:
    """Four networks, each with its own n_fft, and the mix through one matrix."""
    members = []
    for target in TARGETS:
        members.append(engine_of(write_lightning(SUBMISSION[target], tmp_path, target), scheme="trim"))
        assert_songs(members[-1], SUBMISSION[target])
    torch.save(state_dict(SUBMISSION["mixer"]), tmp_path / "mixer.ckpt")
    options = ExportOptions(members=members[::-1], output=tmp_path / "kuielab")
    (file,) = export_checkpoint(tmp_path / "mixer.ckpt", options).files
    assert_songs(file, SUBMISSION["mixer"])


def test_mdx23c_as_sdx23_runs_it(tmp_path: Path) -> None:
    case = read("sdx23").cases["four stems"]
    file = engine_of(*write_checkpoint(case, tmp_path), scheme="rectangular")
    assert_songs(file, case)


def test_mdx23c_as_audio_separator_runs_it(tmp_path: Path) -> None:
    """Under another scheme than the engine's own, at two overlaps."""
    cases = read("audio_separator").cases
    file = engine_of(*write_checkpoint(cases["MDX-C"], tmp_path))
    assert_songs(file, cases["MDX-C"], scheme="rectangular")
    assert_songs(file, cases["MDX-C, 4"], scheme="rectangular", overlap=0.75)


def test_plans_are_built_and_measured_for_both_families(tmp_path: Path) -> None:
    mdx_net, mdx23c, config = tmp_path / "Some_Vocal.onnx", *TfcOracle().write(tmp_path)
    # Its numbers fit fp16; those of mdx_net.onnx do not, on full-scale noise.
    sizes = {"n_fft": 2048, "hop_length": 1024, "dim_f": 64, "dim_t": 16}
    write_onnx(ConvOracle(sizes).network(), mdx_net, 64, 16)
    given = {"n_fft": 2048, "stems": ("vocals",)}
    for path, said in ((mdx_net, {"given": given}), (mdx23c, {"config": config})):
        plan = PlanOptions(batch=2)
        report = export_checkpoint(
            path, ExportOptions(output=tmp_path / "plan", onnx=False, plan=plan, **said)
        )
        (entry,), (parity,) = report.manifest.engines, report.manifest.parity
        assert (entry.backend, entry.precision, entry.batch) == ("tensorrt-rtx", "fp16", 2)
        assert (parity.precision, parity.measured_on) == ("fp16", "typed graph on the CPU")
        assert parity.snr_db > 45


def test_attention_of_a_network_that_has_none_is_refused(tmp_path: Path) -> None:
    path, config = TfcOracle().write(tmp_path)
    plan = PlanOptions(attention="bf16")
    with pytest.raises(UsageError, match="--attention"):
        export_checkpoint(path, ExportOptions(config=config, onnx=False, plan=plan, verify=False))
