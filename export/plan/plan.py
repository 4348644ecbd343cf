"""From a model to a plan: typed graph, batch, gate, build."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rofo.errors import UsageError
from rofo.export.graph.cost import graph_cost
from rofo.export.graph.types import Form, Precision
from rofo.export.plan.gpus import Gpu, launches_in_words, least_launches, most_chunks, size_batch
from rofo.export.plan.tensorrt import Backend, build_plan, load_builder, target_gpu
from rofo.manifest import EngineFile, file_sha256

Trace = Callable[[Path, int], None]
"""Writes a graph into a file in an empty folder, for a batch of so many chunks."""


@dataclass(frozen=True)
class PlanOptions:
    """What kind of plan to build.

    `precision` is that of matrix products, `attention` that of attention where it differs. In fp8, products
    are in E4M3 as far as the gate allows, and everything else is as in fp16. `gpu` is a name
    of rofo.export.plan.gpus.GPUS, None the builder's default. `batch` None takes as many chunks as fill
    the card. `diagnose` measures every layer.
    """

    backend: Backend = "tensorrt-rtx"
    precision: Precision | Literal["fp8"] = "fp16"
    attention: Precision | None = None
    gpu: str | None = None
    batch: int | None = None
    diagnose: bool = False

    @property
    def form(self) -> Form:
        """Arrangement and types of the graph that the plan is built from."""
        return Form("tensorrt", "fp16" if self.precision == "fp8" else self.precision, self.attention)

    @property
    def types(self) -> str:
        """The types in words."""
        island = self.attention not in (None, self.form.precision)
        return f"{self.precision} with {self.attention} attention" if island else self.precision

    @property
    def cure(self) -> str:
        """What to try where it fails the gate."""
        cures = {"fp32": "--target onnx", "bf16": "--precision fp32", "fp8": "--precision fp16"}
        return cures.get(self.precision, "--precision bf16 or fp32")

    def target(self) -> Gpu:
        """The card; raises EngineLoadError where the builder or, if it needs one, the card is missing.

        UsageError for FP8 on a card that does not multiply in it.
        """
        load_builder(self.backend)
        gpu = target_gpu(self.backend, self.gpu)
        if self.precision == "fp8" and not gpu.has_fp8:
            raise UsageError(
                f"an {gpu.name} does not multiply in FP8; use --precision fp16, or a --gpu of 2022 or later"
            )
        return gpu

    def file(self, name: str) -> str:
        """The name of a model's plan: one in FP8 lies beside the others, which it does not replace."""
        return f"{name}.fp8.plan" if self.precision == "fp8" else f"{name}.plan"


@dataclass(frozen=True)
class TypedGraph:
    """A typed network as ONNX files: `one` for a single chunk, to be measured; `file` for `batch` at once."""

    one: Path
    file: Path
    batch: int

    def rewritten(self, write: Callable[[Path], Path]) -> "TypedGraph":
        """What `write` makes of the graphs, in files of their own."""
        one = write(self.one)
        return replace(self, one=one, file=one if self.batch == 1 else write(self.file))


def write_typed(
    trace: Trace, folder: Path, options: PlanOptions, gpu: Gpu, stage: Callable[[str], None]
) -> TypedGraph:
    """Write what `trace` gives for one chunk, and for as many as `options` or the card ask for."""
    one = _traced(trace, 1, folder)
    batch, cost = options.batch, graph_cost(one)
    if batch is None:
        batch, reason = size_batch(cost, gpu)
        stage(reason)
    elif batch > most_chunks(cost):
        raise UsageError(
            f"--batch {batch}: one launch of attention holds {most_chunks(cost)} chunks of this network; "
            f"give at most {max(1, most_chunks(cost))}"
        )
    return TypedGraph(one, one if batch == 1 else _traced(trace, batch, folder), batch)


def write_plan(
    graph: TypedGraph, plan: Path, options: PlanOptions, gpu: Gpu, stage: Callable[[str], None]
) -> EngineFile:
    """Build `plan` from a typed graph; its entry in the manifest."""
    stage(f"building the plan for an {gpu.name}")
    built = build_plan(graph.file, plan, backend=options.backend, gpu=gpu, stage=stage)
    cost = graph_cost(graph.file)
    launches = (built.launches or least_launches(cost)) if cost.steps else None
    if launches:
        stage(launches_in_words(launches, graph.batch))
    return EngineFile(
        file=plan.name,
        backend=options.backend,
        backend_version=built.version,
        precision=options.precision,
        compute_capabilities=built.compute_capabilities,
        batch=graph.batch,
        sha256=file_sha256(plan),
        onnx_sha256=_sha256(graph.file),
        device_memory=built.device_memory or cost.memory,
        launches=launches,
        rest="fp16" if options.precision == "fp8" else "fp32",
    )


def _traced(trace: Trace, batch: int, folder: Path) -> Path:
    inside = folder / f"typed-{batch}"
    inside.mkdir()
    graph = inside / "typed.onnx"
    trace(graph, batch)
    return graph


def _sha256(graph: Path) -> str:
    """Of the graph and, after it, its weights where they lie in a file of their own."""
    digest = hashlib.sha256()
    for file in sorted(graph.parent.glob(f"{graph.name}*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
