"""Archives that would execute code, write files or take all memory: refused, and nothing happened."""

from __future__ import annotations

import io
import pickle  # noqa: TID251 (to make archives that must be refused)
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dsr_export.errors import ExportError
from dsr_export.sources import load_subject
from tests.program_archive.forged import (
    Change,
    forged,
    honest,
    in_expression,
    in_front,
    in_graph,
    in_json,
    in_model,
    in_weight,
    members_of,
    node,
    two_directories,
    zipped,
)
from tests.program_archive.malicious import Malicious


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_the_honest_archive_loads_and_so_does_one_written_again(tmp_path: Path) -> None:
    """What is refused below is refused for what was changed."""
    (tmp_path / "honest.pt2").write_bytes(honest())
    for path in (tmp_path / "honest.pt2", forged(tmp_path / "again.pt2", lambda members: None)):
        assert load_subject(str(path)).outputs[0].shape == ("batch", 12)


def test_a_second_directory_hides_nothing(tmp_path: Path) -> None:
    """zipfile would read the honest archive, torch the one with a pickle."""
    touched, hidden = tmp_path / "touched", members_of(honest())
    in_weight(lambda entry: entry.update(use_pickle=True))(hidden)
    hidden["data/weights/weight_0"] = pickle.dumps(Malicious(touched)) + bytes(10_000)
    content = two_directories(zipped(members_of(honest())), zipped(hidden))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("m/data/weights/weight_0") == members_of(honest())["data/weights/weight_0"]
    (tmp_path / "two.pt2").write_bytes(content)
    with pytest.raises(ExportError, match="no readable exported program"):
        load_subject(str(tmp_path / "two.pt2"))
    assert not touched.exists()


def test_no_operator_reads_or_writes_files(tmp_path: Path) -> None:
    target = tmp_path / "precious.bin"
    target.write_bytes(b"precious" * 100)
    opened = {
        "filename": {"as_string": str(target)},
        "shared": {"as_bool": True},
        "size": {"as_int": 4},
        "dtype": {"as_scalar_type": 7},
    }
    mapped = node("torch.ops.aten.from_file.default", "mapped", **opened)
    written = node("torch.ops.aten.copy_.default", "done", self=_tensor("mapped"), src=_tensor("p_linear_bias"))
    path = forged(tmp_path / "a.pt2", in_front(mapped, written))
    with pytest.raises(ExportError, match=r"could execute code: target 'torch.ops.aten.from_file.default'"):
        load_subject(str(path))
    assert target.read_bytes() == b"precious" * 100


def _tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def _filled(size: int) -> dict[str, Any]:
    sizes = {"as_ints": [size]}
    return node("torch.ops.aten.full.default", "big", size=sizes, fill_value={"as_float": 1.0})


def _squared(times: int) -> Change:
    def apply(graph: Any) -> None:
        for i in range(times):
            argument = {"as_sym_int": {"as_name": f"n{i - 1}"}} if i else {"as_int": 10}
            each = node("_operator.mul", f"n{i}", a=argument, b=argument)
            each["outputs"] = [{"as_sym_int": {"as_name": f"n{i}"}}]
            graph["nodes"].insert(i, each)
            graph["sym_int_values"][f"n{i}"] = {"as_int": 10}

    return in_graph(apply)


def _sample(value: Any) -> Change:
    return lambda members: members.update({"data/sample_inputs/model.pt": _saved(value)})


def _sample_altered(change: Change) -> Change:
    """The saved examples are an archive in the archive."""

    def apply(members: dict[str, bytes]) -> None:
        inner = members_of(members["data/sample_inputs/model.pt"])
        change(inner)
        members["data/sample_inputs/model.pt"] = zipped(inner)

    return apply


def _memo_bomb(inner: dict[str, bytes]) -> None:
    """PUT at index 2**31: C's unpickler reserves 16 GB."""
    inner["data.pkl"] = b"\x80\x02]r\xff\xff\xff\x7f."


def _many_names(inner: dict[str, bytes]) -> None:
    """Ten tuples, each of ten times the one before."""
    body = b"(K\x01K\x02t" + b"".join(b"q%c(" % i + b"h%c" % i * 10 + b"t" for i in range(10))
    inner["data.pkl"] = b"\x80\x02" + body + b"."


