"""The page: everything measured is on it, nothing is fetched, nothing a name holds can break it."""

import base64
import json
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rofo.benchmarks.charts import line
from rofo.benchmarks.cli import main
from rofo.benchmarks.report import write_report
from rofo.benchmarks.results import Spread, load_all, save
from rofo.benchmarks.tables import section
from rofo.errors import OutputWriteError, UsageError


class Page(HTMLParser):
    """Tags must close in order; text and what could be fetched are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.plots = 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        if tag == "img":
            (picture,) = (value for name, value in attrs if name == "src")
            ET.fromstring(base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,")))
            self.plots += 1
            self.open.pop()
            return
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def written(folder: Path) -> tuple[Page, str, list]:
    html, markdown, data = (path.read_text() for path in write_report(folder))
    assert not re.search(r"@import|url\(|<script|<link|https?:", html)
    return Page(html), markdown, json.loads(data)


def test_everything_measured_is_there(tmp_path, speed_result, parity_result, scale_result):
    for result in (scale_result(), parity_result, speed_result()):
        save(result, tmp_path)
    page, markdown, data = written(tmp_path)
    assert [result["kind"] for result in data] == ["speed", "parity", "scale"]
    assert all(address.startswith("#run") for address in page.addresses)
    assert page.plots == 3 + 1 + 2
    shown = " ".join(page.text)
    for figure in (
        "3.2 (2.88-3.52)",
        "97.0%",
        "2.0 GB",
        "48.25",
        "-0.030",
        "9.47",
        "3600",
        "Chip & Co",
        "190 GFLOP/s",
    ):
        assert figure in shown, figure
        assert figure in markdown, figure
    assert "pymss: not <installed>" in shown
    assert "* not measured: pymss: not <installed>" in markdown
    assert len(re.findall(r"^\| rofo openvino fp32 \|", markdown, re.MULTILINE)) == 2


def test_names_cannot_break_the_page(tmp_path, speed_result):
    save(speed_result(row="rofo </table><script>alert(1)</script>|"), tmp_path)
    page, markdown, _ = written(tmp_path)
    assert "rofo </table><script>alert(1)</script>|" in page.text
    assert "</script>\\| |" in markdown


def test_results_survive_their_files(tmp_path, speed_result, parity_result, scale_result):
    made = speed_result(), parity_result, scale_result()
    for result in made:
        save(result, tmp_path)
    assert load_all(tmp_path) == made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable"),
        ("[]", "not a result"),
        ('{"kind": "speed", "format": 0}', "not a result of this rofo-bench"),
        ('{"kind": "speed", "format": 1, "rows": []}', "lacks about"),
    ],
)
def test_files_that_are_no_results_are_named(tmp_path, content, message):
    (tmp_path / "speed-x.json").write_text(content)
    with pytest.raises(UsageError, match=f"speed-x.json: .*{message}"):
        write_report(tmp_path)


def test_without_results_it_says_what_to_run(tmp_path):
    with pytest.raises(UsageError, match="rofo-bench speed"):
        write_report(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path, speed_result):
    (tmp_path / "file").touch()
    with pytest.raises(OutputWriteError, match="--results"):
        save(speed_result(), tmp_path / "file" / "results")


def test_noise_does_not_look_like_growth():
    flat = [(1.0, Spread(100, 100, 100)), (2.0, Spread(101, 101, 101))]
    drawn = ET.fromstring(line(flat, "x", "y"))
    dots = [float(use.get("y")) for use in drawn.iter("{http://www.w3.org/2000/svg}use") if _is_dot(use)]
    assert len(set(dots)) == 2
    assert 0 < dots[0] - dots[1] < 0.02 * float(drawn.get("height").removesuffix("pt"))


def _is_dot(use):
    return "0d7a68" in (use.get("style") or "")


def test_without_matplotlib_a_report_says_what_to_install(tmp_path, speed_result, monkeypatch):
    save(speed_result(), tmp_path)
    for name in ("rofo.benchmarks.report", "rofo.benchmarks.plots", "rofo.benchmarks.charts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stop:
        main(["report", "--results", str(tmp_path)])
    assert stop.value.code == 2


def test_limits_that_were_not_measured_are_not_told(speed_result):
    result = speed_result()
    assert "matrix product" in " ".join(section(result).notes)
    on_gpu = replace(result, limits=replace(result.limits, gflops={}))
    assert "limits" not in " ".join(section(on_gpu).notes)
