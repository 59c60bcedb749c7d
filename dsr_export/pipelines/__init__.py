"""Whole pipelines of diffusers: what a folder holds, and from prompts or classes to pictures in numpy.

One small file for each class, listed in `table`. Nothing here needs torch, diffusers or transformers.
"""
