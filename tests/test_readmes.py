"""Every command and every Python example of the READMEs, as written.

A page is run from top to bottom in a folder of its own, where tiny files lie under the names that the pages
use (`files`). A block is marked by its language: of `sh` every line is a command, `python` is run as a whole
with NAMES, `toml` is read. What needs a GPU, the network or a server is skipped, by RULES, and what takes
long is `slow`; of these it is still checked that options, extras and targets exist.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
import warnings
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from golden.checkpoints import state_dict, write_lightning
from golden.files import read
from mdx_oracle import ConvOracle, write_onnx
from oracle import Oracle

from rofo.benchmarks.cli import bench
from rofo.cli import main as run
from rofo.export import families
from rofo.export.catalogue import Entry
from rofo.export.cli import main as export

ROOT = Path(__file__).parents[1]
PAGES = [
    path.relative_to(ROOT)
    for path in sorted(ROOT.glob("**/README.md"))
    if not {".venv", "build"} & set(path.relative_to(ROOT).parts)
]
TOOLS = {"rofo-run": run, "rofo-export": export}
LANGUAGES = {"sh", "python", "toml", "json", "text"}
RULES = [  # why a command is not run at once: the first whose pattern is found
    ("the network", r"^rofo-export (hf://\S+|\w+)( |$)|fetch_checkpoint"),
    ("the network", r"\b(pip|docker|curl|wget|git clone|apt-get|hf)\b|\.deb\b|checkpoints/demo/\w+\.py"),
    ("a GPU", r"\.plan\b|--backend onnxruntime-cuda|--target tensorrt( |$)"),
    ("Triton's server", r"tritonserver|serving\.client"),
    ("Ray", r"serving\.ray"),
    (
        "minutes",
        r"^rofo-bench (?!shape)|^make |benchmarks\.reliability|--quantize|tensorrt-rtx|--member|kuielab",
    ),
]
GPU = shutil.which("nvidia-smi") is not None


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, from its line on."""

    page: Path
    line: int
    section: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a shell's block, those that a backslash joins as one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    pattern = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
    return [
        Block(
            page,
            text.count("\n", 0, one.start()) + 1,
            text[: one.start()].rpartition("\n## ")[2].partition("\n")[0],
            one[2],
            textwrap.dedent(one[3]),
        )
        for one in pattern.finditer(text)
    ]


def needs(command: str) -> str | None:
    """Why a command is not run, None where it is."""
    found = next((what for what, pattern in RULES if re.search(pattern, command)), None)
    return None if found == "a GPU" and GPU else found


@dataclass(frozen=True)
class Step:
    """A command or a Python example of a page."""

    block: Block
    text: str

    @property
    def name(self) -> str:
        """What it is called in a report."""
        is_command = self.block.language == "sh"
        return self.text.partition("#")[0].strip() if is_command else f"python:{self.block.line}"

    @property
    def needs(self) -> str | None:
        """Why it is not run, None where it is."""
        return needs(self.text)


def steps(page: Path) -> list[Step]:
    """Every command and example of a page, in their order."""
    found: list[Step] = []
    for block in blocks(page):
        if block.section == "Embedding":  # run by tests/runtime/test_embedding.py, some with stand-ins
            continue
        parts = {"sh": block.commands, "python": [block.text]}.get(block.language, [])
        found += [Step(block, part) for part in parts]
    return found


STEPS = [step for page in PAGES for step in steps(page)]
SLOW = {step.block.page for step in STEPS if step.needs == "minutes"}
SKIPPED = [step for step in STEPS if step.needs not in (None, "minutes")]


# The files


