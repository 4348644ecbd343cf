"""Run a public tool with seeded weights and store what it gives: `python make_golden.py TOOL CLONE`.

CLONE is a clone of the tool's repository at the commit that TOOLS names. README.md tells what must be
installed. One tool per run: their packages have the same names.
"""

import importlib
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden import files


@dataclass(frozen=True)
class Tool:
    """A repository; `inside` is what must be on the import path, relative to its root."""

    repository: str
    commit: str
    licence: str
    inside: str = ""


TOOLS = {
    "msst": Tool(
        "ZFTurbo/Music-Source-Separation-Training", "ccc011abf7f89dd7922bb2888d48493b575c0289", "MIT"
    ),
    "msst_others": Tool(
        "ZFTurbo/Music-Source-Separation-Training", "ccc011abf7f89dd7922bb2888d48493b575c0289", "MIT"
    ),
    "msst_conformers": Tool(
        "ZFTurbo/Music-Source-Separation-Training", "ccc011abf7f89dd7922bb2888d48493b575c0289", "MIT"
    ),
    "msst_experimental": Tool(
        "ZFTurbo/Music-Source-Separation-Training", "ccc011abf7f89dd7922bb2888d48493b575c0289", "MIT"
    ),
    "mvsepless": Tool("noblebarkrr/mvsepless", "5f416baad469a2ae272ceedc38414373666351ab", "MIT"),
    "msst_webui": Tool("SUC-DriverOld/MSST-WebUI", "2aee2cc20b55ab6b080cd4c7bc0e26db7d57a2ee", "AGPL-3.0"),
    "splifft": Tool("undef13/splifft", "f02a28b9ba8188919ba31df0aadbb7f335b5ed98", "MIT"),
    "lucidrains": Tool("lucidrains/BS-RoFormer", "87576b9096ea6dcef9e340745d87d72f30bdd985", "MIT"),
    "demucs": Tool("facebookresearch/demucs", "e976d93ecc3865e5757426930257e200846a520a", "MIT"),
    "demucs_wave": Tool("facebookresearch/demucs", "e976d93ecc3865e5757426930257e200846a520a", "MIT"),
    "demucs_v2": Tool("facebookresearch/demucs", "64ed2cb029301743b2714b3c8fe930c00945842c", "MIT"),
    "demucs_v1": Tool("facebookresearch/demucs", "110f8fee0815d4c0d4ed3e2d478e37df247cd269", "MIT"),
    "bsrnn": Tool("magronp/bsrnn", "36f54e357af8c4c52c04ec00af06e610500c8097", "none given, later MIT"),
    "bsrnn_newer": Tool("magronp/bsrnn", "f2ecc62bf76e9096943e4594d795a753c297a384", "MIT"),
    "uvr": Tool(
        "Anjok07/ultimatevocalremovergui", "5517e0cf0d1acd16a1618eeedec596957523f9e1", "MIT (README)"
    ),
    "audio_separator": Tool(
        "nomadkaraoke/python-audio-separator", "0a644dbb07d94a7e747d5265e3abbaf600459449", "MIT"
    ),
    "mdx_net": Tool("kuielab/mdx-net", "bbd46dbf2ceb26c3fbfbe412b5159bce2366c9c0", "MIT"),
    "mdx_net_submission": Tool(
        "kuielab/mdx-net-submission", "68b969d7b9a99ed4557ba372035b4eb2ac67547d", "MIT"
    ),
    "sdx23": Tool("kuielab/sdx23", "2f217926797bfc25edc4420200670ca288efe8a8", "MIT"),
    "mvsep_mdx23": Tool(
        "ZFTurbo/MVSEP-MDX23-music-separation-model", "765bd312ff0b4213d4ad48ab554a0fc11389633d", "none given"
    ),
    "mvsep_system": Tool(
        "ZFTurbo/MVSEP-MDX23-music-separation-model", "765bd312ff0b4213d4ad48ab554a0fc11389633d", "none given"
    ),
    "sdx23_system": Tool("kuielab/sdx23", "2f217926797bfc25edc4420200670ca288efe8a8", "MIT"),
    "sdx23_networks": Tool("kuielab/sdx23", "2f217926797bfc25edc4420200670ca288efe8a8", "MIT"),
    "mvsep_networks": Tool(
        "ZFTurbo/MVSEP-MDX23-music-separation-model", "765bd312ff0b4213d4ad48ab554a0fc11389633d", "none given"
    ),
    "cdx23_networks": Tool(
        "ZFTurbo/MVSEP-CDX23-Cinematic-Sound-Demixing",
        "e613a1e5b4677eb1d68ad77257fe5ad3c1d9f5fc",
        "none given",
    ),
    "demucs_bags": Tool("facebookresearch/demucs", "e976d93ecc3865e5757426930257e200846a520a", "MIT"),
    "bsrnn_targets": Tool(
        "magronp/bsrnn", "36f54e357af8c4c52c04ec00af06e610500c8097", "none given, later MIT"
    ),
    "audio_separator_presets": Tool(
        "nomadkaraoke/python-audio-separator", "0a644dbb07d94a7e747d5265e3abbaf600459449", "MIT"
    ),
    "xlance_networks": Tool("ModistAndrew/xlance-msr", "b59661bc0dd79797a0a49243c32eefead37b5059", "MIT"),
    "xlance": Tool("ModistAndrew/xlance-msr", "b59661bc0dd79797a0a49243c32eefead37b5059", "MIT"),
}
LIBRARIES = (
    "torch",
    "numpy",
    "rotary-embedding-torch",
    "PoPE-pytorch",
    "librosa",
    "onnxruntime",
    "einops",
    "torchaudio",
    "neuraloperator",
    "hyper-connections",
)


def main(name: str, clone: Path) -> None:
    tool = TOOLS[name]
    found = subprocess.run(
        ["git", "-C", str(clone), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if found != tool.commit:
        raise SystemExit(f"{clone}: is at {found}, not at {tool.commit}; check that commit out")
    sys.path.insert(0, str(clone / tool.inside))
    about = {"repository": tool.repository, "commit": tool.commit, "licence": tool.licence}
    about["versions"] = {library: _version(library) for library in LIBRARIES}
    for file, cases in importlib.import_module(f"golden.from_{name}").golden_files(clone):
        path = files.FOLDER / f"{file}.npz"
        files.write(path, about, cases)
        print(f"{path.name}: {len(cases)} cases, {path.stat().st_size / 1024:.0f} KiB")


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
