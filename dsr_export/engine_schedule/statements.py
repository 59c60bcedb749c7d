"""One line of a program: `  function={ name=... input_args={ "a" "b" } ... }`, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsr_export.engine_schedule.plan_text import UnreadableSchedule

_LINE = re.compile(r"  (\w+)=\{ (.*)\}\s*")
_LAYER = re.compile(r"\[ONNX Layer: (.*)\](?:__\w+)?")  # `__gemm_from_conv1x1`: made of the node
NUMBER = r"-?\d{1,18}"
"""Of more digits is no size, and nothing that should be computed with."""
_BETWEEN_LAYERS = re.compile("[\x1e\x1f]")


@dataclass(frozen=True)
class Statement:
    """What it is (`function`, `tensor`, ...), and its fields as text."""

    kind: str
    body: str

    def word(self, key: str) -> str:
        """The value of `key`, with or without quotes. Raises UnreadableSchedule where there is none."""
        found = self._find(key, r'(?:"([^"]*)"|([^\s"{}]+))')
        return found[1] if found[1] is not None else found[2]

    def optional(self, key: str) -> str | None:
        """As `word`; None where there is none."""
        return self.word(key) if re.search(rf"(?<!\S){key} ?=", self.body) else None

    def number(self, key: str) -> int:
        """Raises UnreadableSchedule where there is none."""
        value = self.word(key)
        if not re.fullmatch(NUMBER, value):
            raise UnreadableSchedule(f"{self.kind}: {key} is {value[:40]!r}, no number")
        return int(value)

    def names(self, *keys: str) -> tuple[str, ...]:
        """The quoted names in the list of the first of `keys` that there is."""
        for key in keys:
            if re.search(rf"(?<!\S){key}=\{{", self.body):
                return tuple(re.findall(r'"([^"]*)"', self._find(key, r"\{(\s*(?:\"[^\"]*\"\s*)*)\}")[1]))
        raise UnreadableSchedule(f"{self.kind} without {' or '.join(keys)}")

    def sizes(self, key: str) -> tuple[str, ...]:
        """The sizes in a list: numbers, and in quotes the names of those that are known at run time."""
        inside = self._find(key, rf'\{{(\s*(?:(?:"[^"]*"|{NUMBER})\s+)*)\}}')[1]
        return tuple(inside.split()) if '"' not in inside else tuple(re.findall(r'"[^"]*"|-?\d+', inside))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The ONNX nodes that it names, each once."""
        if "ONNX Layer" not in self.body and not re.search(r"(?<!\S)layers=", self.body):
            return ()
        return onnx_nodes(self._find("layers", r'"([^"]*)"')[1], self.kind)

    def _find(self, key: str, pattern: str) -> re.Match[str]:
        found = re.findall(rf"(?<!\S){key} ?= ?", self.body)
        match = re.search(rf"(?<!\S){key} ?= ?{pattern}(?!\S)", self.body)
        if match is None or len(found) != 1:
            raise UnreadableSchedule(f"{self.kind} without a {key} that can be read")
        return match


def statement(line: str) -> Statement:
    """Raises UnreadableSchedule where the line is none."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise UnreadableSchedule(f"a line that says nothing known: {line[:60]!r}")
    return Statement(found[1], found[2])


def onnx_nodes(told: str, kind: str) -> tuple[str, ...]:
    """`[ONNX Layer: NAME]` after `[ONNX Layer: NAME]`: each once. `kind` is what is said to compute them."""
    found = [_LAYER.fullmatch(each) for each in _BETWEEN_LAYERS.split(told) if each]
    if None in found:
        raise UnreadableSchedule(f"{kind}: the layers {told[:60]!r} are no ONNX nodes")
    return tuple(dict.fromkeys(each[1] for each in found if each is not None))
