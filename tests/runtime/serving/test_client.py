"""The client of a Triton server, against a server of HTTP that asks the models in a stand-in for Triton."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from triton_standin import stand_in

import rofo
from rofo.errors import AudioReadError, EngineRunError, UsageError
from rofo.export.triton import write_repository
from rofo.serving import client as client_module
from rofo.serving.client import BusyError, Client, main


class Handler(BaseHTTPRequestHandler):
    """The KServe v2 protocol with binary tensors. `refusals` are answered first, `cut` ends answers early."""

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        if self.server.refusals:
            status = self.server.refusals.pop(0)
            return self._send(status, json.dumps({"error": f"refused with {status}"}).encode(), {})
        split = int(self.headers["Inference-Header-Content-Length"])
        told, rest, inputs = json.loads(raw[:split]), raw[split:], {}
        for tensor in told["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            assert tensor["shape"] == [size]
            inputs[tensor["name"]], rest = np.frombuffer(rest[:size], np.uint8), rest[size:]
        assert rest == b""
        named = [tensor["name"] for tensor in told.get("outputs", [])]
        model = unquote(self.path).split("/")[3]
        response = self.server.triton.ask(model, inputs, named or None)
        if response.has_error():
            error = response.error()
            return self._send(error.code().value, json.dumps({"error": error.message()}).encode(), {})
        outputs = {tensor.name(): np.from_dlpack(tensor).tobytes() for tensor in response.output_tensors()}
        sizes = [{"name": n, "parameters": {"binary_data_size": len(b)}} for n, b in outputs.items()]
        header = json.dumps({"outputs": sizes}).encode()
        body = header + b"".join(outputs.values())
        length = {"Inference-Header-Content-Length": str(len(header))}
        return self._send(200, body[: len(body) - self.server.cut], length)

    def _send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, make_engine, tmp_path):
    triton = stand_in(monkeypatch)
    for model in write_repository(make_engine("level"), tmp_path / "models"):
        triton.load(model)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.triton, httpd.refusals, httpd.cut, httpd.asked = triton, [], 0, []
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def mix(song, tmp_path):
    path = tmp_path / "My mix.flac"
    soundfile.write(path, song(9000).T, 44100, "PCM_24")
    return path


def test_stems_come_as_rofo_run_writes_them(server, mix, make_engine, tmp_path):
    report = Client(server.url, "level").separate(mix, tmp_path / "there", options={"overlap": 0.25})
    with rofo.Separator(make_engine("level")) as separator:
        here = separator.separate_file(mix, tmp_path / "here", rofo.Options(overlap=0.25))
    there = {path.name: path.read_bytes() for path in (tmp_path / "there" / "My mix").iterdir()}
    assert there == {path.name: path.read_bytes() for path in here.values()}
    assert report["stems"] == {stem: path.name for stem, path in here.items()}


def test_only_the_stems_that_are_asked_for_come(server, mix, tmp_path):
    Client(server.url, "level").separate(mix, tmp_path / "there", ["vocals"])
    assert [path.name for path in (tmp_path / "there" / "My mix").iterdir()] == ["vocals.flac"]


def test_an_answer_cut_short_leaves_nothing(server, mix, tmp_path):
    server.cut = 7
    with pytest.raises(BusyError, match="cut short"):
        Client(server.url, "level").separate(mix, tmp_path / "there")
    assert list((tmp_path / "there" / "My mix").iterdir()) == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, AudioReadError), (503, BusyError), (500, EngineRunError), (404, EngineRunError)],
)
def test_a_refusal_is_told_in_the_servers_words(server, mix, tmp_path, status, kind):
    server.refusals = [status]
    with pytest.raises(kind, match=f"refused with {status}") as caught:
        Client(server.url, "level").separate(mix, tmp_path / "there")
    assert isinstance(caught.value, BusyError) == (status == 503)


def test_bad_audio_is_told_with_its_file(server, tmp_path):
    (tmp_path / "text.wav").write_bytes(b"no sound at all")
    with pytest.raises(AudioReadError, match=r"^.*text\.wav: audio: "):
        Client(server.url, "level").separate(tmp_path / "text.wav", tmp_path / "there")


def test_a_server_that_is_not_there_may_be_asked_again(mix, tmp_path):
    with pytest.raises(BusyError, match="see that the server is there"):
        Client("http://127.0.0.1:1", "level").separate(mix, tmp_path)


def test_a_url_that_is_none_is_refused():
    with pytest.raises(UsageError, match="localhost:8000: not a server"):
        Client("localhost:8000", "level")


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_command_asks_a_busy_server_again(server, mix, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(client_module.time, "sleep", lambda _: None)
    server.refusals = [503, 503]
    arguments = ["--server", server.url, "--model", "level", "--output", tmp_path / "there", mix]
    assert command(*arguments) == 0
    assert len(server.asked) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["input"], told["seconds"]) == (str(mix), pytest.approx(9000 / 44100))


def test_the_command_tells_what_failed(server, mix, tmp_path, capsys):
    (tmp_path / "text.wav").write_bytes(b"no sound at all")
    arguments = ["--server", server.url, "--model", "level", "--output", tmp_path / "there"]
    assert command(*arguments, tmp_path / "text.wav") == 3
    assert command(*arguments, tmp_path / "text.wav", mix) == 7
    assert (tmp_path / "there" / "My mix" / "vocals.flac").exists()
    assert capsys.readouterr().err.count("text.wav: audio: ") == 2
    server.refusals = [503]
    assert command(*arguments, "--retry", "0", mix) == 5
    assert command(*arguments, "--options", "[1]", mix) == 2
