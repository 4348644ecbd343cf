"""rofo-bench's arguments and exit codes."""

from pathlib import Path

import pytest

from rofo.benchmarks.cli import main, spread_values


def test_values_after_stems_are_spread():
    given = ["a.ckpt", "--stems", "x.wav", "v=y.wav", "--mix", "m.wav", "--stems", "z.wav"]
    assert spread_values(given, "--stems") == [
        "a.ckpt", "--stems", "x.wav", "--stems", "v=y.wav", "--mix", "m.wav", "--stems", "z.wav",
    ]  # fmt: skip
    assert spread_values(["--stems"], "--stems") == ["--stems"]  # for click to complain of
    assert spread_values(["--stems", "--mix", "m"], "--stems") == ["--stems", "--mix", "m"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("speed", "none.plan"), 4, "none.json: no manifest"),
        (("speed",), 2, "ENGINE|CHECKPOINT"),
        (("report", "--results", "empty"), 2, "no results"),
        (("scale", "x.onnx", "--seconds", "1,no"), 2, "numbers above 0"),
        (("scale", "x.onnx", "--batches", "1.5"), 2, "whole numbers"),
        (("scale", "x.onnx", "--seconds", "nan"), 2, "numbers above 0"),
        (("shape", "none", "folder"), 2, "choose among viperx, small, kim, mdx23c, htdemucs"),
        (("scale", "x.onnx", "--device", "cuda"), 2, "No such option"),
        (("scale", "x.onnx", "--batch", "2"), 2, "No such option"),
        (("scale", "x.onnx", "--no-compile"), 2, "No such option"),
        (("speed", "x.toml", "--batch", "2"), 2, "drop --batch"),
        (("speed", "x.plan", "--backend", "none"), 2, "'openvino', 'onnxruntime'"),
        (("parity", "x.plan", "--mix", "m.wav"), 4, "x.json: no manifest"),
        (("parity", "x.ckpt", "--mix", "m.wav", "--stems", "--threads", "1"), 2, "Error"),
    ],
)
def test_exit_codes(arguments, code, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [("--debug", "speed", "none.plan"), ("speed", "none.plan", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(arguments, capsys):
    assert run(*arguments) == 4
    assert "Traceback" in capsys.readouterr().err


def test_help_lists_the_commands(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("speed", "parity", "scale", "report", "shape"))
