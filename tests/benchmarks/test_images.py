"""The container files: what is in them is known and tried; the slow test runs every step of them here."""

import json
import re
import shlex
from configparser import ConfigParser

import pytest

from rofo.benchmarks import images
from rofo.errors import UsageError

CONFIG = ConfigParser()
CONFIG.read(images.ROOT / "setup.cfg")
FILES = [images.SERVING / name for name in images.FILES]
# Every command that may be in a RUN line; `tried` has run each.
COMMANDS = {
    "python3 -m pip install --no-cache-dir --find-links /dist 'rofo[EXTRAS]'",
    "python3 -m pip check",
    "rofo-run --version",
}


def test_no_container_file_is_forgotten():
    assert sorted(images.SERVING.glob("Containerfile*")) == sorted(FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_step_is_one_that_is_tried(file):
    steps = images.instructions(file)
    runs = [step.rest for step in steps if step.word == "RUN"]
    assert {re.sub(r"rofo\[[a-z,-]+\]", "rofo[EXTRAS]", run) for run in runs} == COMMANDS
    (extras,) = (re.search(r"rofo\[([a-z,-]+)\]", run).group(1) for run in runs if "[" in run)
    assert set(extras.split(",")) <= set(CONFIG["options.extras_require"])
    (command,) = (json.loads(step.rest) for step in steps if step.word == "CMD")
    assert f"{command[0]} = " in CONFIG["options.entry_points"]["console_scripts"]
    assert not any("http" in step.rest or "ADD" in step.word for step in steps), "nothing is fetched"
    assert [step.rest for step in steps if step.word == "VOLUME"] == ["/models"]


@pytest.mark.parametrize("line", ["ADD https://example.org/model /models", "RUN true \\", "HEALTHCHECK true"])
def test_a_step_that_nobody_tries_is_refused(tmp_path, line):
    (tmp_path / "Containerfile").write_text(f"FROM x\n{line}\n")
    with pytest.raises(UsageError, match=r"Containerfile:2: .*is no step that is tried"):
        images.instructions(tmp_path / "Containerfile")


def test_a_step_that_fails_is_told(tmp_path, monkeypatch):
    (tmp_path / "Containerfile").write_text(
        'FROM x\nRUN echo broken >&2; false\nRUN test -d /dist \nCMD ["true"]\n'
    )
    monkeypatch.setattr(images.venv, "create", lambda folder, with_pip: folder.mkdir())
    (tmp_path / "dist").mkdir()
    found = images.tried(tmp_path / "Containerfile", tmp_path / "dist", tmp_path / "here")
    assert found.failures == (f"{shlex.join(['sh', '-c', 'echo broken >&2; false'])}: broken",)
    assert found.added_mb == 0


@pytest.mark.slow
def test_the_steps_run_and_a_song_is_separated_offline(tmp_path):
    proof = images.prove(1, tmp_path, print)
    assert proof.failures == ()
    assert 100 < proof.figures["MB that Containerfile.cpu adds to its base image"] < 500
