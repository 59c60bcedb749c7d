"""The supported classes stand in one table; everything else is derived from it, without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from dsr_export.families import diffusers, entry
from dsr_export.families.diffusers.adapters import adapter_of
from dsr_export.families.diffusers.files import CLASSES, class_of
from dsr_export.families.diffusers.models import NAMES
from dsr_export.families.diffusers.supported import SUPPORTED
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser
from tests.families.diffusers.folders import CONFIGS

FAMILIES = Path(str(diffusers.__file__)).parent.parent


def test_every_class_has_an_adapter_a_name_and_a_tested_config() -> None:
    adapters = {adapter_of(each.class_name) for each in SUPPORTED}
    assert len(adapters) == len(SUPPORTED) and all(issubclass(each, DiffusersDenoiser) for each in adapters)
    assert set(CLASSES) == set(NAMES.values()) == set(CONFIGS) == {each.class_name for each in SUPPORTED}
    assert all(entry(each.name).family == "diffusers" for each in SUPPORTED)


def test_the_former_common_class_is_told_apart_by_its_norm() -> None:
    legacy = {each.legacy_norm: each.class_name for each in SUPPORTED if each.legacy_norm}
    assert len(legacy) == 2
    for norm, name in legacy.items():
        assert class_of({"_class_name": "Transformer2DModel", "norm_type": norm}, Path("config.json")) == name


def test_each_class_is_named_once() -> None:
    names = {each.class_name for each in SUPPORTED}
    found = [
        (path.name, node.value)
        for path in sorted(FAMILIES.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert sorted(found) == sorted(("supported.py", name) for name in names)


def test_the_table_needs_no_torch() -> None:
    code = "import dsr_export.families.diffusers.files, sys; print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
