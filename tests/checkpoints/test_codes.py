"""Types are compared, not only names and shapes: integers and codes without their scale are no weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dsr_export.checkpoints import StateDict, load_into, names_of, read_checkpoint, read_shards, read_state_dict
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.families.network_parts.latents import read_statistics

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
CODES = torch.tensor([[1.0, -2.0, 3.5, 0.5], [0.25, 4.0, -1.0, 2.0]])


class WithCounter(nn.Linear):
    count: Tensor

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.register_buffer("count", torch.arange(2))
        self.register_buffer("mask", torch.tensor([True, False]))


def _load(path: Path, state: StateDict) -> tuple[nn.Module, dict[str, object]]:
    module = WithCounter()
    fitting = {"bias": torch.ones(2), "count": torch.tensor([7, 8]), "mask": torch.tensor([False, True])}
    save_file({**fitting, **state}, path / "a.safetensors")
    found = read_checkpoint(WeightFile(path / "a.safetensors"), names_of(module))
    load_into(module, found.state)
    return module, found.origin


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(ExportError, match="weight: expected float32, found") as caught:
        _load(tmp_path, {"weight": CODES.to(dtype)})
    assert "'weight' holds" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", FP8)
def test_fp8_without_its_scale_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(ExportError, match="'weight' holds float8_.* and has no scale"):
        _load(tmp_path, {"weight": CODES.to(dtype)})
    scales = {"weight_scale": torch.ones(()), "scale_weight": torch.ones(())}
    with pytest.raises(ExportError, match="has several scales"):
        _load(tmp_path, {"weight": CODES.to(dtype), **scales})


@pytest.mark.parametrize("name", ["weight_scale", "scale_weight", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,), (2, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("dtype", FP8)
def test_fp8_is_multiplied_by_a_scale_that_is_known(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    scale = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    module, origin = _load(tmp_path, {"weight": CODES.to(dtype), name: scale, "input_scale": torch.ones(())})
    spread = scale.repeat_interleave(2, 1) if shape == (2, 2) else scale.reshape(-1, 1)
    assert torch.equal(module.weight, CODES * spread)  # type: ignore[arg-type]
    assert origin["scales"] == {name: 1}


def test_blocks_of_128_end_where_the_weight_does() -> None:
    from dsr_export.checkpoints.codes import decoded

    codes, scale = torch.ones(200, 300).to(torch.float8_e4m3fn), torch.arange(1.0, 7).reshape(2, 3)
    made = decoded(Path("a"), {"w.weight": codes, "w.weight_scale_inv": scale})[0]
    assert made.keys() == {"w.weight"} and made["w.weight"].shape == (200, 300)
    assert made["w.weight"][127, 127] == 1 and made["w.weight"][128, 127] == 4 and made["w.weight"][199, 299] == 6


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(3), r"has the shape \[3\] for a weight"),
        (torch.ones(1, 4), r"has the shape"),
        (torch.tensor(-1.0), "negative or not finite"),
        (torch.tensor(float("nan")), "negative or not finite"),
        (torch.tensor(127, dtype=torch.uint8), "is uint8"),
    ],
)
def test_a_scale_that_does_not_fit_is_refused(tmp_path: Path, scale: Tensor, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        _load(tmp_path, {"weight": CODES.to(torch.float8_e4m3fn), "weight_scale": scale})


@pytest.mark.parametrize(
    ("names", "writer"),
    [
        (("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"), "bitsandbytes"),
        (("SCB",), "bitsandbytes"),
        (("qweight", "qzeros", "scales"), "GPTQ or AWQ"),
        (("weight_packed", "weight_scale"), "compressed-tensors"),
        (("_weight_qdata", "_weight_scale"), "torchao"),
    ],
)
def test_quantised_formats_are_named(tmp_path: Path, names: tuple[str, ...], writer: str) -> None:
    with pytest.raises(ExportError, match=f"is quantised by {writer}"):
        _load(tmp_path, {"weight": CODES.to(torch.int8), **{name: torch.ones(2) for name in names}})


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.quantize_per_tensor(CODES, 0.1, 0, torch.qint8)}, tmp_path / "a.pt")
    with pytest.raises(ExportError, match="'weight' is not a plain dense tensor|refused|no readable"):
        read_state_dict(tmp_path / "a.pt")


class TestIntegersOfTheModel:
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.float32])
    def test_they_keep_their_values_and_type(self, tmp_path: Path, dtype: torch.dtype) -> None:
        module = _load(tmp_path, {"weight": CODES, "count": torch.tensor([7, 8], dtype=dtype)})[0]
        assert module.count.dtype == torch.int64 and module.count.tolist() == [7, 8]  # type: ignore[union-attr]
        assert module.mask.dtype == torch.bool and module.mask.tolist() == [False, True]  # type: ignore[union-attr]

    def test_what_would_lose_them_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="count: expected int64, found float32"):
            _load(tmp_path, {"weight": CODES, "count": torch.tensor([7.5, 8])})
        with pytest.raises(ExportError, match="mask: expected bool, found int64"):
            _load(tmp_path, {"weight": CODES, "mask": torch.tensor([2, 0])})

    def test_a_meta_module_has_its_own_types(self) -> None:
        with torch.device("meta"):
            module = WithCounter()
        state = {**WithCounter().state_dict(), "count": torch.tensor([1, 2], dtype=torch.int32)}
        load_into(module, state)
        assert module.count.dtype == torch.int64


def test_a_registered_model_refuses_codes(tmp_path: Path) -> None:
    sizes = {"hidden_size": 24, "depth": 1, "num_heads": 2, "input_size": 4, "in_channels": 4}
    state = load_subject("rae-dit", random_weights=0, registers=0, **sizes).module.state_dict()
    codes = {name: (v * 10).to(torch.int8) if v.is_floating_point() else v for name, v in state.items()}
    save_file(codes, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match="of another type"):
        load_subject("rae-dit", checkpoint=tmp_path / "a.safetensors", **sizes)


def test_statistics_are_no_codes(tmp_path: Path) -> None:
    save_file({"mean": torch.ones(1, 1, 1, dtype=torch.int8), "var": torch.ones(1, 1, 1)}, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match="'mean' is int8"):
        read_statistics(tmp_path / "a.safetensors", (1, 1, 1))


def _fp8(**others: Tensor) -> StateDict:
    return {"weight": CODES.to(torch.float8_e4m3fn), **others}


def _described(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


class TestOtherForms:
    @pytest.mark.parametrize(
        "beside",
        [
            {"scale": torch.tensor([[2.0], [3.0]])},
            {"weight_scale": torch.tensor([[2.0], [3.0]]), "input_scale_ub": torch.tensor([1200.0])},
            {"weight_scale_inv": torch.tensor([2.0, 3.0]), "activation_scale_inv": torch.tensor(5.0)},
            {"scale_weight": torch.tensor([[[2.0], [2.0]], [[3.0], [3.0]]])},
            {"scale_weight": torch.tensor([2.0, 3.0]), "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)},
            {"weight_scale": torch.tensor([2.0, 3.0]), "comfy_quant": _described('{"format": "float8_e4m3fn"}')},
        ],
        ids=["deepseek's converter", "fbgemm", "static", "groups with an axis", "marked", "described"],
    )
    def test_they_are_read_exactly(self, tmp_path: Path, beside: StateDict) -> None:
        module = _load(tmp_path, _fp8(**beside))[0]
        assert torch.equal(module.weight, CODES * torch.tensor([[2.0], [3.0]]))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            (_fp8(**{"weight.sc": torch.ones(())}), "no scale beside it that is known; beside it: weight.sc"),
            (_fp8(weight_scale=torch.ones(()), comfy_quant=_described('{"format": "float8_e4m3fn", "rot": 1}')), "rot"),
            (_fp8(weight_scale=torch.ones(()), comfy_quant=_described("[")), "'comfy_quant' says null"),
            ({"weight": CODES, "weight_scale": torch.ones(())}, "'weight_scale' stands beside a weight of float32"),
            ({"weight": CODES.to(torch.int8), "weight_scale": torch.ones(())}, "beside a weight of int8; only FP8"),
            ({"weight": CODES, "scaled_fp8": torch.zeros(0).to(torch.float8_e4m3fn)}, "marked as 'scaled_fp8'"),
            ({"weight._data": CODES.to(torch.int8), "weight._scale": torch.ones(2, 1)}, "quantised by quanto"),
            (_fp8(weight_scale=torch.ones(()), weight_scale_2=torch.ones(())), "quantised by ModelOpt"),
        ],
    )
    def test_what_is_not_known_is_named(self, tmp_path: Path, state: StateDict, message: str) -> None:
        with pytest.raises(ExportError, match=message):
            _load(tmp_path, state)

    @pytest.mark.skipif(not hasattr(torch, "float8_e8m0fnu"), reason="since torch 2.7")
    def test_mxfp8_may_be_swizzled(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="'weight_scale' is one of MXFP8"):
            _load(tmp_path, _fp8(weight_scale=torch.ones(2, 2).to(torch.float8_e8m0fnu)))

    def test_a_name_of_the_model_is_no_scale(self) -> None:
        from dsr_export.checkpoints.codes import decoded

        own = ("a.weight", "a.scale", "a.input_scale")
        state = {"a.weight": CODES, "a.scale": torch.ones(2), "a.input_scale": torch.ones(1)}
        assert decoded(Path("a"), state, own) == (state, {})
        coded = {**state, "a.weight": CODES.to(torch.float8_e5m2), "a.weight_scale": torch.tensor(2.0)}
        made, used = decoded(Path("a"), coded, own)
        assert made.keys() == state.keys() and torch.equal(made["a.weight"], 2 * CODES) and used == {"weight_scale": 1}

    def test_a_scale_may_lie_in_another_shard(self, tmp_path: Path) -> None:
        save_file(_fp8(bias=torch.ones(2)), tmp_path / "a.safetensors")
        save_file({"weight_scale": torch.tensor(2.0)}, tmp_path / "b.safetensors")
        files = [WeightFile(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
        found = read_shards(files, names_of(nn.Linear(4, 2)))
        assert torch.equal(found.state["weight"], 2 * CODES)
        assert found.origin["file"] == "a.safetensors and 1 more" and found.origin["scales"] == {"weight_scale": 1}
