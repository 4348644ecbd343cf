"""The benchmark scripts' own arithmetic, and that README shows the committed figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rofo.benchmarks import cpu, readme


def test_readme_shows_the_committed_results() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.filled(text, readme.load_results()) == text, "run `make readme`"


def test_readme_without_its_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="markers"):
        readme.filled("no table here", readme.load_results())


def test_ratios_are_taken_within_a_round() -> None:
    slow = [{"wall": 10.0}, {"wall": 30.0}, {"wall": 20.0}]
    fast = [{"wall": 5.0, "engine": 4.0, "bf16": 0.0}, {"wall": 10.0, "engine": 8.0, "bf16": 0.0},
            {"wall": 10.0, "engine": 8.0, "bf16": 0.0}]  # fmt: skip
    limits = {"fp32": cpu.Spread(100.0, 90.0, 110.0), "bf16": cpu.Spread(200.0, 190.0, 210.0)}
    times = {"PyTorch fp32 (pymss-core)": slow, "fast": fast}
    summary = cpu._summary(fast, times, 400e9, limits)
    assert summary["times_pytorch"] == {"median": 2.0, "lowest": 2.0, "highest": 3.0}
    assert summary["share_of_matrix_rate"] == pytest.approx(400 / 8 / 100)


def test_a_command_is_charged_only_its_own_memory(tmp_path: Path) -> None:
    """Started from a process that holds 400 MB, a small one must not seem to need them."""
    script = (
        "ballast = bytearray(400 << 20)\n"
        "import json, sys\n"
        "from rofo.benchmarks.cpu import _timed\n"
        "print(json.dumps(_timed([sys.executable, '-c', 'print(1)'])))\n"
    )
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    seconds, peak_mb, output = json.loads(out)
    assert output == "1\n"
    assert seconds > 0
    assert peak_mb < 100
