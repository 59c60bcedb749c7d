"""Which weights of a file are taken, under the names that trainers give them; the rest is asked for by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch.optim.swa_utils import AveragedModel

from dsr_export.checkpoints import Checkpoint, load_into, names_of, read_checkpoint
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from tests.checkpoints.small_net import SmallNet, State, parameters_of, prefixed, small_state

OWN, AVERAGED = small_state(1), small_state(2)


def _loaded(path: Path, content: Any, entry: str | None = None) -> tuple[Checkpoint, State]:
    torch.save(content, path / "a.pt")
    module = SmallNet()
    found = read_checkpoint(WeightFile(path / "a.pt", entry), names_of(module))
    load_into(module, found.state)
    return found, module.state_dict()


def _same(one: State, other: State) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def _filled() -> SmallNet:
    module = SmallNet()
    module.load_state_dict(AVERAGED)
    return module


SQUEEZED = {"diffusion_model" + name.replace(".", ""): value for name, value in parameters_of(AVERAGED).items()}
EMA: dict[str, tuple[Any, str]] = {
    "torch's AveragedModel": (AveragedModel(_filled()).state_dict(), "module"),
    "ema_pytorch": (
        {**prefixed("online_model.", OWN), **prefixed("ema_model.", AVERAGED), "initted": torch.tensor(True)},
        "ema_model",
    ),
    "ema_pytorch in a trainer's file": (
        {"model": OWN, "ema": {**prefixed("online_model.", OWN), **prefixed("ema_model.", AVERAGED)}, "step": 5},
        "ema.ema_model",
    ),
    "a rate in its name": ({"model": OWN, "ema_0.9999": AVERAGED}, "ema_0.9999"),
    "timm": ({"state_dict": OWN, "state_dict_ema": AVERAGED, "arch": "small"}, "state_dict_ema"),
    "BasicSR": ({"params": OWN, "params_ema": AVERAGED}, "params_ema"),
    "Lightning's module": (
        {"state_dict": {**prefixed("net.", OWN), **prefixed("net_ema.", AVERAGED)}, "epoch": 1},
        "state_dict.net_ema",
    ),
    "Lightning's WeightAveraging": (
        {
            "state_dict": prefixed("model.", AVERAGED),
            "current_model_state": prefixed("model.", OWN),
            "averaging_state": {"n_averaged": torch.tensor(3)},
        },
        "state_dict.model",
    ),
    "a callback's state": (
        {"state_dict": prefixed("model.", OWN), "callbacks": {"EMACallback": {"ema_state_dict": AVERAGED}}},
        "callbacks.EMACallback.ema_state_dict",
    ),
    "LDM's LitEma": (
        {
            "state_dict": {
                **prefixed("model.diffusion_model.", {**OWN, **{k: AVERAGED[k] for k in OWN if "running" in k}}),
                **prefixed("model_ema.", {**SQUEEZED, "decay": torch.tensor(0.9), "num_updates": torch.tensor(1)}),
            }
        },
        "state_dict.model_ema",
    ),
}


@pytest.mark.parametrize("case", EMA)
def test_averaged_weights_are_preferred_and_named(tmp_path: Path, case: str) -> None:
    content, entry = EMA[case]
    found, state = _loaded(tmp_path, content)
    assert _same(state, AVERAGED)
    assert (found.origin["kind"], found.origin["entry"], found.origin["file"]) == ("ema", entry, "a.pt")


@pytest.mark.parametrize("case", [name for name in EMA if name not in ("torch's AveragedModel", "LDM's LitEma")])
def test_the_model_s_own_are_there_for_the_asking(tmp_path: Path, case: str) -> None:
    found, state = _loaded(tmp_path, EMA[case][0], "model")
    assert _same(state, OWN) and found.origin["kind"] == "model"


def test_a_list_of_averages_has_the_order_of_the_parameters(tmp_path: Path) -> None:
    values = list(parameters_of(AVERAGED).values())
    content = {"model": OWN, "ema": {"decay": 0.9, "shadow_params": values}}
    found, state = _loaded(tmp_path, content)
    assert _same(state, {**OWN, **parameters_of(AVERAGED)})
    assert found.origin["names"] == "in the order of 'model'"
    assert _same(_loaded(tmp_path, content, "model")[1], OWN)
    for wrong in (values[:-3], [*values, values[0]], values[::-1]):
        with pytest.raises(ExportError, match="is not certain") as caught:
            _loaded(tmp_path, {"model": OWN, "ema": {"shadow_params": wrong}})
        assert "--weights model" in str(caught.value.hint)
    with pytest.raises(ExportError, match="without the names"):
        _loaded(tmp_path, {"decay": 0.9, "shadow_params": values})


def test_what_a_list_leaves_out_is_said(tmp_path: Path) -> None:
    values = parameters_of(AVERAGED)
    frozen = list(values)[-1]
    listed = [value for name, value in values.items() if name != frozen]
    found, state = _loaded(tmp_path, {"model": OWN, "ema": {"shadow_params": listed}})
    assert torch.equal(state[frozen], OWN[frozen])
    buffers = len(OWN) - len(values)
    assert found.origin["not_averaged"] == f"{buffers + 1} of 'model'"


def test_averages_that_do_not_fit_are_no_reason_to_take_others(tmp_path: Path) -> None:
    other = {f"x{i}": torch.ones(1) for i in range(20)}
    with pytest.raises(ExportError, match="'ema', whose names do not fit") as caught:
        _loaded(tmp_path, {"model": OWN, "ema": other})
    assert "--weights model" in str(caught.value.hint)
    assert _same(_loaded(tmp_path, {"model": OWN, "ema": other}, "model")[1], OWN)


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ({"state_dict": {**prefixed("net.", OWN), **prefixed("model.", AVERAGED)}}, "state_dict.net"),
        ({"model": OWN, "state_dict": AVERAGED}, "model"),
        ({"ema": OWN, "model_ema": AVERAGED}, "ema"),
        ({"ema_0.999": OWN, "ema_0.9999": AVERAGED}, "ema_0.999"),
        ({"teacher": OWN, "student": AVERAGED}, "teacher"),
        ({**prefixed("teacher.", OWN)}, "teacher"),
    ],
)
def test_what_is_ambiguous_or_unknown_is_asked_for(tmp_path: Path, content: Any, entry: str) -> None:
    with pytest.raises(ExportError) as caught:
        _loaded(tmp_path, content)
    assert f"--weights {entry}" in str(caught.value.hint)
    found, state = _loaded(tmp_path, content, entry)
    assert _same(state, OWN) and found.origin["entry"] == entry


def test_the_same_weights_twice_are_not_ambiguous(tmp_path: Path) -> None:
    assert _same(_loaded(tmp_path, {"model": OWN, "state_dict": OWN})[1], OWN)


def test_an_entry_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no weights 'ema' that fit; it holds 'model'"):
        _loaded(tmp_path, {"model": OWN}, "ema")


def test_a_module_that_keeps_its_own_average_is_taken_as_it_is(tmp_path: Path) -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.ema = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    state = Both().state_dict()
    torch.save(state, tmp_path / "a.pt")
    found = read_checkpoint(WeightFile(tmp_path / "a.pt"), names_of(Both()))
    assert _same(found.state, state) and found.state.keys() == state.keys()


def test_what_is_left_out_and_taken_off_is_said(tmp_path: Path) -> None:
    state = {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in OWN.items()}
    content = {"state_dict": {**prefixed("net.", state), "loss.vgg.weight": torch.ones(1)}, "epoch": 1}
    found, loaded = _loaded(tmp_path, content)
    assert _same(loaded, OWN)
    assert found.origin["wrappers"] == ["_orig_mod"] and found.origin["left_out"] == ["state_dict.loss"]
    assert found.origin["types"] == ["float32", "int64"]


@pytest.mark.parametrize("wrapper", ["_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"])
def test_a_module_with_wrappers_of_its_own_takes_both_forms(tmp_path: Path, wrapper: str) -> None:
    inner = torch.nn.Linear(2, 2)
    module = torch.nn.Sequential()
    holder = torch.nn.Module()
    setattr(holder, wrapper, inner)
    module.add_module("a", holder)
    for number, name in enumerate((f"a.{wrapper}.", *(("a.",) if wrapper.startswith("_") else ()))):
        state = {f"{name}weight": torch.full((2, 2), 1.0 + number), f"{name}bias": torch.zeros(2)}
        torch.save(state, tmp_path / "a.pt")
        load_into(module, read_checkpoint(WeightFile(tmp_path / "a.pt"), names_of(module)).state)
        assert torch.equal(inner.weight, state[f"{name}weight"])


class TestTied:
    def test_an_alias_in_the_metadata_is_followed(self, tmp_path: Path) -> None:
        module, state = SmallNet(tied=True), small_state(3, tied=True)
        module.load_state_dict(state)
        save_model(module, str(tmp_path / "a.safetensors"))
        for tied in (True, False):
            other = SmallNet(tied=tied)
            load_into(other, read_checkpoint(WeightFile(tmp_path / "a.safetensors"), names_of(other)).state)
            assert _same(other.state_dict(), state)

    def test_one_name_of_a_tied_weight_is_enough(self, tmp_path: Path) -> None:
        state = small_state(3, tied=True)
        save_file({name: value for name, value in state.items() if name != "head.weight"}, tmp_path / "a.safetensors")
        tied, apart = SmallNet(tied=True), SmallNet()
        found = read_checkpoint(WeightFile(tmp_path / "a.safetensors"), names_of(tied)).state
        load_into(tied, found)
        assert _same(tied.state_dict(), state)
        with pytest.raises(ExportError, match=r"1 missing:\n  head.weight"):
            load_into(apart, found)

    def test_a_tied_weight_with_two_values_is_refused(self) -> None:
        with pytest.raises(ExportError, match="tied in the model and different in the checkpoint"):
            load_into(SmallNet(tied=True), small_state(3))


SIZES = {"hidden_size": 24, "depth": 2, "num_heads": 2, "input_size": 4, "in_channels": 4}


@pytest.fixture(scope="module")
def states() -> tuple[State, State]:
    subjects = (load_subject("rae-dit", random_weights=seed, registers=0, **SIZES) for seed in (1, 2))
    own, averaged = (subject.module.state_dict() for subject in subjects)
    return own, averaged


class TestRegisteredModel:
    """Its names are known before its sizes are."""

    @pytest.mark.parametrize("form", ["lightning", "list", "flat", "blocks"])
    def test_its_averaged_weights_are_found(self, states: tuple[State, State], form: str, tmp_path: Path) -> None:
        own, averaged = states
        names = [name for name in own if not name.startswith("feat_rope")]  # which are buffers
        content = {
            "lightning": {"state_dict": {**prefixed("net.module.", own), **prefixed("ema.module.", averaged)}},
            "list": {"model": own, "ema": {"shadow_params": [averaged[name] for name in names]}},
            "flat": {**own, **prefixed("ema_model.", averaged), "step": torch.tensor(1)},
            "blocks": {"ema": {name.replace("blocks.0.", "blocks.0.module."): v for name, v in averaged.items()}},
        }[form]
        torch.save(content, tmp_path / "a.ckpt")
        subject = load_subject("rae-dit", checkpoint=tmp_path / "a.ckpt", **SIZES)
        assert _same(subject.module.state_dict(), averaged)
        assert subject.provenance["weights"]["kind"] == "ema"
        if form in ("lightning", "list"):
            subject = load_subject("rae-dit", checkpoint=tmp_path / "a.ckpt", weights="model", **SIZES)
            assert _same(subject.module.state_dict(), own)

    def test_a_choice_needs_a_checkpoint(self) -> None:
        with pytest.raises(ExportError, match="--weights chooses") as caught:
            load_subject("digits", weights="ema")
        assert "--checkpoint" in str(caught.value.hint)
