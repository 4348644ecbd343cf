"""kuielab's submission to MDX'21: four networks, trimmed chunks put end to end, and the mixer."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from golden.files import Case
from golden.seeded import integers, noise, seeded_state, song, stand_in
from golden.stubs import inside, spectra_as_real_numbers, stub, write_onnx

HOP = 64
TARGETS = ("bass", "drums", "other", "vocals")
SIZES = {"L": 5, "l": 2, "g": 6, "k": 3, "bn": 4, "bias": False, "dim_f": 6, "dim_t": 3}
LENGTHS = (1, 448, 961, 2000, 3001)  # the bass network keeps 448 samples of 960


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("demucs", "demucs.model", "demucs.utils")
    spectra_as_real_numbers()
    yield "mdx_net_submission", dict(_songs())
    yield "mdx_net_submission_scheme", dict(_scheme())


def _songs() -> Iterator[tuple[str, Case]]:
    """Each network by itself, and all of them through the mixer."""
    import models

    networks, cases = [], {}
    for target in TARGETS:
        network = models.Conv_TDF_net_trim(
            "cpu", True, "Conv-TDF(seeded)", target, lr=0.0001, epoch=0, hop=HOP, **SIZES
        )
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        state = seeded_state(shapes, seed=target)
        network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        networks.append(network.eval())
        transform = {"n_fft": network.n_fft, "hop_length": HOP, "dim_f": network.dim_f}
        transform |= {"dim_t": 2 * network.dim_t, "target_name": target}
        cases[target] = Case({"hyper_parameters": transform, "shapes": shapes, "seed": target})
    mixer = {"linear.weight": [8, 10]}
    cases["mixer"] = Case({"shapes": mixer})
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
        Path("model").mkdir()
        Path("onnx_A").mkdir()
        state = {name: torch.from_numpy(value) for name, value in seeded_state(mixer).items()}
        torch.save(state, "model/mixer.ckpt")
        for network in networks:
            path = Path("onnx_A", f"{network.target_name}.onnx")
            write_onnx(network, path, network.dim_f, 2 * network.dim_t)
        net = _submission(networks)
        net.mixer = models.Mixer("cpu")
        for length in LENGTHS:
            mix = song(length).astype(np.float64)  # as soundfile reads it
            for target, stem in zip(TARGETS, net.demix_base(mix, mixer=False), strict=True):
                cases[target].outputs[str(length)] = stem[None].astype(np.float32)
            cases["mixer"].outputs[str(length)] = np.asarray(net.demix_base(mix, mixer=True))
    yield from cases.items()


def _submission(networks: list) -> object:
    from mdxnet import MDXNet

    net = MDXNet.__new__(MDXNet)
    net.tfc_tdf_u_nets_v2, net.onnx_name = networks, "onnx_A"
    return net


def _scheme() -> Iterator[tuple[str, Case]]:
    """`demix_base` alone."""
    chunk, n_fft = 96, 16
    gen = chunk - n_fft
    lengths = [1, n_fft // 2, gen - 1, gen, gen + 1, chunk, chunk + 1, 2 * gen, 777]
    yield "trim", _scheme_case(chunk, n_fft, lengths)
    for chunk, half, length in integers("trim any numbers", 20, (40, 120), (1, 16), (1, 701)):
        yield f"any {chunk} {2 * half} {length}", _scheme_case(chunk, 2 * half, [length])


def _scheme_case(chunk: int, n_fft: int, lengths: list[int]) -> Case:
    outputs = {}
    for length in lengths:
        stems = [_stand_in_stem(chunk, n_fft, noise(length), stem) for stem in (0, 1)]
        outputs[str(length)] = np.stack(stems)
    return Case({"chunk": chunk, "n_fft": n_fft}, outputs)


def _stand_in_stem(chunk: int, n_fft: int, mix: np.ndarray, stem: int) -> np.ndarray:
    import mdxnet

    class Session:
        def __init__(self, *_: object) -> None: ...

        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.stack([stand_in(item)[stem] for item in inputs["input"]])]

    as_it_is = SimpleNamespace(
        n_fft=n_fft, chunk_size=chunk, target_name="any", stft=lambda x: x, istft=lambda x: x
    )
    real, mdxnet.ort = mdxnet.ort, SimpleNamespace(InferenceSession=Session)
    try:
        return _submission([as_it_is]).demix_base(mix, mixer=False)[0]
    finally:
        mdxnet.ort = real