def exported(*arguments: object) -> None:
    """Call rofo-export in this process, for ONNX only."""
    export.command.main([*map(str, arguments), "--target", "onnx"], standalone_mode=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every page gets a copy of."""
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).normal(0, 0.1, (22_050, 2))
    for name in (
        "song.wav",
        "mix.wav",
        "vocals.wav",
        "instrumental.wav",
        "my_music.wav",
        "album/a.wav",
        "one.wav",
        "two.wav",
        "song.flac",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, noise, 44100)
    (folder / "songs.jsonl").write_text(
        '{"id": "a", "path": "album/a.wav"}\n{"id": "b", "path": "song.wav"}\n'
    )
    (folder / "song.m4a").write_bytes((folder / "song.wav").read_bytes())
    Oracle("bs_roformer", {"depth": 1, "dim": 16}).write(folder, "vocals")
    mel = Oracle("mel_band_roformer", {"depth": 1, "dim": 16, "num_bands": 8})
    exported(mel.write(folder, "MelBandRoformer")[0], "--config", folder / "MelBandRoformer.yaml")
    for name in ("melband_roformer_big_beta6x", "mel_band_roformer_vocals_fv4_gabox"):
        mel.write(folder, name)
    for name in ("Kim_Vocal_2.onnx", "Mine.onnx"):
        network = ConvOracle({"n_fft": 7680, "dim_f": 64, "dim_t": 16, "hop_length": 1024}).network()
        write_onnx(network, folder / name, 64, 16)
    exported(folder / "vocals.ckpt", "--config", folder / "vocals.yaml")
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    return folder


def write_mixer(folder: Path) -> None:
    """kuielab's mixer, and engines of its four networks."""
    cases = read("mdx_net_submission").cases
    torch.save(state_dict(cases["mixer"]), folder / "mixer.ckpt")
    (folder / "mdx").mkdir()
    for target in ("bass", "drums", "other", "vocals"):
        checkpoint = write_lightning(cases[target], folder / "mdx", target)
        exported(checkpoint, "--scheme", "trim", "--no-verify")


NAMES = {
    "mix": np.zeros((2, 4000), np.float32),
    "another": np.zeros((2, 3000), np.float32),
    "source_of_blocks": [np.zeros((2, 1000), np.float32)] * 3,
}


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page is run."""
    shutil.copytree(files, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue knows the small network that stands for Kim's; no builder of plans is installed."""
    monkeypatch.setattr("rofo.export.cli.find_spec", lambda _: None)
    find = families.find_entry
    facts = {"architecture": "mdx_net", "n_fft": 7680, "dim_f": 64, "dim_t": 16, "stems": ("vocals",)}
    kim = Entry("Kim Vocal 2", facts=facts)
    monkeypatch.setattr(
        families,
        "find_entry",
        lambda source, weights: kim if source.path.stem == "Kim_Vocal_2" else find(source, weights),
    )


# What is run


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_says_its_language(page: Path) -> None:
    unmarked = [block.line for block in blocks(page) if block.language not in LANGUAGES]
    assert not unmarked, f"{page}: mark the blocks of these lines as one of {', '.join(sorted(LANGUAGES))}"
    outside = re.sub(
        r"^( *)```.*?^\1```$", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    indented = re.findall(r"\n\n(?:    )+(?![ *\d|-])(.*)", outside)
    assert not indented, f"{page}: a block that is only indented is not run; fence it and say its language"


@pytest.mark.parametrize("page", sorted({step.block.page for step in STEPS if not step.needs}), ids=str)
def test_a_page_works_as_written(page: Path, folder: Path) -> None:
    for step in steps(page):
        if step.needs is None:
            do(step)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(SLOW), ids=str)
def test_a_page_works_with_what_takes_minutes(page: Path, folder: Path) -> None:
    for step in steps(page):
        if step.needs in (None, "minutes"):
            do(step)


@pytest.mark.parametrize("step", [
    pytest.param(step, id=step.name, marks=pytest.mark.skip(f"{step.block.page}: needs {step.needs}"))
    for step in SKIPPED
])  # fmt: skip
def test_what_cannot_be_run_here(step: Step) -> None:
    """Shown as skipped, command by command."""


def do(step: Step) -> None:
    """Run a step in the current folder."""
    if step.block.language == "python":
        try:
            exec(compile(step.text, f"{step.block.page}:{step.block.line}", "exec"), dict(NAMES))
        except ModuleNotFoundError as error:
            assert not str(error.name).startswith("rofo")
            warnings.warn(f"{step.name} of {step.block.page}: {error.name} is not installed", stacklevel=1)
        return
    command, _, comment = step.text.partition("  #")
    if "--member" in command:
        write_mixer(Path())
    words = shlex.split(command, comments=True)
    if words[0] in TOOLS:
        with pytest.raises(SystemExit) as stop:
            TOOLS[words[0]](words[1:])
        assert stop.value.code == 0, command
    else:
        path = f"{Path(sys.executable).parent}:{ROOT}:/usr/bin:/bin"
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True, env={"PATH": path})
    for made in re.findall(r"[\w./]+\.\w+", comment.partition("->")[2]):
        assert Path(made).is_file(), f"{step.text}: {made} was not made"


@pytest.mark.parametrize("line", [
    pytest.param(line, id=f"{page.parent}: {line.partition('#')[0].strip()}")
    for page in PAGES for block in blocks(page) if block.language == "sh"
    for line in block.commands if line.startswith(("pip ", "make ", "rofo-bench "))
])  # fmt: skip
def test_what_is_not_run_exists(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=False, text=True
        )
        assert done.returncode == 0, done.stderr
    elif words[0] == "pip":
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        named = {
            extra for word in words for extra in re.findall(r"\[(.*)\]", word) for extra in extra.split(",")
        }
        assert named <= set(config["options.extras_require"])
    else:
        bench.commands[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_data_can_be_read_and_links_lead_somewhere(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language == "json":
            json.loads("[" + block.text.replace("}\n{", "}, {") + "]")
    text = (ROOT / page).read_text("utf-8")
    headings = {}
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        path, _, anchor = next(filter(None, target)).partition("#")
        if path.startswith("http"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {path} is not there"
        if anchor:
            titles = headings.setdefault(
                file, re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            )
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{page}: {path} has no section {anchor}"


def test_rules_are_not_too_wide() -> None:
    """Most commands are run."""
    kinds = [
        needs(line)
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for line in block.commands
    ]
    assert kinds.count(None) > 15
