"""The largest values that options and declarations take: far beyond any use, and far below a hang or a full memory."""

from __future__ import annotations

from graphs.dsr.limits import MOST_REGISTERS as MOST_REGISTERS
from graphs.dsr.limits import MOST_ROUNDS as MOST_ROUNDS

MOST_STEPS = 10_000  # grid points of a walk, of a model call each; schedules have up to 1000
MOST_BATCH = 65_536
MOST_THREADS = 1024
MOST_REPEATS = 1_000_000  # timed rounds
MOST_DIGITS = 18  # of a number in words; more are no 64-bit integer
MOST_SEED = 2**63 - 1
MOST_NEURONS = 1_000_000  # of one model
