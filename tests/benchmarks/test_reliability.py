"""What a proof comes to is kept with its command, and the exit code says whether it holds."""

import json
import sys
from types import SimpleNamespace

import pytest

from rofo.benchmarks.reliability import METHODS, Proof, main

SOUND = Proof("every song is there", {"songs": 3})
BROKEN = Proof("every song is there", {"songs": 3}, ("b.wav: is missing",))


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    def run(name, proof, *arguments):
        seen = []

        def prove(count, folder, say):
            seen.append((count, list(folder.iterdir())))
            return proof

        monkeypatch.setitem(sys.modules, METHODS[name].module, SimpleNamespace(prove=prove))
        with pytest.raises(SystemExit) as stop:
            main([name, "--results", str(tmp_path), *arguments])
        return stop.value.code, seen, capfd.readouterr().err

    return run


def test_a_result_takes_the_place_of_the_last_of_its_name_and_of_no_other(run, tmp_path):
    for name, proof in (("kill", BROKEN), ("disk", SOUND), ("kill", SOUND)):
        code, seen, _ = run(name, proof, "--count", "7")
        assert (code, seen) == (1 if proof.failures else 0, [(7, [])])
    proofs = json.loads((tmp_path / "reliability.json").read_text())["proofs"]
    assert list(proofs) == ["disk", "kill"]
    assert (proofs["kill"]["failures"], proofs["kill"]["figures"]) == ([], {"songs": 3})
    assert proofs["kill"]["command"] == "python -m rofo.benchmarks.reliability kill --count 7"
    assert proofs["kill"]["about"]["versions"]["rofo"]


def test_a_file_of_somebody_elses_is_left_alone(run, tmp_path):
    (tmp_path / "reliability.json").write_text("[]")
    code, _, told = run("kill", SOUND)
    assert code == 2
    assert "no proofs of this version; move it away" in told
    assert (tmp_path / "reliability.json").read_text() == "[]"