DEEP = "[" * 50_000 + "]" * 50_000
HUGE = 1 << 40
CONFIG = "data/weights/model_weights_config.json"
BOMBS: dict[str, Change] = {
    "json, deep": lambda m: m.update({"models/model.json": DEEP.encode()}),
    "json, wide": lambda m: m.update({"models/model.json": b"[" + b"[]," * 1_500_000 + b"[]]"}),
    "json, not an object": lambda m: m.update({"models/model.json": b"[1, 2]"}),
    "json, not UTF-8": lambda m: m.update({"models/model.json": b"\xff\xfe{}"}),
    "json, 5,000 digits": lambda m: m.update({CONFIG: m[CONFIG].replace(b": 0}", b": " + b"9" * 5000 + b"}")}),
    "config, deep": lambda m: m.update({CONFIG: DEEP.encode()}),
    "tree, deep": in_model(lambda c: c["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=DEEP)),
    "exponent": in_expression("9**9**9"),
    "integers": in_expression("Integer(10)**Integer(10**9)"),
    "pow of pow": in_expression("Pow(Pow(Symbol('s0'), Integer(8)), Integer(8))"),
    "float of a text": in_expression("Float('1e999999999', precision=53)"),
    "precision": in_expression("Float('0.1', precision=1000000000)"),
    "text times number": in_expression("'a'*10**9"),
    "shift": in_expression("1<<10**9"),
    "long": in_expression("+".join(["s0"] * 5000)),
    "nested": in_expression("-" * 3000 + "s0"),
    "guard": in_model(lambda c: c["guards_code"].append("9**9**9 > 1")),
    "counted symbol": in_model(lambda c: c["range_constraints"].update(u99999999999={"min_val": 0, "max_val": 1})),
    "range": in_model(lambda c: c["range_constraints"].update(s1={"min_val": 0, "max_val": 10**400})),
    "full": in_front(_filled(5 << 28)),
    "full, 2**40": in_front(_filled(HUGE)),
    "full, negative": in_front(_filled(-4)),
    "few elements, far apart": in_front(
        node("torch.ops.aten.empty_strided.default", "big", size={"as_ints": [4]}, stride={"as_ints": [1 << 29]})
    ),
    "squares": _squared(70),
    "list times number": in_front(node("_operator.mul", "big", a={"as_ints": [1, 2, 3]}, b={"as_int": 10**10})),
    "weight, 2**40": in_weight(lambda w: w["tensor_meta"].update(sizes=[{"as_int": HUGE}], strides=[{"as_int": 0}])),
    "weight, past its end": in_weight(lambda w: w["tensor_meta"].update(storage_offset={"as_int": 1})),
    "weight, negative": in_weight(lambda w: w["tensor_meta"].update(sizes=[{"as_int": -4}, {"as_int": 4}])),
    "weight, offset": in_weight(lambda w: w["tensor_meta"].update(storage_offset={"as_int": 10**300})),
    "weight, 1,000 dimensions": in_weight(
        lambda w: w["tensor_meta"].update(sizes=[{"as_int": 1}] * 1000, strides=[{"as_int": 1}] * 1000)
    ),
    "weight, type 99": in_weight(lambda w: w["tensor_meta"].update(dtype=99)),
    "weight, layout": in_weight(lambda w: w["tensor_meta"].update(layout=2)),
    "weight, no file": lambda m: m.pop("data/weights/weight_0"),
    "weight, empty": lambda m: m.update({"data/weights/weight_0": b""}),
    "weight, listed as a list": in_json(CONFIG, lambda c: c.update(config=[])),
    "weight, elsewhere": in_weight(lambda w: w.update(path_name="../../../etc/passwd")),
    "examples, memo": _sample_altered(_memo_bomb),
    "examples, many": _sample_altered(_many_names),
    "examples, expanded": _sample(((torch.zeros(1).expand(1 << 30),), {})),
    "examples, class": _sample(((object(),), {})),
    "examples, no archive": lambda m: m.update({"data/sample_inputs/model.pt": b"\x80\x02]."}),
    "examples, storage cut": _sample_altered(lambda inner: inner.update({"data/0": inner["data/0"][:8]})),
    "node name": in_graph(lambda g: g["nodes"][0].update(name="torch.nn.Linear")),
    "no graph": in_model(lambda c: c.pop("graph_module")),
    "object for a list": in_graph(lambda g: g.update(nodes={})),
    "text for a number": in_graph(lambda g: g["tensor_values"]["x"].update(dtype="7")),
    "custom object": in_graph(lambda g: g.update(custom_obj_values={"o": {"name": "o", "class_fqn": "C"}})),
    "rounds": in_front(
        node(
            "torch.ops.dsr.replace_outliers.default",
            "big",
            x=_tensor("x"),
            registers=_tensor("p_linear_weight"),
            choice_weight={"as_none": True},
            gate_weight={"as_none": True},
            gate_bias={"as_none": True},
            rule={"as_string": "absolute"},
            threshold={"as_float": 1.0},
            rounds={"as_int": 10**9},
            choice={"as_string": "nearest"},
            exclude={"as_ints": []},
        )
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_clear_error_for_what_is_no_model(tmp_path: Path, bomb: str) -> None:
    path = forged(tmp_path / "a.pt2", BOMBS[bomb])
    with pytest.raises(ExportError, match=r"a\.pt2") as refused:
        load_subject(str(path))
    assert len(refused.value.message) < 700
    assert refused.value.hint
