"""The one table of pipelines: a new class is one file, and its entry here."""

from __future__ import annotations

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.pipelines.dit import DiT
from dsr_export.pipelines.flux import Flux
from dsr_export.pipelines.pixart import PixArt
from dsr_export.pipelines.recipe import Recipe
from dsr_export.pipelines.sana import Sana
from dsr_export.pipelines.sd3 import StableDiffusion3

RECIPES: tuple[type[Recipe], ...] = (StableDiffusion3, Flux, PixArt, Sana, DiT)


def recipe_of(class_name: str, where: str) -> type[Recipe]:
    """The recipe of a pipeline's class. ExportError, naming `where` and all that are known, for any other."""
    known = {name: recipe for recipe in RECIPES for name in recipe.names}
    if class_name not in known:
        names = "known pipelines: " + ", ".join(known)
        near = did_you_mean(class_name, known)
        hint = f"{near} {names}" if near else names
        raise ExportError(f"{where} is a {class_name[:80]}, which is no pipeline known here", hint=hint)
    return known[class_name]
