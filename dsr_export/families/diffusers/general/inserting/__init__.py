"""Registers of a model's own, inserted into the blocks of a transformer of any class."""
