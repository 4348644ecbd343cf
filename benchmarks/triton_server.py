"""A real Triton server on this machine, without a container: the one inside the package nvidia-pytriton.

That server (2.51, October 2024) has the Python backend only, which runs with any Python that its stubs are
for, so with rofo's own. The package lives in an environment of its own: it pins numpy below 2.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rofo.errors import EngineRunError, UsageError

ENVIRONMENT = "ROFO_TRITON"
_START_SECONDS, _STOP_SECONDS = 120.0, 60.0


def python() -> Path:
    """The Python of the environment that holds the server."""
    return _root() / "bin" / "python"


def _root() -> Path:
    return Path(os.environ.get(ENVIRONMENT, "build/triton"))


def _installation() -> Path:
    """The site-packages that hold the server. Raises UsageError with the command that makes one."""
    root = _root()
    found = sorted(root.glob("lib/python*/site-packages/pytriton/tritonserver"))
    if not found:
        raise UsageError(
            f"{root}: no nvidia-pytriton there; python -m venv {root} && {root}/bin/pip install "
            f"nvidia-pytriton==0.7.0, or name another environment in {ENVIRONMENT}"
        )
    return found[0].parent.parent


class Server:
    """A running server; `url` is its address, `grpc` that of the other protocol."""

    def __init__(self, process: "subprocess.Popen[bytes]", ports: Sequence[int], log: Path) -> None:
        self.process, self._log = process, log
        self.url, self.grpc = f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"

    def asked(self, path: str, *, post: bool = False) -> tuple[int, Any]:
        """Status and JSON of an address of the server; status 0 where it does not answer."""
        request = Request(f"{self.url}/v2/{path}", data=b"" if post else None)
        try:
            with urlopen(request, timeout=_START_SECONDS) as response:
                return response.status, json.loads(response.read() or b"null")
        except HTTPError as error:
            return error.code, None
        except (URLError, ConnectionError):
            return 0, None

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or a model of it, says that it is."""
        return self.asked(f"models/{model}/ready" if model else "health/ready")[0] == 200

    def batches(self, model: str) -> dict[int, int]:
        """How many times a model ran, by the size of the batch."""
        (found,) = self.asked(f"models/{model}/stats")[1]["model_stats"]
        return {stats["batch_size"]: int(stats["compute_infer"]["count"]) for stats in found["batch_stats"]}

    def chunks(self, model: str) -> int:
        """How many chunks a model ran."""
        return sum(size * runs for size, runs in self.batches(model).items())

    def processes(self) -> list[int]:
        """The server and the processes of its models."""
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [self.process.pid, *map(int, children.stdout.split())]

    def memory_mb(self) -> float:
        """Memory of all processes in MB, what they share counted once."""
        return sum(_proportional_kb(pid) for pid in self.processes()) / 1024

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)

    def complaints(self) -> str:
        """What it printed that is not information."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if line and line[0] not in "I|+")


@contextmanager
def served(repository: Path, folder: Path) -> Iterator[Server]:
    """A server of all models of a repository, ready; `folder` gets its log. Raises EngineRunError."""
    site, ports, log = _installation(), _free_ports(3), folder / "server.log"
    names = ("--http-port", "--grpc-port", "--metrics-port")
    command = [
        str(site / "pytriton/tritonserver/bin/tritonserver"),
        *("--model-repository", str(repository), "--backend-directory", str(_backends(site, folder))),
        *("--model-control-mode", "explicit", "--load-model", "*"),
        *(word for pair in zip(names, map(str, ports), strict=True) for word in pair),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_environment(site))
    server = Server(process, ports, log)
    try:
        end = time.monotonic() + _START_SECONDS
        while not server.ready():
            if process.poll() is not None or time.monotonic() > end:
                raise EngineRunError(f"the server did not get ready: {server.complaints()}")
            time.sleep(0.2)
        yield server
    finally:
        if process.poll() is None:
            children = server.processes()[1:]
            process.kill()
            process.wait()
            for child in children:
                _kill(child)


def _backends(site: Path, folder: Path) -> Path:
    """The Python backend with the stub for this Python."""
    backend, own = folder / "backends" / "python", site / "pytriton" / "tritonserver"
    shutil.copytree(own / "backends" / "python", backend)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(own / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    return backend.parent


def _environment(site: Path) -> dict[str, str]:
    """With this Python's packages for the models: the stub reads no PYTHONPATH, it takes the first Python."""
    libraries = [str(site / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "PATH": path}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
