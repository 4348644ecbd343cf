"""One table of a model: who goes before whom, what follows, what contradicts, what is missing."""

import pytest

from rofo.export.facts import (
    Facts,
    complete,
    contradict,
    impossible,
    merge,
    missing,
    overlap_fraction,
    report,
)

WHOLE = {
    "architecture": "toy", "sample_rate": 44100, "channels": 2, "n_fft": 2048, "hop_length": 512,
    "chunk": 88200,
    "stems": ("vocals",), "scheme": "fade",
}  # fmt: skip


def facts(**changes):
    values = {name: value for name, value in {**WHOLE, **changes}.items() if value is not None}
    return Facts.said("yaml", values)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("weights", "command line"),
        ("command line", "yaml"),
        ("yaml", "catalogue"),
        ("catalogue", "default"),
    ],
)
def test_who_goes_before_whom_whatever_the_order(first, second):
    one, other = Facts.said(first, {"n_fft": 1}), Facts.said(second, {"n_fft": 2, "hop_length": 3})
    for merged in (merge(one, other), merge(other, one)):
        assert (merged["n_fft"], merged.origin("n_fft")) == (1, first)
        assert (merged["hop_length"], merged.origin("hop_length")) == (3, second)


def test_silence_is_no_fact():
    assert "n_fft" not in Facts.said("yaml", {"n_fft": None})
    assert Facts.said("yaml", {"normalize": False})["normalize"] is False


def test_a_chunk_in_seconds_from_the_command_line_goes_before_the_yamls_samples():
    given = Facts.said("command line", {"chunk_seconds": 1.5})
    found = complete(merge(given, facts()))
    assert (found["chunk"], found.origin("chunk")) == (66150, "command line")
    assert "chunk_seconds" not in found


def test_a_chunk_in_frames_has_its_first_and_last_on_the_ends():
    found = complete(facts(chunk=None, dim_t=256, hop_length=1024))
    assert found["chunk"] == 1024 * 255
    assert complete(facts(dim_t=256))["chunk"] == 88200  # of one source the samples go before


@pytest.mark.parametrize("chunk", [88200, 352800, 261120, 131584, 100001])
@pytest.mark.parametrize("num_overlap", [1, 2, 3, 4, 7, 50])
def test_the_overlap_gives_exactly_the_hop_of_num_overlap(chunk, num_overlap):
    overlap = complete(facts(chunk=chunk, num_overlap=num_overlap))["overlap"]
    assert round(chunk * (1 - overlap)) == chunk // num_overlap
    assert overlap == overlap_fraction(chunk, num_overlap)


def test_another_scheme_has_an_overlap_of_its_own():
    assert "overlap" not in complete(facts(num_overlap=4, scheme="trim"))


@pytest.mark.parametrize(
    ("stems", "instruments", "residual"),
    [
        (("vocals",), None, "instrumental"),
        (("Vocals",), ("Vocals", "other"), "instrumental"),
        (("drums",), ("drums", "rest"), "rest"),
        (("drums", "bass"), ("drums", "bass"), None),
        (("drums",), ("drums",), "residual"),
        (("drums",), ("drums", "../x"), "residual"),
        (("residual",), None, "remainder"),
        (("a", "b"), ("a", "b", "c", "d"), "residual"),
    ],
)
def test_what_the_rest_is_called(stems, instruments, residual):
    assert complete(facts(stems=stems, instruments=instruments)).get("residual") == residual


def test_contradictions_name_the_option_of_the_command_line_and_the_word_of_the_yaml():
    weights = Facts.said("weights", {"n_fft": 2048, "dim": 384, "scale": (2, 2)})
    yaml = Facts.said("yaml", {"dim": 512, "n_fft": 2048, "scale": (4, 2)})
    given = Facts.said("command line", {"n_fft": 4096})
    assert contradict(weights, given, yaml) == [
        "--n-fft is 4096 but 2048 in the weights",
        "dim is 512 but 384 in the weights",
        "scale is [4, 2] but [2, 2] in the weights",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"n_fft": 2047}, "n_fft 2047 (from the yaml) is no even number"),
        ({"hop_length": 0}, "hop_length 0 (from the yaml) is not between 1 and 1024 (--hop-length)"),
        ({"hop_length": 1025}, "hop_length 1025 (from the yaml) is not between 1 and 1024"),
        ({"sample_rate": 3}, "sample_rate 3 (from the yaml) is not between 1000 and 1000000 Hz"),
        ({"chunk": 1024}, "chunk of 1024 samples, not over 1024"),
        ({"chunk": 44100 * 601}, "at most 600 s (--chunk)"),
        ({"num_stems": 2}, "1 stems (vocals) but 2 in the weights (--stems)"),
        ({"stems": ("a", "A")}, "stem names repeat: a, A"),
        ({"stems": ("../a",)}, "the stem '../a' cannot name a file"),
    ],
)
def test_what_cannot_be_is_said_with_who_said_it(change, problem):
    found = impossible(facts(**change))
    assert any(problem in text for text in found), found


def test_what_is_whole_has_no_problems():
    assert impossible(facts()) == missing(facts()) == []


def test_everything_missing_is_named_with_its_option():
    found = " ".join(missing(Facts()))
    for option in ("--sample-rate", "--n-fft", "--hop-length", "--chunk", "--stems", "--scheme"):
        assert option in found


def test_the_report_has_a_line_for_each_fact_and_each_gap():
    text = report(merge(facts(hop_length=None), Facts.said("weights", {"dim": 384})))
    rows = [line.split() for line in text.splitlines()]
    assert ["dim", "384", "weights"] in rows
    assert ["n_fft", "2048", "yaml"] in rows
    assert "missing: hop length in samples (--hop-length)" in text
