"""The arithmetic of the capacity page gives the figures that stand behind it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import dsr_export

PAGE = Path(dsr_export.__file__).parent / "docs" / "capacity.md"
PAIRS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize(("code", "said"), PAIRS)
def test_the_figures_are_those_of_the_arithmetic(code: str, said: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), {})
    assert printed.getvalue() == said


def test_every_block_has_its_figures() -> None:
    assert len(PAIRS) == PAGE.read_text(encoding="utf-8").count("```python") == 2
