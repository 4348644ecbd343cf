"""Train the demo model: voice against music, a small BS-Roformer.

    python train.py CACHE RUN --minutes 90 --workers 2     train, or go on where RUN stopped
    python train.py CACHE RUN --finish                     write the files that finish.py names

CACHE is what `data.py cache` made. RUN gets last.pt every few minutes (weights, their average, optimiser,
history) and log.txt. Workers are processes with one thread each that average their gradients: on busy cores
two threads in one process wait for each other after every operation (measured: ten times slower).
"""

import argparse
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from rofo.checkpoints.demo.data import exit_code
from rofo.checkpoints.demo.finish import HERE, finish
from rofo.checkpoints.demo.measure import mean_of, measured_mixes, separate
from rofo.checkpoints.demo.mixing import Batch, Library, Mixer
from rofo.checkpoints.demo.network import CHUNK, SHAPE, Roformer, masked, stft

LEARNING_RATE: Final = 2e-3
LAST_RATE: Final = 0.02
WARM_UP_STEPS: Final = 60
WEIGHT_DECAY: Final = 1e-2
LARGEST_GRADIENT: Final = 1.0
AVERAGING: Final = 0.999
# An error this far below the mix counts as none, else silent targets would be all that matters.
ERROR_FLOOR: Final = 1e-3
SPECTRAL_WEIGHT: Final = 0.25
SAVE_S: Final = 180
VALIDATE_S: Final = 600


@dataclass(frozen=True)
class Options:
    """The command line."""

    cache: Path
    run: Path
    minutes: float
    workers: int
    items: int
    device: str
    finish: bool
    output: Path


@dataclass
class Progress:
    """How far a run is; `history` holds (minutes, steps, mean loss, validation SDR)."""

    steps: int
    seconds: float
    history: list[tuple[float, int, float | None, float | None]]


def loss_of(network: torch.nn.Module, batch: Batch) -> Tensor:
    """Log error of the voice's spectrogram (the music's is the same) and error of both's magnitudes."""
    mix = stft(batch.voice + batch.music, SHAPE)
    wanted = stft(batch.voice, SHAPE)
    with torch.autocast(mix.device.type, torch.bfloat16):
        voice = masked(network, mix)
    log_error = torch.log10(_power(voice - wanted) / _power(mix).clamp(min=1e-6) + ERROR_FLOOR).mean()
    spectral = _compressed_error(voice, wanted, mix) + _compressed_error(mix - voice, mix - wanted, mix)
    return log_error + SPECTRAL_WEIGHT * spectral


def _power(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum).square().sum(dim=(1, 2, 3, 4))


def _compressed_error(got: Tensor, wanted: Tensor, mix: Tensor) -> Tensor:
    """Mean absolute difference of square-rooted magnitudes, relative to the mix's."""
    a, b, whole = (_compressed(spectrum) for spectrum in (got, wanted, mix))
    return ((a - b).abs().mean(dim=(1, 2, 3)) / whole.mean(dim=(1, 2, 3))).mean()


def _compressed(spectrum: Tensor) -> Tensor:
    return (torch.view_as_real(spectrum).square().sum(-1) + 1e-6).sqrt().sqrt()


