"""Checkpoints by name, from a server on this machine: nothing half, nothing else, nothing without a word."""

import os
import random
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest
from hub_server import COMMIT, HubServer, sha256
from toy import write

from rofo.export import DownloadError, catalogue, fetch_checkpoint
from rofo.export.catalogue import Download, Entry
from rofo.export.cli import main

REPO = "hf://someone/separators"
WEIGHTS, OTHER = (random.Random(seed).randbytes(50_000) for seed in (1, 2))
YAML = b"audio: {}\n"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server in the place of Hugging Face, with an empty cache, patient for no time."""
    with HubServer(files={"a/voice.ckpt": WEIGHTS, "a/voice.yaml": YAML}) as server:
        monkeypatch.setattr(hub_constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_constants, "HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        # What is cut is lost up to the last whole block.
        monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield server


@pytest.fixture
def offline(monkeypatch):
    return lambda: monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def known(monkeypatch):
    """Put files into the catalogue, in the place of all others."""

    def put(*downloads):
        entry = Entry("Toy", {"architecture": "toy", "stems": ("voice",)}, downloads=downloads)
        monkeypatch.setattr(catalogue, "load_catalogue", lambda: (entry,))

    return put


@pytest.fixture
def refused(tmp_path):
    """The message of a name that cannot be fetched; no file may be left under its name."""

    def call(name):
        with pytest.raises(DownloadError) as caught:
            fetch_checkpoint(name)
        left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".ckpt", ".th")]
        assert left == []
        message = str(caught.value)
        assert "\n" not in message
        return message

    return call


def of_catalogue(**changes):
    return Download(**{"link": f"{REPO}/a/voice.ckpt", "sha256": sha256(WEIGHTS), **changes})


def test_a_name_is_downloaded_once_with_its_yaml_of_the_same_commit(hub, known):
    known(of_catalogue(config=f"{REPO}/a/voice.yaml", licence="MIT"))
    told: list[str] = []
    fetched = fetch_checkpoint("VOICE", told.append)
    assert fetched.checkpoint.read_bytes() == WEIGHTS and fetched.config.read_bytes() == YAML
    assert told[0] == f"{REPO}@{COMMIT}/a/voice.ckpt: 0.1 MB; licence: MIT"
    # What is cached and has its hash is used without a word to the server, moved branches or not.
    hub.requests.clear()
    hub.commit, hub.files = "f" * 40, {"a/voice.ckpt": OTHER, "a/voice.yaml": b"audio: {x: 1}\n"}
    assert fetch_checkpoint("voice.ckpt", told.append) == fetched
    assert hub.requests == [] and "in the cache; licence: MIT" in told[-2]


def test_the_licence_is_told_before_anything_is_downloaded(hub, known):
    known(of_catalogue())
    sizes = []
    fetch_checkpoint("voice", lambda line: sizes.append((line, hub.gets("voice.ckpt"))))
    line, got = sizes[0]
    assert line.endswith("licence: unknown, its repository says mit") and got == []


def test_what_is_not_known_is_said_to_be_unknown(hub, known):
    hub.licence = None
    hub.web["/voice.th"] = WEIGHTS
    known(Download(f"{hub.url}/voice.th"))
    told: list[str] = []
    fetch_checkpoint("voice", told.append)
    assert told[0].endswith(": size unknown; licence: unknown; no hash known to check it by")


def test_a_download_that_is_cut_goes_on_where_it_was(hub, known):
    known(of_catalogue())
    hub.cuts = 2
    assert fetch_checkpoint("voice").checkpoint.read_bytes() == WEIGHTS
    first, second, third = hub.gets("voice.ckpt")
    assert first is None and second == "bytes=25000-" and third == "bytes=37000-"


def test_a_download_that_is_given_up_leaves_nothing_under_its_name(hub, known, refused):
    hub.cuts = 1000
    hub.files["a/voice.ckpt"] = WEIGHTS[:1500]  # no block of it ever arrives whole
    known(of_catalogue(sha256=None))
    assert "run it again" in refused("voice")
    assert hub.cuts < 1000


def test_another_server_is_resumed_by_the_next_call_too(hub, known, refused):
    hub.web["/pub/voice.th"] = WEIGHTS
    known(Download(f"{hub.url}/pub/voice.th", sha256=sha256(WEIGHTS), size=len(WEIGHTS)))
    hub.cuts = 30
    assert "goes on where it was cut" in refused("voice")
    begun = len(hub.gets("voice.th"))
    hub.cuts = 0
    assert fetch_checkpoint("voice").checkpoint.read_bytes() == WEIGHTS
    (rest,) = hub.gets("voice.th")[begun:]
    assert int(rest.removeprefix("bytes=").rstrip("-")) > 40_000
    assert fetch_checkpoint("voice").checkpoint.read_bytes() == WEIGHTS
    assert len(hub.gets("voice.th")) == begun + 1


def test_a_part_that_is_longer_than_the_file_is_thrown_away(hub, known, refused):
    hub.web["/voice.th"] = WEIGHTS
    known(Download(f"{hub.url}/voice.th"))
    part = fetch_checkpoint("voice").checkpoint
    part.rename(part.with_name("voice.th.part"))
    hub.web["/voice.th"] = WEIGHTS[:100]
    refused("voice")
    assert fetch_checkpoint("voice").checkpoint.read_bytes() == WEIGHTS[:100]


@pytest.mark.parametrize("size", [None, 7], ids=["hash", "size"])
def test_a_file_that_was_replaced_is_not_even_downloaded(hub, known, refused, size):
    known(of_catalogue(sha256=None if size else sha256(OTHER), size=size))
    assert "another file than the catalogue's" in refused("voice")
    assert hub.gets("voice.ckpt") == []


@pytest.mark.parametrize(
    "wanted",
    [{"sha256": sha256(OTHER)}, {"size": 49_999}, {"tail_md5": "0" * 32}],
    ids=["sha256", "size", "tail_md5"],
)
def test_a_file_of_another_server_that_is_not_the_one_is_removed(hub, known, refused, wanted, tmp_path):
    hub.web["/voice.th"] = WEIGHTS
    known(Download(f"{hub.url}/voice.th", **wanted))
    words = {
        "sha256": "its sha256 is",
        "size": "file should be of size 49999",
        "tail_md5": "its MD5 of the last",
    }
    (what,) = wanted
    assert words[what] in refused("voice")
    assert what == "size" or not list(tmp_path.rglob("*.part"))


def test_a_server_that_sends_other_bytes_than_it_lists_is_found_out(hub, known, monkeypatch, refused):
    known(of_catalogue())
    monkeypatch.setattr("hub_server.sha256", lambda _: sha256(WEIGHTS))
    hub.files["a/voice.ckpt"] = OTHER
    assert f"its sha256 is {sha256(OTHER)}, not {sha256(WEIGHTS)}" in refused("voice")
    monkeypatch.undo()


def test_a_file_that_rotted_in_the_cache_is_found_out_and_had_anew(hub, known, refused):
    known(of_catalogue())
    fetch_checkpoint("voice").checkpoint.resolve().write_bytes(OTHER)
    assert "removed, not the file it should be" in refused("voice")
    assert fetch_checkpoint("voice").checkpoint.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (f"{REPO}/a/voice2.ckpt", "the repository has a/voice.ckpt; give hf://"),
        (f"{REPO}@v2/a/voice.ckpt", "no such revision"),
        ("hf://someone/gone/a/voice.ckpt", "no such repository at http://127.0.0.1"),
        ("hf://someone/voice.ckpt", "not a link to a file"),
        (f"{REPO}/../../voice.ckpt", "not a link to a file"),
    ],
)
def test_what_moved_is_told_in_words(hub, refused, link, words):
    message = refused(link)
    assert message.startswith("hf://someone/") and words in message


def test_a_file_that_is_gone_from_another_server_is_told_with_its_hash(hub, known, refused):
    known(Download(f"{hub.url}/gone.th", sha256=sha256(WEIGHTS)))
    assert f"moved or removed; give the path of a copy (its sha256 is {sha256(WEIGHTS)})" in refused("gone")


def test_without_a_network_the_cache_is_enough_and_nothing_is_half(hub, known, refused, offline):
    hub.web["/other.th"] = OTHER
    known(of_catalogue(config=f"{REPO}/a/voice.yaml"), Download(f"{hub.url}/other.th"))
    fetched, other = fetch_checkpoint("voice"), fetch_checkpoint("other")
    link = fetch_checkpoint(f"{REPO}/a/voice.ckpt")
    assert link == fetched
    offline()
    hub.requests.clear()
    assert fetch_checkpoint("voice") == fetched and fetch_checkpoint("other") == other
    assert fetch_checkpoint(f"{REPO}/a/voice.ckpt") == link
    assert hub.requests == []


def test_offline_what_is_not_in_the_cache_is_refused_without_asking(hub, known, refused, offline):
    known(of_catalogue(), Download(f"{hub.url}/other.th"))
    offline()
    for name in ("voice", "other", f"{REPO}/a/voice.ckpt"):
        assert "not in the cache, and HF_HUB_OFFLINE is set" in refused(name)
    assert hub.requests == []


def test_a_hub_that_cannot_be_reached_is_told(hub, known, refused, monkeypatch):
    known(of_catalogue())
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refused("voice")
    assert "not downloaded from http://127.0.0.1:9" in message and "HF_ENDPOINT" in message


def test_a_link_is_held_to_what_the_hub_lists_and_brings_the_yaml_beside_it(hub):
    fetched = fetch_checkpoint(f"{REPO}/a/voice.ckpt")
    assert fetched.checkpoint.read_bytes() == WEIGHTS and fetched.config.read_bytes() == YAML
    hub.commit = "f" * 40
    hub.files["a/voice.ckpt"] = OTHER
    # A branch moves, a commit does not.
    assert fetch_checkpoint(f"{REPO}/a/voice.ckpt").checkpoint.read_bytes() == OTHER
    assert fetch_checkpoint(f"{REPO}@{'f' * 40}/a/voice.ckpt").checkpoint.read_bytes() == OTHER


def test_among_several_yaml_files_only_the_one_of_its_name_is_taken(hub):
    hub.files["a/music.yaml"] = b"audio: {music: 1}\n"
    assert fetch_checkpoint(f"{REPO}/a/voice.ckpt").config.read_bytes() == YAML
    hub.files["a/noise.ckpt"] = OTHER
    told: list[str] = []
    assert fetch_checkpoint(f"{REPO}/a/noise.ckpt", told.append).config is None
    assert "no yaml taken, there are a/voice.yaml, a/music.yaml; choose with --config" in told[-1]


FETCH = """
import sys
from rofo.export import fetch_checkpoint
print(fetch_checkpoint(sys.argv[1], lambda line: print(line, file=sys.stderr)).checkpoint)
"""


def test_the_environment_says_where_the_hub_and_its_cache_are(hub, tmp_path):
    def fetch(**environment):
        return subprocess.run(
            [sys.executable, "-c", FETCH, f"{REPO}/a/voice.ckpt"],
            env={**os.environ, "HF_HOME": str(tmp_path / "other"), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    online = fetch(HF_ENDPOINT=hub.url)
    path = Path(online.stdout.strip())
    assert path.read_bytes() == WEIGHTS and path.is_relative_to(tmp_path / "other")
    assert [line.split(": ")[0] for line in online.stderr.splitlines()] == [  # no bars: no terminal
        f"{REPO}@{COMMIT}/a/voice.ckpt",
        f"{REPO}@{COMMIT}/a/voice.yaml",
    ]
    hub.requests.clear()
    assert fetch(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1").stdout == online.stdout
    assert hub.requests == []


# rofo-export


@pytest.fixture
def run(toy, hub, capfd, tmp_path, monkeypatch):
    """Call the tool in an empty folder; its lines on stdout and stderr."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    hub.files["toy.pt"] = write(tmp_path / "toy.pt").read_bytes()

    def call(*arguments, status=0):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert stop.value.code == status, err
        return out.splitlines(), err.splitlines()

    return call


