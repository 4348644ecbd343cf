"""Recipes: several engines as one, in a TOML file.

    read.py     the file, checked -> recipe.py, what it says     lines.py   the line of every mistake
    plan.py     steps -> signals and the passes they need        spool.py   signals between passes, on disk
    model.py    runs the plan: what Separator takes like an engine

A kind of step is a file here and a line in STEPS: the key that names it in a recipe, and its class, see
rofo.recipes.step.Step. Importing the registry imports none of them.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rofo.recipes.step import Step

STEPS: dict[str, str] = {
    "run": "rofo.recipes.run:Run",
    "sum": "rofo.recipes.sum:Sum",
    "combine": "rofo.recipes.combine:Combine",
    "clip": "rofo.recipes.clip:Clip",
    "guard": "rofo.recipes.guard:Guard",
    "quietest": "rofo.recipes.quietest:Quietest",
    "matrix": "rofo.recipes.matrix:Matrix",
}


def step_kind(name: str) -> "type[Step]":
    """The class of the steps that `name` marks."""
    kind: type[Step] = resolve_name(STEPS[name])
    return kind
