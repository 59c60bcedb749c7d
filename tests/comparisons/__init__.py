"""INT8 against other quantisers, and ingredient by ingredient: commands that print tables, and tests of their parts."""
