"""MDX-Nets and MDX23C from file to stems, against networks we did not export under plain overlap-adds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mdx_oracle import ConvOracle, TfcOracle, write_onnx
from oracle import snr_db, song
from plain_demix import demix
from plain_schemes import kuielab, mdx_c, mvsep, uvr_mdx

from rofo import Options, Separator
from rofo.errors import UsageError
from rofo.export.export import export
from rofo.export.families.roformer.config import Facts
from rofo.export.plan.plan import PlanOptions

RATE = 44100
# The hop of every MDX-Net is 1024: an .onnx file cannot say another one.
PUBLIC = {"n_fft": 2048, "hop_length": 1024, "dim_f": 64, "dim_t": 16}
GAIN = 1.035
OUTER = 1_000_000


def engine(path: Path, facts: Facts, config: Path | None = None) -> Path:
    report = export(path, config=config, facts=facts, output=path.with_name(facts.scheme or "default"))
    return next(file for file in report.files if file.suffix == ".onnx")


def lengths(chunk: int, gen: int) -> list[int]:
    return [1, gen - 1, gen, gen + 1, chunk, chunk + 1, 2 * chunk + 777]


def assert_parity(
    file: Path, wanted: Callable, sizes: list[int], stems: tuple[str, ...] = ("vocals",), **options: object
) -> None:
    for backend in ("openvino", "onnxruntime"):
        with Separator(file, backend=backend, precision="fp32") as separator:
            for samples in sizes:
                mix = song(2, samples, seed=samples)
                found = separator.separate(mix, RATE, Options(**options))
                got = np.stack([found[stem] for stem in stems])
                assert snr_db(wanted(mix), got) > 80, (backend, samples)
                rest = separator.manifest.residual
                if rest:
                    np.testing.assert_allclose(found[rest], mix - got.sum(axis=0), atol=1e-6)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[ConvOracle, Path]:
    """A seeded network as UVR's .onnx files are published."""
    oracle, path = ConvOracle(PUBLIC), tmp_path_factory.mktemp("mdx") / "Some_Vocal.onnx"
    write_onnx(oracle.network(), path, 64, 16)
    return oracle, path


@pytest.mark.parametrize("overlap", [None, 0.25, 0.0])
def test_an_onnx_file_as_uvr_runs_it(onnx_file: tuple[ConvOracle, Path], overlap: float | None) -> None:
    oracle, path = onnx_file
    file = engine(path, Facts(n_fft=2048, stems=("vocals",), compensate=GAIN))

    def wanted(mix: np.ndarray) -> np.ndarray:
        model = lambda chunk: oracle.audio(chunk, zero_bins=3, compensate=GAIN)  # noqa: E731
        return uvr_mdx(mix, model, chunk=oracle.chunk, n_fft=2048, overlap=overlap)

    assert_parity(file, wanted, lengths(oracle.chunk, oracle.chunk - 2048), overlap=overlap)


def test_a_checkpoint_as_kuielab_runs_it(tmp_path: Path) -> None:
    oracle = ConvOracle(layout="old", ema=True)
    file = engine(oracle.write(tmp_path), Facts(scheme="trim"))
    n_fft, chunk = oracle.hyper["n_fft"], oracle.chunk

    def wanted(mix: np.ndarray) -> np.ndarray:
        return kuielab(mix, oracle.audio, chunk=chunk, n_fft=n_fft)

    assert_parity(file, wanted, lengths(chunk, chunk - n_fft))


def test_a_checkpoint_as_mvsep_runs_it(tmp_path: Path) -> None:
    oracle = ConvOracle({**PUBLIC, "dim_t": 64})
    file = engine(oracle.write(tmp_path), Facts(scheme="outer"))

    def wanted(mix: np.ndarray) -> np.ndarray:
        step = int(OUTER * (1 - 0.6))
        return mvsep(mix, oracle.audio, chunk=oracle.chunk, n_fft=2048, outer=OUTER, step=step)

    assert_parity(file, wanted, [OUTER + 150_000])


