"""The catalogue: every entry is sound, and found by each of its marks where the weights agree."""

import re
from pathlib import Path

import pytest

from rofo.export.catalogue import find_download, find_entry, list_downloads, load_catalogue
from rofo.export.facts import Facts
from rofo.export.source import Source

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
    "bs_leap_xe_voc.ckpt": 1722,
    "bs_roformer_voc_hyperacev2.ckpt": 1876,
    "bs_large_v2_inst.ckpt": 1876,
    "bs_roformer_fno.ckpt": 1700,
    "MelBandRoformer.ckpt": 801,
    "big_beta5e.ckpt": 1101,
    "mel_band_roformer_4stems_large_ver1.ckpt": 751,
    "model_bandit_plus_dnr_sdr_11.47.chpt": 517,
    "checkpoint-multi_fixed.ckpt": 751,
}
# What the weights of a network decide; the rest an entry has to say.
DECIDED = {
    "architecture",
    "dim",
    "depth",
    "mask_estimator_depth",
    "mlp_expansion_factor",
    "shared_bias",
    "dim_f",
    "dims",
    "num_dplayer",
    "band_kernel",
    "conv_depths",
    "num_bands",
    "hyperace_version",
    "refiner_depth",
    "use_mask_estimator_fno",
    "use_value_residual_learning",
    "rnn_type",
    "n_sqm_modules",
}
# What an instrumental is called in tables, whatever the network says.
INSTRUMENTALS = ("instrumental", "other", "vocals")
# Samples over a whole number of hops in a chunk; all others have none.
OVER = {"SW (Logic)": 236, "Leap": 407, "centre v1": 95, "53 stems": 336}
ENTRIES = load_catalogue()


def weights_of(entry, **changes):
    said = {name: value for name, value in entry.facts.items() if name in DECIDED}
    stems = entry.facts.get("stems", entry.stems)
    return Facts.said("weights", {**said, "num_stems": len(stems), **changes})


def source(name="renamed.ckpt", sha256="-", tail_md5="-"):
    return Source(Path(name), sha256, tail_md5)


def check(entry):
    facts = entry.facts
    assert entry.files or entry.tail_md5
    assert all(re.fullmatch(r"[\w.+-]+\.(ckpt|chpt|pt|pth|th|onnx)", name) for name in entry.files)
    assert all(re.fullmatch(r"[0-9a-f]{8,64}", digest) for digest in entry.sha256)
    assert all(re.fullmatch(r"[0-9a-f]{8,32}", digest) for digest in entry.tail_md5)
    # One or the other; the order of `stems` means nothing, so there must be several.
    assert ("stems" in facts) != (len(entry.stems) > 1)
    stems = facts.get("stems", entry.stems)
    assert isinstance(stems, tuple) and stems
    assert len({stem.lower() for stem in stems}) == len(stems)
    assert set(stems) <= set(facts.get("instruments", stems))
    assert all(
        type(facts[name]) is bool for name in ("zero_dc", "skip_connection", "normalize") if name in facts
    )


def test_every_entry_is_sound():
    for entry in ENTRIES:
        check(entry)


def test_entries_of_masks_say_how_their_network_is_run():
    entries = [entry for entry in ENTRIES if "dim" in entry.facts]
    assert len(entries) == 87
    for entry in entries:
        facts = entry.facts
        assert facts["dim"] % 64 == 0 and 1 <= facts["depth"] <= 24
        assert facts["sample_rate"] == 44100 and facts["hop_length"] in (441, 512, 882)
        over = next((over for name, over in OVER.items() if name in entry.name), 0)
        assert facts["chunk"] % facts["hop_length"] == over, entry.name


def test_entries_of_convolutions_say_how_uvr_runs_them():
    entries = [entry for entry in ENTRIES if "dim_t" in entry.facts]
    assert len(entries) == 52
    for entry in entries:
        facts = entry.facts
        assert facts["n_fft"] % 256 == 0 and facts["dim_t"] % 2 == 0
        assert 1.0 <= facts.get("compensate", 1) <= 1.8


