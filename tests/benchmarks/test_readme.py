"""README's table and picture are made from the committed results, never typed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rofo.benchmarks import readme
from rofo.benchmarks.results import save

NUMBERS = re.compile(r">([^<>\n]*\d[^<>\n]*)</text>")


def test_the_pages_and_the_picture_show_the_committed_results() -> None:
    for file, text in readme.made(readme.ROOT, readme.RESULTS).items():
        # Of a picture only the words: matplotlib's versions draw the same in other lines.
        shown, wanted = (
            NUMBERS.findall(one) if file.suffix == ".svg" else one
            for one in (file.read_text(encoding="utf-8"), text)
        )
        assert shown == wanted, f"{file}: run `make readme`"


def test_the_first_page_is_read_in_one_go() -> None:
    lines = (readme.ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert not [line for line in lines if len(line) > 140 and not line.startswith("|")]


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="<!-- speed -->"):
        readme.filled("no table here", "speed", "table")


@pytest.fixture
def measured(tmp_path: Path, speed_result, parity_result) -> Path:
    """A folder of results: two models, one of them with decibels, and one of them on a GPU as well."""
    save(speed_result("viperx"), tmp_path)
    fast = speed_result("kim")
    save(fast, tmp_path)
    machine = replace(fast.about.machine, gpu="Big Card, 24 GB")
    save(replace(fast, about=replace(fast.about, machine=machine)), tmp_path, on="Big Card, 24 GB")
    row = replace(parity_result.rows[1], name="rofo openvino fp32")
    rows = (*parity_result.rows, row)
    save(replace(parity_result, model=replace(parity_result.model, name="kim"), rows=rows), tmp_path)
    return tmp_path


def test_the_table_has_a_row_for_every_model_machine_and_precision(measured: Path) -> None:
    rows = readme.table_block(tuple(readme.measured(measured))).splitlines()[2:5]
    assert rows == [
        "| BS-Roformer, 12 layers | 2 cores of Chip & Co | openvino fp32 | 0.5 | 3.2 |  | 2.0 GB |",
        "| MDX-Net (Kim, UVR) | 2 cores of Chip & Co | openvino fp32 | 0.5 | 3.2 | 48 | 2.0 GB |",
        "| MDX-Net (Kim, UVR) | Big Card, 24 GB | openvino fp32 | 0.5 | 3.2 |  | 2.0 GB |",
    ]


def test_the_picture_shows_speed_and_decibels_in_two_colours(measured: Path) -> None:
    drawn = readme.picture(tuple(readme.measured(measured)))
    texts = NUMBERS.findall(drawn)
    assert texts.count("fp32: 3.2 x") == 2
    assert texts.count("fp32: 3.2 x, 48 dB") == 1
    dark = readme.darkened(drawn)
    assert NUMBERS.findall(dark) == texts
    assert {"#1c2430", "#ffffff"}.isdisjoint(re.findall("#[0-9a-f]{6}", dark))


def test_new_results_make_the_long_tables(tmp_path: Path, speed_result, scale_result) -> None:
    save(speed_result("viperx"), tmp_path)
    save(speed_result("mdx23c"), tmp_path)
    save(scale_result("small"), tmp_path)
    block = readme.speed_block(tmp_path)
    assert block.count("| rofo openvino fp32 | 0.5 (0.45-0.55) | 3.2 (2.88-3.52) |") == 2
    assert "Peak memory of a song of 60 min is 1.50 times that of one of 1 min" in block
    assert (
        block.count("Every contestant is a process of its own") == 1
    )  # what all have in common is said once


def test_decibels_are_shown(tmp_path: Path, parity_result) -> None:
    save(replace(parity_result, model=replace(parity_result.model, name="model")), tmp_path)
    block = readme.parity_block(tmp_path)
    assert "| rofo openvino bf16 | 41.50 | 48.25 |" in block
    assert "| rofo openvino bf16 | 9.47 | -0.030 | 9.00 |" in block
