"""`python -m rofo.serving.client`: songs to a Triton server that rofo-export --triton wrote a repository for.

The KServe v2 protocol over HTTP with tensors in binary, and nothing but the standard library. What goes and
what comes passes through in blocks: no song is whole in memory here.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from rofo.audio.files import track_name
from rofo.audio.parts import Part, in_words, remove_stale_parts
from rofo.audio.reader import naming
from rofo.cli import SOME_FAILED
from rofo.console import command_line, debugging, note, tell
from rofo.errors import AudioReadError, EngineRunError, UsageError
from rofo.manifest import check_stems
from rofo.serving.repository import AUDIO, OPTIONS, REPORT
from rofo.text import printable

_HEADER_LENGTH = "Inference-Header-Content-Length"
_OK, _REFUSED, _BUSY = 200, 400, 503
_BLOCK = 1 << 20
_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds before the first retry, and before later ones at most


class BusyError(EngineRunError):
    """The server has no room, is not ready or not there: the same may be asked again."""


class Client:
    """One model of one server. Every call has a connection of its own: share it between threads.

    `timeout` is how many seconds the server may be silent. Raises UsageError for a URL that is none.
    """

    def __init__(self, server: str, model: str, timeout: float = 600) -> None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{server}: not a server; give its URL, such as http://localhost:8000")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = partial(kind, parts.netloc, timeout=timeout)
        self._path, self._name = f"{parts.path}/v2/models/{quote(model, safe='')}/infer", f"{server} {model}"

    def separate(
        self, song: Path, output: Path, stems: Sequence[str] = (), options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a song; its stems to OUTPUT/<track>/<stem>.<ext>, all or none. Returns the server's report.

        No `stems` are all of the model; `options` are fields of rofo.Options. Raises AudioReadError for what
        the server refuses, EngineRunError (BusyError) where it fails, OutputWriteError.
        """
        with naming(song):
            file, size = song.open("rb"), song.stat().st_size
        with file, closing(self._connection()) as connection:
            told = json.dumps(dict(options or {})).encode()
            header = _header(size, len(told), stems)
            body = chain([header], iter(partial(file.read, _BLOCK), b""), [told])
            lengths = {_HEADER_LENGTH: len(header), "Content-Length": len(header) + size + len(told)}
            with self._connected():
                connection.request("POST", self._path, body, {key: str(n) for key, n in lengths.items()})
                response = connection.getresponse()
                if response.status != _OK:
                    raise self._error(song, response.status, response.read())
            return self._stored(response, output / track_name(song))

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """What goes wrong with the connection as BusyError."""
        try:
            yield
        except (OSError, HTTPException) as error:
            what = f"{type(error).__name__}: {error}"
            raise BusyError(f"{self._name}: {what}; see that the server is there and ready") from None

    def _error(self, song: Path, status: int, raw: bytes) -> Exception:
        try:
            text = str(json.loads(raw)["error"])
        except (ValueError, LookupError, TypeError):
            text = f"HTTP {status}"
        if status == _REFUSED:
            return AudioReadError(f"{printable(song)}: {text}")
        kind = BusyError if status == _BUSY else EngineRunError
        return kind(f"{self._name}: {text}")

    def _stored(self, response: HTTPResponse, folder: Path) -> dict[str, Any]:
        """The stems of a response in their places."""
        header = b"".join(self._blocks(response, int(response.headers[_HEADER_LENGTH])))
        outputs = json.loads(header)["outputs"]
        check_stems([out["name"] for out in outputs], None)
        report: dict[str, Any] = {}
        parts: dict[str, Part] = {}
        with ExitStack() as undo, in_words(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_parts(folder)
            for out in outputs:
                blocks = self._blocks(response, out["parameters"]["binary_data_size"])
                if out["name"] == REPORT:
                    report = json.loads(b"".join(blocks))
                    continue
                parts[out["name"]] = part = Part(folder)
                undo.callback(part.discard)
                part.file.writelines(blocks)
                part.sync()
            for stem, part in parts.items():
                part.commit(folder / f"{stem}{Path(report['stems'][stem]).suffix}")
        return report

    def _blocks(self, response: HTTPResponse, size: int) -> Iterator[bytes]:
        """The next bytes of a response."""
        while size:
            with self._connected():
                block = response.read(min(size, _BLOCK))
                if not block:
                    raise ConnectionError("the answer is cut short")
            size -= len(block)
            yield block


def _header(audio: int, options: int, stems: Sequence[str]) -> bytes:
    """The JSON before the tensors, which come one after the other; their sizes in bytes."""
    inputs = [
        {"name": name, "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
        for name, size in ((AUDIO, audio), (OPTIONS, options))
    ]
    asked = {"outputs": [{"name": name} for name in (*stems, REPORT)]} if stems else {}
    return json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}, **asked}).encode()


def patiently(call: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Call again while the server is busy, for so long; then its BusyError."""
    end, pause = time.monotonic() + seconds, _PAUSE
    while True:
        try:
            return call()
        except BusyError:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


@command_line
@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("songs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--server", default="http://localhost:8000", show_default=True, metavar="URL")
@click.option("--model", required=True, metavar="NAME", help="The model that separates songs.")
@click.option("--output", type=click.Path(path_type=Path), default="separated", show_default=True)
@click.option("--stem", "stems", multiple=True, metavar="NAME", help="May be repeated. Default: all.")
@click.option(
    "--options", default="{}", metavar="JSON", help="Fields of rofo.Options: '{\"overlap\": 0.75}'."
)
@click.option(
    "--retry", type=float, default=60, show_default=True, help="Seconds to ask a busy server again."
)
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds it may be silent.")
def main(
    songs: tuple[Path, ...],
    server: str,
    model: str,
    output: Path,
    stems: tuple[str, ...],
    options: str,
    retry: float,
    timeout: float,
) -> int:
    """Separate SONGS on a server. One JSON object per song on stdout, the server's report."""
    try:
        asked = dict(json.loads(options))
    except (ValueError, TypeError):
        raise UsageError(f"--options is {options!r}; give a JSON object") from None
    client, codes = Client(server, model, timeout), []
    for song in songs:
        try:
            report = patiently(partial(client.separate, song, output, stems, asked), retry)
        except Exception as error:  # noqa: BLE001 - one song must not stop the others
            codes.append(tell(error, debug=debugging()))
            continue
        for warning in report["warnings"]:
            note(f"{song}: {warning}")
        click.echo(json.dumps({"input": str(song), **report}))
        codes.append(0)
    return codes[0] if len(codes) == 1 else SOME_FAILED * any(codes)


if __name__ == "__main__":
    main()
