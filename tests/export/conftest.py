"""Exports of a family that only tests know: no network of public size is traced for them."""

from pathlib import Path

import pytest
from toy import Toy, write

from rofo.export import families


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy family, registered."""
    family = Toy()
    monkeypatch.setattr(families, "FAMILIES", [*families.FAMILIES, family])
    return family


@pytest.fixture
def toy_checkpoint(toy: Toy, tmp_path: Path) -> Path:
    """Its checkpoint, in a folder of its own."""
    folder = tmp_path / "given"
    folder.mkdir()
    return write(folder / "toy.pt")
