"""Every transformer class of the diffusers installed has a recipe for all that it takes, or a reason against it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.files import class_of
from dsr_export.families.diffusers.general.call import parts_of
from dsr_export.families.diffusers.general.constants import PLACES
from dsr_export.families.diffusers.general.recipes.classes import CLASSES
from dsr_export.families.diffusers.general.recipes.recipe import ClassRecipe, Fixed, Given, Part, Refused
from dsr_export.families.diffusers.general.rotations import ROTATIONS
from dsr_export.families.diffusers.supported import SUPPORTED

OWN = {each.class_name for each in SUPPORTED}
RECIPES = {name: recipe for name, recipe in CLASSES.items() if isinstance(recipe, ClassRecipe)}


def _transformers() -> dict[str, Any]:
    """Every model class of the package that diffusers keeps its transformers in."""
    pytest.importorskip("diffusers", reason="the models extra is not installed")
    package = importlib.import_module("diffusers.models.transformers")
    base = importlib.import_module("diffusers").ModelMixin
    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)
    ]
    found = [each for module in modules for each in vars(module).values() if inspect.isclass(each)]
    return {
        each.__name__: each for each in found if issubclass(each, base) and each.__module__.startswith(package.__name__)
    }


def test_every_class_is_known() -> None:
    found = _transformers()
    assert len(found) > 60
    assert sorted(set(found) - OWN - set(CLASSES)) == []
    assert not OWN & set(CLASSES)


def test_every_parameter_is_known() -> None:
    found = _transformers()
    for name, recipe in RECIPES.items():
        made_by = found[name]
        parts = parts_of(made_by, recipe)
        assert set(recipe.parts) <= set(parts), f"{name} takes no {sorted(set(recipe.parts) - set(parts))}"
        required = [
            each for each in inspect.signature(made_by.forward).parameters.values() if each.default is each.empty
        ]
        given = {each for each, part in parts.items() if isinstance(part, Given | Fixed | tuple)}
        left = {each.name for each in required} - {"self"} - given
        assert not left, f"{name} needs {sorted(left)}"


def test_every_constant_that_a_recipe_names_is_made() -> None:
    named = [part.made for recipe in RECIPES.values() for part in _single(recipe) if isinstance(part, Fixed)]
    assert set(named) <= set(PLACES) | set(ROTATIONS)
    assert not set(PLACES) & set(ROTATIONS)


def _single(recipe: ClassRecipe) -> list[Part]:
    return [part for parts in recipe.parts.values() for part in (parts if isinstance(parts, tuple) else (parts,))]


def test_a_parameter_that_no_table_names_is_an_error_that_names_it() -> None:
    class Newer(nn.Module):
        def forward(self, hidden_states: Any, timestep: Any, mood: Any = None) -> Any:
            return hidden_states

    with pytest.raises(ExportError, match="what Newer takes as mood"):
        parts_of(Newer, ClassRecipe())


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("WanTransformer3dModel", "nothing here knows the class", "did you mean 'WanTransformer3DModel'?"),
        ("FluxTransfomer2DModel", "nothing here knows the class", "did you mean 'FluxTransformer2DModel'?"),
        ("UNet2DConditionModel", "is a UNet", "module:callable"),
        ("AutoencoderKLWan", "is an autoencoder", "module:callable"),
        ("FluxControlNetModel", "adds to another model's blocks", "module:callable"),
        ("QuiteAnotherModel", "nothing here knows the class", "module:callable"),
        *((name, recipe.why, "module:callable") for name, recipe in CLASSES.items() if isinstance(recipe, Refused)),
    ],
)
def test_what_is_refused_is_told_why(name: str, message: str, hint: str) -> None:
    with pytest.raises(ExportError) as caught:
        class_of({"_class_name": name}, Path("config.json"))
    assert message in str(caught.value) and name in str(caught.value)
    assert hint in str(caught.value.hint)


def test_the_tables_need_no_torch() -> None:
    name = "dsr_export.families.diffusers.general.recipes.classes"
    code = f"import {name}, sys; print({{'torch', 'diffusers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