def rate_at(steps: int, part: float) -> float:
    """Learning rate: a warm-up in steps, then a cosine over `part`, the share of the time that has gone."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(part, 1.0))
    return LEARNING_RATE * min(1.0, (steps + 1) / WARM_UP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def optimizers_of(network: Roformer) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the transformers, AdamW for the layers of bands and for vectors.

    Muon's updates are scaled to AdamW's, so that one rate serves both (arXiv 2502.16982).
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in network.layers.parameters() if p.ndim == 2]
    chosen = set(matrices)
    others = [p for p in trained if p not in chosen]
    return (
        torch.optim.Muon(matrices, LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
    )


class Trainer:
    """One worker's side of a run. Worker 0 also keeps the average of the weights, the log and the files."""

    def __init__(self, options: Options, worker: int) -> None:
        self.options, self.worker = options, worker
        torch.manual_seed(0)
        self.network = Roformer(SHAPE).to(options.device)
        self.average = Roformer(SHAPE).to(options.device).eval()
        self.average.load_state_dict(self.network.state_dict())
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizers = optimizers_of(self.network)
        self.progress = Progress(0, 0.0, [])
        if (options.run / "last.pt").is_file():
            self._load()
        seed = 1000 * self.progress.steps + worker
        self.mixer = Mixer(Library(options.cache, "train"), CHUNK, seed)

    def run(self) -> None:
        """Train until the time is up."""
        start, saved, validated = time.monotonic() - self.progress.seconds, time.monotonic(), time.monotonic()
        losses: list[float] = []
        while self.progress.seconds < 60 * self.options.minutes:
            losses.append(self._step())
            # Every worker needs the same clock, or they would stop after different steps.
            self.progress.seconds = self._shared(time.monotonic() - start)
            now = time.monotonic()
            if self.worker == 0 and now - saved > SAVE_S:
                saved = now
                score = None
                if now - validated > VALIDATE_S or not self.progress.history:
                    validated = now
                    score = self._validate()
                self._note(losses, score)
                losses = []
                self._save()
        if self.worker == 0:
            self._note(losses, self._validate())
            self._save()

    def _step(self) -> float:
        self.network.train()
        part = self.progress.seconds / (60 * self.options.minutes)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(self.progress.steps, part)
        batch = self.mixer.batch(self.options.items)
        device = self.options.device
        loss = loss_of(self.network, Batch(batch.voice.to(device), batch.music.to(device)))
        self.network.zero_grad()
        torch.autograd.backward(loss)
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.trained, LARGEST_GRADIENT)
        for optimizer in self.optimizers:
            optimizer.step()
        self.progress.steps += 1
        self._update_average()
        return float(loss.detach())

    def _share_gradients(self) -> None:
        if self.options.workers == 1:
            return
        gradients = [p.grad for p in self.trained if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients]) / self.options.workers
        distributed.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _shared(self, seconds: float) -> float:
        if self.options.workers == 1:
            return seconds
        clock = torch.tensor(seconds, dtype=torch.float64)
        distributed.broadcast(clock, 0)
        return float(clock)

    def _update_average(self) -> None:
        """Exponential average of the weights, quicker at the start."""
        keep = min(AVERAGING, (1 + self.progress.steps) / (10 + self.progress.steps))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1 - keep)

    def _validate(self) -> float:
        average = partial(separate, self.average.cpu())
        return mean_of(measured_mixes(average, self.options.cache, "validation"))["voice"]

    def _note(self, losses: list[float], score: float | None) -> None:
        minutes = self.progress.seconds / 60
        loss = float(np.mean(losses)) if losses else None
        self.progress.history.append((minutes, self.progress.steps, loss, score))
        text = f"{minutes:6.1f} min  step {self.progress.steps:6d}"
        text += f"  loss {loss:+.4f}" if loss is not None else ""
        text += f"  validation voice SDR {score:.2f} dB" if score is not None else ""
        with (self.options.run / "log.txt").open("a") as log:
            log.write(text + "\n")

    def _save(self) -> None:
        self.average.to(self.options.device)
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
        }
        # A run that is stopped while it writes keeps the file before.
        torch.save(state, self.options.run / "last.new")
        (self.options.run / "last.new").replace(self.options.run / "last.pt")

    def _load(self) -> None:
        state = torch.load(self.options.run / "last.pt", map_location=self.options.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def work(worker: int, options: Options) -> None:
    """Be one of the workers of a run."""
    torch.set_num_threads(1)
    if options.workers > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        meeting = (options.run / "meeting").absolute().as_uri()
        distributed.init_process_group("gloo", init_method=meeting, rank=worker, world_size=options.workers)
    Trainer(options, worker).run()
    if options.workers > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def train(options: Options) -> None:
    """Start the workers and wait for them."""
    options.run.mkdir(parents=True, exist_ok=True)
    (options.run / "meeting").unlink(missing_ok=True)
    if options.workers == 1:
        work(0, options)
    else:
        spawn(work, (options,), nprocs=options.workers)  # type: ignore[no-untyped-call]


def parsed() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model, or write what a run has learnt.")
    parser.add_argument("cache", type=Path, help="folder that data.py cache has filled")
    parser.add_argument("run", type=Path, help="folder of the run; one that holds last.pt goes on")
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="training time, all parts of a run together"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--items", type=int, default=2, help="mixes per worker and step")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with one worker")
    parser.add_argument("--finish", action="store_true", help="write the model instead of training")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the model")
    return Options(**vars(parser.parse_args()))


def main() -> int:
    """Train or finish, as the command line says."""
    options = parsed()
    if options.finish:
        return exit_code(lambda: finish(options.run, options.cache, options.output))
    return exit_code(lambda: train(options))


if __name__ == "__main__":
    sys.exit(main())
