"""Made-up results of every kind, and a model of a family that only tests know."""

from dataclasses import replace

import pytest
import toy as toy_family

from rofo.benchmarks.results import (
    About,
    Exported,
    LeftOut,
    Limits,
    Machine,
    Model,
    Parity,
    ParityRow,
    Part,
    Point,
    Scale,
    Speed,
    SpeedRow,
    Spread,
    StemScore,
)
from rofo.benchmarks.subject import Subject, Told
from rofo.export import ExportOptions, export_checkpoint, families
from rofo.manifest import load_engine_manifest

MACHINE = Machine("Chip & Co", 2, 1, ("avx2",), 8.0, "Linux", None)
ABOUT = About("2026-01-02T03:04:05+00:00", MACHINE, {"rofo": "0.1.0"}, (LeftOut("pymss", "not <installed>"),))
MODEL = Model("tiny", "bs_roformer", "0" * 64, 44100, ("vocals",), 8.0, "fade", 0.5, 1, 8.7, 0.64)


def spread(median: float) -> Spread:
    return Spread(median, median * 0.9, median * 1.1)


def speed(name: str = "rofo openvino fp32") -> Speed:
    row = SpeedRow(
        name, "cpu", "fp32", spread(0.5), spread(3.2), spread(20), spread(1), spread(2), spread(0.02),
        (Part("engine", spread(15)), Part("write", spread(0.1))), spread(2048), 0.97, 0.01,
    )  # fmt: skip
    slow = SpeedRow(
        "PyTorch fp32 (pymss-core)", "cpu", "fp32", spread(0.15), spread(1), spread(60), None, None, None, (),
        spread(3000), None, None,
    )  # fmt: skip
    limits = Limits({"fp32": {"median": 190.0, "lowest": 188.0, "highest": 192.0}}, spread(20))
    return Speed("speed", ABOUT, MODEL, 16.0, 4, 3, limits, Exported(17.0, 1300, 2.2), (slow, row))


def parity() -> Parity:
    rows = (
        ParityRow("PyTorch fp32 (pymss-core)", "fp32", None, (StemScore("vocals", None, 9.5, 9.1),)),
        ParityRow("rofo openvino bf16", "bf16", 41.5, (StemScore("vocals", 48.25, 9.47, 9.0),)),
    )
    return Parity("parity", ABOUT, MODEL, "mix.wav", 15.0, rows)


def scale() -> Scale:
    peaks = {60.0: 1000.0, 600.0: 1200.0, 3600.0: 1500.0}
    points = tuple(Point("seconds", v, spread(v), spread(1), spread(mb)) for v, mb in peaks.items())
    return Scale("scale", ABOUT, MODEL, "openvino", "fp32", 30.0, 3, points)


@pytest.fixture
def speed_result():
    """Make a Speed of a model."""
    return lambda name="tiny", row="rofo openvino fp32": replace(speed(row), model=replace(MODEL, name=name))


@pytest.fixture
def parity_result():
    """A Parity."""
    return parity()


@pytest.fixture
def scale_result():
    """Make a Scale of a model."""
    return lambda name="tiny": replace(scale(), model=replace(MODEL, name=name))


@pytest.fixture(scope="session")
def toy_engine(tmp_path_factory):
    """Checkpoint and engine of the toy."""
    folder = tmp_path_factory.mktemp("toy")
    checkpoint = toy_family.write(folder / "toy.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "FAMILIES", [*families.FAMILIES, toy_family.Toy()])
        engine = export_checkpoint(checkpoint, ExportOptions(given=toy_family.GIVEN)).files[0]
    return checkpoint, engine


@pytest.fixture
def toy(toy_engine, monkeypatch):
    """The toy as a Subject, its family registered."""
    monkeypatch.setattr(families, "FAMILIES", [*families.FAMILIES, toy_family.Toy()])
    checkpoint, engine = toy_engine
    return Subject({"onnx": engine}, load_engine_manifest(engine), checkpoint, Told(given=toy_family.GIVEN))
