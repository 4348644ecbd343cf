"""--report: a page of its own that shows and plays what was made, whatever the files are called."""

import base64
import io
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from rofo.cli import main
from rofo.report.sound import measure

RATE = 44100


class Page(HTMLParser):
    """What a page shows and refers to; tags must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.players: list[bytes] = []
        self.pictures: list[np.ndarray] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            data = values["src"].removeprefix("data:image/png;base64,")
            self.pictures.append(imread(io.BytesIO(base64.b64decode(data)), format="png"))
        elif tag != "meta":
            self.open.append(tag)
        if tag == "audio":
            self.players.append(unquote_to_bytes(values["src"]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def run(make_engine, tmp_path, monkeypatch, capfd):
    """Separate songs with a report in a folder of their own: (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    engine = make_engine("half")

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["--engine", str(engine), *map(str, arguments)])
        return stop.value.code, *capfd.readouterr()

    return call


@pytest.mark.parametrize("place", ["report.html", "separated/report.html", "elsewhere/deep/r.HTM"])
def test_a_page_shows_levels_and_plays_every_file(run, song, place):
    names = ["mix.wav", 'a "b" <i>&#.wav', os.fsdecode(b"\xff%20.wav"), "new\nline.wav"]
    for name in names:
        soundfile.write("mix.wav", 0.5 * song(60_000).T, RATE)
        if name != "mix.wav":
            shutil.copy("mix.wav", name)
    code, _, _ = run(*names, "--report", place)
    assert code == 0
    text = Path(place).read_text()
    assert not re.search(r"@import|url\(|<script|<link|https?:", text)
    page = Page(text)
    found = [(Path(place).parent / os.fsdecode(player)).resolve() for player in page.players]
    made = "{name}", "separated/{track}/vocals.wav", "separated/{track}/instrumental.wav"
    wanted = [one.format(name=name, track=Path(name).stem) for name in names for one in made]
    assert found == [Path(file).resolve() for file in wanted]
    shown = " ".join(page.words)
    assert 'a "b" <i>&#.wav' in shown
    assert r"new\nline.wav" in shown
    assert "openvino, cpu, fp32" in shown
    peak = 20 * np.log10(np.abs(0.5 * song(60_000)).max())
    assert f"peak {peak:.1f} dB" in shown
    assert (
        f"peak {peak + 20 * np.log10(0.5):.1f} dB" in shown
    )  # `half` is half of the mix, and so is the rest
    assert len(page.pictures) == 3 * len(names)


@pytest.mark.parametrize("block", [700, 10_000, 88_200])
def test_a_tone_is_a_bright_line_at_its_height_while_it_sounds(block):
    time = np.arange(2 * RATE) / RATE
    mix = np.stack([np.sin(2 * np.pi * 3000 * time) * (time < 1), np.zeros_like(time)]).astype(np.float32)
    sound = measure((mix[:, i : i + block] for i in range(0, mix.shape[1], block)), mix.shape[1], RATE)
    rows, columns = sound.power.shape
    assert np.argmax(sound.power[:, columns // 4]) == pytest.approx(3000 / sound.top * rows, abs=1)
    assert sound.power[:, 3 * columns // 4].max() < 1e-6 * sound.loudest
    assert (sound.peak, sound.over) == (pytest.approx(1, abs=1e-4), 0)
    assert sound.level == pytest.approx(8**-0.5, rel=1e-3)  # half of the time, in one of two channels
    picture = imread(io.BytesIO(sound.png(sound.loudest)), format="png").sum(axis=2)
    line = rows - 1 - round(3000 / sound.top * rows)
    assert abs(int(np.argmax(picture[:, columns // 4])) - line) <= 1  # low tones are at the bottom


@pytest.mark.parametrize("samples", [0, 1, 2047, 2048, 2049, 3072])
def test_short_songs(samples):
    sound = measure([np.full((2, samples), 0.5, np.float32)], samples, 8000)
    assert sound.level == pytest.approx(0.5 if samples else 0)
    assert np.isfinite(sound.power).all()
    assert sound.png(0.0).startswith(b"\x89PNG")


def test_samples_beyond_full_scale_are_counted(run):
    mix = np.full((30_000, 2), 3.0, np.float32)
    soundfile.write("loud.wav", mix, RATE, "FLOAT")
    assert run("loud.wav", "--report", "r.html")[0] == 0
    assert ", 60000 samples beyond full scale" in " ".join(Page(Path("r.html").read_text()).words)


def test_of_a_recipe_all_engines_are_told(make_engine, song, run):
    for kind in ("half", "level"):
        made = make_engine(kind)
        for file in (made, made.with_suffix(".json")):
            shutil.copy(file, ".")
    Path("both.toml").write_text("""
        engines = { a = "half.json", b = "level.json" }
        steps = [
            { make = "v", run = "a", on = "mix", stem = "vocals" },
            { make = "w", run = "b", on = "v", stem = "vocals" },
        ]
        outputs = { sung = "w" }
    """)
    soundfile.write("mix.wav", song(30_000).T, RATE)
    assert run("mix.wav", "--engine", "both.toml", "--report", "r.html", "--scheme", "hann")[0] == 0
    shown = Page(Path("r.html").read_text()).words
    assert {"Stems by both", "half", "level", "sung", "scheme hann"} <= set(shown)


def test_a_song_that_fails_is_not_on_the_page_and_others_are(run, song):
    soundfile.write("good.wav", song(5000).T, RATE)
    Path("bad.wav").write_text("hello")
    assert run("bad.wav", "good.wav", "--report", "r.html")[0] == 7
    assert len(Page(Path("r.html").read_text()).players) == 3


def test_what_is_no_page_is_refused_before_any_work(run, song):
    soundfile.write("mix.wav", song(5000).T, RATE)
    before = Path("mix.wav").read_bytes()
    Path("folder.html").mkdir()
    for place in ("mix.wav", "folder.html", "separated"):
        code, _, err = run("mix.wav", "--report", place)
        assert code == 2
        assert err == f"error: {place}: not a name for a page; give --report one that ends in .html\n"
    assert Path("mix.wav").read_bytes() == before
    assert not Path("separated").exists()


def test_where_it_cannot_be_written_is_6(run, song):
    soundfile.write("mix.wav", song(5000).T, RATE)
    Path("file").write_text("")
    code, out, err = run("mix.wav", "--report", "file/r.html")
    assert code == 6
    assert out.splitlines() == ["separated/mix/vocals.wav", "separated/mix/instrumental.wav"]
    assert err.splitlines()[-1].endswith("; choose another --report")
