"""Every setting of a scheduler's file is honoured, known to be another scheduler's, or refused by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest

from dsr_export.errors import ExportError
from dsr_export.samplers import SCHEDULERS, sampler_from_config
from dsr_export.samplers.known_settings import KNOWN_SETTINGS
from graphs.foreign.small_files import read_json_object

DDIM = {"_class_name": "DDIMScheduler"}


def parameters(scheduler: Any) -> dict[str, Any]:
    found = inspect.signature(scheduler.__init__).parameters.values()
    return {each.name: each.default for each in found if each.name not in ("self", "args", "kwargs")}


def all_schedulers() -> Iterator[Any]:
    for name in dir(diffusers.schedulers):
        found = getattr(diffusers.schedulers, name)
        if name.endswith("Scheduler") and inspect.isclass(found) and not hasattr(found, "_backends"):
            yield found


def saved(scheduler: Any, folder: Path) -> dict[str, Any]:
    scheduler.save_pretrained(folder)
    return read_json_object(folder / "scheduler_config.json")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_setting_has_the_name_and_the_default_of_diffusers(name: str) -> None:
    ours = {field.name: field.default for field in dataclasses.fields(SCHEDULERS[name])}  # type: ignore[arg-type]
    theirs = parameters(getattr(diffusers, name))
    assert {key: ours[key] for key in theirs} == theirs


def test_the_settings_of_all_schedulers_are_known() -> None:
    names = {name for scheduler in all_schedulers() for name in parameters(scheduler)}
    assert len(names) > 60 and names <= KNOWN_SETTINGS


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_saved_configuration_is_read(name: str, tmp_path: Path) -> None:
    assert sampler_from_config(saved(getattr(diffusers, name)(), tmp_path)) == SCHEDULERS[name]()


def test_settings_of_other_schedulers_are_kept_apart(tmp_path: Path) -> None:
    moved = diffusers.DDIMScheduler.from_config(diffusers.PNDMScheduler(skip_prk_steps=True).config)
    config = saved(moved, tmp_path)
    assert config["skip_prk_steps"] is True
    assert sampler_from_config(config).start(4).timesteps.tolist() == [750, 500, 250, 0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "names no _class_name"),
        ({"_class_name": ["DDIMScheduler"]}, "names no _class_name"),
        ({"_class_name": "EulerDiscreteScheduler"}, "no sampler for the scheduler EulerDiscreteScheduler"),
        ({**DDIM, "beta_scheduler": "linear"}, "sets beta_scheduler to 'linear'"),
        ({**DDIM, "new_option": 0.5}, "sets new_option to 0.5"),
        ({**DDIM, "clip_sample": 1}, "clip_sample is 1, but must be true or false"),
        ({**DDIM, "clip_sample": "false"}, "clip_sample"),
        ({**DDIM, "num_train_timesteps": 1000.0}, "num_train_timesteps is 1000.0, but must be a whole number"),
        ({**DDIM, "num_train_timesteps": 0}, "num_train_timesteps"),
        ({**DDIM, "num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({**DDIM, "num_train_timesteps": True}, "num_train_timesteps"),
        ({**DDIM, "beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid', but must be 'linear' or"),
        ({**DDIM, "beta_end": float("nan")}, "beta_end"),
        ({**DDIM, "beta_end": float("inf")}, "beta_end"),
        ({**DDIM, "beta_start": -0.1, "beta_schedule": "scaled_linear"}, "beta_start"),
        ({**DDIM, "beta_end": 10**400}, "beta_end is an integer of 1329 bits, but must be a number"),
        ({**DDIM, "steps_offset": 10**400}, "steps_offset is an integer of 1329 bits"),
        ({**DDIM, "trained_betas": [0.1, 0.2]}, "trained_betas holds 2 values for 1000 steps"),
        ({**DDIM, "trained_betas": ["a"]}, "a list of numbers from 0 to 1, null"),
        ({**DDIM, "trained_betas": []}, "trained_betas"),
        ({**DDIM, "prediction_type": "flow_prediction"}, "prediction_type"),
        ({**DDIM, "timestep_spacing": None}, "timestep_spacing is None"),
        ({**DDIM, "dynamic_thresholding_ratio": 1.5}, "dynamic_thresholding_ratio"),
        ({**DDIM, "clip_sample_range": 0}, "clip_sample_range"),
        ({**DDIM, "steps_offset": -1}, "steps_offset"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}, "shift must be above 0"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1e300}, "shift is 1e\\+300"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 1.0}, "shift_terminal"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "time_shift_type": "cubic"}, "time_shift_type"),
    ],
)
def test_what_makes_no_sampler_is_refused_by_name(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        sampler_from_config(config)


def test_a_setting_spelled_wrongly_has_a_hint() -> None:
    with pytest.raises(ExportError) as raised:
        sampler_from_config({**DDIM, "clip_samples": True})
    assert raised.value.hint is not None and "did you mean 'clip_sample'?" in raised.value.hint


def test_values_that_no_scheduler_heeds_pass() -> None:
    quiet = {"_diffusers_version": "0.30.0", "new_option": None, "other": False, "thresholding": None}
    assert sampler_from_config({**DDIM, **quiet}) == SCHEDULERS["DDIMScheduler"]()


def test_values_that_nobody_set_are_those_of_the_class() -> None:
    config = {**DDIM, "clip_sample": False, "steps_offset": 3, "_use_default_values": ["clip_sample"]}
    sampler: Any = sampler_from_config(config)
    assert (sampler.clip_sample, sampler.steps_offset) == (True, 3)