@pytest.mark.parametrize("stems", [("vocals", "other"), ("vocals",), ("vocals", "drums", "bass", "other")])
def test_mdx23c_as_msst_runs_it(tmp_path: Path, stems: tuple[str, ...]) -> None:
    oracle = TfcOracle(stems=stems)
    checkpoint, config = oracle.write(tmp_path)
    file = engine(checkpoint, Facts(), config)

    def wanted(mix: np.ndarray) -> np.ndarray:
        return demix(mix, oracle.audio, chunk=oracle.chunk, step=oracle.chunk // 4)

    assert_parity(file, wanted, lengths(oracle.chunk, oracle.chunk // 2), stems)


def test_mdx23c_as_sdx_and_uvr_run_it(tmp_path: Path) -> None:
    oracle = TfcOracle(dim_t=32)  # num_overlap 4 of the yaml: 1984 // 4 divides evenly
    checkpoint, config = oracle.write(tmp_path)
    file = engine(checkpoint, Facts(scheme="rectangular"), config)

    def wanted(mix: np.ndarray) -> np.ndarray:
        return mdx_c(mix, oracle.audio, chunk=oracle.chunk, number=4)

    assert_parity(file, wanted, lengths(oracle.chunk, oracle.chunk // 2), oracle.stems)


def test_one_engine_under_another_scheme_than_its_own(tmp_path: Path) -> None:
    oracle = TfcOracle(dim_t=33 - 1)
    checkpoint, config = oracle.write(tmp_path)
    file = engine(checkpoint, Facts(), config)

    def wanted(mix: np.ndarray) -> np.ndarray:
        return mdx_c(mix, oracle.audio, chunk=oracle.chunk, number=8)

    assert_parity(file, wanted, [oracle.chunk + 5], oracle.stems, scheme="rectangular")


def test_kuielabs_mixer(tmp_path: Path) -> None:
    """Four networks, each with its own n_fft, and the mix through one matrix."""
    sizes = {"bass": 256, "drums": 130, "other": 192, "vocals": 160}
    oracles = {
        stem: ConvOracle({"n_fft": n_fft, "target_name": stem}, seed=n_fft) for stem, n_fft in sizes.items()
    }
    members = []
    for stem, oracle in oracles.items():
        path = oracle.write(tmp_path, stem)
        report = export(path, facts=Facts(scheme="trim"))
        members.append(next(file for file in report.files if file.suffix == ".onnx"))
    matrix = torch.randn(8, 10, generator=torch.Generator().manual_seed(3))
    torch.save({"linear.weight": matrix}, tmp_path / "mixer.ckpt")
    (file,) = export(tmp_path / "mixer.ckpt", members=members[::-1], output=tmp_path / "kuielab").files

    def wanted(mix: np.ndarray) -> np.ndarray:
        parts = [kuielab(mix, o.audio, chunk=o.chunk, n_fft=o.hyper["n_fft"])[0] for o in oracles.values()]
        return (matrix.numpy() @ np.concatenate([*parts, mix])).reshape(4, 2, -1)

    assert_parity(file, wanted, [1, 2000, 5001], tuple(sizes))


def test_plans_are_built_and_measured_for_both_families(
    tmp_path: Path, onnx_file: tuple[ConvOracle, Path]
) -> None:
    mdx23c, config = TfcOracle().write(tmp_path)
    given = Facts(n_fft=2048, stems=("vocals",))
    for path, options in ((onnx_file[1], {"facts": given}), (mdx23c, {"config": config})):
        report = export(path, output=tmp_path / "plan", onnx=False, plan=PlanOptions(batch=2), **options)
        (entry,), (parity,) = report.manifest.engines, report.manifest.parity
        assert (entry.backend, entry.precision, entry.batch) == ("tensorrt-rtx", "fp16", 2)
        assert (parity.precision, parity.measured_on) == ("fp16", "typed graph on the CPU")
        assert parity.snr_db > 45


def test_what_only_roformers_have_is_refused(tmp_path: Path) -> None:
    path, config = TfcOracle().write(tmp_path)
    for options, pattern in (
        (PlanOptions(attention="bf16"), "--attention is for Roformers"),
        (PlanOptions(diagnose=True), "--diagnose is for Roformers"),
    ):
        with pytest.raises(UsageError, match=pattern):
            export(path, config=config, onnx=False, plan=options, check=False)
