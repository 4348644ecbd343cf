"""Every recipe under checkpoints/recipes/ is read and run, with stand-ins for its engines."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from rofo import RecipeError
from rofo.recipes.read import list_engines, read_recipe

FOLDER = Path(__file__).parents[3] / "checkpoints" / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
RATES = dict.fromkeys(("syn_mss1", "drums_mss1", "perc_mss1", "orch_mss1"), 48000)


def wanted_stems(said):
    """{engine: all stems that the recipe takes of it}."""
    found = {}
    for step in said["steps"]:
        if "run" in step:
            stems = step["stem"] if isinstance(step["stem"], list) else [step["stem"]]
            found.setdefault(step["run"], {}).update(dict.fromkeys(stems))
    return {engine: tuple(stems) for engine, stems in found.items()}


@pytest.fixture
def beside(put, tmp_path):
    """A recipe beside engines that are made for it."""

    def beside_(path):
        text = path.read_text()
        said = tomllib.loads(text)
        for number, (name, stems) in enumerate(wanted_stems(said).items()):
            entry = said["engines"][name]
            made = put(
                entry["file"].removesuffix(".json"),
                stems=stems,
                residual=None,
                sample_rate=RATES.get(name, 44100),
                chunk=3000 + 64 * number,
            )
            described = json.loads(made.read_text()) | {"name": name}
            if any(step.get("run") == name and "shifts" in step for step in said["steps"]):
                described["overlap_add"]["scheme"] = "triangular"
            described["source"]["checkpoint_sha256"] = entry.get("sha256", "0" * 64)
            made.write_text(json.dumps(described))
        (tmp_path / path.name).write_text(text)
        return tmp_path / path.name

    return beside_


def test_there_are_all_of_them():
    names = [path.stem for path in RECIPES]
    assert len([name for name in names if name.startswith("xlance_")]) == 8
    assert len([name for name in names if name.startswith("ensemble_")]) == 9
    assert {"kuielab_sdx23_a", "kuielab_sdx23_b", "mvsep_mdx23", "mvsep_mdx23_single_onnx"} <= set(names)
    assert {"mvsep_cdx23", "htdemucs_ft", "demucs_mdx", "demucs_mdx_extra", "bsrnn"} <= set(names)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_published_recipe_can_be_run(beside, path, opened, song):
    recipe = read_recipe(beside(path))
    assert recipe.stems
    mix = song(2000)
    with opened(recipe.engines[next(iter(recipe.engines))].parent / path.name) as separator:
        stems = separator.separate(mix, 44100)
    assert set(recipe.stems) == set(stems)
    assert all(stem.shape == mix.shape and np.isfinite(stem).all() and stem.any() for stem in stems.values())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_without_engines_it_names_the_commands(path, tmp_path):
    alone = tmp_path / path.name
    alone.write_text(path.read_text())
    with pytest.raises(RecipeError) as caught:
        read_recipe(alone)
    engines = list_engines(alone)
    assert len(caught.value.mistakes) == len(engines)
    for engine in engines:
        assert not engine.there
        assert engine.command.startswith("rofo-export ")
        assert "CHECKPOINT" not in engine.command
        assert engine.command in str(caught.value)


def test_every_recipe_is_on_the_page():
    page = (FOLDER / "README.md").read_text()
    for path in RECIPES:
        known = path.stem.startswith(("xlance_", "ensemble_")) or f"`{path.stem}`" in page
        assert known or f"..._{path.stem.rpartition('_')[2]}" in page or path.stem.endswith(("_b", "_onnx"))
    assert all(path.read_text().startswith("# ") for path in RECIPES)
