"""Cases of the proof `fuzz`, one after the other: `python -m rofo.benchmarks.fuzzed KIND FOLDER FIRST LAST`.

FOLDER holds what `prepare` put there. Each case is a line with its number before it begins, and another with
"!" where it did not end as it should. A case is made of its kind and number alone, so it can be made again.
"""

import random
import resource
import shutil
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import soundfile

from rofo import AudioReadError, EngineLoadError, EngineRunError, RofoError, Separator
from rofo.benchmarks.mutate import mutated_bytes, mutated_json, mutated_text

SECONDS = 20  # for one case
MEMORY = 1 << 30  # bytes of address space beyond what the seeds needed
Check = Callable[[Path], str]


@dataclass(frozen=True)
class Kind:
    """Files of one kind: how they are changed, what they are called, and what tries them.

    `check` makes of a folder a function that gives "taken" or "refused" for a file, and raises for all else.
    """

    mutated: Callable[[Sequence[bytes], random.Random], bytes]
    name: str
    check: Callable[[Path], Check]


def _audio(folder: Path) -> Check:
    separator = Separator(folder / "tiny.json", backend="onnxruntime", threads=1)
    return partial(_separated, separator, folder)


def _separated(separator: Separator, folder: Path, file: Path) -> str:
    out = folder / "out"
    try:
        paths = separator.separate_file(file, out)
    except AudioReadError:
        if out.exists():
            raise AssertionError(f"refused, but there is {[p.name for p in out.rglob('*')]}") from None
        return "refused"
    lengths = {soundfile.info(path).frames for path in paths.values()}
    shutil.rmtree(out)
    wanted = _libsndfiles(file)
    if len(lengths) != 1 or (wanted is not None and lengths != {wanted}):
        raise AssertionError(f"stems of {lengths} samples for a song of {wanted}")
    return "taken"


def _libsndfiles(file: Path) -> int | None:
    """How many samples libsndfile finds where it can be believed; None elsewhere: see rofo.audio."""
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.format not in ("FLAC", "OGG"):
                return None
            return len(sound.read(always_2d=True))
    except (soundfile.LibsndfileError, ValueError, MemoryError, TypeError):
        return None


def _engine(_: Path) -> Check:
    return _tested


def _tested(file: Path) -> str:
    try:
        with Separator(file, backend="onnxruntime", threads=1) as separator:
            separator.self_test()
    except (EngineLoadError, EngineRunError):
        return "refused"
    return "taken"


def _checkpoint(_: Path) -> Check:
    from rofo.export.errors import CheckpointError
    from rofo.export.export import facts_report

    def check(file: Path) -> str:
        try:
            facts_report(file)
        except CheckpointError:
            return "refused"
        return "taken"

    return check


def _yaml(folder: Path) -> Check:
    from rofo.export.errors import CheckpointError
    from rofo.export.families import describe, find_family
    from rofo.export.source import read_source

    source = read_source(folder / "net.ckpt")

    def check(file: Path) -> str:
        try:
            found = describe(find_family(source), source, file, {})
        except CheckpointError:
            return "refused"
        return "refused" if found.problems else "taken"

    return check


KINDS = {
    "wav": Kind(mutated_bytes, "song.wav", _audio),
    "aiff": Kind(mutated_bytes, "song.aiff", _audio),
    "flac": Kind(mutated_bytes, "song.flac", _audio),
    "mp3": Kind(mutated_bytes, "song.mp3", _audio),
    "ogg": Kind(mutated_bytes, "song.ogg", _audio),
    "manifest": Kind(mutated_json, "tiny.json", _engine),
    "recipe": Kind(mutated_text, "recipe.toml", _engine),
    "yaml": Kind(mutated_text, "config.yaml", _yaml),
    "checkpoint": Kind(mutated_bytes, "fuzzed.ckpt", _checkpoint),
}


def run(name: str, folder: Path, numbers: Sequence[int]) -> None:
    """Try the cases of these numbers, after the seeds themselves, all of which must be taken."""
    kind = KINDS[name]
    seeds = [path.read_bytes() for path in sorted((folder / name).iterdir())]
    work = folder / f"{name}-{numbers[0]}"
    shutil.copytree(folder / "beside", work)
    check = kind.check(work)
    for seed in seeds:
        (work / kind.name).write_bytes(seed)
        if check(work / kind.name) != "taken":
            raise SystemExit(f"{name}: a seed was refused")
    there = _names(work)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, hard))
    for number in numbers:
        click.echo(number)
        (work / kind.name).write_bytes(kind.mutated(seeds, random.Random(f"{name} {number}")))
        click.echo(f"= {_ended(check, work / kind.name, there)}")
    shutil.rmtree(work)


def _ended(check: Check, file: Path, there: set[str]) -> str:
    """How a case ended: taken, refused, or what was wrong."""
    try:
        with _limited():
            ended = check(file)
    except RofoError as error:
        ended = f"the wrong error: {type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
        ended = f"{type(error).__name__}: {error}"
    if (found := _names(file.parent)) != there:
        ended = f"{ended}; files: {sorted(found ^ there)}"
    return " ".join(ended.split())[:500]


def _names(work: Path) -> set[str]:
    """All that lies in the folder of the cases and beside it, but the folders of other workers."""
    return {str(path.relative_to(work)) for path in work.rglob("*")} | {
        f"../{path.name}" for path in work.parent.iterdir() if "-" not in path.name
    }


@contextmanager
def _limited() -> Iterator[None]:
    def over(_: int, __: types.FrameType | None) -> None:
        raise TimeoutError(f"not ended after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    first, last = map(int, sys.argv[3:5])
    np.seterr(all="ignore")
    run(sys.argv[1], Path(sys.argv[2]), range(first, last))
