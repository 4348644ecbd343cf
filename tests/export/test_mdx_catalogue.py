import re

import pytest

from rofo.export.families.mdx_net.catalogue import find_mdx23c, find_mdx_net, load_mdx23c, load_mdx_net

HALVINGS = 5  # of frames and bins, in every public network but one of 2^7 frames with four


@pytest.mark.parametrize("entry", load_mdx_net(), ids=lambda entry: entry.tail_md5[:8])
def test_mdx_net_schema(entry):
    assert re.fullmatch(r"[0-9a-f]{32}", entry.tail_md5)
    assert entry.n_fft in (4096, 5120, 6144, 7680, 8192, 16384)
    assert entry.dim_f in (2048, 2560, 3072) and entry.dim_f <= entry.n_fft // 2
    assert entry.dim_t in (128, 256, 512)
    assert 1.0 <= entry.compensate <= 1.8
    assert entry.stem in ("vocals", "instrumental", "drums", "bass", "other", "reverb")


@pytest.mark.parametrize("entry", load_mdx23c(), ids=lambda entry: entry.yaml)
def test_mdx23c_schema(entry):
    assert all(re.fullmatch(r"[0-9a-f]{32}", md5) for md5 in entry.tail_md5s)
    assert entry.n_fft in (2048, 8192, 12288) and entry.hop_length in (1024, 2048)
    assert entry.dim_t % 2**HALVINGS == 0
    assert set(entry.stems) <= set(entry.instruments or entry.stems)


def test_no_hash_is_listed_twice():
    hashes = [entry.tail_md5 for entry in load_mdx_net()]
    hashes += [md5 for entry in load_mdx23c() for md5 in entry.tail_md5s]
    assert len(set(hashes)) == len(hashes) > 60


def test_known_files_are_found_by_their_hash():
    kim = find_mdx_net("970b3f9492014d18fefeedfe4773cb42")
    assert kim and (kim.name, kim.n_fft, kim.dim_f, kim.compensate, kim.stem) == (
        "Kim_Vocal_2", 7680, 3072, 1.009, "vocals",
    )  # fmt: skip
    full_band = find_mdx23c("99b6ceaae542265a3b6d657bf9fde79f")
    assert full_band and (full_band.n_fft, full_band.stems) == (8192, ("vocals", "instrumental"))
    assert find_mdx_net("0" * 32) is None and find_mdx23c("0" * 32) is None