OPTIONS = ("--target", "onnx", "--sample-rate", "44100", "--chunk", "0.1", "--stems", "voice")


def test_an_engine_is_made_of_a_name_where_the_tool_is_run(run, known):
    known(Download(f"{REPO}/toy.pt", licence="MIT", title="better"))
    out, err = run("better", *OPTIONS)
    assert out == ["better.onnx", "better.json"]
    assert err[0].endswith("; licence: MIT")
    assert sorted(path.name for path in Path().iterdir()) == ["better.json", "better.onnx"]
    assert run(f"{REPO}/toy.pt", *OPTIONS)[0] == ["toy.onnx", "toy.json"]


def test_a_file_here_goes_before_a_name(run, known, hub):
    known(Download(f"{REPO}/toy.pt"))
    Path("toy.pt").write_bytes(hub.files["toy.pt"])
    out, _ = run("toy.pt", *OPTIONS)
    assert out == ["toy.onnx", "toy.json"] and hub.requests == []


def test_a_name_that_is_not_known_names_those_like_it(run, known):
    known(of_catalogue())
    _, (line,) = run("voic.ckpt", status=4)
    assert line.startswith("error: voic.ckpt: No such file, nor a name of the catalogue (alike are voice); ")
    assert "No such file" in run("folder/voic.ckpt", status=4)[1][-1]


def test_the_list_shows_what_is_known(run, known):
    known(
        of_catalogue(size=913_000_000, licence="MIT", sdr={"voice": 10.98}),
        Download("https://example.org/b/second.th"),
    )
    out, _ = run("--list")
    assert [line.split() for line in out[1:]] == [
        ["voice", "toy", "voice", "10.98", "913", "MB", "MIT"],
        ["second", "toy", "voice", "unknown", "unknown"],
    ]
    assert len(run("--list", "SECOND")[0]) == 2
    assert "no checkpoint of the catalogue has 'x1'" in run("--list", "x1", status=2)[1][-1]


def test_without_the_library_it_says_what_to_install(run, known, monkeypatch):
    known(of_catalogue())
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'rofo[hub]'" in run("voice", status=4)[1][-1]
