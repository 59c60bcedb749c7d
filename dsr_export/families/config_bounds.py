"""Sizes that a configuration may ask for, held against bounds before any module is made of it. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.short_repr import short_repr

MOST = 2**24  # of any whole number: widths end far below, vocabularies at some 300,000
MOST_LAYERS = 1024
MOST_SIDE = 2**14  # pixels, or latent cells
MOST_RATIO = 1024
MOST_TABLE = 2**30  # positions times channels; the largest released table, of SD3.5, has 2**28.5
_LAYERS = re.compile(r"(layers|depth|blocks)$")
_SIDES = frozenset({"image_size", "sample_size", "pos_embed_max_size", "latent_size", "input_size", "height", "width"})
_AT_LEAST_ONE = frozenset(
    {
        *("patch_size", "hidden_size", "image_size", "sample_size", "num_attention_heads", "attention_head_dim"),
        *("in_channels", "num_channels", "num_hidden_layers"),
    }
)
_COUNTS_ALONG_ONE_AXIS = frozenset({"num_mmdit_layers", "global_states_input_dim"})
"""Entries of AuraFlow, which sets its number of positions, and of Stable Audio, which sets a length, not a side."""
_HINT = "correct it, or do not use this model if it came from someone else"


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raises ExportError where a size in `config`, or in what nests in it, is one that no model has."""
    for problem in _problems(config):
        raise ExportError(f"{where}: {problem}", hint=_HINT)


def check_memory(elements: int, what: str) -> None:
    """Raises ExportError where float32 weights of so many elements are more than this process may hold."""
    needed, most = 4 * elements, _memory()
    if most is not None and needed > most:
        raise ExportError(
            f"{what} takes {_gigabytes(needed)} of weights, and this machine has {_gigabytes(most)} of memory",
            hint="give smaller sizes, or use a machine with more memory",
        )


def check_stored(elements: int, stored: int, where: str) -> None:
    """Raises ExportError where files of `stored` bytes cannot hold the weights that a configuration describes."""
    if elements > stored + 2**24:  # a byte for each, and some that need not be there
        raise ExportError(
            f"{where} describes {elements:,} weights, and the files beside it have {stored:,} bytes",
            hint="download the folder again",
        )


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in _values(config):
        shown = f"{key} is {short_repr(value)}"
        most = MOST_LAYERS if _LAYERS.search(key) else MOST_SIDE if key in _SIDES else MOST
        if type(value) is int and (value > most or value < -MOST):
            yield f"{shown}, and at most {most:,} is taken"
        elif type(value) is int and value < 1 and key in _AT_LEAST_ONE:
            yield f"{shown}, but must be at least 1"
        elif key.endswith("ratio") and isinstance(value, float) and not 0 <= value <= MOST_RATIO:
            yield f"{shown}, and at most {MOST_RATIO} is taken"
    for part in (config, *(each for each in config.values() if isinstance(each, Mapping))):
        yield from _table_problems(part)


def _table_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Position tables are computed, whatever the files hold."""
    if not _COUNTS_ALONG_ONE_AXIS.isdisjoint(config):
        return
    patch = _size(config, "patch_size", 1)
    side = max(_size(config, key, 0) for key in _SIDES) // patch
    side = max(side, _size(config, "pos_embed_max_size", 0))  # which counts patches
    heads = _size(config, "num_attention_heads", 1) * _size(config, "attention_head_dim", 1)
    width = max(heads, _size(config, "hidden_size", 1), _size(config, "decoder_hidden_size", 1))
    if side**2 * width > MOST_TABLE:
        yield f"{side} x {side} positions of {width} channels are more than {MOST_TABLE:,} numbers"


def _values(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and single values; not recursive, as a file chooses how deep it nests."""
    waiting: list[tuple[str, Any]] = [(str(key), value) for key, value in config.items()]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(name), each) for name, each in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(key, each) for each in value]
        else:
            yield key, value


def _size(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    return value if type(value) is int and value > 0 else default


def _memory() -> int | None:
    """Bytes that the machine has, or that a limit of this process leaves; None where that cannot be told."""
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        import resource
    except ImportError:  # Windows
        return min(found, default=None)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*found, *([limit] if limit != resource.RLIM_INFINITY else [])], default=None)


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GB"
