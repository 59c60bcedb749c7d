"""The largest values that a declared site takes: each round or row is nodes or numbers of its own in the graph."""

from __future__ import annotations

MOST_REGISTERS = 4096  # rows of every sequence; models are trained with 1 to 64
MOST_ROUNDS = 64  # each round of a replacement is nodes of its own in the graph
