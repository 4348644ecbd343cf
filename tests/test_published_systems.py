"""Published recipes against the original scripts, with the same small seeded networks in both, on music.

What is compared, and what differs on purpose, tells tests/golden/README.md.
"""

import random

import pytest
from golden.files import read
from golden.systems import OFFSET, kept, music
from oracle import snr_db
from published_systems import lay_out

from rofo import Separator


def worst(recipe, case, folder, lengths=None, rate=44100):
    """{length: the least dB of its stems} of a recipe from what its original gave."""
    found = {}
    with Separator(lay_out(recipe, case.facts["files"], folder), backend="onnxruntime") as separator:
        for length in lengths or case.facts["lengths"]:
            stems = separator.separate(music(length), rate)
            wanted = {n.partition(" ")[2]: o for n, o in case.outputs.items() if n.startswith(f"{length} ")}
            assert wanted
            assert set(wanted) <= set(stems)
            found[length] = min(snr_db(want, kept(stems[name])) for name, want in wanted.items())
    print(recipe, {length: round(db, 1) for length, db in found.items()})
    return found


@pytest.fixture
def one_shift(monkeypatch):
    """Demucs' shifts are of one number of samples, as they were in the originals."""
    monkeypatch.setattr(random.Random, "randint", lambda *_: OFFSET)


@pytest.mark.parametrize("board", ["A", "B"])
def test_kuielab_sdx23(board, tmp_path):
    case = read("sdx23_networks").cases[board]
    assert min(worst(f"kuielab_sdx23_{board.lower()}", case, tmp_path).values()) > 100


@pytest.mark.parametrize(
    ("recipe", "case"), [("mvsep_mdx23", "two MDX-Nets"), ("mvsep_mdx23_single_onnx", "single_onnx")]
)
def test_mvsep_mdx23(recipe, case, tmp_path, one_shift):
    assert min(worst(recipe, read("mvsep_networks").cases[case], tmp_path).values()) > 80
