"""The proof `reopen`: an engine opened, run and closed again and again."""

from pathlib import Path

from rofo import Separator
from rofo.benchmarks.held import Held, engine_made_elsewhere, growth, leaks
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.console import one_heap

MOST = 0.01


def prove(count: int, folder: Path, say: Say) -> Proof:
    """Open `count` times by each backend."""
    one_heap()
    engine = engine_made_elsewhere(folder)
    figures: dict[str, float | int | str] = {}
    failures: list[str] = []
    for backend in ("openvino", "onnxruntime"):
        seen: list[Held] = []
        for done in range(1, count + 1):
            with Separator(engine, backend=backend, threads=1) as separator:
                separator.self_test()
            seen.append(Held.now(seen[0].threads if seen else None))
            if done % 100 == 0:
                say(f"{backend}: {done} of {count}, {seen[-1].mb:.0f} MB")
        figures[f"{backend}: opened and closed"] = count
        figures[f"{backend}: growth of memory in the last third, %"] = round(100 * growth(seen), 2)
        figures[f"{backend}: MB at the end"] = round(seen[-1].mb, 1)
        failures += [f"{backend}: {found}" for found in leaks(seen, MOST)]
    return Proof(
        "An engine that is opened, run and closed leaves no memory (1 %), thread or file handle behind.",
        figures,
        tuple(failures),
    )
