import dataclasses
import re

import pytest

from rofo.export.catalogue import find_entry, load_catalogue
from rofo.export.families.roformer.shapes import Shapes

# STFT frames of a chunk, as published with these checkpoints.
FRAMES = {
    "model_bs_roformer_ep_317_sdr_12.9755.ckpt": 801,
    "model_bs_roformer_ep_937_sdr_10.5309.ckpt": 258,
    "model_bs_roformer_ep_17_sdr_9.6568.ckpt": 1101,
    "BS-Rofo-SW-Fixed.ckpt": 1151,
    "bs_6stem.ckpt": 1151,
    "BS-Roformer-Resurrection.ckpt": 1536,
    "BS-Roformer-Resurrection-Inst.ckpt": 1700,
    "deverb_bs_roformer_8_384dim_10depth.ckpt": 690,
    "MelBandRoformer.ckpt": 801,
    "big_beta5e.ckpt": 1101,
    "mel_band_roformer_4stems_large_ver1.ckpt": 751,
}
ENTRIES = load_catalogue()
IDS = [entry.name for entry in ENTRIES]


def shapes_of(entry):
    return Shapes(
        family=entry.family,
        dim=entry.dim,
        depth=entry.depth,
        heads=8,
        dim_head=64,
        num_stems=len(entry.stems),
        time_depth=1,
        freq_depth=1,
        linear_depth=0,
        band_inputs=(4,),
        mask_layers=entry.mask_layers,
        mlp_expansion=entry.mlp_expansion or 4,
        ff_mult=4,
        positions="rotary",
        shared_bias=entry.shared_bias or "none",
        table_frames=None,
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_schema(entry):
    assert entry.family in ("bs_roformer", "mel_band_roformer")
    assert entry.files and all(re.fullmatch(r"[\w.+-]+\.(ckpt|pt|pth)", name) for name in entry.files)
    assert entry.dim % 64 == 0 and 1 <= entry.depth <= 24
    assert entry.mask_layers in ((2,) if entry.family == "bs_roformer" else (3, 4))
    assert entry.mlp_expansion in (None, 1, 2, 4)
    assert entry.shared_bias in (None, "none", "linear_62", "shared_qkv")
    assert entry.sample_rate == 44100
    assert entry.hop_length in (441, 512, 882)
    assert entry.num_overlap is None or 1 <= entry.num_overlap <= 50
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{8,64}", entry.sha256)
    assert entry.tail_md5 is None or re.fullmatch(r"[0-9a-f]{8,32}", entry.tail_md5)
    assert isinstance(entry.stems, tuple) and entry.stems
    assert len({stem.lower() for stem in entry.stems}) == len(entry.stems)
    assert all(type(getattr(entry, name)) is bool for name in ("zero_dc", "skip_connection", "normalize"))


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_instruments_hold_the_stems(entry):
    assert entry.instruments is None or set(entry.stems) <= set(entry.instruments)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_chunk_is_a_whole_number_of_hops(entry):
    # One public yaml is not: Roformer-SW as Logic's users run it, 236 samples over.
    assert entry.chunk % entry.hop_length == (236 if entry.shared_bias == "linear_62" else 0)


@pytest.mark.parametrize(("file", "frames"), FRAMES.items(), ids=FRAMES)
def test_frames_per_chunk(file, frames):
    (entry,) = [entry for entry in ENTRIES if file in entry.files]
    assert 1 + entry.chunk // entry.hop_length == frames


def test_names_files_and_hashes_are_unique():
    for values in (
        [entry.name for entry in ENTRIES],
        [file.lower() for entry in ENTRIES for file in {f.lower() for f in entry.files}],
        [entry.sha256 for entry in ENTRIES if entry.sha256],
        [entry.tail_md5 for entry in ENTRIES if entry.tail_md5],
    ):
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_every_entry_is_found_by_each_of_its_marks(tmp_path, entry):
    shapes, unknown = shapes_of(entry), tmp_path / "renamed.ckpt"
    assert all(find_entry(tmp_path / file, "-", "-", shapes) == entry for file in entry.files)
    if entry.sha256:
        assert find_entry(unknown, entry.sha256.ljust(64, "0"), "-", shapes) == entry
    if entry.tail_md5:
        assert find_entry(unknown, "-", entry.tail_md5.ljust(32, "0"), shapes) == entry
    assert find_entry(unknown, "-", "-", shapes) is None


@pytest.mark.parametrize("change", [{"dim": 64}, {"depth": 1}, {"num_stems": 9}, {"mask_layers": 1}])
def test_shapes_must_fit_even_where_name_and_hash_do(tmp_path, change):
    entry = ENTRIES[0]
    shapes = dataclasses.replace(shapes_of(entry), **change)
    assert find_entry(tmp_path / entry.files[0], entry.sha256, entry.tail_md5, shapes) is None