@pytest.mark.parametrize(("file", "frames"), FRAMES.items(), ids=FRAMES)
def test_frames_per_chunk(file, frames):
    (entry,) = [entry for entry in ENTRIES if file in entry.files]
    assert 1 + entry.facts["chunk"] // entry.facts["hop_length"] == frames


def test_files_and_hashes_are_unique():
    for values in (
        [file for entry in ENTRIES for file in {file.lower() for file in entry.files}],
        [digest for entry in ENTRIES for digest in entry.sha256],
        [digest for entry in ENTRIES for digest in entry.tail_md5],
    ):
        assert len(set(values)) == len(values)


def test_every_entry_is_found_by_each_of_its_marks():
    for entry in ENTRIES:
        weights = weights_of(entry)
        assert all(find_entry(source(file), weights) == entry for file in entry.files)
        assert all(find_entry(source(sha256=d.ljust(64, "0")), weights) == entry for d in entry.sha256)
        assert all(find_entry(source(tail_md5=d.ljust(32, "0")), weights) == entry for d in entry.tail_md5)
        assert find_entry(source(), weights) is None


LINK = re.compile(
    r"hf://[\w.-]+/[\w.-]+(@[0-9a-f]{40})?(/[\w.+-]+)+"
    r"|https://(github\.com|dl\.fbaipublicfiles\.com|raw\.githubusercontent\.com)(/[\w.+-]+)+"
)
DOWNLOADS = list_downloads()


def test_every_download_is_whole_and_pinned_by_what_is_known():
    assert len(DOWNLOADS) > 190
    for entry, download in DOWNLOADS:
        assert LINK.fullmatch(download.link) and ".." not in download.link
        assert download.config is None or re.fullmatch(rf"({LINK.pattern})(?<=\.yaml)", download.config)
        # A file on a branch that moves is not pinned by its address.
        assert "githubusercontent" not in (download.config or "") or re.search(
            r"/[0-9a-f]{40}/", download.config
        )
        assert download.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", download.sha256)
        assert download.size is None or 1_000_000 < download.size < 4_000_000_000
        stems = {stem.lower() for stem in (*entry.facts.get("stems", entry.stems), *INSTRUMENTALS)}
        assert {stem.lower() for stem in download.sdr} <= stems | set(entry.facts.get("instruments", ()))
        assert all(0 < sdr < 30 for sdr in download.sdr.values())


def test_a_download_without_facts_of_its_own_brings_a_yaml():
    for entry, download in DOWNLOADS:
        itself = download.file.endswith((".onnx", ".th"))  # by its hash; a package of Demucs
        assert download.config or itself or len(entry.facts) > 2, download.name


def test_names_of_downloads_are_unique_and_found_in_any_case():
    names = [download.name.lower() for _, download in DOWNLOADS]
    assert len(set(names)) == len(names)
    for _, download in DOWNLOADS:
        assert find_download(download.name.upper()) is download


def test_the_page_counts_right():
    page = (Path(__file__).parents[2] / "checkpoints" / "README.md").read_text(encoding="utf-8")
    downloads = [download for _, download in DOWNLOADS]
    assert f"# {len(downloads)} files" in page
    assert f"sha256 ({sum(d.sha256 is not None for d in downloads)} files)" in page
    assert f"size ({sum(d.size is not None for d in downloads)})" in page
    assert f"elsewhere ({sum(d.link.startswith('https') for d in downloads)} files" in page
    assert f"{sum('@' in d.link for d in downloads)} entries name theirs" in page


def test_the_list_is_searched_by_any_word_in_it():
    assert {d.name for _, d in list_downloads("gpl-3.0")} > {"bs_roformer_mag_anvuew"}
    assert "MelBandRoformer" in {d.name for _, d in list_downloads("10.98")}
    assert list_downloads("no such word") == []


@pytest.mark.parametrize(
    "change",
    [{"dim": 64}, {"depth": 1}, {"num_stems": 9}, {"mask_estimator_depth": 1}, {"architecture": "x"}],
)
def test_the_weights_must_agree_even_where_name_and_hash_do(change):
    entry = ENTRIES[0]
    named = source(entry.files[0], entry.sha256[0], entry.tail_md5[0])
    assert find_entry(named, weights_of(entry)) == entry
    assert find_entry(named, weights_of(entry, **change)) is None
