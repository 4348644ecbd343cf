"""README's table is made from the committed results, never typed."""

from dataclasses import replace
from pathlib import Path

import pytest

from rofo.benchmarks import readme
from rofo.benchmarks.results import save


def test_readme_shows_the_committed_results() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.rewritten(text, readme.RESULTS) == text, "run `make readme`"


def test_readme_without_its_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="<!-- speed -->"):
        readme.filled("no table here", "speed", "table")


def test_new_results_make_the_table(tmp_path: Path, speed_result, scale_result) -> None:
    save(speed_result("viperx"), tmp_path)
    save(scale_result("small"), tmp_path)
    block = readme.speed_block(tmp_path)
    assert "| rofo openvino fp32 | 0.5 (0.45-0.55) | 3.2 (2.88-3.52) |" in block
    assert "Peak memory of a song of 60 min is 1.50 times that of one of 1 min" in block


def test_convolutional_shapes_follow_where_they_were_measured(
    tmp_path: Path, speed_result, scale_result
) -> None:
    save(speed_result("viperx"), tmp_path)
    save(scale_result("small"), tmp_path)
    alone = readme.speed_block(tmp_path)
    save(speed_result("mdx23c"), tmp_path)
    block = readme.speed_block(tmp_path)
    assert block.startswith(alone)
    assert block.count("| rofo openvino fp32 |") == 2


def test_decibels_of_the_demo_model_are_shown(tmp_path: Path, parity_result) -> None:
    save(replace(parity_result, model=replace(parity_result.model, name="model")), tmp_path)
    block = readme.parity_block(tmp_path)
    assert "| rofo openvino bf16 | 41.50 | 48.25 |" in block
    assert "| rofo openvino bf16 | 9.47 | -0.030 | 9.00 |" in block
