"""The proof `fuzz`, on a few files: the same files every time, and what is wrong is told."""

import random
from pathlib import Path

import pytest

from rofo.benchmarks import fuzz, fuzzed, mutate
from rofo.benchmarks.fuzz_seeds import lay_out

KINDS = {
    "bytes": (mutate.mutated_bytes, [b"RIFF" + bytes(range(200)), b"other"]),
    "text": (mutate.mutated_text, [b"a = 1\nb = [2]\n"]),
    "json": (mutate.mutated_json, [b'{"a": [1, {"b": null}]}']),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_made_of_its_number_alone(kind):
    mutated, seeds = KINDS[kind]
    once, again = ([mutated(seeds, random.Random(f"{number}")) for number in range(300)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 100


@pytest.fixture
def prepared(make_engine, tmp_path):
    folder, engine = tmp_path / "cases", make_engine()
    (folder / "beside").mkdir(parents=True)
    (folder / "beside" / "tiny.onnx").write_bytes(engine.read_bytes())
    text = engine.with_suffix(".json").read_text().replace(engine.name, "tiny.onnx")
    (folder / "beside" / "tiny.json").write_text(text)
    lay_out(folder)
    return folder


@pytest.mark.parametrize("name", ["wav", "recipe"])
def test_damaged_files_are_refused_or_taken(prepared, name):
    ends, failures = fuzz._tried(name, prepared, 25, lambda _: None)
    assert failures == []
    assert ends["refused"] > 0
    assert sum(ends.values()) == 25


SAID = {
    "leave": "files: ['left']",
    "raise": "ValueError: seen",
    "sleep": "TimeoutError",
    "wrong": "the wrong error: UsageError: seen",
}


@pytest.mark.parametrize("what", SAID)
def test_what_is_wrong_is_told(what, tmp_path, monkeypatch):
    import time

    from rofo import UsageError

    def check(file: Path) -> str:
        if what == "leave":
            (file.parent / "left").touch()
        if what == "raise":
            raise ValueError("seen")
        if what == "wrong":
            raise UsageError("seen")
        if what == "sleep":
            time.sleep(60)
        return "taken"

    monkeypatch.setattr(fuzzed, "SECONDS", 0.05)
    work = tmp_path / "all" / "wav-0"
    work.mkdir(parents=True)
    assert SAID[what] in fuzzed._ended(check, work / "x", set())


def test_a_process_that_ends_is_told_and_started_again(prepared, monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        "[ $5 = 0 ] && { echo 0; echo '= taken'; echo 1; kill -SEGV $$; }\n"
        "echo 2; echo '= refused'\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(fuzz.sys, "executable", str(script))
    ends, failures = fuzz._tried("wav", prepared, 3, lambda _: None)
    assert ends == {"taken": 1, "refused": 1}
    assert failures == ["1: the process ended with -11"]
