"""The sets of weights that a checkpoint holds: under which prefixes the names that a model knows stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dsr_export.checkpoints.contents import Contents, StateDict, Wanted
from dsr_export.checkpoints.names import MODULE, ONLINE, holds_weights, is_ema, parts_of
from dsr_export.declarations.weight_file import EMA, MODEL
from dsr_export.errors import ExportError

COUNTER = "n_averaged"  # beside `module.*` in what torch's AveragedModel saves
RAW = "current_model_state"  # Lightning's WeightAveraging saves the average as `state_dict`, and this beside it
SAMPLES = 12
MOST_SETS = 1000


@dataclass(frozen=True)
class Candidate:
    """Tensors by the model's names; `prefix` is where they stand in the file, '' for the top."""

    prefix: str
    kind: str
    state: StateDict = field(repr=False)
    full_names: frozenset[str] = field(repr=False)
    wrappers: frozenset[str] = frozenset()

    @property
    def parts(self) -> list[str]:
        return parts_of(self.prefix)

    @property
    def label(self) -> str:
        """What `--weights` calls it."""
        return self.prefix.rstrip(".") or MODEL


def candidates_in(content: Contents, wanted: Wanted | None, *, asked: bool) -> list[Candidate]:
    """All sets that may be meant. Prefixes are of known wrappers and entries only, unless one is `asked` for by name.

    Where no name is known, each mapping in the file is a set. None where the model's names stand elsewhere only.
    """
    found = [] if wanted is None else _by_names(content, wanted, asked)
    if found or wanted is None:
        return found or _by_tables(content, asked)
    elsewhere = [2 * sum(name in each.state for name in wanted.names) for each in _by_names(content, wanted, True)]
    return [] if max(elsewhere, default=0) >= len(wanted.names) else _by_tables(content, asked)


def _by_names(content: Contents, wanted: Wanted, asked: bool) -> list[Candidate]:
    """Names are taken as they are if they all are the model's; else without `module` in their midst if more fit so."""
    plain = {name: name for name in content.tensors}
    if plain and plain.keys() <= set(wanted.names):
        return [_candidate(content, "", plain, wanted)]
    known = set(wanted.holders)
    bare = {".".join(part for part in name.split(".") if part != MODULE): name for name in content.tensors}
    found = _prefixes(plain, wanted)
    if len(bare) == len(plain):
        better = _prefixes(bare, wanted)
        if max(better.values(), default=0) > max(found.values(), default=0):
            plain, found = bare, better
    most = max(found.values(), default=0)
    fitting = [prefix for prefix, count in found.items() if 2 * count >= most]
    fitting = [p for p in fitting if asked or holds_weights(p, known)]
    return [_candidate(content, prefix, plain, wanted) for prefix in sorted(fitting)]


def _prefixes(names: dict[str, str], wanted: Wanted) -> dict[str, int]:
    """Prefix -> how many of the wanted names stand behind it."""
    step = max(1, len(wanted.names) // SAMPLES)
    ends = tuple(wanted.names[::step])
    prefixes = {
        name[: len(name) - len(end)] for name in names for end in ends if name == end or name.endswith(f".{end}")
    }
    if len(prefixes) > MOST_SETS:
        raise ExportError(
            f"the checkpoint holds {len(prefixes)} sets of weights, more than {MOST_SETS}",
            hint="save the model's state_dict() alone",
        )
    counts = {prefix: sum(prefix + name in names for name in wanted.names) for prefix in prefixes}
    return {prefix: count for prefix, count in counts.items() if count}


def _candidate(content: Contents, prefix: str, names: dict[str, str], wanted: Wanted) -> Candidate:
    """Behind the prefix, whatever stands in a mapping with names that are wanted."""
    full = {name[len(prefix) :]: original for name, original in names.items() if name.startswith(prefix)}
    tables = {content.table_of[full[name]] for name in wanted.names if name in full}
    full = {name: original for name, original in full.items() if content.table_of[original] in tables}
    if not prefix:
        full = _without_others(full, wanted)
    taken = {part for original in full.values() for part in original.split(".") if part == MODULE}
    wrappers = frozenset(taken - {part for name in full for part in name.split(".")})
    if wrappers and COUNTER not in wanted.names:  # with `module` taken off, it stands beside the weights
        full.pop(COUNTER, None)
    state = {name: content.tensors[original] for name, original in full.items()}
    return Candidate(prefix, _kind(content, prefix, full.values()), state, frozenset(full.values()), wrappers)


def _without_others(full: dict[str, str], wanted: Wanted) -> dict[str, str]:
    """At the top, averaged weights of the same names stand beside the model's own."""
    known = set(wanted.names)
    return {
        name: original
        for name, original in full.items()
        if name in known or not any(is_ema(part) for part in name.split(".")[:-1])
    }


def _by_tables(content: Contents, asked: bool) -> list[Candidate]:
    tables = [t for t in content.tables() if asked or holds_weights(t)]
    inside = [table for table in tables if table] or tables
    return [_of_table(content, table) for table in inside]


def _of_table(content: Contents, table: str) -> Candidate:
    names = [name for name, its in content.table_of.items() if its == table]
    prefix = table
    while all(name.startswith(f"{prefix}{MODULE}.") for name in names if name.rpartition(".")[2] != COUNTER):
        prefix += f"{MODULE}."
    full = {name[len(prefix) :]: name for name in names if name.startswith(prefix)}
    state = {name: content.tensors[original] for name, original in full.items()}
    return Candidate(prefix, _kind(content, prefix, names), state, frozenset(names))


def _kind(content: Contents, prefix: str, full_names: Iterable[str]) -> str:
    parts = parts_of(prefix)
    if any(is_ema(part) for part in parts) and ONLINE not in parts:
        return EMA
    if parts[:1] == ["state_dict"] and RAW in content.roots:
        return EMA
    above = {prefix[: -len(MODULE) - 1], prefix} if parts[-1:] == [MODULE] else {prefix}
    counted = any(f"{each}{COUNTER}" in content.tensors for each in above)
    return EMA if counted and any(name.endswith(COUNTER) is False for name in full_names) else MODEL
