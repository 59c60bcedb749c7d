"""Random wrapped checkpoints: whatever known trainers put around a model's weights, the right ones are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dsr_export.checkpoints import load_into, names_of, read_checkpoint
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from tests.checkpoints.small_net import SmallNet, State, parameters_of, prefixed, small_state

INNER = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module")
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "net.", "model.", "model._orig_mod.", "net.module.")
PLAIN = ("model", "state_dict", "module", "model_state_dict", "params", "net")
AVERAGED = (
    *("ema", "model_ema", "ema_model", "state_dict_ema", "params_ema", "ema_state_dict", "model_ema1", "ema_weights"),
    *("net_ema", "ema_model_state_dict"),
)
SUFFIXES = (".pt", ".pth.tar", ".bin", ".ckpt", "", ".model")
CODES = (torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64)
Wrap = Callable[[State], Any]


@dataclass(frozen=True)
class Case:
    """A file: how the model's weights are named in it, how the averaged ones are kept, and of which type they are."""

    prefix: str
    inner: str | None
    plain: str
    averaged: str | None
    form: str
    entry: str | None
    dtype: torch.dtype
    suffix: str
    legacy: bool


cases = st.builds(
    Case,
    prefix=st.sampled_from(PREFIXES),
    inner=st.none() | st.sampled_from(INNER),
    plain=st.sampled_from(PLAIN),
    averaged=st.none() | st.sampled_from(AVERAGED),
    form=st.sampled_from(["dict", "shadow", "shadow_params", "AveragedModel", "flat", "safetensors"]),
    entry=st.sampled_from([None, None, "ema", "model"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, *CODES]),
    suffix=st.sampled_from(SUFFIXES),
    legacy=st.booleans(),
)


def _named(case: Case, state: State) -> State:
    """With the wrappers in and before the names, and in the file's type."""
    if case.inner is not None:
        state = {name.replace("blocks.1.", f"blocks.1.{case.inner}.", 1): value for name, value in state.items()}
    stored = {
        name: value.to(case.dtype) if value.is_floating_point() and value.ndim == 2 else value
        for name, value in state.items()
    }
    return prefixed(case.prefix, stored)


def _content(case: Case, own: State, averaged: State) -> Any:
    """The checkpoint; only some forms hold averaged weights."""
    if case.form == "flat":
        extra = {} if case.averaged is None else prefixed(f"{case.averaged}.", _named(case, averaged))
        return {**_named(case, own), **extra}
    content = {case.plain: _named(case, own), "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    if case.averaged is None or case.form == "safetensors":
        return content
    forms: dict[str, Wrap] = {
        "dict": lambda state: state,
        "shadow": lambda state: {"decay": 0.9, "shadow": parameters_of(averaged) if not case.inner else state},
        "shadow_params": lambda state: {"decay": 0.9, "shadow_params": list(parameters_of(averaged).values())},
        "AveragedModel": lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.", state)},
    }
    return {**content, case.averaged: forms[case.form](_named(case, averaged))}


def _save(case: Case, folder: Path, own: State, averaged: State) -> Path:
    path = folder / f"weights{case.suffix}"
    legacy = case.legacy and not str(case.dtype).startswith("torch.float8")  # torch cannot read FP8 of that format
    if case.form == "safetensors":
        save_file(_named(case, own), path)
    else:
        torch.save(_content(case, own, averaged), path, _use_new_zipfile_serialization=not legacy)
    return path


def _expected(case: Case, own: State, averaged: State) -> State | None:
    """What should be loaded; None where there is nothing right to load."""
    has_averaged = case.averaged is not None and case.form != "safetensors"
    if case.entry == "ema" and not has_averaged:
        return None
    taken = averaged if has_averaged and case.entry != "model" else own
    if taken is averaged and case.form in ("shadow", "shadow_params"):
        named = case.form == "shadow" and case.inner
        return averaged if named and case.dtype not in CODES else _mixed(case, own, averaged)
    return None if case.dtype in CODES else taken


def _mixed(case: Case, own: State, averaged: State) -> State | None:
    """Parameters that are averaged, and the model's own buffers: none of those are of the file's type."""
    if case.form == "shadow" and case.inner:
        return None
    return {**own, **parameters_of(averaged)}


def _check(case: Case, folder: Path) -> None:
    own, averaged = small_state(1), small_state(2)
    path, expected = _save(case, folder, own, averaged), _expected(case, own, averaged)
    module, refusal = SmallNet(), None
    try:
        found = read_checkpoint(WeightFile(path, case.entry), names_of(module))
        load_into(module, found.state)
    except ExportError as error:
        refusal = error
    if expected is None:
        assert refusal is not None and refusal.hint
        return
    assert refusal is None, f"{refusal} | {refusal.hint}"
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), (name, found.origin)
    assert found.origin["file"] == path.name
    assert found.origin["kind"] == ("model" if expected is own else "ema")


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
def test_the_right_weights_are_loaded_or_refused(case: Case, tmp_path: Path) -> None:
    _check(case, tmp_path)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
def test_five_hundred_more(case: Case, tmp_path: Path) -> None:
    _check(case, tmp_path)


SIMPLE = Case("", None, "model", "ema", "dict", None, torch.float32, ".pt", False)


def test_the_counter_beside_a_wrapper_within_is_no_weight(tmp_path: Path) -> None:
    _check(replace(SIMPLE, inner="module", form="AveragedModel"), tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", ["dict", "safetensors"])
def test_the_content_decides_and_not_the_suffix(tmp_path: Path, suffix: str, form: str) -> None:
    _check(replace(SIMPLE, suffix=suffix, form=form), tmp_path)
